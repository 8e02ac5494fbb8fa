"""Counting tasks in the database, once each, whoever wrote their end.

What happens to a task is counted in the transaction that writes it, and the task's row says how much of it
has been counted. So a write that is tried again, a task that changes its process, and an end that is told for
a dead process all count once; a kill loses of the counts what it loses of the records, and no more.

Refusals have no row. They are counted in memory and written within `journal_flush_interval`
(`rows.write_refusals`): a kill loses those of that time, and a commit whose answer is lost counts them twice.

A row of `TaskRollup` is a part: all rows of a period add up, and nobody looks for the right one to change. A
process keeps the parts that it wrote last in memory and overwrites them; where one is gone (merged into a
coarser one) or may not be what the database has (after a failed write), it begins another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from streaming.core.rollup import NOBODY, End, Rollup, decode, merged
from streaming.core.states import State
from streaming.models import Backfill, StreamTask, TaskRollup

MINUTE: Final = 60
TEN_MINUTES: Final = 600
HOUR: Final = 3600

LEVELS: Final = (
    (MINUTE, TEN_MINUTES, timedelta(hours=3)),
    (TEN_MINUTES, HOUR, timedelta(days=2)),
)
"""Rows of so many seconds become rows of so many when they are so old."""

PARTS: Final = 64
"""Rows that a process keeps in memory to write more into them."""

CHUNK: Final = 1000
"""Tasks that are counted in one step of the backfill."""

_ACCEPTED: Final = StreamTask.Counted.ACCEPTED.value
_ENDED: Final = StreamTask.Counted.ENDED.value
_TERMINAL: Final = frozenset(state.value for state in State if state.terminal)

_COLUMNS: Final = (
    "id",
    "owner_id",
    "pool",
    "kind",
    "route",
    "reason",
    "state",
    "created_at",
    "started_at",
    "finished_at",
    "error_code",
    "cancel_reason",
    "queued_ms",
    "first_content_ms",
    "total_ms",
    "status_messages",
    "resumes",
    "chunks",
    "content_length",
    "timing",
    "usage",
    "counted",
)

Key = tuple[datetime, int, str, str]
"""Start and seconds of the period, pool, kind."""


Change = tuple[str | None, Mapping[str, Any]]
"""A task's end, by its id and its row's columns; without an id its admission."""


class Deltas(dict[Key, list[Change]]):
    """What is to be counted, by where it belongs. Rows of tasks are given by their columns."""

    def note(self, task_id: str, row: Mapping[str, Any], counted: int | None) -> None:
        """Have counted what has become of the task and has not been `counted` yet."""
        if not counted:
            self.accepted(row)
        if counted != _ENDED and row["state"] in _TERMINAL:
            self.ended(task_id, row)

    def accepted(self, row: Mapping[str, Any], seconds: int = MINUTE) -> None:
        """Have the admission counted, in its period of so many seconds."""
        key = period(row["created_at"], seconds), seconds, row["pool"], row["kind"]
        self.setdefault(key, []).append((None, row))

    def ended(self, task_id: str, row: Mapping[str, Any], seconds: int = MINUTE) -> None:
        """Have the end counted, in its period."""
        key = period(row["finished_at"], seconds), seconds, row["pool"], row["kind"]
        self.setdefault(key, []).append((task_id, row))

    def rollups(self) -> dict[Key, Rollup]:
        """All of it, counted."""
        return {key: _count(Rollup(), changes) for key, changes in self.items()}

    def insert(self) -> None:
        """Write all of it as rows of their own, in the transaction of what they count."""
        _insert(self.rollups())


def _count(rollup: Rollup, changes: Iterable[Change]) -> Rollup:
    for task_id, row in changes:
        if task_id is None:
            owner = row.get("owner_id")
            rollup.accept(row["route"], row["reason"], NOBODY if owner is None else str(owner))
        else:
            rollup.end(end_of(task_id, row))
    return rollup


class Tally:
    """The parts that this process writes. Belongs to the writer's thread."""

    def __init__(self) -> None:
        self._parts: OrderedDict[Key, tuple[int, Rollup]] = OrderedDict()

    def write(self, deltas: Deltas) -> None:
        """Add to what was counted before, within the caller's transaction; if that fails, `forget`."""
        for key, changes in deltas.items():
            part = self._parts.pop(key, None)
            if part is None or not _update(part[0], _count(part[1], changes)):
                rollup = _count(Rollup(), changes)
                row = _row(key, rollup)
                row.save(force_insert=True)
                part = row.pk, rollup
            self._parts[key] = part
        while len(self._parts) > PARTS:
            self._parts.popitem(last=False)

    def forget(self) -> None:
        """A transaction failed, or seemed to: begin new parts."""
        self._parts.clear()


def _update(pk: int, part: Rollup) -> bool:
    """Write the part; False if its row is gone."""
    quote = connection.ops.quote_name
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {quote(TaskRollup._meta.db_table)} SET {quote('numbers')} = %s "  # noqa: S608 (our names)
            f"WHERE {quote('id')} = %s",
            [part.encode().decode(), pk],
        )
        return bool(cursor.rowcount)


def _insert(rollups: Mapping[Key, Rollup]) -> None:
    TaskRollup.objects.bulk_create(_row(key, rollup) for key, rollup in rollups.items())


def _merge_in(rollups: dict[Key, Rollup]) -> None:
    """`_insert`, but periods that have rows already keep one: for those that no process writes into."""
    starts = [start for start, seconds, _, _ in rollups if seconds > MINUTE]
    if starts:
        rows = TaskRollup.objects.filter(
            seconds__in=(TEN_MINUTES, HOUR), start__range=(min(starts), max(starts))
        )
        there = [
            (row.pk, key, row.numbers)
            for row in rows.select_for_update().order_by("pk")
            if (key := (row.start, row.seconds, row.pool, row.kind)) in rollups
        ]
        for _, key, numbers in there:
            rollups[key].merge(decode(numbers))
        TaskRollup.objects.filter(pk__in=[pk for pk, _, _ in there]).delete()
    _insert(rollups)


def _row(key: Key, rollup: Rollup) -> TaskRollup:
    start, seconds, pool, kind = key
    return TaskRollup(start=start, seconds=seconds, pool=pool, kind=kind, numbers=rollup.encode().decode())


def counted_by(state: str) -> int:
    """How much of a task has been counted once its row with this state is written."""
    return _ENDED if state in _TERMINAL else _ACCEPTED


def period(moment: datetime, seconds: int) -> datetime:
    """The start of the period of so many seconds in which the moment lies."""
    if seconds == MINUTE:
        # Time zones are whole minutes apart; all streams come this way.
        return moment.replace(second=0, microsecond=0)
    return datetime.fromtimestamp(moment.timestamp() // seconds * seconds, UTC)


def end_of(task_id: str, row: Mapping[str, Any]) -> End:
    """How the task of an ended row went."""
    return End(
        task_id=task_id,
        route=row["route"],
        state=row["state"],
        code=row.get("error_code", ""),
        cancelled_by=row.get("cancel_reason", ""),
        started=row["started_at"] is not None,
        queued_ms=row["queued_ms"],
        first_content_ms=row["first_content_ms"],
        total_ms=row["total_ms"],
        status_messages=row["status_messages"],
        resumes=row["resumes"],
        chunks=row["chunks"],
        tokens=_tokens(row),
        code_points=row["content_length"],
    )


def _tokens(row: Mapping[str, Any]) -> int:
    """What the model says that it made, else the producer's parts, as far as the receipt tells them, else the
    content events."""
    said = (row.get("usage") or {}).get("completion_tokens")
    if isinstance(said, int):
        return max(said, 0)
    timing = row.get("timing")
    ratio = timing.get("coalesced_ratio") if isinstance(timing, dict) else timing and timing.coalesced_ratio
    chunks: int = row["chunks"]
    return round(chunks / ratio) if ratio else chunks


# Coarser with age


def compact_some(now: datetime) -> int:
    """Merge the rows of one period that are old enough into coarser ones; how many rows that were, 0 when
    there is nothing to do. Several processes may do it at once."""
    for fine, coarse, age in LEVELS:
        rows = TaskRollup.objects.filter(seconds=fine)
        before = period(now - age, coarse)
        oldest = rows.filter(start__lt=before).order_by("start").values_list("start", flat=True).first()
        if oldest is not None:
            return _merge(fine, coarse, period(oldest, coarse))
    return 0


def _merge(fine: int, coarse: int, start: datetime) -> int:
    with transaction.atomic():
        rows = TaskRollup.objects.filter(
            seconds=fine, start__gte=start, start__lt=start + timedelta(seconds=coarse)
        )
        # Locked: a process that adds to one of them finds it gone then, and begins another.
        found = list(rows.select_for_update().order_by("pk"))
        made: dict[Key, Rollup] = {}
        for (pool, kind), parts in groupby(
            sorted(found, key=lambda row: (row.pool, row.kind)), lambda row: (row.pool, row.kind)
        ):
            made[start, coarse, pool, kind] = merged(decode(row.numbers) for row in parts)
        _merge_in(made)
        TaskRollup.objects.filter(pk__in=[row.pk for row in found]).delete()
    return len(found)


def prune_rollups(before: datetime) -> int:
    """Delete what was counted before; how many rows that were."""
    return TaskRollup.objects.filter(start__lt=before).delete()[0]


# What nobody has counted


def rebuild() -> None:
    """Forget what was counted, and have `backfill_some` count all tasks that there are anew. Where servers
    run meanwhile, a task that ends in the moment of this call may be counted twice or not at all."""
    now = timezone.now()
    with transaction.atomic():
        Backfill.objects.all().delete()
        TaskRollup.objects.all().delete()
        Backfill.objects.create(moment=now, before=now, anew=True)


def backfill_some() -> int:
    """Count some of the tasks that ended before counting began, the newest first; how many were looked at, 0
    when there is nothing to do. Several processes may call it at once: they do one step after the other."""
    if not Backfill.objects.exists():
        return 0
    with transaction.atomic():
        job = Backfill.objects.select_for_update().order_by("pk").first()
        if job is None:
            return 0
        rows = StreamTask.objects.filter(created_at__lte=job.before)
        if job.before_id:
            rows = rows.exclude(Q(created_at=job.before) & Q(pk__gte=job.before_id))
        found = list(rows.order_by("-created_at", "-pk").values(*_COLUMNS)[:CHUNK])
        _merge_in(_backfill(job, found).rollups())
        if found:
            job.before, job.before_id = found[-1]["created_at"], found[-1]["id"]
            job.save()
        else:
            job.delete()
    return len(found)


def _backfill(job: Backfill, rows: Iterable[Mapping[str, Any]]) -> Deltas:
    made = Deltas()
    for row in rows:
        finished = row["finished_at"] is not None and row["finished_at"] < job.moment
        # What nobody has counted and is not over will be counted at its end, its admission too.
        if finished and (job.anew or row["counted"] is None):
            made.ended(row["id"], row, _level(row["finished_at"], job.moment))
        elif not job.anew or row["counted"] is None:
            continue
        made.accepted(row, _level(row["created_at"], job.moment))
    return made


def _level(moment: datetime, now: datetime) -> int:
    """The seconds of the row in which this would be by now."""
    for fine, coarse, age in LEVELS:
        if period(moment, coarse) >= period(now - age, coarse):
            return fine
    return HOUR
