"""Tasks from the database: what another time or another process wrote, as a task that can be followed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from streaming.core import events, sse
from streaming.core.events import Timing
from streaming.core.routing import Decision, Reason, Route, Snapshot
from streaming.core.states import State
from streaming.runtime.journals.memory import MemoryJournal
from streaming.runtime.ledger import Ticket
from streaming.runtime.task import Counts, Task, TaskSpec

from .models import Segment, StreamTask

END_OF_FRAME: Final = b"\n\n"


def stored_events(task_id: str, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
    """The stored events behind the id `after`, in order: the first one's id, and frames that follow it."""
    segments = Segment.objects.filter(task_id=task_id, last_id__gt=after).order_by("first_id")
    for segment in segments.iterator(chunk_size=100):
        frames = split_frames(bytes(segment.frames))
        known = max(after + 1 - segment.first_id, 0)
        yield segment.first_id + known, frames[known:]


def newest_events(task_id: str, count: int) -> list[bytes]:
    """At most `count` of the stored events, the newest ones, in order."""
    frames: list[bytes] = []
    for segment in Segment.objects.filter(task_id=task_id).order_by("-first_id").iterator(chunk_size=20):
        frames[:0] = split_frames(bytes(segment.frames))
        if len(frames) >= count:
            break
    return frames[-count:]


def split_frames(joined: bytes) -> list[bytes]:
    """Frames that were joined: each ends with an empty line, and has none inside."""
    return [piece + END_OF_FRAME for piece in joined.split(END_OF_FRAME)[:-1]]


def stored_task(row: StreamTask, journal: MemoryJournal, ended: Any) -> Task:
    """The ended task behind `row`, with the events that `journal` has, to be followed as any other."""
    now = time.monotonic()
    task = Task(
        id=row.id,
        spec=_spec(row),
        journal=journal,
        ticket=_ticket(row, now),
        created=now - (row.total_ms or 0) / 1000,
        created_at=row.created_at,
        ended=ended,
        state=State(row.state),
        started_at=row.started_at,
        finished=now,
        finished_at=row.finished_at,
        counts=Counts(chunks=row.chunks, content_length=row.content_length, resumes=row.resumes),
        receipt=None if row.timing is None else msgspec.convert(row.timing, Timing),
        recorded_id=journal.last_id,
    )
    final = journal.read(journal.last_id - 1, 1)
    task.final = events.decode(sse.payload(final[0])) if final else None  # type: ignore[assignment]
    return task


def _spec(row: StreamTask) -> TaskSpec:
    return TaskSpec(
        kind=row.kind,
        pool=row.pool,
        priority=row.priority,
        owner=None if row.owner_id is None else str(row.owner_id),
        share_key=None,
        end_user=row.end_user,
        grace=math.inf if row.grace is None else row.grace,
        language=row.language,
        open_source=_nothing_to_open,
        arguments=row.arguments,
    )


def _nothing_to_open() -> Any:
    raise AssertionError("a stored task has ended")


def _ticket(row: StreamTask, now: float) -> Ticket:
    decision = Decision(Route(row.route), Reason(row.reason))
    ticket = Ticket(None, decision, msgspec.convert(row.snapshot, Snapshot), now)
    ticket.withdraw()
    return ticket
