"""Who reads a task or waits for it, here or in another process, and what becomes of it when nobody does."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

from .table import TaskTable
from .task import CancelReason, Task
from .waiting import WaitingLines

ELSEWHERE_PATIENCE: Final = 2.5
"""Seconds after which another process that has told of its readers (each second) has none any more."""


class Attendance:
    """See the module. `cancel`: what ends a task that nobody reads."""

    def __init__(
        self, tasks: TaskTable, waiting: WaitingLines, cancel: Callable[[Task, CancelReason], None]
    ) -> None:
        self._tasks = tasks
        self._waiting = waiting
        self._cancel = cancel

    def attend(self, task: Task) -> None:
        """Somebody waits for the task's end without following it; `leave` must follow."""
        task.waiters += 1
        self.begun(task)

    def leave(self, task: Task) -> None:
        """Undo `attend`."""
        task.waiters -= 1
        self.over(task)

    def begun(self, task: Task) -> None:
        """A reader of its own has come."""
        task.read = True
        self._attended(task)

    def over(self, task: Task) -> None:
        """A reader of its own has left."""
        task.left_at = time.monotonic()
        self._tasks.let_go(task)
        self._if_unattended(task)

    def answered_unread(self, task: Task) -> None:
        """Its caller has its id and has gone (a 202): a finite grace begins as if a reader had left.

        `cancel` (no grace at all) counts from the first reader on: otherwise such a task could never run.
        """
        if task.spec.grace > 0:
            self._if_unattended(task)

    def read_by_copy(self, source: Task, copy: Task) -> None:
        """As long as the copy runs, its source has a reader. After it, one that never had a reader of its own
        goes on as before."""
        source.waiters += 1
        self._attended(source)

        def ended(_: asyncio.Future[None]) -> None:
            source.waiters -= 1
            self._tasks.let_go(source)
            if source.read:
                self._if_unattended(source)

        copy.ended.add_done_callback(ended)

    def followed_elsewhere(self, task: Task) -> None:
        """Another process has a reader of a task of ours, which keeps it as one of our own would."""
        task.followed_elsewhere_at = time.monotonic()
        self._attended(task)

    def sweep(self, task: Task, now: float) -> None:
        """See whether the task's readers elsewhere are gone, and whether its grace is over."""
        last = task.followed_elsewhere_at
        if last is not None and now - last > ELSEWHERE_PATIENCE:
            task.followed_elsewhere_at = None
            self._if_unattended(task, since=last)
        if task.unattended_since is not None and now >= task.unattended_since + task.spec.grace:
            task.unattended_since = None
            self._cancel(task, CancelReason.DISCONNECT)

    def _attended(self, task: Task) -> None:
        task.unattended_since = None
        self._waiting.come_back(task)

    def _if_unattended(self, task: Task, since: float | None = None) -> None:
        """Begin the grace of a task that nobody reads. `since`: when the last reader in another process left,
        None for now."""
        if task.attended or task.final is not None or task.ending is not None or not self._tasks.runs(task):
            return
        if task.spec.grace <= 0:
            self._cancel(task, CancelReason.DISCONNECT)
        elif task.spec.grace < math.inf:
            task.unattended_since = max(task.left_at, time.monotonic() if since is None else since)
            self._waiting.step_aside(task)
