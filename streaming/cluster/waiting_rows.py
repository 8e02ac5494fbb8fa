"""The rows of tasks that wait for any process: what of them is in the shared line, who takes one, and how one
ends that nobody takes.

All but `entry_for` and `until_taken` visit the database and block.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from django.db import DatabaseError, InterfaceError

from streaming.core.errors import StorageUnavailable
from streaming.core.events import Error, Terminal
from streaming.core.states import State
from streaming.digests import digest
from streaming.messages import DjangoMessages
from streaming.models import StreamTask
from streaming.producers import is_registered
from streaming.retry import spec_again
from streaming.runtime.redis.pools import Entry
from streaming.runtime.task import TaskSpec
from streaming.storage.rows import NOBODY
from streaming.storage.stored import Events, former_events

from .processes import Registry
from .takeover import claim, end, unclaimed

FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 1.0
"""Seconds between two tries of a write, which grow."""


def entry_for(spec: TaskSpec, task_id: str, queue_timeout: float) -> Entry:
    """The task as the shared line knows it: its owner is a digest, because addresses are nobody's business
    there. `queue_timeout` in seconds."""
    key = spec.share_key
    return Entry(
        task_id=task_id,
        owner=digest(list(key) if isinstance(key, tuple) else [str(key)]),
        priority=spec.priority,
        grace=spec.grace,
        queue_timeout=queue_timeout,
    )


def waiting_entries(pool: str, limit: int, queue_timeout: float) -> list[tuple[Entry, float]]:
    """Tasks of the pool that wait for any process, and since when (seconds since the epoch)."""
    return [
        (_entry(row, queue_timeout), row.created_at.timestamp())
        for row in unclaimed(pool, limit)
        if row.arguments is not None and is_registered(row.kind)
    ]


def count_waiting(pool: str) -> int:
    """How many tasks of the pool wait for any process."""
    return StreamTask.objects.filter(process=NOBODY, state=State.QUEUED.value, pool=pool).count()


def _entry(row: StreamTask, queue_timeout: float) -> Entry:
    grace = math.inf if row.grace is None else row.grace
    return entry_for(spec_again(row, grace=grace), row.id, queue_timeout)


def claimed(task_id: str, by: str) -> tuple[StreamTask, Events] | None:
    """The waiting task's row, which belongs to the process `by` now, and what the task has said; None if it
    does not wait for any."""
    row = StreamTask.objects.filter(pk=task_id, process=NOBODY, state=State.QUEUED.value).first()
    if row is None or row.arguments is None or not is_registered(row.kind) or not claim(row, by):
        return None
    return row, former_events(row)


def standing(task_ids: Iterable[str]) -> list[dict[str, Any]]:
    """`id`, `pool`, `state`, `process` of the tasks."""
    rows = StreamTask.objects.filter(pk__in=list(task_ids)).order_by()
    return [dict(row) for row in rows.values("id", "pool", "state", "process")]


def end_waiting(ends: Mapping[str, Terminal], registry: Registry) -> None:
    """End those of the tasks that still wait for any process; errors get their words here."""
    for row in StreamTask.objects.filter(pk__in=list(ends), process=NOBODY, state=State.QUEUED.value):
        terminal = ends[row.pk]
        if isinstance(terminal, Error):
            words = DjangoMessages().error(terminal.code, row.language)
            terminal = Error(code=terminal.code, message=words, retryable=terminal.retryable)
        end(row, registry.process_id, terminal, registry.tell_end)


async def until_taken(write: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Write to a database that comes and goes: again and again for so many seconds. Raises
    `StorageUnavailable` if it has not taken it by then."""
    until, pause = time.monotonic() + seconds, FIRST_PAUSE
    while True:
        try:
            await write()
            return
        except (DatabaseError, InterfaceError) as error:
            if time.monotonic() + pause > until:
                raise StorageUnavailable from error
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
