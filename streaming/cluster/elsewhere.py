"""Tasks that are not in this process: their rows, their events, their end."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from asgiref.sync import sync_to_async
from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Q, QuerySet
from django.utils import timezone

from streaming.core.errors import EventsPruned, StorageUnavailable, TaskNotFound
from streaming.core.schedule import PollSchedule
from streaming.core.states import State
from streaming.models import Process, StreamTask
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import CancelReason, Task
from streaming.storage.records import DatabaseRecorder
from streaming.storage.stored import stored_events, stored_task

from .neighbours import Prioritised, answers, ask_for_priority, ask_to_cancel
from .processes import Registry
from .replicas import Replicas
from .takeover import cancel_unclaimed

if TYPE_CHECKING:
    from streaming.access import Caller

    from .shared_queue import SharedQueue

T = TypeVar("T")

AT_ONCE: Final = 8
"""Look-ups of tasks at the same time: with two or three connections the database is busy already."""

UNWRITTEN: Final = 1.0
"""Seconds after which a task of another process has its row at the latest."""

BEHIND: Final = 0.8
"""Seconds after that for which we wait for a beat of those that have shown none meanwhile. A process writes
its beat and its tasks in one thread: while the one does not come, the other may be missing, too."""

BEAT_LOOKS: Final = 0.1
"""Seconds between two looks at beats."""

LOOKING: Final = 20
"""Calls of one caller that look again and again for a row that is not there yet. Further ones wait as long
and look once more: a row that comes is found all the same, and guessing ids costs others little."""

CANCEL_WAIT: Final = 2.0
"""Seconds that a cancel call waits for the terminal event, which comes within one."""


LATELY: Final = 5.0
"""Seconds after its end for which readers in other processes may not have that end yet; the processes' clocks
may differ by a little."""

LOOKING_TAKES: Final = 0.5
"""Seconds that a look at the database may take where much is looked for."""


class Elsewhere:
    """See the module. Belongs to the event loop of its supervisor."""

    def __init__(
        self,
        supervisor: Supervisor,
        recorder: DatabaseRecorder,
        registry: Registry,
        replicas: Replicas,
        schedule: PollSchedule,
        queue: SharedQueue | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._registry = registry
        self._recorder = recorder
        self._replicas = replicas
        self._schedule = schedule
        self._queue = queue
        self._loading: dict[str, asyncio.Task[Task]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._looking: Counter[Hashable] = Counter()

    async def row(self, task_id: str, caller: Caller | None = None) -> StreamTask:
        """The task's row. Where other processes live, it is looked for until one of them must have written
        it. Raises `TaskNotFound`, and `StorageUnavailable` where nobody knows, because another process
        writes nothing for now. `caller`: who asks, if it is somebody outside; a row that is not theirs is
        then no row to the database, so that both take the same time."""
        rows = StreamTask.objects.filter(pk=task_id)
        if caller is not None:
            rows = rows.filter(Q(owner=None) | Q(owner=caller.account))
        row = await self._visit(rows.first)
        if row is None and (beats := await self._beats_of_others()):
            row = await self._row_in_a_moment(rows, None if caller is None else caller.share_key(""))
            if row is None and await self._stand_still(beats):
                await self._until_all_have_beaten(beats, task_id)
                row = await self._visit(rows.first)
        if row is None:
            raise TaskNotFound(task_id)
        if not State(row.state).terminal:
            # It runs elsewhere, or its process is dead: look, also where no server said that it starts.
            self._recorder.start()
        return row

    async def task(self, row: StreamTask) -> Task:
        """The task behind `row`, to be followed. Raises `EventsPruned` when its events are gone, or about to
        go."""
        if not State(row.state).terminal:
            return await self._replicas.open(row)
        if row.purged_at is not None:
            raise EventsPruned(row.id)
        loading = self._loading.get(row.id)
        if loading is None:
            loading = self._loading[row.id] = asyncio.create_task(self._load(row))
            loading.add_done_callback(lambda _: self._loading.pop(row.id, None))
        return await asyncio.shield(loading)

    async def cancel(self, task_ids: Collection[str], reason: CancelReason) -> None:
        """Have the tasks cancelled by those who run them; returns when they have ended, or `CANCEL_WAIT`
        seconds have passed."""
        await sync_to_async(ask_to_cancel)(task_ids, reason.value)
        await sync_to_async(cancel_unclaimed)(
            *(task_ids, self._recorder.process_id, reason.value),
            *(self._registry.tell_end, self._registry.survivors),
        )
        if self._queue is not None:
            await self._queue.cancelled(task_ids, reason.value)
        active = StreamTask.objects.filter(pk__in=task_ids, finished_at=None)
        began = time.monotonic()
        waited = 0.0
        while waited < CANCEL_WAIT and await active.aexists():
            await asyncio.sleep(self._schedule.pause(waited))
            waited = time.monotonic() - began

    async def prioritise(self, task_ids: Collection[str], priority: int) -> dict[str, Prioritised]:
        """Have the tasks wait in another priority class, by those who let them wait; returns when they have
        done so, or `CANCEL_WAIT` seconds have passed."""
        found = await sync_to_async(ask_for_priority)(task_ids, priority)
        if self._queue is not None:
            await self._queue.prioritised(task_ids, priority)
        asked = [pk for pk, outcome in found.items() if outcome is Prioritised.ASKED]
        began = time.monotonic()
        waited = 0.0
        while asked and waited < CANCEL_WAIT:
            await asyncio.sleep(self._schedule.pause(waited))
            found |= await sync_to_async(answers)(asked, priority)
            asked = [pk for pk in asked if found[pk] is Prioritised.ASKED]
            waited = time.monotonic() - began
        return found

    async def was_purged(self, task_id: str) -> bool:
        """Whether another process has deleted text and events of the task. While the database is away nobody
        knows, and it was not."""
        if self._registry.alone:
            return False
        try:
            return await StreamTask.objects.filter(pk=task_id, purged_at__isnull=False).aexists()
        except (DatabaseError, InterfaceError):
            return False

    async def let_readers_take(self, task_id: str) -> None:
        """Before the events of an ended task are deleted: if it ended a moment ago and was read in another
        process, wait until that one must have looked for its end."""
        if self._registry.alone:
            return
        read = StreamTask.objects.filter(pk=task_id, followed_at__isnull=False)
        finished_at = await read.values_list("finished_at", flat=True).afirst()
        if finished_at is None or abs((timezone.now() - finished_at).total_seconds()) > LATELY:
            return
        await asyncio.sleep(min(2 * self._schedule.pause(math.inf) + LOOKING_TAKES, LATELY))

    async def _beats_of_others(self) -> dict[str, int]:
        others = Process.objects.exclude(pk=self._recorder.process_id).only("beat")
        return {pk: process.beat for pk, process in (await self._visit(others.in_bulk)).items()}

    async def _stand_still(self, beats: Mapping[str, int]) -> bool:
        """Whether one of these processes lives and has not shown it since."""
        return bool(beats.items() & (await self._beats_of_others()).items())

    async def _until_all_have_beaten(self, beats: Mapping[str, int], task_id: str) -> None:
        """Raises `StorageUnavailable`."""
        began = time.monotonic()
        while time.monotonic() - began < BEHIND:
            await asyncio.sleep(BEAT_LOOKS)
            if not await self._stand_still(beats):
                return
        raise StorageUnavailable(task_id)

    async def _row_in_a_moment(self, rows: QuerySet[StreamTask], who: Hashable) -> StreamTask | None:
        if self._looking[who] >= LOOKING:
            await asyncio.sleep(UNWRITTEN)
            return await self._visit(rows.first)
        self._looking[who] += 1
        try:
            began = time.monotonic()
            row = None
            while row is None and (waited := time.monotonic() - began) < UNWRITTEN:
                await asyncio.sleep(self._schedule.pause(waited))
                row = await self._visit(rows.first)
            return row
        finally:
            self._looking[who] -= 1
            if not self._looking[who]:
                del self._looking[who]

    async def _visit(self, function: Callable[[], T]) -> T:
        """Call it in the request's thread; `AT_ONCE` at a time. In a crowd none keeps its connection: of
        readers of another process' streams who all come back at once each has a thread until the answer
        begins, and all of them would need as many connections as there are threads."""
        async with self._turns:
            crowded = self._turns.locked()
            return await sync_to_async(_and_close(function) if crowded else function)()

    async def _load(self, row: StreamTask) -> Task:
        segments = await self._visit(lambda: list(stored_events(row.id)))
        journal = self._supervisor.tasks.new_journal()
        for first_id, frames in segments:
            journal.adopt(first_id, frames)
        if not journal.closed:
            journal.clear()
            raise EventsPruned(row.id)
        ended = asyncio.get_running_loop().create_future()
        ended.set_result(None)
        task = stored_task(row, journal, ended)
        self._supervisor.tasks.keep(task)
        return task


def _and_close(function: Callable[[], T]) -> Callable[[], T]:
    """The function; after it this thread's connection is closed, unless a transaction needs it."""

    def visit() -> T:
        try:
            return function()
        finally:
            if not connection.in_atomic_block:
                connection.close()

    return visit
