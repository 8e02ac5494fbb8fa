"""`POST /send_operation`, and notebooks as a resource."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.translation import get_language, override

from streaming import start, stream
from streaming.requests import endpoint, json_object

from . import cells, generation, operations, store
from .access import runner_of, user_of
from .engine import kernels
from .kernels.table import Key
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
    return await stream(request, _source(key, operation), **options)


def _source(key: Key, operation: operations.Operation) -> AsyncIterator[Any]:
    table = kernels()
    match operation:
        case operations.Execute():
            cell = operation.cell_id or store.new_cell_id()
            return cells.run_cell(table, key, cell, operation.code, table.era(key))
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
