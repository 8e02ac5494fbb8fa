"""What the statistics page asks of the database. Synchronous.

Nothing here looks at all tasks: charts, totals and percentiles come from rollups, which number some hundreds
whatever the number of tasks, and the slowest streams and the owners who ask most are kept by name in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.utils import timezone

from streaming.core.rollup import (
    NOBODY,
    SLOWEST,
    Part,
    Range,
    Rollup,
    Slow,
    Summary,
    decode,
    merged,
    summarise,
)
from streaming.models import Backfill, Refusal, StreamTask, TaskRollup

from .rollups import HOUR, MINUTE, TEN_MINUTES

OWNERS: Final = 10
"""How many of those who ask most are named."""


def summary_of(of: Range, now: datetime | None = None) -> Summary:
    """What happened in the range that ends `now`, as far as it is written (what ran a moment ago)."""
    moment = (now or timezone.now()).timestamp()
    return summarise(parts_between(of.start(moment), moment), of, moment)


def rollup_of_last(seconds: float, now: datetime | None = None) -> Rollup:
    """What happened in the last seconds, in whole minutes: those that have begun in that time, and the one in
    which it begins. For rules about the last minutes."""
    moment = (now or timezone.now()).timestamp()
    return merged(part.rollup for part in parts_between((moment - seconds) // MINUTE * MINUTE, moment))


def parts_between(start: float, end: float) -> Iterable[Part]:
    """Rollups of the periods that began from `start` to `end`, in seconds since the epoch; refusals too."""
    period = (datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC))
    rows = TaskRollup.objects.filter(seconds__in=(MINUTE, TEN_MINUTES, HOUR), start__range=period)
    for begin, pool, kind, numbers in rows.values_list("start", "pool", "kind", "numbers"):
        yield Part(begin.timestamp(), pool, kind, decode(numbers))
    refusals = Refusal.objects.filter(minute__range=period).order_by()
    for minute, pool, reason, count in refusals.values_list("minute", "pool", "reason", "count"):
        yield Part(minute.timestamp(), pool, "", Rollup(refusals={reason: count}))


def incomplete() -> bool:
    """Whether tasks of the time before there were statistics are still being counted."""
    return Backfill.objects.exists()


@dataclass(frozen=True, slots=True)
class OwnerCount:
    """How many tasks an account had accepted. `owner` and `name` are None for all anonymous callers; the name
    of an account that is gone is its key."""

    owner: Any
    name: str | None
    tasks: int


def top_owners(rollup: Rollup, limit: int = OWNERS) -> list[OwnerCount]:
    """Who asked most, most first."""
    counts = rollup.top_owners(limit)
    field = StreamTask._meta.get_field("owner").target_field
    keys = {name: None if name == NOBODY else field.to_python(name) for name in counts}
    users = get_user_model()._default_manager.in_bulk([key for key in keys.values() if key is not None])
    return [
        OwnerCount(key, None if key is None else str(users.get(key, key)), counts[name])
        for name, key in keys.items()
    ]


@dataclass(frozen=True, slots=True)
class SlowTask:
    """One of the slowest: how long it took in milliseconds, and its row, without its contents."""

    milliseconds: float
    row: StreamTask


@dataclass(frozen=True, slots=True)
class Slowest:
    """The slowest of a range: by the wait in the queue, by the first content, by the whole; and those that
    ended in the queue, by the whole. Longest first."""

    queue_wait: list[SlowTask]
    first_content: list[SlowTask]
    total: list[SlowTask]
    in_vain: list[SlowTask]


def slowest(rollup: Rollup, limit: int = SLOWEST) -> Slowest:
    """The tasks that the rollup names (at most `SLOWEST` of each) and that still have a row."""
    named = (rollup.longest_wait, rollup.latest_content, rollup.longest, rollup.in_vain)
    lists = [each[:limit] for each in named]
    ids = {slow.task_id for each in lists for slow in each}
    rows = StreamTask.objects.filter(pk__in=ids).defer(
        "text", "arguments", "usage", "error_message", "error_detail"
    )
    known = {row.pk: row for row in rows.select_related("owner")}
    return Slowest(*(_slow_tasks(each, known) for each in lists))


def _slow_tasks(slow: list[Slow], known: dict[str, StreamTask]) -> list[SlowTask]:
    return [SlowTask(each.milliseconds, known[each.task_id]) for each in slow if each.task_id in known]
