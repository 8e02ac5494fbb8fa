"""The cache: work that was done a moment ago, or is being done, is not done again.

A call that says what makes it the same work as another (`Options.identity`) becomes a task of its own, with
own id and record, whose producer follows the earlier task's journal. It takes no permit. Off unless
CACHE_CONFIG says otherwise. Copies are never copied: how old a text may be counts from its making.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from weakref import WeakValueDictionary

from django.db import DatabaseError, InterfaceError
from django.db.models import Q
from django.utils import timezone

from streaming.core.errors import EventsPruned, NotNow
from streaming.core.events import Complete
from streaming.core.states import State
from streaming.runtime.copying import copying
from streaming.runtime.supervisor import Admission, Supervisor
from streaming.runtime.task import Task, TaskSpec

from . import conf
from .access import Caller
from .digests import digest
from .models import StreamTask
from .threads import borrowed_thread

logger = logging.getLogger(__name__)

UNWRITTEN: Final = 1.0
"""Seconds after which a task of another process has its row at the latest."""

LOOK: Final = 0.05
"""Seconds between two looks for it."""


def fingerprint(caller: Caller, end_user: str, kind: str, identity: Mapping[str, Any] | None) -> str:
    """By which the same work is found for those who may share it; empty where nothing is shared.

    Within `owner` an account is one owner, and an anonymous caller is whoever shares fairly with it.
    """
    scope = conf.reuse().scope
    if identity is None or scope == "off":
        return ""
    if scope == "all":
        who: Any = None
    elif caller.account is not None:
        who = ["account", caller.account]
    else:
        who = ["anonymous", caller.share_key(end_user)]
    return digest([who, kind, identity])


class Reuse:
    """The sources of one event loop's tasks. `load`: the ended task behind a row; raises `EventsPruned`."""

    def __init__(self, supervisor: Supervisor, load: Callable[[StreamTask], Awaitable[Task]]) -> None:
        self._supervisor = supervisor
        self._load = load
        self._newest: WeakValueDictionary[str, Task] = WeakValueDictionary()

    async def find(self, spec: TaskSpec) -> None:
        """Before `open`: have the source of `spec` in memory, if there is one anywhere. Visits the database
        only where the cache is on and nothing that runs here will do; raises nothing of the database's."""
        if spec.fingerprint:
            async with borrowed_thread():
                await self._look_for_source(spec)

    async def make_room(self, spec: TaskSpec) -> None:
        """Before `open`, where there is no source: see `Supervisor.make_room`."""
        if not spec.fingerprint or self._source(spec) is None:
            await self._supervisor.make_room(spec)

    async def _look_for_source(self, spec: TaskSpec) -> None:
        source = self._source(spec)
        if source is not None and not source.journal.closed:
            return
        try:
            if source is not None and await self._was_purged(source):
                del self._newest[spec.fingerprint]
                source = None
            if source is None:
                await self._find_stored(spec.fingerprint)
        except (DatabaseError, InterfaceError) as error:
            logger.warning("the cache could not be asked: %s", error)
            self._newest.pop(spec.fingerprint, None)

    async def adopt(self, spec: TaskSpec, task_id: str) -> bool:
        """Have the task of another process as the source of `spec`, if it will do. Its row may be a moment
        away."""
        async with borrowed_thread():
            began = time.monotonic()
            while True:
                try:
                    await self._find_stored(spec.fingerprint)
                except (DatabaseError, InterfaceError) as error:
                    logger.warning("the cache could not be asked: %s", error)
                    return False
                if self._source(spec) is not None:
                    return True
                row = StreamTask.objects.filter(pk=task_id)
                if time.monotonic() - began >= UNWRITTEN or await row.aexists():
                    return False
                await asyncio.sleep(LOOK)

    def has_source(self, spec: TaskSpec) -> bool:
        """Whether `open` makes a copy, which takes no permit."""
        return bool(spec.fingerprint) and self._source(spec) is not None

    def open(
        self,
        spec: TaskSpec,
        wrap: Callable[[TaskSpec], TaskSpec] = lambda spec: spec,
        admission: Admission | None = None,
    ) -> Task:
        """Admit the task as the supervisor does, as a copy if there is a source; `wrap` has the last word on
        its specification. `admission`: of a task that has no source. One synchronous step, so that of two at
        once the second one finds the first.

        Raises `PoolRefused`; a copy only while the process goes down.
        """
        source = self._source(spec) if spec.fingerprint else None
        if source is not None:
            copy = replace(spec, open_source=copying(source), source=source, fingerprint="")
            return self._supervisor.open(wrap(copy))
        task = self._supervisor.open(wrap(spec), admission)
        if spec.fingerprint:
            self._newest[spec.fingerprint] = task
        return task

    def _source(self, spec: TaskSpec) -> Task | None:
        """What is in memory and will do for `spec`."""
        task = self._newest.get(spec.fingerprint)
        if task is None or self._supervisor.tasks.find(task.id) is not task or task.journal.first_id > 1:
            return None
        if task.final is not None:
            return task if _still_good(task) else None
        if task.ending is not None or (task.state is State.QUEUED and task.spec.priority > spec.priority):
            # On its way down; or it waits behind what this one would pass.
            return None
        return task

    async def _was_purged(self, source: Task) -> bool:
        """Whether another process deleted it: what is purged is never served again."""
        return await StreamTask.objects.filter(pk=source.id, purged_at__isnull=False).aexists()

    async def _find_stored(self, wanted: str) -> None:
        oldest = timezone.now() - timedelta(seconds=conf.reuse().ttl)
        ended = Q(state=State.COMPLETE.value, finish_reason="stop", finished_at__gte=oldest, purged_at=None)
        running = Q(state__in=(State.QUEUED.value, State.RUNNING.value), finished_at=None)
        rows = StreamTask.objects.filter(ended | running, fingerprint=wanted)
        row = await rows.order_by("-created_at").afirst()
        if row is None:
            return
        task = self._supervisor.tasks.find(row.id)
        try:
            self._newest[wanted] = task or await self._load(row)
        except (EventsPruned, NotNow):
            return


def _still_good(task: Task) -> bool:
    """Whether it ended by itself, with all that it had to say, and not too long ago."""
    final, finished_at = task.final, task.finished_at
    if not isinstance(final, Complete) or final.finish_reason != "stop" or finished_at is None:
        return False
    return timezone.now() - finished_at <= timedelta(seconds=conf.reuse().ttl)
