"""How a task comes to be: from the cache, by this process alone, or by all that share a queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from streaming.core.errors import StorageUnavailable
from streaming.core.states import State
from streaming.runtime.ports import Commit
from streaming.runtime.supervisor import COMMIT_PATIENCE, Supervisor
from streaming.runtime.task import Task, TaskSpec

from .reuse import Reuse

if TYPE_CHECKING:
    from .cluster.flights import Flights
    from .cluster.shared_queue import SharedQueue
    from .runtime.quotas import Quotas

ATTEMPTS: Final = 3
"""Makers of the same work that may turn out to be of no use before a task makes it by itself."""


class Opening:
    """Opens the tasks of one event loop. `queue`, `flights`: None where each process decides for itself;
    `quotas`: None where owners have none."""

    def __init__(
        self,
        supervisor: Supervisor,
        reuse: Reuse,
        queue: SharedQueue | None = None,
        flights: Flights | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._reuse = reuse
        self._queue = queue
        self._flights = flights
        self._quotas = quotas

    async def open(self, spec: TaskSpec, wrap: Callable[[TaskSpec], TaskSpec] = lambda spec: spec) -> Task:
        """Admit the task, with `wrap` having the last word on its specification. What comes next must be
        synchronous up to `Supervisor.record`, or its like, and then `settled`.

        Raises `PoolRefused` (and so `QuotaSpent`), and `StorageUnavailable` while what all processes share is
        away.
        """
        await self._reuse.find(spec)
        quotas = self._quotas
        if quotas is None:
            return await self._open(spec, wrap)
        copied = self._reuse.has_source(spec)
        hold = await quotas.admit(spec, copied=copied)
        if copied and not self._reuse.has_source(spec):
            # It has gone while all processes were asked: this is work of its own.
            if hold is not None:
                quotas.drop(hold)
            hold = await quotas.admit(spec, copied=False)
        if hold is None:
            return await self._open(spec, wrap)
        try:
            task = await self._open(spec, wrap)
        except BaseException:
            quotas.drop(hold)
            raise
        quotas.keep(hold, task)
        return task

    async def _open(self, spec: TaskSpec, wrap: Callable[[TaskSpec], TaskSpec]) -> Task:
        await self._reuse.make_room(spec)
        queue = self._queue
        if queue is None or not spec.needs_worker or self._reuse.has_source(spec):
            return self._reuse.open(spec, wrap)
        task_id = self._supervisor.new_id()
        if await self._made_elsewhere(spec, task_id):
            return self._reuse.open(spec, wrap)
        try:
            admission = await queue.tickets.admit(spec, task_id)
        except BaseException:
            await self._not_made(spec, task_id)
            raise
        if self._reuse.has_source(spec):
            # The same work has begun meanwhile.
            queue.tickets.withdraw(admission, spec.pool)
            await self._not_made(spec, task_id)
            return self._reuse.open(spec, wrap)
        try:
            task = self._reuse.open(spec, wrap, admission)
        except BaseException:
            queue.tickets.withdraw(admission, spec.pool)
            raise
        queue.opened(task)
        return task

    async def _made_elsewhere(self, spec: TaskSpec, task_id: str) -> bool:
        """Whether another process makes the same, or has a moment ago; it is the source then. Otherwise this
        task makes it for all."""
        if not spec.fingerprint or self._flights is None:
            return False
        other = ""
        for _ in range(ATTEMPTS):
            maker = await self._flights.claim(spec.fingerprint, task_id, other)
            if maker is None:
                return False
            if await self._reuse.adopt(spec, maker):
                return True
            # It has failed, or was never begun.
            other = maker
        return False

    async def _not_made(self, spec: TaskSpec, task_id: str) -> None:
        if spec.fingerprint and self._flights is not None:
            await self._flights.give_up(spec.fingerprint, task_id)

    def waits_for_anybody(self, task: Task) -> bool:
        """Whether the task that was opened here belongs to no process."""
        return self._queue is not None and self._queue.waits(task)

    async def settled(self, task: Task, commit: Commit, *, attended: bool) -> None:
        """Return when what the caller is promised will not be forgotten: nothing is waited for if the task
        runs, and not for long if it waits here. `attended`: somebody reads it.

        Raises `StorageUnavailable` if it shall wait for any process and cannot be kept for them.
        """
        if self._queue is not None and self._queue.waits(task):
            before = None if self._quotas is None else self._quotas.settle
            try:
                await self._queue.enqueue(task, commit, attended=attended, before=before)
            except StorageUnavailable:
                if self._quotas is not None:
                    self._quotas.withdraw(task)
                raise
        elif task.state is State.QUEUED:
            await commit.wait(COMMIT_PATIENCE)

    def retract(self, task: Task) -> None:
        """The task that was opened is void; see `Supervisor.retract`."""
        if self._queue is not None and self._queue.waits(task):
            self._queue.withdrawn(task)
            if self._quotas is not None:
                self._quotas.withdraw(task)
        self._supervisor.retract(task)
