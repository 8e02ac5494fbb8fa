"""`POST /send_operation`, and notebooks as a resource."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any, Final

import msgspec
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.translation import override

from streaming import start, stream
from streaming.access import identify
from streaming.problems import Problem
from streaming.requests import endpoint, json_object

from . import cells, documents, operations, store
from .access import account_of
from .engine import kernels
from .kernels.table import Key
from .models import Notebook
from .operations import parse
from .work import CODE, work_of

LANGUAGES: Final = {"en": "en", "zh": "zh-hans"}


@endpoint("POST")
async def send_operation(request: HttpRequest) -> HttpResponseBase:
    """`POST /send_operation`: an operation on a notebook → event stream."""
    notebook, operation, lang = parse(json_object(request))
    with override(LANGUAGES[lang]) if lang else nullcontext():
        caller = await identify(request, anybody=isinstance(operation, operations.Ping))
        work = await work_of(request, caller, notebook, operation, lang)
        if work.source is None:
            assert work.arguments is not None
            return await start(request, CODE, work.arguments, **work.options)
        response = await stream(request, work.source, **work.options)
    if stream_id := response.get("X-Stream-Id"):
        work.begun(stream_id)
    return response


@endpoint("GET", "PUT", "DELETE")
async def notebook(request: HttpRequest, notebook_id: str) -> HttpResponseBase:
    """`/notebooks/<id>`: read, save or delete it."""
    owner = account_of(await identify(request))
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
    owner = account_of(await identify(request))
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
