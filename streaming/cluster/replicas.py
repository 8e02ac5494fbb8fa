"""Tasks that run in another process, or wait for one, so that readers here can follow them.

A replica is a task whose journal is fed from the database. One thread looks for all replicas together, each
as often as the adaptive schedule says: often while something comes, seldom while nothing does. What a reader
sees trails behind by what the owner collects (`journal_flush_interval`) and by one pause of the schedule.

Where processes share a Redis, events come from there as they are written (`Feed`). The database is then asked
for what is not an event: when something begins or ends, and seldom otherwise, in case nobody said so.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, TypeVar

from django.db import DatabaseError, InterfaceError, connections

from streaming.core.errors import Draining, EventsPruned, StorageUnavailable
from streaming.core.schedule import PollSchedule
from streaming.core.states import State
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

SELDOM: Final = 2.0
"""Seconds between two looks at the row of a replica whose events come by themselves."""

UNTOLD: Final = 1.0
"""Seconds for which the record may still say that a task waits of which an event has come."""

TROUBLE_PAUSE: Final = 1.0
"""Seconds before the next look when the database did not answer."""


def _first_news_of(cursors: dict[str, int]) -> dict[str, News]:
    """`news_of`, after the owners were told that somebody reads. In one visit: nobody closes the thread
    between them."""
    show_following(list(cursors))
    return news_of(cursors)


class Feed(Protocol):
    """What brings events of tasks that run elsewhere, as they are written."""

    @property
    def away(self) -> bool:
        """Whether nothing comes for now."""
        ...

    async def open(self, task_id: str, journal: MemoryJournal) -> bool:
        """Bring what there is behind the journal's last event, and from now on what comes. False if there is
        nothing; what comes is brought all the same."""
        ...

    def watch(self, task_id: str, journal: MemoryJournal) -> None:
        """Bring what comes."""
        ...

    def leave(self, task_id: str) -> None:
        """Bring no more."""
        ...


class _Watched:
    """A replica, when something last happened to it, when to look again, and when it was last read (infinite
    until it can be). Monotonic seconds. `fed`: called when events have come by themselves, None where they do
    not. `begun`: when its first event came by itself."""

    def __init__(self, task: Task, journal: MemoryJournal, now: float) -> None:
        self.task = task
        self.journal = journal
        self.fed: Callable[[], None] | None = None
        self.stirred = now
        self.due = now
        self.read_at = math.inf
        self.begun = -math.inf


class Replicas:
    """The replicas of one event loop."""

    def __init__(self, supervisor: Supervisor, schedule: PollSchedule, feed: Feed | None = None) -> None:
        self._supervisor = supervisor
        self._feed_of_events = feed
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
            if watched.read_at < math.inf:
                watched.read_at = now
            self._stirred.set()
            self._keep_looking()
            return watched.task
        loop = asyncio.get_running_loop()
        journal = self._supervisor.tasks.new_journal()
        task = stored_task(row, journal, loop.create_future())
        watched = self._watched[row.id] = _Watched(task, journal, now)
        self._supervisor.tasks.show(task)
        try:
            await self._refresh([watched], _first_news_of)
            await self._be_fed(watched)
        except BaseException:
            self._drop(watched)
            await self._disconnect()
            raise
        if self._closed or self._supervisor.draining:
            self._drop(watched)
            raise Draining(row.id)
        watched.read_at = time.monotonic()
        self._keep_looking()
        if task.ended.done() and not task.state.terminal:
            raise EventsPruned(row.id)
        return task

    def show(self, task: Task, journal: MemoryJournal) -> None:
        """Keep a task that waits for any process, and was admitted in this one, as a replica from now on. It
        is in the database within `SELDOM` seconds."""
        assert self._feed_of_events is not None
        watched = self._watched[task.id] = _Watched(task, journal, time.monotonic())
        watched.read_at = watched.stirred
        watched.due = watched.stirred + SELDOM
        self._feed_of_events.watch(task.id, journal)
        self._fed(watched)
        self._keep_looking()

    def hide(self, task: Task) -> None:
        """Undo `show`: the task was not accepted."""
        if (watched := self._watched.get(task.id)) is not None:
            self._drop(watched)

    def look(self, task_id: str) -> None:
        """Something has become of the task: look now."""
        if (watched := self._watched.get(task_id)) is not None:
            watched.stirred = watched.due = time.monotonic()
            self._stirred.set()

    def followed(self) -> list[str]:
        """The ids of those that are read. Called in any thread."""
        return [pk for pk, watched in list(self._watched.items()) if watched.task.attended]

    def waiting(self) -> list[Task]:
        """Those that wait, and are read."""
        return [
            watched.task
            for watched in self._watched.values()
            if watched.task.state is State.QUEUED and watched.task.attended
        ]

    def released(self, task_id: str) -> Task | None:
        """Feed a task no more, because it runs here from now on; None if it was not fed."""
        watched = self._forget(task_id)
        return None if watched is None else watched.task

    async def close(self) -> None:
        """Stop looking."""
        self._closed = True
        if self._feeder is not None:
            self._feeder.cancel()
            with suppress(asyncio.CancelledError):
                await self._feeder
        for watched in list(self._watched.values()):
            # Who waits for its end is told here that it is not known.
            self._drop(watched)
        with suppress(RuntimeError):
            # It may have been closed before.
            self._thread.submit(connections.close_all)
        self._thread.shutdown(wait=False)

    def _keep_looking(self) -> None:
        if self._feeder is None or self._feeder.done():
            # Also for one that has gone: it closes the thread's connection at its end.
            self._feeder = asyncio.create_task(self._feed(), name="replicas")

    async def _be_fed(self, watched: _Watched) -> None:
        feed = self._feed_of_events
        if feed is None or self._watched.get(watched.task.id) is not watched:
            return
        try:
            await feed.open(watched.task.id, watched.journal)
        except StorageUnavailable:
            # Until it is back the database will do.
            feed.watch(watched.task.id, watched.journal)
        if self._watched.get(watched.task.id) is watched:
            self._fed(watched)

    def _fed(self, watched: _Watched) -> None:
        watched.fed = partial(self._came, watched)
        watched.journal.subscribe(watched.fed)

    def _came(self, watched: _Watched) -> None:
        """An event has come. What begins and what ends is looked up; what runs is not."""
        task = watched.task
        if task.state is State.QUEUED and not watched.journal.closed:
            # Its readers are told before they see the event.
            task.state, watched.begun = State.RUNNING, time.monotonic()
            task.update_readers(time.monotonic())
            self.look(task.id)
        elif watched.journal.closed:
            self.look(task.id)

    async def _feed(self) -> None:
        try:
            while self._watched:
                await self._look_at_those_due()
                now = time.monotonic()
                for watched in list(self._watched.values()):
                    self._drop_if_idle(watched, now)
                await self._pause()
        finally:
            with suppress(RuntimeError):
                # It may have been closed before.
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
        if state is State.QUEUED and now - watched.begun < UNTOLD:
            # Its events came before the record that tells so.
            state = task.state
        if news.segments or state is not task.state:
            watched.stirred = now
        if state is not task.state:
            task.state, task.started_at, task.attempts = state, news.started_at, news.attempts
            task.update_readers(now)
        feed = self._feed_of_events
        if watched.fed and feed is not None and not feed.away and not watched.journal.closed:
            watched.due = now + SELDOM
        else:
            watched.due = now + self._schedule.pause(now - watched.stirred)

    def _forget(self, task_id: str) -> _Watched | None:
        watched = self._watched.pop(task_id, None)
        if watched is not None and watched.fed is not None and self._feed_of_events is not None:
            watched.journal.unsubscribe(watched.fed)
            self._feed_of_events.leave(task_id)
        return watched

    def _end(self, watched: _Watched, row: StreamTask) -> None:
        task = watched.task
        if not task.journal.closed:
            # Its end did not reach the database: who comes back is told that it is gone.
            self._drop(watched)
            return
        self._forget(task.id)
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
            self._forget(watched.task.id)
            self._supervisor.tasks.hide(watched.task)
            if not watched.task.ended.done():
                watched.task.ended.set_result(None)
