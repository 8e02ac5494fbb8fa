"""Room for a newcomer whose owner is at its limit: a task of its own that nobody reads gives way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from .ledger import Ledger
from .task import CancelReason, Task, TaskSpec

ROOM_PATIENCE: Final = 1.0
"""Seconds that a newcomer waits for the permit or place of its owner's unread task."""


async def make_room(
    spec: TaskSpec, ledger: Ledger, active: Mapping[str, Task], cancel: Callable[[Task, CancelReason], None]
) -> None:
    """Before `spec` is admitted to the pool of `ledger`: an owner at its limit gives up a task that nobody
    reads, the oldest in its grace.

    Returns once its permit or place is back, after `ROOM_PATIENCE` seconds at the latest (a producer that
    does not obey keeps its permit). Does nothing, and does not suspend, for all others.
    """
    until = time.monotonic() + ROOM_PATIENCE
    while ledger.at_limit(spec.share_key) and (left := until - time.monotonic()) > 0:
        if not await let_one_give_way(spec, active, cancel, left):
            return


async def let_one_give_way(
    spec: TaskSpec,
    active: Mapping[str, Task],
    cancel: Callable[[Task, CancelReason], None],
    seconds: float = ROOM_PATIENCE,
) -> bool:
    """Cancel the owner's oldest task in its grace, and wait for what it held, for so long. False if there is
    none."""
    unread = _oldest_unread(spec, active.values())
    if unread is None:
        return False
    back = asyncio.get_running_loop().create_future()
    unread.ticket.when_released(partial(_resolve, back))
    cancel(unread, CancelReason.DISCONNECT)
    await asyncio.wait([back], timeout=seconds)
    return True


def _oldest_unread(spec: TaskSpec, tasks: Iterable[Task]) -> Task | None:
    """The owner's first task in the pool whose grace runs."""
    return next(
        (
            task
            for task in tasks
            if task.unattended_since is not None
            and task.ending is None
            and task.final is None
            and (task.spec.share_key, task.spec.pool) == (spec.share_key, spec.pool)
        ),
        None,
    )


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
