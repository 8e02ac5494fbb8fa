"""Who waits where: tasks in the queues of all pools, with their places, for those who show them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

from .executor import WorkerPool
from .ledger import Ticket
from .task import Task

MAX_AGE: Final = 1.0
"""Seconds after which an unmoved line is looked at again: estimates and ageing move with time."""


class WaitingLines:
    """The order itself is the ledgers'; this is its picture, drawn anew only when a line has moved."""

    def __init__(self, pools: Mapping[str, WorkerPool]) -> None:
        self._pools = pools
        self._tasks: dict[Ticket, Task] = {}
        self._lines: dict[str, tuple[float, dict[Task, tuple[int, float]]]] = {}
        self._moved: set[str] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def join(self, task: Task) -> None:
        """The task waits now."""
        self._tasks[task.ticket] = task
        self._move(task.spec.pool)

    def leave(self, task: Task) -> bool:
        """It waits no more: it got its permit, or was withdrawn. False if it did not wait."""
        if self._tasks.pop(task.ticket, None) is None:
            return False
        self._move(task.spec.pool)
        return True

    def step_aside(self, task: Task) -> None:
        """Its reader is away: others pass it. Nothing for a task that does not wait."""
        if task.ticket in self._tasks:
            self._pools[task.spec.pool].ledger.step_aside(task.ticket)
            self._move(task.spec.pool)

    def come_back(self, task: Task) -> None:
        """Somebody reads it: it stands in line again, or gets a permit at once."""
        if task.ticket in self._tasks:
            self._move(task.spec.pool)
            self._pools[task.spec.pool].ledger.come_back(task.ticket)

    def prioritise(self, task: Task, priority: int) -> bool:
        """It waits in another priority class from now on. False if it does not wait, or is of that class."""
        if task.ticket not in self._tasks:
            return False
        moved = self._pools[task.spec.pool].ledger.prioritise(task.ticket, priority)
        if moved:
            self._move(task.spec.pool)
        return moved

    def place(self, task: Task, now: float) -> tuple[int | None, float | None]:
        """Position (from 1) and expected seconds until the permit, None if nobody knows; None, None for a
        task that runs or is away."""
        if task.ticket not in self._tasks:
            return None, None
        position, eta = self._line(task.spec.pool, now).get(task, (None, math.inf))
        return position, eta if eta < math.inf else None

    def moved(self, now: float) -> Iterator[Task]:
        """The tasks in lines that have moved since the last call."""
        for pool in self._moved:
            yield from self._line(pool, now)
        self._moved.clear()

    def _line(self, pool: str, now: float) -> dict[Task, tuple[int, float]]:
        drawn_at, line = self._lines.get(pool, (0.0, {}))
        if pool not in self._lines or now - drawn_at > MAX_AGE:
            tickets = self._pools[pool].ledger.line()
            line = {
                self._tasks[ticket]: (position, eta)
                for position, (ticket, eta) in enumerate(tickets, 1)
                if ticket in self._tasks
            }
            self._lines[pool] = (now, line)
        return line

    def _move(self, pool: str) -> None:
        self._lines.pop(pool, None)
        self._moved.add(pool)
