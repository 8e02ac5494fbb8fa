"""One queue and one set of limits for all processes that share a Redis.

A task of a registered producer that finds no permit in its process waits for any of them: its row belongs to
nobody, and its place is in the order that all share (`SharedPools`). Whoever has a permit for it claims the
row (`takeover.claim`), which only one can do: what is handed over twice runs once. What is in Redis can be
lost, then; it is made again from the rows, and from what each process knows to run.

A view's own iterator, and a task of a series, can only run where it is. It waits in its process's ledger; the
limits count it all the same.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from django.db import DatabaseError, InterfaceError, connection, connections

from streaming.core.errors import Interrupted, QueueTimeout, StorageUnavailable
from streaming.core.events import Cancelled, Error, Terminal
from streaming.core.states import State
from streaming.models import StreamTask
from streaming.runtime.journals.memory import MemoryJournal
from streaming.runtime.ledger import PoolStatistics, Ticket
from streaming.runtime.ports import Commit
from streaming.runtime.redis.pools import SharedPools, Swept
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import CancelReason, Task
from streaming.storage.rows import NOBODY
from streaming.storage.stored import COME_BACK, Events, waiting_task

from .neighbours import ask_to_cancel, show_following
from .processes import Registry
from .replicas import Replicas
from .tickets import Tickets
from .waiting_rows import (
    claimed,
    count_waiting,
    end_waiting,
    entry_for,
    standing,
    until_taken,
    waiting_entries,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

BEAT: Final = 1.0
"""Seconds between two signs of life in Redis, and looks at what waits too long."""

COMMITTED: Final = 1.0
"""Seconds that a task which waits for any process has for its row to be durable; then it is refused."""

WRITTEN_LATE: Final = 600.0
"""Seconds for which the row of a task that was refused may still come."""

INTRODUCED: Final = 0.25
"""Seconds that a caller waits at most for the place of its task in the line."""

RESTATED: Final = 30.0
"""Seconds between two times that a process tells all that it has, should anything have got lost."""

REFILL: Final = 200
"""Waiting rows of a pool that are put in line in one round, if there are no more places."""

_ANYBODY: Final = ("shared",)
"""Owner, in this process's ledger, of a permit for a task whose owner all processes count."""

Publish = Callable[[str, str], None]
"""Hands a task (pool, id) to the workers; blocks, and raises `StorageUnavailable`."""

Before = Callable[[Task], Coroutine[Any, Any, None]] | None
"""What is to be done before others may take a task."""


class SharedQueue:
    """See the module. Belongs to the event loop of its supervisor. `publish`: None where no workers are.
    `tell`: sends a message to all other processes. `lines`: by pool, who waits, as JSON-able numbers of a
    second ago."""

    def __init__(
        self,
        supervisor: Supervisor,
        replicas: Replicas,
        registry: Registry,
        pools: SharedPools,
        tell: Callable[[Mapping[str, Any]], Coroutine[Any, Any, None]],
        publish: Publish | None,
        *,
        is_worker: bool,
    ) -> None:
        self._supervisor = supervisor
        self._replicas = replicas
        self._registry = registry
        self._pools = pools
        self._tell_others = tell
        self._publish = publish
        self._is_worker = is_worker
        self.tickets = Tickets(supervisor, pools, known=self._be_known, freed=self._serve, soon=self._soon)
        self._lines: dict[str, dict[str, tuple[int, float]]] = {}
        self.lines: dict[str, dict[str, Any]] = {}
        self._beginning: set[str] = set()
        self._serving: dict[str, bool] = {}
        self._line_may_wait: set[str] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sluice-queue")
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="sluice-publish")
        self._tending: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._known = self._closed = False
        self._next_restating = 0.0

    def start(self) -> None:
        """Show life, and see to what waits, from now on."""
        if self._tending is None:
            self._tending = asyncio.create_task(self._tend(), name="shared queue")
            self._beating = asyncio.create_task(self._beat_for_ever(), name="shared queue: lease")

    # Opening

    def opened(self, task: Task) -> None:
        """The supervisor has opened the task that was admitted."""
        if self.waits(task):
            assert isinstance(task.journal, MemoryJournal)
            self._replicas.show(task, task.journal)
        else:
            self.tickets.keep(task)

    def waits(self, task: Task) -> bool:
        """Whether the task waits for any process."""
        return task.id in self._supervisor.tasks.foreign

    async def enqueue(self, task: Task, commit: Commit, *, attended: bool, before: Before = None) -> None:
        """Let others take the task as soon as its row is durable, which is on return, and `before` is done.
        Goes on when the caller leaves. Raises `StorageUnavailable` if it is not in time; then it waits no
        more."""
        await asyncio.shield(self._soon(self._enqueue(task, commit, attended, before)))

    def withdrawn(self, task: Task) -> None:
        """The task that waits for any process was not accepted in the end."""
        self._replicas.hide(task)
        self.tickets.drop(task.spec.pool, task.id)

    async def _enqueue(self, task: Task, commit: Commit, attended: bool, before: Before) -> None:
        pool = task.spec.pool
        # Its replica stays meanwhile, although nobody reads it yet.
        task.waiters += 1
        try:
            if not await commit.wait(COMMITTED):
                self.withdrawn(task)
                self._soon(self._end_when_written(task, commit))
                raise StorageUnavailable(task.id)
            if before is not None:
                await before(task)
            if attended and task.spec.grace <= 0:
                # Whoever takes it up may find nobody any more, and shall know that somebody was there.
                await self._in_thread(show_following, [task.id])
            with suppress(StorageUnavailable):
                # Else it is put in line again when Redis is back: its row is there.
                await self._pools.let_go(pool, task.id, attended=attended)
            self.tickets.forget(task.id)
            await asyncio.wait([self._soon(self._introduce(task))], timeout=INTRODUCED)
        finally:
            task.waiters -= 1

    async def _end_when_written(self, task: Task, commit: Commit) -> None:
        """The task was refused, but its row may come yet: nobody shall run it then. Its end is one after
        which the same call makes sense."""
        if not await commit.wait(WRITTEN_LATE):
            return
        refused = Error(code=Interrupted.code, message="", retryable=Interrupted.retryable)
        # The database has just come back: the first connection may still be one of before.
        await until_taken(partial(self._end_waiting, {task.id: refused}), WRITTEN_LATE)
        # Who saw the row before it was ended runs it for nobody.
        cancel = partial(self._in_thread, ask_to_cancel, [task.id], CancelReason.DISCONNECT.value)
        await until_taken(cancel, WRITTEN_LATE)

    async def _introduce(self, task: Task) -> None:
        """Have the task served if anybody has a permit; otherwise find its place."""
        pool = task.spec.pool
        self._line_may_wait.add(pool)
        await self._serve(pool)
        with suppress(StorageUnavailable):
            await self._draw(pool)
            if task.id in self._lines[pool]:
                # Another process may have a permit for it.
                await self._tell_others({"type": "waiting", "pool": pool})

    # Giving permits to who waits

    def serve(self, pool: str) -> None:
        """Somebody waits: see to it soon."""
        if pool in self._supervisor.pools:
            self._line_may_wait.add(pool)
            self._soon(self._serve(pool))

    async def _serve(self, pool: str) -> None:
        """One at a time; who comes meanwhile has it done once more."""
        if pool not in self._line_may_wait:
            # To look would take a permit for as long, and send newcomers into the line.
            return
        if pool in self._serving:
            self._serving[pool] = True
            return
        self._serving[pool] = True
        try:
            while self._serving[pool] and not self._supervisor.draining:
                self._serving[pool] = False
                await self._serve_once(pool)
        except StorageUnavailable:
            # It is looked at again each second.
            pass
        finally:
            del self._serving[pool]

    async def _serve_once(self, pool: str) -> None:
        if self._publish is not None:
            for task_id in await self._pools.dispatch(pool):
                try:
                    await self._in_thread(self._publish, pool, task_id, thread=self._publisher)
                except StorageUnavailable as error:
                    # What nobody begins is in line again after a while.
                    logger.warning("task %s could not be handed to the workers: %s", task_id, error)
                    break
        if self._is_worker:
            return
        while (permit := self._supervisor.pools[pool].ledger.hold_for_others(_ANYBODY)) is not None:
            if not await self._pull(pool, permit):
                self._settle_down(pool)
                return

    def _settle_down(self, pool: str) -> None:
        """Nobody waits, as far as this process has a permit for: not to be looked at again until somebody
        says so."""
        self._line_may_wait.discard(pool)
        self._supervisor.pools[pool].ledger.others_wait = False

    async def _pull(self, pool: str, permit: Ticket) -> bool:
        """Run the next one in line with the permit, which goes back if there is none."""
        task_id = None
        try:
            task_id = await self._pools.pull(pool)
        finally:
            if task_id is None:
                self._supervisor.pools[pool].ledger.release(permit, used=False)
        if task_id is not None:
            await self._begin(pool, task_id, permit)
        return task_id is not None

    async def run_handed(self, pool: str, task_id: str) -> None:
        """Run a task that was handed to this worker; returns when its permit is back. If somebody else has
        it, or it is over, nothing happens. Raises `StorageUnavailable` if nobody can say."""
        await self._be_known()
        permit = self._supervisor.pools[pool].ledger.hold(_ANYBODY)
        if permit is None:
            # A producer that does not come back has it: the task is in line again after a while.
            logger.warning("task %s: no permit is free here", task_id)
            return
        task = await self._begin(pool, task_id, permit)
        if task is None:
            return
        free = asyncio.get_running_loop().create_future()
        permit.when_released(partial(_resolve, free))
        await free
        if self._supervisor.tasks.runs(task):
            await asyncio.shield(task.ended)

    async def _begin(self, pool: str, task_id: str, permit: Ticket) -> Task | None:
        """Claim the row and run its task with `permit`, which goes back if there is nothing to run."""
        task: Task | None = None
        self._beginning.add(task_id)
        try:
            found = await self._in_thread(claimed, task_id, self._registry.process_id)
            if found is not None:
                task = await self._run(*found, permit)
        except (DatabaseError, InterfaceError) as error:
            logger.warning("task %s could not be claimed: %s", task_id, error)
        finally:
            self._beginning.discard(task_id)
            if task is None:
                self._supervisor.pools[pool].ledger.release(permit, used=False)
        if task is None and self._supervisor.tasks.own(task_id) is None:
            # Not where it was handed over twice, and runs here.
            await self.tickets.release(pool, task_id)
        return task

    async def _run(self, row: StreamTask, events: Events, permit: Ticket) -> Task:
        loop = asyncio.get_running_loop()
        replica = self._replicas.released(row.id)
        journal = self._supervisor.tasks.new_journal()
        # Who read a task that begins anew lost its process, and did not leave by wish.
        come_back = COME_BACK if row.attempts else 0.0
        task = waiting_task(row, journal, loop.create_future(), replica, events, come_back=come_back)
        self._supervisor.take_up(task, permit)
        if task.spec.grace <= 0 and row.followed_at is not None:
            # Who read it while it waited tells so each second; who has left meanwhile says nothing.
            self._supervisor.attendance.followed_elsewhere(task)
        entry = entry_for(task.spec, task.id, self._supervisor.pools[row.pool].limits.queue_timeout)
        self.tickets.keep(task, entry)
        # Else it would be in line again after a while.
        await self.tickets.begin(task)
        await self._tell({"type": "look", "task": task.id})
        return task

    # What waits, seen from outside

    def place(self, task: Task) -> tuple[int | None, float | None]:
        """See `Supervisor.place_of`, for a task that waits for any process: as it was a moment ago."""
        position, eta = self._lines.get(task.spec.pool, {}).get(task.id, (None, math.inf))
        return position, eta if eta < math.inf else None

    async def cancelled(self, task_ids: Iterable[str], reason: str) -> None:
        """The database has been told to cancel tasks of others: what waited has ended, and who runs the rest
        shall know at once."""
        if self._closed:
            # The process is gone for the others.
            return
        for row in await self._in_thread(standing, task_ids):
            if State(row["state"]).terminal:
                with suppress(StorageUnavailable):
                    await self._pools.remove(row["pool"], row["id"])
                await self._tell({"type": "look", "task": row["id"]})
            else:
                await self._tell({"type": "cancel", "task": row["id"], "reason": reason})

    async def prioritised(self, task_ids: Iterable[str], priority: int) -> None:
        """The database has been told of another priority class of tasks of others: those that wait for any
        process are moved."""
        if self._closed:
            return
        for row in await self._in_thread(standing, task_ids):
            if row["process"] == NOBODY:
                with suppress(StorageUnavailable):
                    await self._pools.move(row["pool"], row["id"], priority)

    # Each second

    async def _tend(self) -> None:
        while not self._closed:
            began = time.monotonic()
            try:
                await self._tend_once()
            except StorageUnavailable:
                pass
            except (DatabaseError, InterfaceError) as error:
                logger.warning("the shared queue could not be tended: %s", error)
            except Exception:
                logger.exception("the shared queue could not be tended")
            await asyncio.sleep(max(BEAT - (time.monotonic() - began), 0.05))

    async def _beat_for_ever(self) -> None:
        """By itself: others hold a process for gone that is only slow at its tasks."""
        while not self._closed:
            with suppress(StorageUnavailable):
                await self._beat()
            await asyncio.sleep(BEAT)

    async def _tend_once(self) -> None:
        thoroughly = time.monotonic() >= self._next_restating
        if thoroughly:
            await self._restate()
        await self._tell_readers()
        self.lines = {name: _told(each) for name, each in (await self._pools.statistics()).items()}
        await self._end_late(await self._pools.sweep())
        for pool in self._supervisor.pools:
            await self._refill(pool, all_of_them=thoroughly)
            if self.lines[pool]["waiting"]:
                self._line_may_wait.add(pool)
                self._supervisor.pools[pool].ledger.others_wait = True
            await self._serve(pool)

    async def _be_known(self) -> None:
        """Have shown life at least once."""
        self.start()
        if not self._known:
            await self._beat()

    async def _beat(self) -> None:
        if not await self._pools.beat() and self._known:
            # Redis has lost it, or others held this process for gone.
            await self._restate()
        self._known = True

    def redis_is_back(self) -> None:
        """After it was away: it may have forgotten everything."""
        self._known = False
        self._soon(self._come_back())

    async def _come_back(self) -> None:
        with suppress(StorageUnavailable):
            # Otherwise it is away again.
            await self._pools.beat()
            await self._restate()
            self._known = True

    async def _restate(self) -> None:
        self._next_restating = time.monotonic() + RESTATED
        await self.tickets.restate()

    async def _tell_readers(self) -> None:
        """That the tasks which wait for any process are read here; and to the readers, where they stand."""
        read: dict[str, list[Task]] = {}
        for task in self._replicas.waiting():
            read.setdefault(task.spec.pool, []).append(task)
        self._lines = {pool: line for pool, line in self._lines.items() if pool in read}
        for pool, tasks in read.items():
            await self._pools.attend(pool, [task.id for task in tasks])
            await self._draw(pool)
            now = time.monotonic()
            for task in tasks:
                task.update_readers(now)

    async def _draw(self, pool: str) -> None:
        self._lines[pool] = (await self._pools.line(pool)).places()

    async def _end_late(self, swept: Swept) -> None:
        ends: dict[str, Terminal] = {
            task_id: Error(code=QueueTimeout.code, message="", retryable=QueueTimeout.retryable)
            for _, task_id in swept.late
        }
        ends |= {task_id: Cancelled(reason=CancelReason.DISCONNECT) for _, task_id in swept.left}
        await self._end_waiting(ends)
        for pool, task_id in (*swept.late, *swept.left):
            await self._pools.remove(pool, task_id)

    async def _end_waiting(self, ends: Mapping[str, Terminal]) -> None:
        if ends:
            await self._in_thread(end_waiting, ends, self._registry)
        for task_id in ends:
            self._replicas.look(task_id)
            await self._tell({"type": "look", "task": task_id})

    async def _refill(self, pool: str, *, all_of_them: bool) -> None:
        """Put what waits for any process in line, where Redis does not know it: it was given up by a process
        that went down or is dead, or Redis has lost it."""
        limits = self._supervisor.pools[pool].limits
        if not all_of_them:
            known = self.lines.get(pool, {}).get("waiting", 0)
            if await self._in_thread(count_waiting, pool) <= known:
                return
        most = max(limits.queue_size, REFILL)
        for entry, arrived in await self._in_thread(waiting_entries, pool, most, limits.queue_timeout):
            if entry.task_id not in self._beginning and not self.tickets.has(entry.task_id):
                await self._pools.put_back(pool, entry, arrived)

    # Inside

    async def _tell(self, message: Mapping[str, Any]) -> None:
        with suppress(StorageUnavailable):
            # Who is not told sees it in the database.
            await self._tell_others(message)

    def _soon(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._is_done)
        return task

    def _is_done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, StorageUnavailable):
            # Who waited for it knows.
            logger.error("something was left undone", exc_info=error)

    async def _in_thread(
        self, function: Callable[..., T], *arguments: Any, thread: ThreadPoolExecutor | None = None
    ) -> T:
        """Visit the database, or another place in a thread of its own; no broken connection is kept."""

        def visit() -> T:
            try:
                return function(*arguments)
            except (DatabaseError, InterfaceError):
                connection.close()
                raise

        return await asyncio.get_running_loop().run_in_executor(thread or self._thread, visit)

    async def go_down(self) -> None:
        """Nothing more is handed to this process."""
        self._pools.offer({})
        with suppress(StorageUnavailable):
            await self._pools.beat()

    async def close(self) -> None:
        """Show life no more: what this process still has is given back."""
        self._closed = True
        for each in (self._tending, self._beating):
            if each is not None:
                each.cancel()
                with suppress(asyncio.CancelledError):
                    await each
        if self._background:
            await asyncio.wait(self._background, timeout=BEAT)
        with suppress(StorageUnavailable):
            await self._pools.leave()
        self._thread.submit(connections.close_all)
        self._thread.shutdown(wait=False)
        self._publisher.shutdown(wait=False, cancel_futures=True)


def _told(line: PoolStatistics) -> dict[str, Any]:
    return {
        "running": line.running,
        "waiting": line.waiting,
        "away": line.away,
        "capacity": line.max_workers,
        "queue_size": line.queue_size,
        "oldest_wait_seconds": line.oldest_wait_seconds,
        "waiting_by_class": {str(key): number for key, number in line.waiting_by_class.items()},
        "oldest_wait_by_class": {str(key): wait for key, wait in line.oldest_wait_by_class.items()},
    }


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
