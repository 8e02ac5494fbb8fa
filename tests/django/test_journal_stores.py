"""What every store promises to readers, kept by the database: as another process reads it while it is
written, and as anybody reads it after the end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from streaming.cluster.elsewhere import Elsewhere
from streaming.cluster.processes import Registry
from streaming.cluster.takeover import take_over
from streaming.core.events import Cancelled, Complete, Error, Event
from streaming.core.routing import Reason
from streaming.core.states import State
from streaming.models import StreamTask
from streaming.runtime.journals.base import Journal
from streaming.runtime.journals.memory import MemoryJournals
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import Task
from streaming.storage.records import DatabaseRecorder
from streaming.storage.stored import news_of
from tests.support.journal_contract import *  # noqa: F403 (tests of every store)
from tests.support.journal_contract import END, task_of
from tests.unit.runtime.fakes import FakeMessages, pool_limits, stream_limits

pytestmark = pytest.mark.django_db(transaction=True)

T = TypeVar("T")

NEVER = 3_600.0
"""Seconds between two writes: only `settle` writes."""


class _Silent(Registry):
    """A process that neither shows life nor looks at others."""

    def tick(self, now: float, *, able: bool) -> bool:
        return False

    def leave(self) -> None:
        pass


class Written:
    """A task's owner, which writes behind. Reads as an ended task is read."""

    live = False

    def __init__(self) -> None:
        self._closed = False
        self._runner = asyncio.Runner()
        self._process_id = secrets.token_hex(16)
        self._recorder = DatabaseRecorder(NEVER, _Silent(self._process_id))
        self._journals = MemoryJournals(1_000_000)
        self._task = self._run(self._begin)

    async def _begin(self) -> Task:
        loop = asyncio.get_running_loop()
        self.supervisor = Supervisor(
            {"agent_pool": pool_limits()}, stream_limits(), self._recorder, FakeMessages(), lambda: None
        )
        ticket = self.supervisor.pools["agent_pool"].ledger.pass_by(None, Reason.CACHED)
        task = task_of(self._journals.create(), ticket, loop)
        task.id = secrets.token_hex(16)
        task.journal.subscribe(partial(self._recorder.appended, task))
        self._recorder.accepted(task)
        assert await self._recorder.flush().wait(20)
        return task

    def append(self, event: Event) -> int:
        return self._run(self._append, event)

    async def _append(self, event: Event) -> int:
        task = self._task
        if isinstance(event, Complete | Error | Cancelled):
            task.finished_at = datetime.now(UTC)
            task.receipt = task.timing(0.0)
            task.final = event
            self._recorder.ended(task)
            task.state = State(event.name)
        return task.journal.append(event)

    def settle(self) -> None:
        self._run(self._flush)

    async def _flush(self) -> None:
        assert await self._recorder.flush().wait(20)

    def crash(self) -> None:
        """It is only held for dead, and goes on for a moment."""
        take_over(self._process_id, "f" * 32)
        if not self._task.journal.closed:
            self.append(END)
        self.settle()

    def reader(self) -> Journal:
        return self._run(self._load)

    async def _load(self) -> Journal:
        row = await StreamTask.objects.aget(pk=self._task.id)
        other = Supervisor(
            {"agent_pool": pool_limits()}, stream_limits(), self._recorder, FakeMessages(), lambda: None
        )
        elsewhere = Elsewhere(other, self._recorder, *([None] * 3))  # type: ignore[arg-type]
        found = await elsewhere.task(row)
        assert found.state.value == row.state
        other.close()
        return found.journal

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._recorder.close(20)
        self._run(self._close)
        self._runner.close()

    async def _close(self) -> None:
        self.supervisor.close()
        # That of the thread in which rows are looked up.
        await sync_to_async(connections.close_all)()

    def _run(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        return self._runner.run(function(*arguments))


class Followed(Written):
    """Reads as another process does while the owner writes: news are taken in as they are found."""

    live = True

    def __init__(self) -> None:
        super().__init__()
        self._copy = self._journals.create()

    def settle(self) -> None:
        super().settle()
        self._look()

    def _look(self) -> None:
        for news in news_of({self._task.id: self._copy.last_id}).values():
            for first_id, frames in news.segments:
                self._copy.adopt(first_id, frames)

    def reader(self) -> Journal:
        return self._copy


@pytest.fixture(params=[Written, Followed], ids=["loaded after the end", "followed"])
def make_store(request: pytest.FixtureRequest) -> Iterator[Callable[[], Written]]:
    made: list[Written] = []

    def make() -> Written:
        made.append(request.param())
        return made[-1]

    yield make
    for store in made:
        store.close()
    connections.close_all()
