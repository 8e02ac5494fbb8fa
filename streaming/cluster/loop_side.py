"""What the writer's thread asks of the event loop, and tells it; see `processes.RegistryHost`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from streaming.core.events import Terminal
from streaming.models import StreamTask
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import CancelReason
from streaming.storage.stored import Events, lost_task, waiting_task

from .neighbours import Wish
from .replicas import Replicas


class LoopSide:
    """Made on the loop, called in the writer's thread. Numbers are read as they stand; whatever changes
    something is done on the loop, in a moment. `statistics` is called there, too; `lag`, how many seconds the
    loop is late, is not: it is wanted most when nothing is done there. `takes_up`: whether tasks that wait
    for any process are taken up from the database."""

    def __init__(
        self,
        supervisor: Supervisor,
        replicas: Replicas,
        statistics: Callable[[], dict[str, Any]],
        lag: Callable[[], float] = lambda: 0.0,
        *,
        takes_up: bool = True,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._supervisor = supervisor
        self._replicas = replicas
        self._make_statistics = statistics
        self._statistics: dict[str, Any] | None = None
        self._lag = lag
        self._takes_up = takes_up

    def active(self) -> list[str]:
        return list(self._supervisor.tasks.active)

    def followed(self) -> list[str]:
        return self._replicas.followed()

    def room(self) -> dict[str, int]:
        if not self._takes_up:
            return {}
        return {name: pool.ledger.room() for name, pool in self._supervisor.pools.items()}

    def statistics(self) -> dict[str, Any] | None:
        self._on_loop(self._renew_statistics)
        return self._statistics and self._statistics | {"loop_lag_seconds": round(self._lag(), 3)}

    def lost(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            self._on_loop(self._supervisor.abandon, task_id)

    def asked(self, wishes: Iterable[Wish]) -> None:
        for wish in wishes:
            self._on_loop(self._do, wish)

    def purged(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            self._on_loop(self._forget, task_id)

    def ended(self, row: StreamTask, terminal: Terminal) -> None:
        self._on_loop(self._tell_end, row, terminal)

    def take_up(self, row: StreamTask, events: Events) -> None:
        self._on_loop(self._take_up, row, events)

    def _on_loop(self, function: Callable[..., object], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _renew_statistics(self) -> None:
        self._statistics = self._make_statistics()

    def _do(self, wish: Wish) -> None:
        task = self._supervisor.tasks.own(wish.task_id)
        if task is None:
            return
        if wish.cancel:
            self._supervisor.cancel(task, CancelReason(wish.cancel))
            return
        if wish.priority is not None:
            self._supervisor.prioritise(task, wish.priority)
        if wish.followed:
            self._supervisor.attendance.followed_elsewhere(task)

    def _forget(self, task_id: str) -> None:
        task = self._supervisor.tasks.find(task_id)
        if task is not None and task.state.terminal:
            self._supervisor.tasks.forget(task)

    def _tell_end(self, row: StreamTask, terminal: Terminal) -> None:
        journal = self._supervisor.tasks.new_journal()
        self._supervisor.tell_lost(lost_task(row, terminal, journal, self._loop.create_future()))

    def _take_up(self, row: StreamTask, events: Events) -> None:
        """If there is no room any more, or the process goes down, it waits for a process again."""
        replica = self._replicas.released(row.id)
        journal, ended = self._supervisor.tasks.new_journal(), self._loop.create_future()
        task = waiting_task(row, journal, ended, replica, events)
        if not self._supervisor.take_up(task):
            self._supervisor.leave_to_others(task)
