"""A notebook as it is now: what is written down of it, the streams of the cells that run, its kernel."""

from __future__ import annotations

from typing import Any, Final

from asgiref.sync import sync_to_async

from streaming.access import Caller
from streaming.core.errors import StreamError
from streaming.service import service

from . import cells, documents, store
from .access import account_of
from .engine import kernels
from .kernels.key import Key

_RECORDED: Final = frozenset({"complete", "cancelled"})
"""Ends of a stream at which the outputs of its cell were written down, or did not come to be."""


async def record_of(caller: Caller, slug: str) -> dict[str, Any] | None:
    """The caller's notebook of that name, as JSON; None if there is none. Raises `Problem` 401.

    A cell's `stream` is there while it runs or waits, and after a crash, when the stream has what the record
    has not.
    """
    owner = account_of(caller)
    found = await sync_to_async(_read)(owner, slug)
    if found is None:
        return None
    for cell in found["cells"]:
        if cell["stream"] and not await _has_more(cell["stream"], caller):
            cell["stream"] = None
    return {**found, "kernel": await cells.status(kernels(), Key(owner, slug))}


def _read(owner: str, slug: str) -> dict[str, Any] | None:
    notebook = store.find(owner, slug)
    return None if notebook is None else documents.shown(notebook)


async def _has_more(stream_id: str, caller: Caller) -> bool:
    try:
        return (await service().describe(stream_id, caller))["state"] not in _RECORDED
    except StreamError:
        # Its record is kept for a time only.
        return False
