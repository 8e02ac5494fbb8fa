"""Processes that share a database: who is dead, who takes over, and who writes no more."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connections
from django.utils import timezone

from streaming.cluster import processes, takeover
from streaming.cluster.processes import PRUNING_INTERVAL, Registry, gone, machine
from streaming.cluster.replicas import Replicas
from streaming.cluster.takeover import take_over
from streaming.core.schedule import PollSchedule
from streaming.models import Process, Segment, StreamTask
from streaming.runtime.journals.base import LOST_IDS
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import Task
from streaming.storage import pruning
from streaming.storage.records import DatabaseRecorder
from streaming.storage.rows import NOBODY
from streaming.storage.stored import news_of
from tests.support.client import eventually
from tests.unit.runtime.fakes import FakeMessages, Reader, ended, pool_limits, spec, stream_limits

pytestmark = pytest.mark.django_db(transaction=True)

MINE, OTHER = "a" * 32, "b" * 32


def beats() -> dict[str, int]:
    return dict(Process.objects.values_list("id", "beat"))


def test_each_tick_is_a_beat_and_leaving_removes_it():
    registry = Registry(MINE)
    for second in range(4):
        registry.tick(second, able=True)
    assert beats() == {MINE: 3}
    registry.leave()
    assert beats() == {}


def test_a_silent_process_is_dead_after_five_seconds_and_a_beating_one_is_not():
    # Of another machine, so that only its beat tells.
    Process.objects.create(id=OTHER, machine="elsewhere", pid=1)
    registry = Registry(MINE)
    for second in range(5):
        registry.tick(second, able=True)
    assert OTHER in beats()
    Process.objects.filter(pk=OTHER).update(beat=1)
    for second in range(5, 10):
        registry.tick(second, able=True)
    assert OTHER in beats()
    registry.tick(10, able=True)
    assert OTHER not in beats()


def test_who_was_held_for_dead_comes_back_as_a_new_entry():
    registry = Registry(MINE)
    registry.tick(0, able=True)
    Process.objects.all().delete()
    registry.tick(1, able=True)
    assert beats() == {MINE: 0}


def test_what_is_too_old_is_pruned_a_little_at_each_tick_and_then_for_an_hour_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(pruning, "CHUNK", 2)
    registry = Registry(MINE)
    for number in range(5):
        old_task(number)
    left = []
    for second in range(5):
        registry.tick(second, able=True)
        left.append(StreamTask.objects.count())
    assert left == [3, 1, 0, 0, 0]
    old_task(9)
    registry.tick(100, able=True)
    assert StreamTask.objects.count() == 1
    registry.tick(4 + PRUNING_INTERVAL, able=True)
    registry.tick(5 + PRUNING_INTERVAL, able=True)
    assert StreamTask.objects.count() == 0


def old_task(number: int) -> None:
    ago = timezone.now() - timedelta(days=40)
    common: dict[str, Any] = {"kind": "test", "pool": "agent_pool", "priority": 0, "state": "complete"}
    StreamTask.objects.create(id=f"{number:032x}", created_at=ago, finished_at=ago, **common)


@pytest.mark.skipif(not machine(), reason="this system does not tell its processes' home")
def test_a_process_number_that_is_nobodys_needs_no_waiting():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    here: dict[str, Any] = {"machine": machine()}
    processes = [
        Process(id="1" * 32, pid=child.pid, **here),
        Process(id="2" * 32, pid=os.getpid(), **here),
        Process(id="3" * 32, pid=os.getppid(), **here),
        Process(id="4" * 32, pid=child.pid, machine="elsewhere"),
        Process(id="5" * 32, pid=child.pid, machine=""),
    ]
    assert gone(processes) == ["1" * 32, "2" * 32]


class House:
    """A supervisor and its recorder, as a process of their own."""

    def __init__(self, process_id: str) -> None:
        loop = asyncio.get_running_loop()
        self.recorder = DatabaseRecorder(
            0.05,
            Registry(process_id),
            lambda task_id, epoch: loop.call_soon_threadsafe(self.supervisor.abandon, task_id, epoch),
        )
        self.supervisor = Supervisor(
            {"agent_pool": pool_limits()},
            stream_limits(),
            self.recorder,
            FakeMessages(),
            connections.close_all,
        )

    def open(self, source: Any) -> Task:
        task = self.supervisor.open(spec(source))
        self.supervisor.record(task)
        return task


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House(MINE)
    yield made
    await asyncio.to_thread(made.recorder.close, 20.0)
    made.supervisor.close()


async def held_up_after(text: str, goes_on: asyncio.Event) -> AsyncIterator[str]:
    yield text
    await goes_on.wait()
    yield "what nobody may see any more"


async def test_who_lost_a_task_stops_and_writes_nothing_more(house: House):
    goes_on = asyncio.Event()
    task = house.open(lambda: held_up_after("survives", goes_on))
    reader = Reader(house.supervisor, task)
    await reader.saw("survives")
    assert await house.recorder.flush().wait(20)
    assert await sync_to_async(_in_thread)(MINE, OTHER) == 1
    goes_on.set()
    events = await reader.end()
    assert events[-1].name == "reconnect", "the end is told by who took over, and by nobody else"
    assert await house.recorder.flush().wait(20)
    row = await StreamTask.objects.aget(pk=task.id)
    assert (row.state, row.error_code, row.text, row.epoch) == ("error", "interrupted", "survives", 2)
    stored = [each async for each in Segment.objects.order_by("first_id").values_list("last_id", flat=True)]
    assert stored[-1] == stored[-2] + LOST_IDS
    assert house.supervisor.statistics()["tasks"] == {"active": 0, "foreign": 0, "in_memory": 0}

    async def permit_is_back() -> bool:
        return house.supervisor.pools["agent_pool"].ledger.statistics().running == 0

    assert await eventually(permit_is_back)


async def test_of_two_who_take_over_one_does(house: House):
    task = house.open(lambda: held_up_after("x", asyncio.Event()))
    assert await house.recorder.flush().wait(20)
    first, second = await asyncio.gather(
        *(asyncio.to_thread(_in_thread, MINE, by) for by in (OTHER, "c" * 32))
    )
    assert first + second == 1
    assert (await StreamTask.objects.aget(pk=task.id)).epoch == 2


async def test_a_task_that_had_ended_keeps_its_end(house: House):
    async def source() -> AsyncIterator[str]:
        yield "whole"

    task = house.open(source)
    await ended(task)
    assert await house.recorder.flush().wait(20)
    assert await sync_to_async(_in_thread)(MINE, OTHER) == 0
    assert (await StreamTask.objects.aget(pk=task.id)).state == "complete"


def _in_thread(process_id: str, by: str) -> int:
    try:
        return take_over(process_id, by).ended
    finally:
        connections.close_all()


def test_tasks_of_a_process_that_is_nowhere_get_their_end_after_five_seconds():
    now = timezone.now()
    common: dict[str, Any] = {"kind": "test", "pool": "agent_pool", "priority": 0, "created_at": now}
    StreamTask.objects.create(id="1" * 32, process=OTHER, state="running", **common)
    StreamTask.objects.create(id="2" * 32, process="", state="queued", arguments={}, **common)
    registry = Registry(MINE)
    for second in range(5):
        registry.tick(second, able=True)
    assert StreamTask.objects.get(pk="1" * 32).state == "running", "its process may only have begun"
    registry.tick(5, able=True)
    assert StreamTask.objects.get(pk="1" * 32).error_code == "interrupted"
    assert StreamTask.objects.get(pk="2" * 32).state == "queued"


@pytest.mark.skipif(not machine(), reason="this system does not tell its processes' home")
def test_many_tasks_of_a_dead_process_do_not_keep_one_from_showing_life(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(takeover, "CHUNK", 2)
    monkeypatch.setattr(processes, "TAKEOVER_SHARE", 0.0)
    Process.objects.create(id=OTHER, machine=machine(), pid=os.getpid())
    common: dict[str, Any] = {"kind": "test", "pool": "agent_pool", "priority": 0}
    for number in range(5):
        task_id = f"{number:032x}"
        StreamTask.objects.create(
            id=task_id, process=OTHER, state="running", created_at=timezone.now(), **common
        )
    registry = Registry(MINE)
    for look in range(3):
        registry.tick(look / 10, able=True)
        assert OTHER in beats()
    monkeypatch.setattr(processes, "TAKEOVER_SHARE", 60.0)
    registry.tick(0.4, able=True)
    assert OTHER not in beats()
    assert StreamTask.objects.filter(error_code="interrupted").count() == 5


# Readers of tasks elsewhere


@pytest.fixture
async def replicas(house: House) -> AsyncIterator[Replicas]:
    made = Replicas(house.supervisor, PollSchedule(0.01, ((None, 1),)))
    yield made
    await made.close()


async def test_a_reader_who_comes_while_the_task_is_taken_up_follows_what_runs_here(
    house: House, replicas: Replicas
):
    goes_on = asyncio.Event()
    task = house.open(lambda: held_up_after("here", goes_on))
    assert await house.recorder.flush().wait(20)
    # As it was read just before: of nobody, and waiting.
    row = await StreamTask.objects.aget(pk=task.id)
    row.process, row.state = NOBODY, "queued"
    assert await replicas.open(row) is task
    house.supervisor.abandon(task.id)


async def test_a_reader_survives_a_connection_to_the_database_that_broke(
    house: House, replicas: Replicas, monkeypatch: pytest.MonkeyPatch
):
    elsewhere = House(OTHER)
    running = elsewhere.open(lambda: held_up_after("there", asyncio.Event()))
    assert await elsewhere.recorder.flush().wait(20)
    await asyncio.to_thread(elsewhere.recorder.close, 20.0)
    task = await replicas.open(await StreamTask.objects.aget(pk=running.id))
    closed = threading.Event()
    broken = iter([True])

    def news(cursors: dict[str, int]) -> Any:
        if next(broken, False):
            raise OperationalError("the connection is lost")
        return news_of(cursors)

    monkeypatch.setattr("streaming.cluster.replicas.news_of", news)
    monkeypatch.setattr("streaming.cluster.replicas.connections.close_all", closed.set)
    house.supervisor.attendance.attend(task)
    assert await asyncio.to_thread(closed.wait, 20)
    house.supervisor.attendance.leave(task)
    elsewhere.supervisor.close()
