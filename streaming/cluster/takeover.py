"""Tasks whose process is gone: what waited waits again, for any process to take it up, and so does what ran,
of a registered producer, as far as the settings allow; all else gets the end that the process itself would
have told at its shutdown.

What has run waits again with what survived of its events. Who takes it up says `restart` behind them, so that
what was before is void; who had nothing of it does not see that. By CLUSTER_CONFIG a task of which something
survived may end instead, and each does that was begun `max_attempts` times.

Several processes may do all this at once: who gets a task is decided by one conditional update, which raises
the task's epoch, so that nobody who had it before writes of it any more. Who wrote an end tells of it when it
is committed, so each is counted and logged once.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from streaming import conf
from streaming.core import events, sse
from streaming.core.errors import Interrupted
from streaming.core.events import TERMINAL_NAMES, Cancelled, Error, Restart, Terminal, Timing, encode
from streaming.core.states import State
from streaming.messages import DjangoMessages
from streaming.models import Segment, StreamTask
from streaming.runtime.journals.base import lost_ids
from streaming.storage.notes import Batch
from streaming.storage.rollups import Deltas
from streaming.storage.rows import NOBODY, ending_columns, write_segments
from streaming.storage.stored import newest_events, stored_events
from streaming.storage.transcript import storable_text

from .survivors import NO_SURVIVORS, Survivors

logger = logging.getLogger(__name__)

_ACTIVE: Final = (State.QUEUED.value, State.RUNNING.value)

_RESTART: Final = events.event_name(Restart)

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


def take_over(
    process_id: str,
    by: str,
    seconds: float = math.inf,
    on_end: OnEnd = _tell_nobody,
    survivors: Survivors = NO_SURVIVORS,
) -> TakenOver:
    """See to the tasks of the dead process `process_id` in the name of the process `by`, for so long, so that
    the caller can show life in between. `survivors`: where else its events may be."""
    ended = waiting = 0
    until = time.monotonic() + seconds
    tasks = StreamTask.objects.filter(process=process_id, state__in=_ACTIVE).defer("text")
    # In the order of everybody who locks several rows.
    while rows := list(tasks.order_by("pk")[:CHUNK]):
        if time.monotonic() >= until:
            return TakenOver(ended, waiting, all=False)
        ends: list[_Ended] = []
        stored = _stored_ids(rows)
        tails = {row.pk: _tail(row, stored.get(row.pk, 0), survivors) for row in rows}
        with transaction.atomic():
            counts = Deltas()
            for row in rows:
                tail = tails[row.pk]
                if _waits_again(row, stored=row.pk in stored, tail=tail):
                    waiting += _let_wait(row, tail)
                elif end := _end(row, by, _cancelled(row) or _interrupted(row), counts, tail):
                    ends.append(end)
            counts.insert()
        ended += len(ends)
        for end in ends:
            _tell(end, on_end, survivors)
    return TakenOver(ended, waiting, all=True)


def _stored_ids(rows: Iterable[StreamTask]) -> dict[str, int]:
    """The last event that the database has, of those tasks of which it has any."""
    segments = Segment.objects.filter(task_id__in=[row.pk for row in rows]).order_by()
    return dict(segments.values_list("task_id").annotate(Max("last_id")))


def _tail(row: StreamTask, after_id: int, survivors: Survivors) -> list[bytes]:
    """What else there is of the task; from now on there will not be more."""
    survivors.fence(row.pk, row.epoch + 1)
    return survivors.tail(row.pk, after_id)


def _is_over(frames: list[bytes]) -> bool:
    return bool(frames) and sse.name(frames[-1]) in TERMINAL_NAMES


def _waits_again(row: StreamTask, *, stored: bool, tail: list[bytes]) -> bool:
    """Whether a task of a dead process is left to others. `stored`: whether the database has events of it."""
    if row.arguments is None or row.cancel_requested or _is_over(tail):
        return False
    if row.state == State.QUEUED and not tail:
        # What it may have said in an earlier process does not count against it now.
        return True
    limits = conf.cluster()
    if row.attempts >= limits.max_attempts:
        logger.warning(
            "task %s: its process is gone, and it was begun %d times, as often as it may be",
            row.pk,
            row.attempts,
        )
        return False
    return limits.on_lost == "restart" or not _has_said(row, stored=stored, tail=tail)


def _has_said(row: StreamTask, *, stored: bool, tail: list[bytes]) -> bool:
    """Whether readers may have something of the task that is not void."""
    newest = tail[-1:] or (newest_events(row.pk, 1) if stored else [])
    return bool(newest) and sse.name(newest[0]) != _RESTART


def _let_wait(row: StreamTask, tail: list[bytes]) -> bool:
    """Give the task to whoever has room, with what survived of it. Its start may not have been written."""
    begun = row.attempts + (row.state == State.QUEUED and bool(tail))
    if not claim(row, NOBODY, state=State.QUEUED.value, started_at=None, attempts=begun):
        return False
    _rescue(row, tail)
    if row.attempts:
        logger.info("task %s: its process is gone; it waits again after attempt %d", row.pk, row.attempts)
    return True


def _rescue(row: StreamTask, tail: list[bytes]) -> None:
    """Store the frames, but for those that its process has stored meanwhile."""
    if not tail:
        return
    known = _stored_ids([row]).get(row.pk, 0)
    batches: list[Batch] = []
    for frame in tail:
        number = sse.event_id(frame) or 0
        if number <= known:
            continue
        if not batches or number != batches[-1].last_id + 1:
            batches.append(Batch(number, []))
        batches[-1].frames.append(frame)
    write_segments([(row.pk, batch) for batch in batches])


def unclaimed(pool: str, limit: int) -> list[StreamTask]:
    """Tasks that wait in `pool` for a process, in the order of their class and arrival."""
    rows = StreamTask.objects.filter(process=NOBODY, state=State.QUEUED.value, pool=pool)
    return list(rows.order_by("priority", "created_at", "id")[:limit])


def claim(row: StreamTask, by: str, **changes: Any) -> bool:
    """Give the task to the process `by`, if nobody else was faster, with `changes` of its row; `row` is kept
    up to date. The class that was asked for is its class then."""
    mine = StreamTask.objects.filter(
        pk=row.pk,
        process=row.process,
        epoch=row.epoch,
        state=row.state,
        priority_requested=row.priority_requested,
    )
    columns: dict[str, Any] = {"process": by, "epoch": row.epoch + 1, **changes}
    if row.priority_requested is not None:
        columns |= {"priority": row.priority_requested, "priority_requested": None}
    if not mine.update(**columns):
        return False
    _note_in(row, columns)
    return True


@dataclass(frozen=True, slots=True)
class _Ended:
    """A task whose end was written here, as the event that was told, and its frame."""

    row: StreamTask
    terminal: Terminal
    frame: bytes


def end(
    row: StreamTask,
    by: str,
    terminal: Terminal,
    on_end: OnEnd = _tell_nobody,
    survivors: Survivors = NO_SURVIVORS,
) -> bool:
    """Take the task and write its end, in one transaction; False if somebody else was faster."""
    with transaction.atomic():
        counts = Deltas()
        ended = _end(row, by, terminal, counts)
        counts.insert()
    if ended is not None:
        _tell(ended, on_end, survivors)
    return ended is not None


def _end(
    row: StreamTask, by: str, terminal: Terminal, counts: Deltas, tail: list[bytes] | None = None
) -> _Ended | None:
    """`end`, within the caller's transaction, which is to write the counts, too; after what is in `tail`."""
    if not claim(row, by):
        return None
    _rescue(row, tail or [])
    return _write_end(row, terminal, counts)


def _tell(ended: _Ended, on_end: OnEnd, survivors: Survivors) -> None:
    """Once it is committed."""
    row = ended.row
    survivors.ended(row.pk, ended.frame, row.last_event_id, row.epoch)
    on_end(row, ended.terminal)


def cancel_unclaimed(
    task_ids: Iterable[str],
    by: str,
    reason: str,
    on_end: OnEnd = _tell_nobody,
    survivors: Survivors = NO_SURVIVORS,
) -> None:
    """End those of the tasks that wait for a process."""
    rows = StreamTask.objects.filter(pk__in=task_ids, process=NOBODY, state=State.QUEUED.value)
    for row in rows:
        end(row, by, Cancelled(reason=reason), on_end, survivors)


def _cancelled(row: StreamTask) -> Cancelled | None:
    return Cancelled(reason=row.cancel_requested) if row.cancel_requested else None


def _interrupted(row: StreamTask) -> Error:
    return Error(
        code=Interrupted.code,
        message=DjangoMessages().error(Interrupted.code, row.language),
        retryable=Interrupted.retryable,
    )


def _write_end(row: StreamTask, terminal: Terminal, counts: Deltas) -> _Ended:
    """The end that the process itself has told survives like any event, and counts instead of `terminal`."""
    segments = list(stored_events(row.pk))
    frames = [frame for _, batch in segments for frame in batch]
    end_id = segments[-1][0] + len(segments[-1][1]) - 1 if segments else 0
    if _is_over(frames):
        frame = frames[-1]
        terminal = _decoded_end(frame)
    else:
        end_id += lost_ids(row.attempts)
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
    return _Ended(row, terminal, frame)


def _decoded_end(frame: bytes) -> Terminal:
    event = events.decode(sse.payload(frame))
    assert isinstance(event, Terminal)
    return event


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
