"""Tasks from the database: what another time or another process wrote, as a task that can be followed."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any, Final

import msgspec
from django.db.models import Q
from django.utils import timezone

from streaming.access import Caller
from streaming.core import events, sse
from streaming.core.events import Terminal, Timing
from streaming.core.routing import Decision, Reason, Route, Snapshot
from streaming.core.states import State
from streaming.models import Segment, StreamTask
from streaming.retry import spec_again
from streaming.runtime.journals.memory import MemoryJournal
from streaming.runtime.ledger import Ticket
from streaming.runtime.task import Counts, Task, TaskSpec

END_OF_FRAME: Final = b"\n\n"

COME_BACK: Final = 10.0
"""Seconds of grace at least for a task that another process let wait: its reader lost that process, and did
not leave by wish."""

CHUNK: Final = 100
"""Tasks in one statement: below every database's limits."""


def stored_events(task_id: str, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
    """The stored events behind the id `after`, in order: the first one's id, and frames that follow it."""
    segments = Segment.objects.filter(task_id=task_id, last_id__gt=after).order_by("first_id")
    for segment in segments.iterator(chunk_size=100):
        yield _behind(segment, after)


def _behind(segment: Segment, after: int) -> tuple[int, list[bytes]]:
    frames = split_frames(bytes(segment.frames))
    known = max(after + 1 - segment.first_id, 0)
    return segment.first_id + known, frames[known:]


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


@dataclass(frozen=True, slots=True)
class News:
    """What the database has of a task behind a cursor: its state, its row once it has ended, and events as
    `stored_events` gives them, the end among them only together with the row."""

    state: State
    started_at: datetime | None
    row: StreamTask | None
    segments: list[tuple[int, list[bytes]]]


def news_of(cursors: Mapping[str, int]) -> dict[str, News]:
    """News of many tasks, each behind its cursor; those that are gone are missing."""
    found: dict[str, News] = {}
    ids = list(cursors)
    for start in range(0, len(ids), CHUNK):
        some = ids[start : start + CHUNK]
        # Rows first: what has ended by then has all its events in the database.
        states = StreamTask.objects.filter(pk__in=some).values_list("pk", "state", "started_at")
        for pk, state, started_at in states:
            found[pk] = News(State(state), started_at, None, [])
        ended = [pk for pk in some if pk in found and found[pk].state.terminal]
        rows = StreamTask.objects.defer("text", "arguments").in_bulk(ended) if ended else {}
        found |= {pk: replace(found[pk], row=row) for pk, row in rows.items()}
        behind = (Q(task_id=pk, last_id__gt=cursors[pk]) for pk in some)
        for segment in Segment.objects.filter(reduce(or_, behind)).order_by("task_id", "first_id"):
            news = found.get(segment.task_id)
            if news is not None:
                first_id, frames = _behind(segment, cursors[segment.task_id])
                if news.row is None and sse.name(frames[-1]) in events.TERMINAL_NAMES:
                    # It ended between the two looks: next time.
                    frames = frames[:-1]
                if frames:
                    news.segments.append((first_id, frames))
    return found


def stored_task(row: StreamTask, journal: MemoryJournal, ended: asyncio.Future[None]) -> Task:
    """The task behind `row`, with the events that `journal` has, to be followed as any other. `ended`: to be
    resolved by the caller."""
    now = time.monotonic()
    task = Task(
        id=row.id,
        spec=_spec(row),
        journal=journal,
        ticket=_ticket(row, now),
        created=now - max((timezone.now() - row.created_at).total_seconds(), 0.0),
        created_at=row.created_at,
        ended=ended,
        state=State(row.state),
        started_at=row.started_at,
        recorded_id=journal.last_id,
        epoch=row.epoch,
    )
    if task.state.terminal:
        settle(task, row)
    return task


def settle(task: Task, row: StreamTask) -> None:
    """Take over the end of a task from its row, and from its journal, which has the terminal event."""
    task.state = State(row.state)
    task.started_at = row.started_at
    task.finished = time.monotonic()
    task.created = task.finished - (row.total_ms or 0) / 1000
    task.finished_at = row.finished_at
    task.counts = Counts(chunks=row.chunks, content_length=row.content_length, resumes=row.resumes)
    task.receipt = None if row.timing is None else msgspec.convert(row.timing, Timing)
    task.recorded_id = task.journal.last_id
    final = task.journal.read(task.journal.last_id - 1, 1)
    task.final = events.decode(sse.payload(final[0])) if final else None  # type: ignore[assignment]


def lost_task(row: StreamTask, final: Terminal, journal: MemoryJournal, ended: asyncio.Future[None]) -> Task:
    """The task behind `row`, whose process is gone, with the end that another one has written for it: to be
    told of, not to be followed."""
    task = stored_task(row, journal, ended)
    task.lost, task.final = True, final
    if row.started_at is not None:
        task.started = task.created + (row.queued_ms or 0) / 1000
    task.counts.status_messages = row.status_messages
    if row.owner_id is not None:
        # Of an anonymous caller no address is kept.
        share_key = Caller(str(row.owner_id), address="").share_key(row.end_user)
        task.spec = replace(task.spec, share_key=share_key)
    return task


def waiting_task(
    row: StreamTask, journal: MemoryJournal, ended: asyncio.Future[None], replica: Task | None
) -> Task:
    """The waiting task behind `row`, of a registered producer, as one that this process can run; `replica`
    is it already, if it has readers here."""
    task = replica or stored_task(row, journal, ended)
    task.spec = spec_again(row, grace=math.inf if row.grace is None else max(row.grace, COME_BACK))
    task.ticket.owner = task.spec.share_key
    task.state, task.epoch = State.QUEUED, row.epoch
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
    raise AssertionError("another process runs it")


def _ticket(row: StreamTask, now: float) -> Ticket:
    decision = Decision(Route(row.route), Reason(row.reason))
    ticket = Ticket(None, decision, msgspec.convert(row.snapshot, Snapshot), now)
    ticket.withdraw()
    return ticket
