"""Tasks whose process is gone: what waited waits again, for any process to take it up; all else gets the end
that the process itself would have told at its shutdown.

Several processes may do all this at once: who gets a task is decided by one conditional update, which raises
the task's epoch, so that nobody who had it before writes of it any more. Who wrote an end tells of it when it
is committed, so each is counted and logged once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from django.db import transaction
from django.utils import timezone

from streaming.core import sse
from streaming.core.errors import Interrupted
from streaming.core.events import Cancelled, Error, Terminal, Timing, encode
from streaming.core.states import State
from streaming.messages import DjangoMessages
from streaming.models import Segment, StreamTask
from streaming.runtime.journals.base import LOST_IDS
from streaming.storage.rollups import Deltas
from streaming.storage.rows import NOBODY, ending_columns
from streaming.storage.stored import stored_events
from streaming.storage.transcript import storable_text

_ACTIVE: Final = (State.QUEUED.value, State.RUNNING.value)

CHUNK: Final = 50
"""Tasks in one transaction."""

OnEnd = Callable[[StreamTask, Terminal], object]
"""Told of each end that was written here, once it is committed; the row is as it was written."""


def _tell_nobody(row: StreamTask, terminal: Terminal) -> None:
    pass


@dataclass(frozen=True, slots=True)
class TakenOver:
    """How many tasks of a dead process got their end, and how many wait again; whether that were all."""

    ended: int
    waiting: int
    all: bool


def take_over(process_id: str, by: str, seconds: float = math.inf, on_end: OnEnd = _tell_nobody) -> TakenOver:
    """See to the tasks of the dead process `process_id` in the name of the process `by`, for so long, so that
    the caller can show life in between."""
    ended = waiting = 0
    until = time.monotonic() + seconds
    tasks = StreamTask.objects.filter(process=process_id, state__in=_ACTIVE).defer("text")
    # In the order of everybody who locks several rows.
    while rows := list(tasks.order_by("pk")[:CHUNK]):
        if time.monotonic() >= until:
            return TakenOver(ended, waiting, all=False)
        ends: list[tuple[StreamTask, Terminal]] = []
        with transaction.atomic():
            counts = Deltas()
            for row in rows:
                if row.state == State.QUEUED and row.arguments is not None and not row.cancel_requested:
                    waiting += claim(row, NOBODY)
                else:
                    terminal: Terminal = _cancelled(row) or _interrupted(row)
                    if _end(row, by, terminal, counts):
                        ends.append((row, terminal))
            counts.insert()
        ended += len(ends)
        for row, terminal in ends:
            on_end(row, terminal)
    return TakenOver(ended, waiting, all=True)


def unclaimed(pool: str, limit: int) -> list[StreamTask]:
    """Tasks that wait in `pool` for a process, in the order of their class and arrival."""
    rows = StreamTask.objects.filter(process=NOBODY, state=State.QUEUED.value, pool=pool)
    return list(rows.order_by("priority", "created_at", "id")[:limit])


def claim(row: StreamTask, by: str) -> bool:
    """Give the task to the process `by`, if nobody else was faster; `row` is kept up to date. The class that
    was asked for is its class then."""
    mine = StreamTask.objects.filter(
        pk=row.pk,
        process=row.process,
        epoch=row.epoch,
        state=row.state,
        priority_requested=row.priority_requested,
    )
    columns: dict[str, Any] = {"process": by, "epoch": row.epoch + 1}
    if row.priority_requested is not None:
        columns |= {"priority": row.priority_requested, "priority_requested": None}
    if not mine.update(**columns):
        return False
    _note_in(row, columns)
    return True


def end(row: StreamTask, by: str, terminal: Terminal, on_end: OnEnd = _tell_nobody) -> bool:
    """Take the task and write its end, in one transaction; False if somebody else was faster."""
    with transaction.atomic():
        counts = Deltas()
        ended = _end(row, by, terminal, counts)
        counts.insert()
    if ended:
        on_end(row, terminal)
    return ended


def _end(row: StreamTask, by: str, terminal: Terminal, counts: Deltas) -> bool:
    """`end`, within the caller's transaction, which is to write the counts, too."""
    if not claim(row, by):
        return False
    _write_end(row, terminal, counts)
    return True


def cancel_unclaimed(task_ids: Iterable[str], by: str, reason: str, on_end: OnEnd = _tell_nobody) -> None:
    """End those of the tasks that wait for a process."""
    rows = StreamTask.objects.filter(pk__in=task_ids, process=NOBODY, state=State.QUEUED.value)
    for row in rows:
        end(row, by, Cancelled(reason=reason), on_end)


def _cancelled(row: StreamTask) -> Cancelled | None:
    return Cancelled(reason=row.cancel_requested) if row.cancel_requested else None


def _interrupted(row: StreamTask) -> Error:
    return Error(
        code=Interrupted.code,
        message=DjangoMessages().error(Interrupted.code, row.language),
        retryable=Interrupted.retryable,
    )


def _write_end(row: StreamTask, terminal: Terminal, counts: Deltas) -> None:
    segments = list(stored_events(row.pk))
    frames = [frame for _, batch in segments for frame in batch]
    survived = segments[-1][0] + len(segments[-1][1]) - 1 if segments else 0
    end_id = survived + LOST_IDS
    frame = sse.frame(end_id, terminal.name, encode(terminal))
    Segment.objects.create(task_id=row.pk, first_id=end_id, last_id=end_id, frames=frame)
    now = timezone.now()
    timing = _timing(row, now)
    text = storable_text(frames)
    columns = {
        "state": terminal.name,
        **ending_columns(terminal),
        "finished_at": now,
        "last_event_id": end_id,
        "text": text,
        # What survived, and not what was written last of a task that ran.
        "chunks": sum(sse.name(each) == "content" for each in frames),
        "content_length": len(text),
        "timing": msgspec.to_builtins(timing),
        "queued_ms": timing.queued_ms,
        "total_ms": timing.total_ms,
        "counted": StreamTask.Counted.ENDED,
    }
    # The owner may have written since it was read here: what counts is what the claim has locked.
    counted = StreamTask.objects.values_list("counted", flat=True).get(pk=row.pk)
    StreamTask.objects.filter(pk=row.pk).update(**columns)
    _note_in(row, columns)
    counts.note(row.pk, row.__dict__, counted)


def _note_in(row: StreamTask, columns: Mapping[str, Any]) -> None:
    for name, value in columns.items():
        setattr(row, name, value)


def _timing(row: StreamTask, now: datetime) -> Timing:
    """The receipt, as far as the database knows."""
    return Timing(
        route=row.route,
        queued_ms=_milliseconds(row.created_at, row.started_at or now),
        first_content_ms=row.first_content_ms,
        total_ms=_milliseconds(row.created_at, now),
        coalesced_ratio=None,
        blocked_ms=0.0,
        status_messages=row.status_messages,
        resumes=row.resumes,
    )


def _milliseconds(start: datetime, end: datetime) -> float:
    return round((end - start).total_seconds() * 1000, 3)
