"""What processes ask of each other, through the rows of tasks: to cancel one, to keep one that has readers.

All of it visits the database and blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
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
    """What others ask of a task of ours. `cancel`: a reason, empty for no. `followed`: they have readers."""

    task_id: str
    cancel: str
    followed: bool


class Wishes:
    """What is asked of the process `process_id`."""

    def __init__(self, process_id: str) -> None:
        self._process_id = process_id
        self._followed_at: dict[str, datetime | None] = {}

    def look(self) -> list[Wish]:
        """What is new since the last look. When a task was followed is told by another clock than ours: it
        only counts that it has changed."""
        rows = StreamTask.objects.filter(process=self._process_id, state__in=_ACTIVE)
        touched = rows.exclude(cancel_requested="", followed_at=None).order_by()
        found = list(touched.values_list("id", "cancel_requested", "followed_at"))
        before, self._followed_at = self._followed_at, {pk: moment for pk, _, moment in found}
        return [
            Wish(pk, cancel, moment is not None and moment != before.get(pk)) for pk, cancel, moment in found
        ]


def ask_to_cancel(task_ids: Iterable[str], reason: str) -> None:
    """Ask whoever runs the tasks to cancel them; the first reason stays."""
    for ids in _chunks(task_ids):
        with transaction.atomic():
            asked = lock(StreamTask.objects.filter(pk__in=ids, state__in=_ACTIVE, cancel_requested=""))
            asked.update(cancel_requested=reason)


def show_following(task_ids: Iterable[str]) -> None:
    """Tell whoever runs the tasks that they have readers here."""
    for ids in _chunks(task_ids):
        with transaction.atomic():
            read = lock(StreamTask.objects.filter(pk__in=ids, state__in=_ACTIVE))
            read.update(followed_at=timezone.now())


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
