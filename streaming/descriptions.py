"""The public record of a task, from memory or from the database: the body of `GET /streams/<id>`."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, Final

import msgspec
from asgiref.sync import sync_to_async

from streaming.core.errors import generation_errors
from streaming.core.events import Error
from streaming.core.states import State
from streaming.runtime.task import Task

from .models import StreamTask
from .storage.stored import stored_events
from .storage.transcript import main_text

LONG_TEXT: Final = 262_144
"""Bytes of events above which a text is put together in a thread: decoding would hold the event loop."""

RETRYABLE: Final = {kind.code: kind.retryable for kind in generation_errors()}
"""Whether the same call may succeed later, by error code."""


async def describe(found: Task | StreamTask) -> dict[str, Any]:
    """A task's record, wherever it is."""
    if isinstance(found, StreamTask):
        described = describe_row(found)
        return described if State(found.state).terminal else described | await _so_far(found.id)
    return _describe_task(found, await text_of(found))


def _describe_task(task: Task, text: str) -> dict[str, Any]:
    final = task.final if task.state.terminal else None
    error = None
    if isinstance(final, Error):
        error = {"code": final.code, "message": final.message, "retryable": final.retryable}
    ended = task.state.terminal
    return {
        "id": task.id,
        "state": task.state.value,
        "kind": task.spec.kind,
        "route": task.route,
        "reason": task.reason,
        "created_at": _rfc3339(task.created_at),
        "started_at": _rfc3339(task.started_at),
        "finished_at": _rfc3339(task.finished_at) if ended else None,
        "last_event_id": task.journal.last_id,
        "text": text,
        "error": error,
        "timing": msgspec.to_builtins(task.receipt) if ended else None,
    }


def describe_row(row: StreamTask) -> dict[str, Any]:
    """The record of a task that is in the database alone."""
    error = None
    if row.state == State.ERROR:
        error = {
            "code": row.error_code,
            "message": row.error_message,
            "retryable": RETRYABLE.get(row.error_code, False),
        }
    return {
        "id": row.id,
        "state": row.state,
        "kind": row.kind,
        "route": row.route,
        "reason": row.reason,
        "created_at": _rfc3339(row.created_at),
        "started_at": _rfc3339(row.started_at),
        "finished_at": _rfc3339(row.finished_at),
        "last_event_id": row.last_event_id,
        "text": row.text,
        "error": error,
        "timing": row.timing,
    }


async def _so_far(task_id: str) -> dict[str, Any]:
    """What the database has of a task that runs elsewhere: the row has a text only once it has ended."""
    segments = await sync_to_async(lambda: list(stored_events(task_id)))()
    frames = [frame for _, some in segments for frame in some]
    last_id = segments[-1][0] + len(segments[-1][1]) - 1 if segments else 0
    return {"text": await asyncio.to_thread(main_text, frames), "last_event_id": last_id}


async def text_of(task: Task) -> str:
    """The main channel's text so far, of a task in memory."""
    frames = task.journal.read(0, task.journal.last_id)
    if task.journal.size < LONG_TEXT:
        return main_text(frames)
    return await asyncio.to_thread(main_text, frames)


def _rfc3339(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
