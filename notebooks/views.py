"""`POST /send_operation`, and notebooks as a resource."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.translation import get_language, override

from streaming import start, stream
from streaming.problems import Problem
from streaming.requests import endpoint, json_object

from . import cells, documents, generation, operations, store
from .access import runner_of, user_of
from .engine import kernels
from .kernels.table import Key
from .models import Notebook
from .operations import parse

POOL: Final = "kernel_pool"

LANGUAGES: Final = {"en": "en", "zh": "zh-hans"}


@endpoint("POST")
async def send_operation(request: HttpRequest) -> HttpResponseBase:
    """`POST /send_operation`: an operation on a notebook → event stream."""
    notebook, operation, lang = parse(json_object(request))
    if lang is None:
        return await _answer(request, notebook, operation, None)
    with override(LANGUAGES[lang]):
        return await _answer(request, notebook, operation, lang)


async def _answer(
    request: HttpRequest, notebook: str, operation: operations.Operation, lang: str | None
) -> HttpResponseBase:
    options: dict[str, Any] = {
        "kind": f"notebook.{operation.__struct_config__.tag}",
        "pool": POOL,
        "message_language": lang,
    }
    if isinstance(operation, operations.Ping):
        pong = cells.answer({"pong": True})
        return await stream(request, pong, **options, needs_worker=False, anybody=True)
    if isinstance(operation, operations.List):
        mine = cells.list_notebooks(kernels(), await user_of(request))
        return await stream(request, mine, **options, needs_worker=False)
    if isinstance(operation, operations.Generate):
        await user_of(request)
        wanted = generation.arguments(operation.prompt, lang or get_language() or "en")
        return await start(
            request, generation.PRODUCER, wanted, kind=options["kind"], message_language=lang
        )
    key = Key(await runner_of(request), notebook)
    series = f"{key.owner} {key.notebook}"
    match operation:
        case operations.Execute():
            # Who closes the page comes back to what the cell has said meanwhile.
            options |= {"series": series, "eager": True, "on_disconnect": "continue"}
        case operations.Complete() | operations.Inspect():
            options |= {"series": series, "on_disconnect": "cancel"}
        case _:
            options |= {"needs_worker": False, "on_disconnect": "continue"}
    if not isinstance(operation, operations.Execute):
        return await stream(request, _source(key, operation), **options)
    cell_id = operation.cell_id or store.new_cell_id()
    source = cells.run_cell(kernels(), key, cell_id, operation.code, kernels().era(key))
    response = await stream(request, source, **options)
    if stream_id := response.get("X-Stream-Id"):
        cells.runs_as(key, cell_id, stream_id)
    return response


@endpoint("GET", "PUT", "DELETE")
async def notebook(request: HttpRequest, notebook_id: str) -> HttpResponseBase:
    """`/notebooks/<id>`: read, save or delete it."""
    owner = await user_of(request)
    operations.check_id("notebook_id", notebook_id)
    if request.method == "PUT":
        title, drafts = documents.parse_draft(json_object(request))
        await sync_to_async(documents.save)(owner, notebook_id, title, drafts)
    elif request.method == "DELETE":
        await kernels().stop(Key(owner, notebook_id))
        if not await sync_to_async(store.delete)(owner, notebook_id):
            raise Problem(404, "not_found")
        return HttpResponse(status=204)
    key = Key(owner, notebook_id)
    found = await sync_to_async(_shown)(owner, notebook_id, cells.streams_of(key))
    return _json(found | {"kernel": cells.status(kernels(), key)})


@endpoint("GET", "PUT")
async def notebook_file(request: HttpRequest, notebook_id: str) -> HttpResponseBase:
    """`/notebooks/<id>.ipynb`: the notebook as a file for Jupyter, and from one."""
    owner = await user_of(request)
    operations.check_id("notebook_id", notebook_id)
    if request.method == "PUT":
        text = json.dumps(json_object(request))
        await sync_to_async(documents.imported)(owner, notebook_id, text)
        return HttpResponse(status=204)
    text = await sync_to_async(_exported)(owner, notebook_id)
    response = HttpResponse(text, content_type="application/x-ipynb+json")
    response["Content-Disposition"] = f'attachment; filename="{notebook_id}.ipynb"'
    response["X-Content-Type-Options"] = "nosniff"
    return response


def _shown(owner: str, slug: str, streams: dict[str, str]) -> dict[str, Any]:
    return documents.shown(_found(owner, slug), streams)


def _exported(owner: str, slug: str) -> str:
    return documents.exported(_found(owner, slug))


def _found(owner: str, slug: str) -> Notebook:
    """Raises `Problem` 404, for absent and foreign ones alike."""
    found = store.find(owner, slug)
    if found is None:
        raise Problem(404, "not_found")
    return found


def _json(values: dict[str, Any]) -> HttpResponse:
    response = HttpResponse(msgspec.json.encode(values), content_type="application/json")
    response["Cache-Control"] = "no-store"
    return response


def _source(key: Key, operation: operations.Operation) -> AsyncIterator[Any]:
    table = kernels()
    match operation:
        case operations.Complete() | operations.Inspect():
            return cells.ask(table, key, operation, table.era(key))
        case operations.Interrupt():
            return cells.interrupt(table, key)
        case operations.Restart():
            return cells.restart(table, key)
        case operations.Shutdown():
            return cells.shutdown(table, key)
    assert isinstance(operation, operations.Status)
    return cells.answer(cells.status(table, key))
