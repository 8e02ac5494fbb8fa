"""Tasks from the database: what another time or another process wrote, as a task that can be followed."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any, Final

import msgspec
from django.db.models import F, Q, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from streaming.access import Caller
from streaming.core import events, sse
from streaming.core.events import Terminal, Timing
from streaming.core.routing import Decision, Reason, Route, Snapshot
from streaming.core.states import State
from streaming.models import Segment, StreamTask
from streaming.retry import spec_again
from streaming.runtime.journals.base import lost_ids
from streaming.runtime.journals.memory import MemoryJournal
from streaming.runtime.ledger import Ticket
from streaming.runtime.task import Counts, Task, TaskSpec

END_OF_FRAME: Final = b"\n\n"

COME_BACK: Final = 10.0
"""Seconds of grace at least for a task that another process let wait: its reader lost that process, and did
not leave by wish."""

CHUNK: Final = 100
"""Tasks in one statement: below every database's limits."""


Events = Sequence[tuple[int, list[bytes]]]
"""Events of a task: the first one's id, and frames that follow it."""


def stored_events(task_id: str, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
    """The stored events behind the id `after`, in order: the first one's id, and frames that follow it."""
    segments = Segment.objects.filter(task_id=task_id, last_id__gt=after).order_by("first_id")
    for segment in segments.iterator(chunk_size=100):
        yield _behind(segment, after)


def former_events(row: StreamTask) -> Events:
    """What other processes have stored of a waiting task, as `stored_events` gives it: nothing of one that
    nobody has begun."""
    return list(stored_events(row.pk)) if row.attempts else []


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


def count_of_events(task_id: str) -> int:
    """How many events of the task are stored."""
    held = Segment.objects.filter(task_id=task_id).aggregate(
        count=Coalesce(Sum(F("last_id") - F("first_id") + 1), 0)
    )
    return int(held["count"])


def split_frames(joined: bytes) -> list[bytes]:
    """Frames that were joined: each ends with an empty line, and has none inside."""
    return [piece + END_OF_FRAME for piece in joined.split(END_OF_FRAME)[:-1]]


@dataclass(frozen=True, slots=True)
class News:
    """What the database has of a task behind a cursor: its state, its row once it has ended, and events as
    `stored_events` gives them, the end among them only together with the row."""

    state: State
    started_at: datetime | None
    attempts: int
    row: StreamTask | None
    segments: list[tuple[int, list[bytes]]]


def news_of(cursors: Mapping[str, int]) -> dict[str, News]:
    """News of many tasks, each behind its cursor; those that are gone are missing."""
    found: dict[str, News] = {}
    ids = list(cursors)
    for start in range(0, len(ids), CHUNK):
        some = ids[start : start + CHUNK]
        # Rows first: what has ended by then has all its events in the database.
        states = StreamTask.objects.filter(pk__in=some).order_by()
        for pk, state, started_at, attempts in states.values_list("pk", "state", "started_at", "attempts"):
            found[pk] = News(State(state), started_at, attempts, None, [])
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
        attempts=row.attempts,
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
    row: StreamTask,
    journal: MemoryJournal,
    ended: asyncio.Future[None],
    replica: Task | None,
    events: Events = (),
    *,
    come_back: float = COME_BACK,
) -> Task:
    """The waiting task behind `row`, of a registered producer, as one that this process can run; `replica`
    is it already, if it has readers here; one that was admitted here knows itself what to do. `events`: its
    `former_events`; what it says from now on comes behind them, and behind what may
    be lost of them. `come_back`: seconds of grace at least."""
    task = replica or stored_task(row, journal, ended)
    history = task.journal
    assert isinstance(history, MemoryJournal)
    for first_id, frames in events:
        history.adopt(first_id, frames)
    if row.attempts:
        history.skip(lost_ids(row.attempts))
    task.recorded_id = history.last_id
    if task.spec.open_source is _nothing_to_open:
        task.spec = spec_again(row, grace=math.inf if row.grace is None else max(row.grace, come_back))
    task.ticket.owner = task.spec.share_key
    task.state, task.epoch, task.attempts = State.QUEUED, row.epoch, row.attempts
    task.started = task.started_at = None
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
