"""Tasks that run in another process, or wait for one, so that readers here can follow them.

A replica is a task whose journal is fed from the database. One thread looks for all replicas together, each
as often as the adaptive schedule says: often while something comes, seldom while nothing does. What a reader
sees trails behind by what the owner collects (`journal_flush_interval`) and by one pause of the schedule.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

from django.db import DatabaseError, InterfaceError, connections

from streaming.core.errors import Draining, EventsPruned
from streaming.core.schedule import PollSchedule
from streaming.models import StreamTask
from streaming.runtime.journals.memory import MemoryJournal
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import Task
from streaming.storage.stored import News, news_of, settle, stored_task

from .neighbours import show_following

logger = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")

IDLE: Final = 2.0
"""Seconds that a replica stays without readers, who may come back."""

TROUBLE_PAUSE: Final = 1.0
"""Seconds before the next look when the database did not answer."""


def _first_news_of(cursors: dict[str, int]) -> dict[str, News]:
    """`news_of`, after the owners were told that somebody reads. In one visit: nobody closes the thread
    between them."""
    show_following(list(cursors))
    return news_of(cursors)


class _Watched:
    """A replica, when something last happened to it, when to look again, and when it was last read (infinite
    until it can be). Monotonic seconds."""

    def __init__(self, task: Task, journal: MemoryJournal, now: float) -> None:
        self.task = task
        self.journal = journal
        self.stirred = now
        self.due = now
        self.read_at = math.inf


class Replicas:
    """The replicas of one event loop."""

    def __init__(self, supervisor: Supervisor, schedule: PollSchedule) -> None:
        self._supervisor = supervisor
        self._schedule = schedule
        self._watched: dict[str, _Watched] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sluice-replicas")
        self._feeder: asyncio.Task[None] | None = None
        self._stirred = asyncio.Event()
        self._closed = False

    async def open(self, row: StreamTask) -> Task:
        """The task behind `row`, with the events that the database has of it, and from now on the new ones as
        long as somebody reads. It may have ended by now, or run here. Raises `EventsPruned` if it is gone by
        now, or has ended without its end, `Draining`, and what the database raises."""
        here = self._supervisor.tasks.own(row.id)
        if here is not None:
            # Taken up by this process since the row was read.
            return here
        if self._supervisor.draining:
            # Its readers have just been sent away from here.
            raise Draining(row.id)
        now = time.monotonic()
        watched = self._watched.get(row.id)
        if watched is not None:
            watched.stirred = watched.due = now
            watched.read_at = max(watched.read_at, now)
            self._stirred.set()
            return watched.task
        loop = asyncio.get_running_loop()
        journal = self._supervisor.tasks.new_journal()
        task = stored_task(row, journal, loop.create_future())
        watched = self._watched[row.id] = _Watched(task, journal, now)
        self._supervisor.tasks.show(task)
        try:
            await self._refresh([watched], _first_news_of)
        except BaseException:
            self._drop(watched)
            await self._disconnect()
            raise
        if self._closed or self._supervisor.draining:
            self._drop(watched)
            raise Draining(row.id)
        watched.read_at = time.monotonic()
        if self._feeder is None or self._feeder.done():
            # Also for one that has gone: it closes the thread's connection at its end.
            self._feeder = asyncio.create_task(self._feed(), name="replicas")
        if task.ended.done() and not task.state.terminal:
            raise EventsPruned(row.id)
        return task

    def followed(self) -> list[str]:
        """The ids of those that are read. Called in any thread."""
        return [pk for pk, watched in list(self._watched.items()) if watched.task.attended]

    def released(self, task_id: str) -> Task | None:
        """Feed a task no more, because it runs here from now on; None if it was not fed."""
        watched = self._watched.pop(task_id, None)
        return None if watched is None else watched.task

    async def close(self) -> None:
        """Stop looking."""
        self._closed = True
        if self._feeder is not None:
            self._feeder.cancel()
            with suppress(asyncio.CancelledError):
                await self._feeder
        with suppress(RuntimeError):
            # It may have been closed before.
            self._thread.submit(connections.close_all)
        self._thread.shutdown(wait=False)

    async def _feed(self) -> None:
        try:
            while self._watched:
                await self._look_at_those_due()
                now = time.monotonic()
                for watched in list(self._watched.values()):
                    self._drop_if_idle(watched, now)
                await self._pause()
        finally:
            self._thread.submit(connections.close_all)

    async def _look_at_those_due(self) -> None:
        now = time.monotonic()
        due = [watched for watched in self._watched.values() if watched.due <= now]
        if not due:
            return
        try:
            await self._refresh(due, news_of)
        except (DatabaseError, InterfaceError) as error:
            logger.warning("could not look for news of %d tasks: %s", len(due), error)
            await self._disconnect()
            for watched in due:
                watched.due = now + TROUBLE_PAUSE
        except Exception:
            # Readers of others, and those who come later, shall not wait for ever.
            logger.exception("could not take in news of %d tasks", len(due))
            for watched in due:
                self._drop(watched)

    async def _disconnect(self) -> None:
        """A connection that has failed is of no use any more."""
        if self._closed:
            return
        await asyncio.get_running_loop().run_in_executor(self._thread, connections.close_all)

    async def _pause(self) -> None:
        if not self._watched:
            return
        until = min(watched.due for watched in self._watched.values())
        self._stirred.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await self._stirred.wait()

    async def _refresh(
        self, due: Iterable[_Watched], visit: Callable[[dict[str, int]], dict[str, News]]
    ) -> None:
        cursors = {watched.task.id: watched.task.journal.last_id for watched in due}
        found = await self._in_thread(visit, cursors)
        now = time.monotonic()
        for watched in due:
            # Meanwhile it may have become a task of our own.
            if self._watched.get(watched.task.id) is watched:
                self._take_in(watched, found.get(watched.task.id), now)

    async def _in_thread(self, visit: Callable[[A], R], argument: A) -> R:
        """Visit the database. A connection that broke is closed: no request does that in this thread."""

        def visit_and_tidy() -> R:
            try:
                return visit(argument)
            except (DatabaseError, InterfaceError):
                connections.close_all()
                raise

        return await asyncio.get_running_loop().run_in_executor(self._thread, visit_and_tidy)

    def _take_in(self, watched: _Watched, news: News | None, now: float) -> None:
        task = watched.task
        if news is None:
            self._drop(watched)
            return
        for first_id, frames in news.segments:
            watched.journal.adopt(first_id, frames)
        if news.row is not None:
            self._end(watched, news.row)
            return
        state = news.state
        if news.segments or state is not task.state:
            watched.stirred = now
        if state is not task.state:
            task.state, task.started_at = state, news.started_at
            task.update_readers(now)
        watched.due = now + self._schedule.pause(now - watched.stirred)

    def _end(self, watched: _Watched, row: StreamTask) -> None:
        task = watched.task
        if not task.journal.closed:
            # Its end did not reach the database: who comes back is told that it is gone.
            self._drop(watched)
            return
        del self._watched[task.id]
        settle(task, row)
        self._supervisor.tasks.keep(task)
        task.ended.set_result(None)

    def _drop_if_idle(self, watched: _Watched, now: float) -> None:
        if watched.task.attended:
            watched.read_at = now
        elif now - watched.read_at >= IDLE:
            self._drop(watched)

    def _drop(self, watched: _Watched) -> None:
        if self._watched.get(watched.task.id) is watched:
            del self._watched[watched.task.id]
            self._supervisor.tasks.hide(watched.task)
            if not watched.task.ended.done():
                watched.task.ended.set_result(None)
