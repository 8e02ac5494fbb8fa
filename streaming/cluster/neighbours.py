"""What processes ask of each other, through the rows of tasks: to cancel one, to keep one that has readers,
to let one wait in another priority class.

All of it visits the database and blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, Final

from django.db import connection, transaction
from django.utils import timezone

from streaming.core.states import State
from streaming.models import Process, StreamTask
from streaming.storage.rows import NOBODY, lock

_ACTIVE: Final = (State.QUEUED.value, State.RUNNING.value)

CHUNK: Final = 500
"""Ids in one statement: below every database's limit of parameters."""

PURGED_OF_LATE: Final = timedelta(minutes=1)
"""For how long a purge is told; the processes' clocks may differ by as much."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What others ask of a task of ours. `cancel`: a reason, empty for no. `followed`: they have readers.
    `priority`: the class in which it shall wait, None for its own."""

    task_id: str
    cancel: str
    followed: bool
    priority: int | None = None


class Prioritised(Enum):
    """What became of the wish that a task wait in another priority class."""

    MOVED = auto()
    ASKED = auto()
    """It waits in another process, which has not done it yet."""
    SAME = auto()
    """It was of that class already."""
    TOO_LATE = auto()
    """It waits no longer."""


class Wishes:
    """What is asked of the process `process_id`."""

    def __init__(self, process_id: str) -> None:
        self._process_id = process_id
        self._followed_at: dict[str, datetime | None] = {}

    def look(self) -> list[Wish]:
        """What is new since the last look. When a task was followed is told by another clock than ours: it
        only counts that it has changed. The class that is asked for is in the row on return."""
        rows = StreamTask.objects.filter(process=self._process_id, state__in=_ACTIVE)
        touched = rows.exclude(cancel_requested="", followed_at=None, priority_requested=None).order_by()
        found = list(touched.values_list("id", "cancel_requested", "followed_at", "priority_requested"))
        before, self._followed_at = self._followed_at, {pk: moment for pk, _, moment, _ in found}
        self._note_classes({pk: priority for pk, _, _, priority in found if priority is not None})
        return [
            Wish(pk, cancel, moment is not None and moment != before.get(pk), priority)
            for pk, cancel, moment, priority in found
        ]

    def _note_classes(self, wanted: Mapping[str, int]) -> None:
        """Each wish is done once: what is asked for later comes later. Of a task that has started meanwhile,
        and nobody has written that yet, the next record tells the class in which it did."""
        for priority in set(wanted.values()):
            for ids in _chunks(pk for pk, number in wanted.items() if number == priority):
                with transaction.atomic():
                    asked = lock(
                        StreamTask.objects.filter(
                            pk__in=ids, process=self._process_id, priority_requested=priority
                        )
                    )
                    asked.filter(state=State.QUEUED.value).update(priority=priority)
                    asked.update(priority_requested=None)


def ask_to_cancel(task_ids: Iterable[str], reason: str) -> None:
    """Ask whoever runs the tasks to cancel them; the first reason stays."""
    for ids in _chunks(task_ids):
        _set_in_active(ids, "cancel_requested", reason, "cancel_requested = ''")


def ask_for_priority(task_ids: Iterable[str], priority: int) -> dict[str, Prioritised]:
    """Ask the processes in which the tasks wait for another class; what waits for any process
    waits there at once. The last wish counts."""
    found: dict[str, Prioritised] = {}
    for ids in _chunks(task_ids):
        with transaction.atomic():
            waiting = lock(StreamTask.objects.filter(pk__in=ids, state=State.QUEUED.value))
            rows = waiting.order_by().values_list("pk", "process", "priority", "priority_requested")
            found |= dict.fromkeys(ids, Prioritised.TOO_LATE)
            for pk, process, now, requested in rows:
                if now == priority and requested is None:
                    found[pk] = Prioritised.SAME
                else:
                    found[pk] = Prioritised.MOVED if process == NOBODY else Prioritised.ASKED
            waiting.filter(process=NOBODY).update(priority=priority, priority_requested=None)
            asked = [pk for pk in ids if found[pk] is Prioritised.ASKED]
            StreamTask.objects.filter(pk__in=asked).update(priority_requested=priority)
    return found


def answers(task_ids: Iterable[str], priority: int) -> dict[str, Prioritised]:
    """What has become of the wishes for that class by now; tasks that are gone are missing."""
    found: dict[str, Prioritised] = {}
    for ids in _chunks(task_ids):
        rows = StreamTask.objects.filter(pk__in=ids).order_by()
        for pk, state, now, requested in rows.values_list("pk", "state", "priority", "priority_requested"):
            if requested is not None and state == State.QUEUED.value:
                found[pk] = Prioritised.ASKED
            else:
                moved = requested is None and now == priority
                found[pk] = Prioritised.MOVED if moved else Prioritised.TOO_LATE
    return found


def show_following(task_ids: Iterable[str]) -> bool:
    """Tell whoever runs the tasks that they have readers here. Waits for nobody: a task that is locked is
    passed over, perhaps by a process that stands still in the middle of a transaction. Returns whether all
    were told; others have been passed over, or have ended."""
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    asked = told = 0
    for ids in _chunks(task_ids):
        asked += len(ids)
        told += _set_in_active(ids, "followed_at", now, "1 = 1", skip_locked=True)
    return told == asked


def _set_in_active(
    ids: list[str], column: str, value: Any, condition: str, *, skip_locked: bool = False
) -> int:
    """Set a column of those of the tasks that have not ended and meet the condition; of how many. In one
    statement, outside a transaction: these are rows of others, and who is stopped between a lock and its
    commit holds up all that their process writes. Locked in the order of `rows.lock`."""
    quote = connection.ops.quote_name
    table, pk = quote(StreamTask._meta.db_table), quote("id")
    supported = connection.features.has_select_for_update
    locks = connection.ops.for_update_sql(skip_locked=skip_locked) if supported else ""
    marks = ", ".join(["%s"] * len(ids))
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET {quote(column)} = %s "  # noqa: S608 (our names)
            f"WHERE {pk} IN (SELECT {pk} FROM {table} "
            f"WHERE {pk} IN ({marks}) AND {quote('state')} IN (%s, %s) AND {condition} "
            f"ORDER BY {pk} {locks})",
            [value, *ids, *_ACTIVE],
        )
        return int(cursor.rowcount)


def orphaning() -> set[str]:
    """Processes that still have tasks and are not among the processes: they went down in order, and could not
    write all; or they have only begun."""
    active = StreamTask.objects.filter(state__in=_ACTIVE).exclude(process=NOBODY)
    known = Process.objects.values("pk")
    return set(active.exclude(process__in=known).order_by().values_list("process", flat=True).distinct())


def taken_from(process_id: str, task_ids: Iterable[str]) -> list[str]:
    """Those of the tasks that the process has no more."""
    return [
        pk
        for ids in _chunks(task_ids)
        for pk in StreamTask.objects.filter(pk__in=ids)
        .exclude(process=process_id)
        .order_by()
        .values_list("pk", flat=True)
    ]


def purged_of_late() -> list[str]:
    """Tasks whose text and events were deleted within the last minute, by whichever process."""
    since = timezone.now() - PURGED_OF_LATE
    # In no order: to have the rows in theirs, SQLite would look at all there are.
    late = StreamTask.objects.filter(purged_at__gte=since).order_by()
    return list(late.values_list("pk", flat=True))


def others_than(process_id: str) -> list[dict[str, Any]]:
    """The other living processes: `id`, `pid`, `statistics` (None in their first second)."""
    rows = Process.objects.exclude(pk=process_id).order_by("started_at")
    return [dict(row) for row in rows.values("id", "pid", "statistics")]


def _chunks(task_ids: Iterable[str]) -> Iterable[list[str]]:
    ids = list(task_ids)
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))
