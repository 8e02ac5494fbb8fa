"""What the tasks of this process hold of what all processes share: a permit, or a place in the process's own
line. Asked for before a task is opened, given back with the task's ticket in the process's ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from streaming.core.errors import RedisAway, StorageUnavailable
from streaming.core.routing import Decision, Reason, Route, Snapshot
from streaming.runtime.ledger import PoolRefused, Ticket
from streaming.runtime.redis.pools import Entry, SharedPools, Stated
from streaming.runtime.room import let_one_give_way
from streaming.runtime.supervisor import Admission, Supervisor
from streaming.runtime.task import Task, TaskSpec

from .waiting_rows import entry_for

ADMITTED: Final = 1.5
"""Seconds for the decision of all, whatever Redis is asked for it; then the task is refused."""


@dataclass(slots=True)
class _Held:
    """What a task holds, from the decision on; `task`: once it is open."""

    pool: str
    entry: Entry
    task: Task | None = None


class Tickets:
    """See the module. `known`: returns when Redis knows that this process lives. `freed`: called with a pool
    when something was given back there. `soon`: has something done that nobody waits for."""

    def __init__(
        self,
        supervisor: Supervisor,
        pools: SharedPools,
        *,
        known: Callable[[], Coroutine[Any, Any, None]],
        freed: Callable[[str], Coroutine[Any, Any, None]],
        soon: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._supervisor = supervisor
        self._pools = pools
        self._known = known
        self._freed = freed
        self._soon = soon
        self._held: dict[str, _Held] = {}
        self._restating = asyncio.Lock()
        self._released_meanwhile: set[tuple[str, str]] | None = None

    async def admit(self, spec: TaskSpec, task_id: str) -> Admission:
        """What all processes together decide of a task that needs a worker, and shall have that id;
        `Supervisor.open` must follow at once, or `withdraw`. Raises `PoolRefused`, `StorageUnavailable` while
        Redis is away, and `KeyError` for a pool that the settings do not name."""
        refusal = None
        for _ in range(2):
            try:
                if self._supervisor.draining:
                    # Refused, as by a process that decides alone.
                    self._supervisor.pools[spec.pool].ledger.pass_by(spec.share_key, Reason.DRAINING)
                async with asyncio.timeout(ADMITTED):
                    await self._known()
                    return await self._admit(spec, task_id)
            except TimeoutError as error:
                raise RedisAway(task_id) from error
            except PoolRefused as refused:
                refusal = refused
            if refusal.decision.reason is not Reason.OWNER_LIMIT or not await self._made_room(spec):
                break
        assert refusal is not None
        self._supervisor.count_refusal(refusal)
        raise refusal

    def withdraw(self, admission: Admission, pool: str) -> None:
        """Undo `admit`."""
        if admission.ticket is not None:
            self._supervisor.pools[pool].ledger.release(admission.ticket, used=False)
        self.drop(pool, admission.task_id)

    def keep(self, task: Task, entry: Entry | None = None) -> None:
        """The task runs or waits in this process: what it holds goes back with its ticket. `entry`: of one
        that was not admitted here."""
        if entry is not None:
            self._held[task.id] = _Held(task.spec.pool, entry)
        if (held := self._held.get(task.id)) is not None:
            held.task = task
        task.ticket.when_released(partial(self._released, task.spec.pool, task.id))

    def forget(self, task_id: str) -> None:
        """What the task holds is no affair of this process any more."""
        self._held.pop(task_id, None)

    def drop(self, pool: str, task_id: str) -> None:
        """Give back, soon, what the task holds."""
        self.forget(task_id)
        self._soon(self.release(pool, task_id))

    async def release(self, pool: str, task_id: str) -> None:
        """Give back what the task holds; while Redis is away it is told later."""
        if self._released_meanwhile is not None:
            self._released_meanwhile.add((pool, task_id))
        with suppress(StorageUnavailable):
            await self._pools.release(pool, task_id)

    def begun(self, task: Task) -> None:
        """A task that waited in this process got its permit here."""
        if task.id in self._held:
            self._soon(self.begin(task))

    async def begin(self, task: Task) -> None:
        """The task runs here; while Redis is away it is told later."""
        with suppress(StorageUnavailable):
            if not await self._pools.begin(task.spec.pool, task.id) and self.has(task.id):
                # It was handed over twice, and the other one has given it back.
                await self.restate()

    def has(self, task_id: str) -> bool:
        """Whether the task holds something in this process."""
        return task_id in self._held

    async def restate(self) -> None:
        """Say all that is held, as it is. What ends meanwhile is given back once more: the one may overtake
        the other. Raises `StorageUnavailable`."""
        async with self._restating:
            ended: set[tuple[str, str]] = set()
            self._released_meanwhile = ended
            try:
                await self._pools.restate(list(self._stated()))
            finally:
                self._released_meanwhile = None
                for pool, task_id in ended:
                    await self.release(pool, task_id)

    def _stated(self) -> Iterator[Stated]:
        now = time.monotonic()
        for held in self._held.values():
            if (task := held.task) is not None:
                since = task.started if task.started is not None else task.created
                yield Stated(held.pool, held.entry, running=task.started is not None, age=now - since)

    def _released(self, pool: str, task_id: str) -> None:
        if self._held.pop(task_id, None) is not None:
            self._soon(self._release_and_free(pool, task_id))

    async def _release_and_free(self, pool: str, task_id: str) -> None:
        await self.release(pool, task_id)
        await self._freed(pool)

    async def _admit(self, spec: TaskSpec, task_id: str) -> Admission:
        workers = self._supervisor.pools[spec.pool]
        entry = entry_for(spec, task_id, workers.limits.queue_timeout)
        if not can_go_anywhere(spec):
            at_once = workers.ledger.runs_at_once(spec.series)
            answer = await self._pools.admit_here(spec.pool, entry, state="running" if at_once else "waiting")
            self._take(spec.pool, entry, *answer)
            return Admission(task_id, None)
        permit = workers.ledger.hold(spec.share_key, spec.priority)
        decision = None
        try:
            answer = await self._pools.admit(spec.pool, entry, permit=permit is not None)
            self._take(spec.pool, entry, *answer)
            decision, snapshot, _ = answer
        finally:
            if permit is not None and (decision is None or decision.route is not Route.DIRECT):
                workers.ledger.release(permit, used=False)
        if decision.route is Route.DIRECT:
            assert permit is not None
            permit.decision, permit.snapshot = decision, snapshot
            return Admission(task_id, permit)
        ticket = Ticket(spec.share_key, decision, snapshot, time.monotonic())
        ticket.withdraw()
        return Admission(task_id, ticket)

    def _take(
        self, pool: str, entry: Entry, decision: Decision, snapshot: Snapshot, retry_after: float
    ) -> None:
        if decision.route is Route.REJECTED:
            raise PoolRefused(decision, snapshot, retry_after)
        self._held[entry.task_id] = _Held(pool, entry)

    async def _made_room(self, spec: TaskSpec) -> bool:
        """Whether a task of the owner's that nobody reads in this process gave way."""
        return await let_one_give_way(spec, self._supervisor.tasks.active, self._supervisor.cancel)


def can_go_anywhere(spec: TaskSpec) -> bool:
    """Whether any process could run it: it is plain data, and follows no other task of its process."""
    return spec.arguments is not None and spec.series is None
