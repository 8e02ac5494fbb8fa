"""Who reads or waits, as what `rechecks` ends when the right to it is gone; and work that a right is needed
for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from streaming.core.errors import AccessRevoked, NotPermitted, StorageUnavailable
from streaming.runtime.follower import Follower
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import CancelReason, Task

from .access import Caller
from .identities import IDENTITIES
from .rechecks import Reader, Rechecks
from .standing import Standing, right_of, right_standing


class Watching:
    """See the module. Belongs to the event loop of its supervisor."""

    def __init__(self, supervisor: Supervisor, rechecks: Rechecks) -> None:
        self._supervisor = supervisor
        self._rechecks = rechecks
        self._working: set[str] = set()

    def reads(self, follower: Follower, caller: Caller) -> None:
        """The caller follows a task from now on, which was found to be right."""
        if caller.standing is not None:
            follower.left = self._rechecks.join(follower, caller.standing)
        if (
            caller.account is not None
            and (right := _right(follower.task, caller.account, _generation(caller))) is not None
        ):
            leave, also = self._rechecks.join(follower, right), follower.left
            follower.left = leave if also is None else partial(_both, leave, also)
            self.works(follower.task)

    def works(self, task: Task) -> None:
        """The task is there; if its owner needs a right for it, it is cancelled when that is gone. Again: no
        change."""
        owner = task.spec.owner
        right = (
            None if owner is None or task.id in self._working else _right(task, owner, IDENTITIES.generation)
        )
        if right is None or not self._supervisor.tasks.runs(task):
            return
        leave = self._rechecks.join(_Working(self._supervisor, task), right)
        self._working.add(task.id)

        def ended(_: asyncio.Future[None]) -> None:
            self._working.discard(task.id)
            leave()

        task.ended.add_done_callback(ended)

    def joins(self, reader: Reader, caller: Caller) -> Callable[[], None]:
        """A reader of any other kind, that is to call what is returned when it has left."""
        return _nothing if caller.standing is None else self._rechecks.join(reader, caller.standing)

    async def wait(self, task: Task, caller: Caller) -> None:
        """Until the task has ended. Raises `AccessRevoked`, and `StorageUnavailable` where nobody can say for
        too long whether the caller may have it."""
        if caller.standing is None:
            await asyncio.shield(task.ended)
            return
        waiting = _Waiting(self._supervisor, task)
        leave = self._rechecks.join(waiting, caller.standing)
        try:
            futures: list[asyncio.Future[Any]] = [task.ended, waiting.lost]
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leave()
        if waiting.lost.done():
            raise waiting.lost.result()

    async def require_right(self, kind: str, caller: Caller) -> None:
        """Raises `NotPermitted` for callers without the right that tasks of this kind need."""
        if not await self.has_right(kind, caller):
            raise NotPermitted(kind)

    async def has_right(self, kind: str, caller: Caller) -> bool:
        """Whether the caller has the right that tasks of this kind need, if they need one."""
        holds = right_of(kind)
        return holds is None or caller.account is None or await holds(caller.account)

    def close(self) -> None:
        """Ask no more."""
        self._rechecks.close()


class _Working:
    """A task that somebody's right is needed for."""

    def __init__(self, supervisor: Supervisor, task: Task) -> None:
        self._supervisor = supervisor
        self._task = task

    def revoke(self) -> None:
        self._supervisor.cancel(self._task, CancelReason.ADMIN)

    def dismiss(self) -> None:
        """It goes on: nobody has taken anything away."""


class _Waiting:
    """Who waits for a whole answer."""

    def __init__(self, supervisor: Supervisor, task: Task) -> None:
        self._supervisor = supervisor
        self._task = task
        self.lost: asyncio.Future[AccessRevoked | StorageUnavailable] = (
            asyncio.get_running_loop().create_future()
        )

    def revoke(self) -> None:
        if not self.lost.done():
            self._supervisor.counters.readers_revoked += 1
            self.lost.set_result(AccessRevoked(self._task.id))

    def dismiss(self) -> None:
        if not self.lost.done():
            self.lost.set_result(StorageUnavailable(self._task.id))


def _generation(caller: Caller) -> int:
    """One from before anything was looked up for the call, so that what was revoked since is asked about."""
    return IDENTITIES.generation if caller.standing is None else caller.standing.generation


def _right(task: Task, account: str, generation: int) -> Standing | None:
    holds = right_of(task.spec.kind)
    return None if holds is None else right_standing(task.spec.kind, account, holds, generation)


def _nothing() -> None:
    """Nobody asks about this reader."""


def _both(first: Callable[[], object], second: Callable[[], object]) -> None:
    first()
    second()
