"""Several processes on one database: taking over, taking up, asking each other, following each other's tasks.

Each house is a process without a process: all that one has, on the test's event loop. Its looks at the others
are made by hand, with a clock of the test's own.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import OperationalError, connection, connections, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from streaming.access import Caller
from streaming.cluster import elsewhere, processes, replicas
from streaming.cluster.elsewhere import Elsewhere
from streaming.cluster.loop_side import LoopSide
from streaming.cluster.neighbours import Prioritised, Wishes, ask_for_priority, ask_to_cancel, show_following
from streaming.cluster.processes import Registry
from streaming.cluster.replicas import Replicas
from streaming.cluster.statistics import summed
from streaming.cluster.takeover import claim, take_over, unclaimed
from streaming.core import sse
from streaming.core.errors import Draining, EventsPruned, StorageUnavailable, TaskNotFound
from streaming.core.events import Content, Error, encode
from streaming.core.framing import SSE
from streaming.core.schedule import PollSchedule
from streaming.models import Process, Segment, StreamTask
from streaming.producers import producer
from streaming.runtime.journals.base import LOST_IDS
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import CancelReason, Task
from streaming.service import Service
from streaming.storage import records
from streaming.storage.records import DatabaseRecorder
from streaming.storage.rows import stored_rows
from streaming.storage.stored import news_of
from tests.unit.runtime.fakes import (
    FakeMessages,
    Reader,
    ended,
    eventually,
    in_memory,
    pool_limits,
    spec,
    stream_limits,
    text_of,
)

pytestmark = pytest.mark.django_db(transaction=True)

only_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="its locks are of rows")

A, B, C = "a" * 32, "b" * 32, "c" * 32

QUICK = PollSchedule(0.01, [(None, 1.0)])

KIND = "tests.several_processes"


@producer(KIND)
async def _words(arguments: dict[str, Any]) -> AsyncIterator[str]:
    for word in arguments["words"]:
        yield word


class ByHand(Registry):
    """Its looks are made by the test."""

    def tick(self, now: float, *, able: bool) -> bool:
        return False

    def look(self, now: float, able: bool) -> None:
        processes._here.clear()
        processes._here.add(self.process_id)
        try:
            super().tick(now, able=able)
        finally:
            connections.close_all()


class House:
    """A process."""

    def __init__(self, process_id: str, **pool: Any) -> None:
        loop = asyncio.get_running_loop()
        self.id = process_id
        self.registry = ByHand(process_id)
        self.recorder = DatabaseRecorder(
            0.01,
            self.registry,
            lambda task_id, epoch: loop.call_soon_threadsafe(self.supervisor.abandon, task_id, epoch),
        )
        self.supervisor = Supervisor(
            {"agent_pool": pool_limits(**pool)},
            stream_limits(),
            self.recorder,
            FakeMessages(),
            connections.close_all,
            observers=[self],
        )
        self.told: list[Task] = []
        self.replicas = Replicas(self.supervisor, QUICK)
        self.elsewhere = Elsewhere(self.supervisor, self.recorder, self.registry, self.replicas, QUICK)
        self.registry.speak_for(LoopSide(self.supervisor, self.replicas, self.supervisor.statistics))

    def decided(self, task: Task) -> None:
        """As an observer of its own supervisor."""

    def began_anew(self, task: Task) -> None:
        """As an observer of its own supervisor."""

    def ended(self, task: Task) -> None:
        """As an observer of its own supervisor."""
        self.told.append(task)

    def open(self, open_source: Callable[[], Any], **changes: Any) -> Task:
        task = self.supervisor.open(spec(open_source, **changes))
        self.supervisor.record(task)
        return task

    async def saved(self) -> None:
        assert await self.recorder.flush().wait(20)

    async def look(self, now: float, *, able: bool = True) -> None:
        """One look at the others; what it leads to on the loop has been done on return."""
        await asyncio.to_thread(self.registry.look, now, able)
        await asyncio.sleep(0)

    async def found(self, task_id: str) -> Task:
        """A task that is not in this process."""
        return await self.elsewhere.task(await self.elsewhere.row(task_id))

    async def reader(self, task_id: str, **options: Any) -> Reader:
        return Reader(self.supervisor, await self.found(task_id), **options)

    @property
    def numbers(self) -> dict[str, Any]:
        return self.supervisor.statistics()

    @property
    def ledger(self) -> Any:
        return self.supervisor.pools["agent_pool"].ledger

    async def close(self) -> None:
        for task_id in list(self.supervisor.tasks.active):
            self.supervisor.abandon(task_id)
        await self.replicas.close()
        await asyncio.to_thread(self.recorder.close, 20.0)
        self.supervisor.close()


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., House]]:
    # All of them have the number of this process.
    monkeypatch.setattr(processes, "machine", lambda: "")
    made: list[House] = []

    def make(process_id: str, **pool: Any) -> House:
        made.append(House(process_id, **pool))
        return made[-1]

    yield make
    for each in made:
        await each.close()
    await sync_to_async(connections.close_all)()


Make = Callable[..., House]


def held(gate: asyncio.Event, before: str = "before ", after: str = "after") -> Callable[[], Any]:
    async def source() -> AsyncIterator[str]:
        yield before
        await gate.wait()
        yield after

    return source


_numbers = itertools.count(1)


def row(**columns: Any) -> StreamTask:
    """A waiting task of a registered producer."""
    values: dict[str, Any] = {
        "id": f"{next(_numbers):032x}",
        "kind": KIND,
        "pool": "agent_pool",
        "priority": 1,
        "state": "queued",
        "route": "queued",
        "reason": "workers_busy",
        "arguments": {"words": ["one ", "two"]},
        "snapshot": {
            "pool": "agent_pool",
            "running": 0,
            "waiting": 0,
            "max_workers": 1,
            "queue_size": 1,
            "owner_active": 0,
            "per_owner": 1,
            "oldest_wait_seconds": 0.0,
            "draining": False,
            "eligible": 0,
        },
        "created_at": timezone.now(),
    }
    return StreamTask.objects.create(**values | columns)


def said(task: StreamTask) -> StreamTask:
    """Something of it is stored."""
    frame = sse.frame(1, "content", encode(Content(delta="one ")))
    Segment.objects.create(task=task, first_id=1, last_id=1, frames=frame)
    return task


arow = sync_to_async(row)


async def stored(task_id: str) -> StreamTask:
    return await StreamTask.objects.aget(pk=task_id)


def _taken_over(by: str) -> tuple[int, int]:
    try:
        found = take_over(A, by)
        return found.ended, found.waiting
    finally:
        connections.close_all()


# Taking over


def test_what_waited_waits_again_all_else_ends():
    waiting = row(process=A)
    iterator = row(process=A, arguments=None)
    running = said(row(process=A, state="running", attempts=1))
    silent = row(process=A, state="running", attempts=1, started_at=timezone.now())
    unwanted = row(process=A, cancel_requested="client")
    unwanted_running = row(process=A, state="running", cancel_requested="admin")
    others = row(process=B, state="running")
    over = row(process=A, state="complete")
    found = take_over(A, C)
    assert (found.ended, found.waiting, found.all) == (4, 2, True)
    rows = StreamTask.objects.in_bulk()

    def now(each: StreamTask) -> tuple[str, str, int, str, str]:
        it = rows[each.id]
        return it.process, it.state, it.epoch, it.error_code, it.cancel_reason

    assert now(waiting) == now(silent) == ("", "queued", 2, "", "")
    assert rows[silent.id].started_at is None
    assert now(iterator) == now(running) == (C, "error", 2, "interrupted", "")
    assert now(unwanted) == (C, "cancelled", 2, "", "client")
    assert now(unwanted_running) == (C, "cancelled", 2, "", "admin")
    assert now(others) == (B, "running", 1, "", "")
    assert now(over) == (A, "complete", 1, "", "")
    ends = dict(Segment.objects.exclude(first_id=1).values_list("task_id", "first_id"))
    silent_ones = (iterator.id, unwanted.id, unwanted_running.id)
    assert ends == dict.fromkeys(silent_ones, LOST_IDS) | {running.id: 1 + LOST_IDS}, (
        "one end each, and none for what goes on"
    )


async def test_each_end_that_is_told_for_a_dead_process_is_counted_and_told_once(house: Make):
    """By who took over; and what waits again has no end."""
    ago = timezone.now() - timedelta(seconds=30)
    began = ago + timedelta(seconds=10)
    running = await arow(process=A, state="running", created_at=ago, started_at=began, arguments=None)
    unwanted = await arow(process=A, cancel_requested="client", created_at=ago)
    await arow(process=A)
    one, other = house(B), house(C)
    await Process.objects.acreate(pk=A, machine="elsewhere", pid=1)
    for second in range(7):
        await asyncio.gather(one.look(second), other.look(second))
    told = {task.id: task for task in (*one.told, *other.told) if task.lost}
    assert sorted(told) == sorted((running.id, unwanted.id))
    assert len([task for task in (*one.told, *other.told) if task.lost]) == 2
    end = told[running.id]
    assert isinstance(end.final, Error)
    assert (end.final.code, end.final.retryable) == ("interrupted", True)
    assert (end.route, end.reason, end.created_at) == ("queued", "workers_busy", ago)
    assert end.receipt is not None
    assert end.receipt.queued_ms == 10_000
    assert end.started == end.created + 10
    counted = one.supervisor.measures.ends + other.supervisor.measures.ends
    lost = {("agent_pool", KIND, "error", "interrupted"): 1, ("agent_pool", KIND, "cancelled", "client"): 1}
    assert lost.items() <= counted.items()
    seconds = sum(
        each.supervisor.measures.durations["agent_pool", KIND, "error"].total for each in (one, other)
    )
    assert seconds / 1e6 == pytest.approx(30, abs=20)
    assert one.supervisor.counters.ends["error"] + other.supervisor.counters.ends["error"] == 1


async def test_a_cancel_of_what_nobody_has_is_counted_and_told(house: Make):
    user = await get_user_model().objects.acreate(username="owner")
    one = await arow(process="", owner=user, end_user="alice")
    here = house(B)
    await here.elsewhere.cancel([one.id], CancelReason.ADMIN)
    await here.elsewhere.cancel([one.id], CancelReason.ADMIN)
    await eventually(lambda: bool(here.told))
    (task,) = here.told
    assert task.spec.share_key == ("account", str(user.pk), "alice")
    assert here.supervisor.measures.ends == {("agent_pool", KIND, "cancelled", "admin"): 1}


def test_an_end_that_is_told_for_a_dead_process_counts_the_text_that_survived():
    one = row(process=A, state="running")
    frames = sse.frame(1, "content", encode(Content(delta="söme ")))
    frames += sse.frame(2, "content", encode(Content(delta="text")))
    Segment.objects.create(task=one, first_id=1, last_id=2, frames=frames)
    take_over(A, B)
    one.refresh_from_db()
    assert (one.text, one.content_length, one.chunks) == ("söme text", 9, 2)


async def test_two_processes_that_take_over_at_once_share_the_tasks():
    for number in range(30):
        await (arow(process=A, state="running", arguments=None) if number % 2 else arow(process=A))
    found = await asyncio.gather(*(asyncio.to_thread(_taken_over, by) for by in (B, C)))
    assert [sum(numbers) for numbers in zip(*found, strict=True)] == [15, 15]
    assert await StreamTask.objects.filter(epoch=2).acount() == 30
    assert await Segment.objects.acount() == 15


async def test_one_of_many_who_claim_a_task_gets_it():
    one = await arow(process="")

    def try_it(by: str) -> bool:
        try:
            return claim(StreamTask(pk=one.pk, process="", epoch=1, state="queued"), by)
        finally:
            connections.close_all()

    names = [f"{number:032x}" for number in range(8)]
    got = await asyncio.gather(*(asyncio.to_thread(try_it, by) for by in names))
    assert got.count(True) == 1
    now = await stored(one.id)
    assert (now.process, now.epoch) == (names[got.index(True)], 2)


def test_those_that_wait_are_found_by_class_and_arrival():
    late, early, first = row(process=""), row(process=""), row(process="", priority=0)
    StreamTask.objects.filter(pk=early.pk).update(created_at=late.created_at - timedelta(seconds=9))
    row(process="", pool="another")
    row(process=B)
    found = [each.id for each in unclaimed("agent_pool", 9)]
    assert found == [first.id, early.id, late.id]
    assert [each.id for each in unclaimed("agent_pool", 2)] == [first.id, early.id]


async def test_a_cancel_wins_over_waiting_again(house: Make):
    """Asked for while nobody has the task."""
    one, here = await arow(process=""), house(B)
    await here.elsewhere.cancel([one.id], CancelReason.CLIENT)
    now = await stored(one.id)
    assert (now.state, now.cancel_reason) == ("cancelled", "client")
    assert (await (await here.reader(one.id)).end())[-1].name == "cancelled"


# Another priority class


async def test_another_process_is_asked_to_let_a_task_wait_in_another_class(house: Make):
    """Three wait there; the last is to be the next."""
    here, there = house(A), house(B, max_workers=1, queue_size=9, per_owner=9)
    gate = asyncio.Event()
    there.open(held(gate))
    first, second, third = [there.open(held(gate), priority=1) for _ in range(3)]
    await there.saved()
    asking = asyncio.create_task(here.elsewhere.prioritise([third.id, second.id], 0))
    await wished(third.id, 0)
    await there.look(0.0)
    assert await asking == dict.fromkeys((third.id, second.id), Prioritised.MOVED)
    assert (first.spec.priority, second.spec.priority, third.spec.priority) == (1, 0, 0)
    await there.saved()
    now = await stored(third.id)
    assert (now.priority, now.priority_requested, now.state) == (0, None, "queued")
    # A wish is done once: what its own process is told later stays.
    assert there.supervisor.prioritise(third, 2)
    await there.saved()
    await there.look(1.0)
    assert third.spec.priority == 2
    assert await here.elsewhere.prioritise([second.id], 0) == {second.id: Prioritised.SAME}
    gate.set()
    await asyncio.gather(*(ended(each) for each in (first, second, third)))
    assert sorted((first, second, third), key=lambda task: task.started or 0) == [second, first, third]


async def wished(task_id: str, priority: int) -> None:
    for _ in range(2000):
        if (await stored(task_id)).priority_requested == priority:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("nobody was asked")


async def test_who_does_not_look_was_asked_and_what_started_meanwhile_is_too_late(
    house: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("streaming.cluster.elsewhere.CANCEL_WAIT", 0.05)
    here, there = house(A), house(B, max_workers=1, queue_size=9, per_owner=9)
    gate = asyncio.Event()
    running = there.open(held(gate))
    waiting = there.open(held(gate), priority=1)
    await there.saved()
    nothing = await here.elsewhere.prioritise([running.id, "0" * 32], 0)
    assert set(nothing.values()) == {Prioritised.TOO_LATE}
    assert await here.elsewhere.prioritise([waiting.id], 2) == {waiting.id: Prioritised.ASKED}
    there.recorder.accepted(waiting, known=True)
    await there.saved()
    assert (await stored(waiting.id)).priority_requested == 2, "its process writes of it and leaves the wish"
    assert await here.elsewhere.prioritise([waiting.id], 0) == {waiting.id: Prioritised.ASKED}
    gate.set()
    await ended(waiting)
    await there.saved()
    assert await here.elsewhere.prioritise([waiting.id], 0) == {waiting.id: Prioritised.TOO_LATE}
    await there.look(0.0)
    assert waiting.spec.priority == 1


async def test_the_class_of_what_waits_for_any_process_is_changed_at_once(house: Make):
    here, one = house(A), await arow(process="")
    assert await here.elsewhere.prioritise([one.id], 0) == {one.id: Prioritised.MOVED}
    assert await here.elsewhere.prioritise([one.id], 0) == {one.id: Prioritised.SAME}
    assert (await stored(one.id)).priority == 0


def test_a_wish_for_a_class_outlives_the_process_that_was_asked():
    one = row(process=A, priority=2)
    assert ask_for_priority([one.id], 0) == {one.id: Prioritised.ASKED}
    assert take_over(A, C).waiting == 1
    (found,) = unclaimed("agent_pool", 9)
    assert (found.priority, found.priority_requested) == (0, None)


def test_a_wish_that_comes_while_the_task_is_claimed_is_not_lost():
    one = row(process="", priority=2)
    seen = StreamTask.objects.get(pk=one.pk)
    StreamTask.objects.filter(pk=one.pk).update(priority_requested=0)
    assert not claim(seen, B)
    again = StreamTask.objects.get(pk=one.pk)
    assert claim(again, B)
    assert (again.priority, StreamTask.objects.get(pk=one.pk).priority) == (0, 0)


def test_without_a_wish_a_look_asks_once(django_assert_num_queries: Any):
    row(process=A)
    wishes = Wishes(A)
    with django_assert_num_queries(1):
        assert wishes.look() == []


# Taking up


async def test_waiting_tasks_are_taken_up_as_far_as_there_is_room(house: Make):
    here = house(B, max_workers=1, queue_size=2, per_owner=1)
    gate = asyncio.Event()
    here.open(held(gate))
    for _ in range(5):
        await arow(process="", end_user="one and the same")
    await here.look(0.0)
    assert (here.ledger.running, here.ledger.waiting) == (1, 2), "its owner's limit refuses nothing again"
    assert await StreamTask.objects.filter(process="").acount() == 3
    await here.look(1.0)
    assert here.ledger.waiting == 2
    gate.set()

    async def all_done() -> None:
        for second in range(2, 40):
            await here.saved()
            if await StreamTask.objects.filter(state="complete", text="one two").acount() == 5:
                return
            await here.look(second)
            assert here.ledger.waiting <= 2
        raise AssertionError([each async for each in StreamTask.objects.values()])

    await all_done()


async def test_what_finds_no_room_after_all_is_given_back(house: Make, monkeypatch: pytest.MonkeyPatch):
    here = house(B, max_workers=1, queue_size=0)
    gate = asyncio.Event()
    here.open(held(gate))
    one = await arow(process="")
    with monkeypatch.context() as patched:
        # Gone between the claim, in the writer's thread, and the loop.
        patched.setattr(here.ledger, "room", lambda: 1)
        await here.look(0.0)
    await here.saved()
    now = await stored(one.id)
    assert (now.process, now.state) == ("", "queued")
    gate.set()
    await eventually(lambda: here.ledger.running == 0)
    await here.look(1.0)
    await eventually(lambda: not here.supervisor.tasks.active)
    await here.saved()
    now = await stored(one.id)
    assert (now.state, now.text, now.process) == ("complete", "one two", B)
    assert now.epoch == 3, "claimed twice"


async def test_a_producer_that_nobody_knows_here_is_left_to_others(house: Make):
    one, here = await arow(process="", kind="of another version"), house(B)
    await here.look(0.0)
    assert (await stored(one.id)).process == ""


async def test_the_grace_of_a_task_that_was_taken_up_begins_anew(house: Make):
    here = house(B, max_workers=1, queue_size=2)
    gate = asyncio.Event()
    here.open(held(gate))
    long_ago = timezone.now() - timedelta(hours=1)
    one = await arow(process="", grace=60.0, created_at=long_ago)
    two = await arow(process="", grace=None, created_at=long_ago)
    await here.look(0.0)
    loop = asyncio.get_running_loop()
    taken, forever = in_memory(here.supervisor, one.id), in_memory(here.supervisor, two.id)
    assert taken.unattended_since is not None
    assert taken.unattended_since == pytest.approx(loop.time(), abs=30)
    assert (taken.spec.grace, forever.spec.grace) == (60.0, math.inf)
    assert forever.unattended_since is None
    gate.set()


async def test_a_reader_of_a_waiting_task_stays_when_its_own_process_takes_it_up(house: Make):
    one, here = await arow(process=""), house(B)
    reader = await here.reader(one.id)
    assert here.numbers["tasks"]["foreign"] == 1
    await here.look(0.0)
    events = await reader.end()
    assert (text_of(events), events[-1].name) == ("one two", "complete")
    assert here.numbers["tasks"]["foreign"] == 0


# Revived


async def test_who_was_held_for_dead_says_nothing_more_of_what_was_taken_over(house: Make):
    there, here = house(A), house(B)
    gate = asyncio.Event()
    task = there.open(held(gate))
    reader = await Reader(there.supervisor, task).saw("before ")
    await there.saved()
    await there.look(0.0)
    for second in range(7):
        await here.look(second)
    assert (await stored(task.id)).error_code == "interrupted"
    assert not await Process.objects.filter(pk=A).aexists()
    gate.set()
    events = await reader.end()
    assert events[-1].name == "reconnect"
    await there.saved()
    now = await stored(task.id)
    assert (now.state, now.text, now.process, now.epoch) == ("error", "before ", B, 2)
    ids = [each async for each in Segment.objects.order_by("first_id").values_list("first_id", flat=True)]
    assert ids[-1] == 1 + LOST_IDS
    assert there.supervisor.tasks.active == {}


async def test_who_was_held_for_dead_stops_at_its_next_sign_of_life(house: Make):
    there, here = house(A), house(B)
    gate = asyncio.Event()
    task = there.open(held(gate))
    reader = await Reader(there.supervisor, task).saw("before ")
    await there.saved()
    await there.look(0.0)
    for second in range(7):
        await here.look(second)
    await there.look(8.0)
    assert (await reader.end())[-1].name == "reconnect"
    assert there.supervisor.tasks.active == {}
    await eventually(lambda: there.ledger.running == 0)
    # Whom it sent away finds the end.
    assert (await (await there.reader(task.id, after=1)).end())[-1].data["code"] == "interrupted"


async def test_who_takes_its_own_lost_task_up_again_runs_it_from_the_beginning(house: Make):
    """What it still had to say of its first attempt comes late, and counts no more."""
    there = house(A, max_workers=1)
    gate = asyncio.Event()
    there.open(held(gate))
    await there.look(0.0)
    arguments = {"words": ["again"]}
    task = there.open(held(asyncio.Event()), kind=KIND, arguments=arguments)
    await there.saved()
    assert (await stored(task.id)).state == "queued"
    await Process.objects.all().adelete()
    assert (await asyncio.to_thread(_taken_over, B))[1] == 1
    # It still thinks that it has the task, and notes something of it, while it claims it.
    looking = asyncio.create_task(there.look(1.0))
    there.recorder.started(task)
    await looking
    there.recorder.started(task)
    await there.saved()
    again = in_memory(there.supervisor, task.id)
    assert again is not task
    assert again.epoch == 3
    gate.set()
    await ended(again)
    await there.saved()
    now = await stored(task.id)
    assert (now.state, now.text, now.epoch, now.process) == ("complete", "again", 3, A)


# Wishes


def test_only_that_it_has_changed_counts_of_when_a_task_was_followed():
    one, other = row(process=A, state="running"), row(process=B, state="running")
    wishes = Wishes(A)
    assert wishes.look() == []
    show_following([one.id, other.id])
    assert [(each.task_id, each.followed) for each in wishes.look()] == [(one.id, True)]
    assert [(each.task_id, each.followed) for each in wishes.look()] == [(one.id, False)]
    # By a clock that stands an hour before.
    StreamTask.objects.update(followed_at=timezone.now() - timedelta(hours=1))
    assert [each.followed for each in wishes.look()] == [True]


def test_the_first_who_asks_for_a_cancel_is_the_one_who_did():
    one, over = row(process=A, state="running"), row(process=A, state="complete")
    ask_to_cancel([one.id, over.id], "client")
    ask_to_cancel([one.id], "admin")
    assert [(each.task_id, each.cancel) for each in Wishes(A).look()] == [(one.id, "client")]
    assert StreamTask.objects.get(pk=over.pk).cancel_requested == ""


async def test_a_cancel_reaches_the_owner_at_its_next_look(house: Make):
    there, here = house(A), house(B)
    task = there.open(held(asyncio.Event()))
    await there.saved()
    await there.look(0.0)
    await here.look(0.0)
    await there.look(1.0)
    cancelling = asyncio.create_task(here.elsewhere.cancel([task.id], CancelReason.CLIENT))
    for half_second in range(3, 1000):
        await there.look(half_second / 2)
        if cancelling.done():
            break
    await cancelling
    assert (await stored(task.id)).cancel_reason == "client"


async def test_readers_elsewhere_hold_the_grace_up(house: Make):
    there, here = house(A), house(B)
    gate = asyncio.Event()
    task = there.open(held(gate), grace=60.0)
    await (await Reader(there.supervisor, task).saw("before ")).leave()
    assert task.unattended_since is not None
    await there.saved()
    await there.look(0.0)
    reader = await here.reader(task.id)
    await reader.saw("before ")
    await here.look(0.0)
    await there.look(1.0)
    assert task.unattended_since is None
    assert task.attended
    gate.set()
    assert text_of(await reader.end()) == "before after"


# Replicas


async def test_a_task_is_followed_while_another_process_runs_it(house: Make):
    there, here = house(A), house(B)
    gate = asyncio.Event()
    task = there.open(held(gate))
    await Reader(there.supervisor, task).saw("before ")
    await there.saved()
    readers = [await here.reader(task.id) for _ in range(3)]
    for each in readers:
        await each.saw("before ")
    assert here.numbers["tasks"]["foreign"] == 1, "one replica for all of them"
    gate.set()
    for each in readers:
        events = await each.end()
        assert (text_of(events), events[-1].name) == ("before after", "complete")


async def test_a_replica_that_nobody_reads_is_dropped(house: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replicas, "IDLE", 0.05)
    there, here = house(A), house(B)
    gate = asyncio.Event()
    task = there.open(held(gate))
    await there.saved()
    reader = await (await here.reader(task.id)).saw("before ")
    await reader.leave()
    await eventually(lambda: here.supervisor.tasks.find(task.id) is None)
    assert here.supervisor.statistics()["journal_bytes"] == 0
    # And there again for the next one.
    again = await here.reader(task.id)
    gate.set()
    assert text_of(await again.end()) == "before after"


async def test_a_slow_database_does_not_drop_a_replica_before_its_first_reader(
    house: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(replicas, "IDLE", 0.0)
    there, here = house(A), house(B)
    gate = asyncio.Event()
    first, second = there.open(held(gate)), there.open(held(gate))
    await there.saved()
    reader = await (await here.reader(first.id)).saw("before ")
    other = await here.reader(second.id)
    gate.set()
    assert text_of(await other.end()) == text_of(await reader.end()) == "before after"


@pytest.mark.parametrize("gone", ["row", "events", "end"])
async def test_what_goes_while_it_is_opened_is_gone(house: Make, monkeypatch: pytest.MonkeyPatch, gone: str):
    here = house(B)
    one = await arow(process=A, state="running")
    looked_up = await here.elsewhere.row(one.id)
    if gone == "row":
        await StreamTask.objects.all().adelete()
    elif gone == "events":
        await StreamTask.objects.aupdate(state="cancelled", purged_at=timezone.now())
    else:
        frame = b'id: 1\nevent: content\ndata: {"type":"content","delta":"x"}\n\n'
        await Segment.objects.acreate(task=one, first_id=1, last_id=1, frames=frame)
        await StreamTask.objects.aupdate(state="complete")
    with pytest.raises(EventsPruned):
        await here.elsewhere.task(looked_up)
    assert here.numbers["tasks"]["in_memory"] == 0


async def test_what_was_purged_is_refused_although_its_events_are_still_there(house: Make):
    """For those who read it: they are deleted a moment later."""
    there, here = house(A), house(B)
    gate = asyncio.Event()
    gate.set()
    task = there.open(held(gate))
    await ended(task)
    await there.saved()
    assert text_of(await (await here.reader(task.id)).end()) == "before after"
    here.supervisor.tasks.forget(in_memory(here.supervisor, task.id))
    await StreamTask.objects.aupdate(purged_at=timezone.now())
    assert await Segment.objects.aexists()
    with pytest.raises(EventsPruned):
        await here.elsewhere.task(await here.elsewhere.row(task.id))


@pytest.mark.parametrize("ago", [0, 60])
async def test_events_stay_for_readers_elsewhere_if_the_end_was_a_moment_ago(
    house: Make, monkeypatch: pytest.MonkeyPatch, ago: int
):
    waited = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    here = house(B)
    moment = timezone.now()
    finished_at = moment - timedelta(seconds=ago)
    read = await arow(process=A, state="complete", followed_at=moment, finished_at=finished_at)
    unread = await arow(process=A, state="complete", finished_at=moment)
    here.registry.alone = False
    monkeypatch.setattr(asyncio, "sleep", sleep)
    await here.elsewhere.let_readers_take(unread.id)
    assert waited == []
    await here.elsewhere.let_readers_take(read.id)
    assert len(waited) == (not ago)
    here.registry.alone = True
    await here.elsewhere.let_readers_take(read.id)
    assert len(waited) == (not ago), "nobody else is there"


@pytest.mark.parametrize("gone", ["row", "end"])
async def test_readers_of_what_goes_are_sent_away(house: Make, gone: str):
    here = house(B)
    one = await arow(process=A, state="running")
    reader = await here.reader(one.id)
    if gone == "row":
        await StreamTask.objects.all().adelete()
    else:
        await StreamTask.objects.aupdate(state="complete")
    assert (await reader.end())[-1].name == "reconnect"
    assert here.supervisor.tasks.find(one.id) is None
    if gone == "end":
        with pytest.raises(EventsPruned):
            await here.found(one.id)


async def test_a_database_that_is_away_for_a_moment_delays_readers_only(
    house: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(replicas, "TROUBLE_PAUSE", 0.01)
    there, here = house(A), house(B)
    gate = asyncio.Event()
    task = there.open(held(gate))
    await there.saved()
    reader = await (await here.reader(task.id)).saw("before ")
    read, failures = news_of, iter(range(3))

    def failing(cursors: Any) -> Any:
        if next(failures, None) is not None:
            # As a server that is started again leaves it.
            connections["default"].ensure_connection()
            connections["default"].connection.close()
        return read(cursors)

    monkeypatch.setattr(replicas, "news_of", failing)
    await eventually(lambda: "could not look for news" in caplog.text)
    gate.set()
    assert text_of(await reader.end()) == "before after"


async def test_a_database_that_is_away_at_the_beginning_is_told(house: Make, monkeypatch: pytest.MonkeyPatch):
    here, one = house(B), await arow(process=A, state="running")

    def away(cursors: Any) -> Any:
        raise OperationalError

    with monkeypatch.context() as patched:
        patched.setattr(replicas, "news_of", away)
        with pytest.raises(OperationalError):
            await here.found(one.id)
    assert here.supervisor.tasks.find(one.id) is None
    await (await here.reader(one.id)).leave()


async def test_a_process_that_goes_down_takes_no_readers_of_tasks_that_are_not_its_own(house: Make):
    there, here = house(A), house(B)
    task = there.open(held(asyncio.Event()))
    await there.saved()
    await here.supervisor.drain(0)
    with pytest.raises(Draining, match=task.id):
        await here.found(task.id)


async def test_a_process_that_is_gone_while_a_task_is_opened_says_so(
    house: Make, monkeypatch: pytest.MonkeyPatch
):
    there, here = house(A), house(B)
    task = there.open(held(asyncio.Event()))
    await there.saved()
    at_it, go_on = threading.Event(), threading.Event()

    def slowly(cursors: dict[str, int]) -> dict[str, Any]:
        at_it.set()
        assert go_on.wait(20)
        return news_of(cursors)

    monkeypatch.setattr(replicas, "news_of", slowly)
    opening = asyncio.create_task(here.found(task.id))
    assert await asyncio.to_thread(at_it.wait, 20)
    await here.replicas.close()
    go_on.set()
    with pytest.raises(Draining, match=task.id):
        await opening
    assert here.numbers["tasks"]["foreign"] == 0


async def test_a_cursor_ahead_of_what_is_written_waits_and_repeats_nothing(house: Make):
    there, here = house(A), house(B)
    gate = asyncio.Event()

    async def numbers() -> AsyncIterator[Any]:
        for number in range(9):
            yield Content(delta=f"{number} ", channel=str(number % 2))
            if number == 2:
                await gate.wait()

    task = there.open(numbers)
    await Reader(there.supervisor, task).until(lambda reader: len(reader.named("content")) == 3)
    await there.saved()
    ahead = await here.reader(task.id, after=6)
    gate.set()
    events = await ahead.end()
    assert [each.id for each in events if each.id is not None] == [7, 8, 9, 10]
    assert [each.name for each in events if each.name == "gap"] == []


async def test_a_cursor_ahead_of_the_end_is_told_what_is_lost_and_gets_the_end(house: Make):
    there, here = house(A), house(B)
    gate = asyncio.Event()
    task = there.open(held(gate))
    await Reader(there.supervisor, task).saw("before ")
    await there.saved()
    ahead = await here.reader(task.id, after=20)
    gate.set()
    gap, end = (each for each in await ahead.end() if each.name in ("gap", "complete"))
    assert gap.data == {"type": "gap", "requested": 20, "available_from": 3, "lost": True}
    assert (end.name, end.id) == ("complete", 3)


async def test_readers_of_a_process_that_dies_get_what_survived_and_the_end(house: Make):
    there, here = house(A), house(B)
    task = there.open(held(asyncio.Event()))
    await Reader(there.supervisor, task).saw("before ")
    await there.saved()
    behind, ahead = await here.reader(task.id), await here.reader(task.id, after=9)
    await behind.saw("before ")
    assert await asyncio.to_thread(_taken_over, B) == (1, 0)
    events = await behind.end()
    assert (events[-1].name, events[-1].id) == ("error", 1 + LOST_IDS)
    assert [each.name for each in events if each.name == "gap"] == []
    gap, end = (each for each in await ahead.end() if each.name in ("gap", "error"))
    assert (gap.data["lost"], end.id) == (True, 1 + LOST_IDS)
    # Nobody who has seen the end gets another one.
    seen = await here.found(task.id)
    assert seen.journal.last_id == end.id
    assert (await _all_of(here, seen, end.id - 1))[-1].id == end.id


async def _all_of(here: House, task: Task, after: int) -> list[Any]:
    return await Reader(here.supervisor, task, SSE, after=after).end()


async def test_a_fault_of_ours_sends_readers_away_and_stops_no_other_replica(
    house: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    there, here = house(A), house(B)
    gate = asyncio.Event()
    task = there.open(held(gate))
    await there.saved()
    reader = await (await here.reader(task.id)).saw("before ")

    def broken(cursors: Any) -> Any:
        raise RuntimeError("a fault")

    with monkeypatch.context() as patched:
        patched.setattr(replicas, "news_of", broken)
        assert (await reader.end())[-1].name == "reconnect"
    assert "a fault" in caplog.text
    again = await (await here.reader(task.id)).saw("before ")
    gate.set()
    assert (await again.end())[-1].name == "complete"


# Locks


async def test_who_locks_many_rows_never_waits_for_who_waits_for_them(house: Make):
    """A process that writes, and two that say that they read, the same tasks in any order."""
    there = house(A, max_workers=100, queue_size=0)

    async def endless() -> AsyncIterator[str]:
        while True:
            yield "x" * 30
            await asyncio.sleep(0.005)

    tasks = [there.open(endless) for _ in range(60)]
    await there.saved()
    ids = [task.id for task in tasks]

    def touch(order: list[str]) -> None:
        try:
            for _ in range(25):
                show_following(order)
        finally:
            connections.close_all()

    await asyncio.gather(
        asyncio.to_thread(touch, ids),
        asyncio.to_thread(touch, ids[::-1]),
        asyncio.to_thread(touch, sorted(ids)),
    )
    await there.saved()
    assert there.recorder.failed_writes == 0


@contextmanager
def stopped(*task_ids: str) -> Iterator[None]:
    """A process stands still in the middle of a transaction in which it has locked these tasks."""
    locked, goes_on = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic():
                list(StreamTask.objects.select_for_update().filter(pk__in=task_ids))
                locked.set()
                goes_on.wait(60)
        finally:
            connections.close_all()

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(20)
    try:
        yield
    finally:
        goes_on.set()
        thread.join()


@only_postgresql
def test_who_says_that_it_reads_waits_for_nobody():
    """It is the writer's thread that says so: what a stopped process has locked would stop it, too."""
    one, other = row(process=A, state="running"), row(process=A, state="running")
    with stopped(one.id), connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = '5s'")
        assert not show_following([one.id, other.id]), "one is to be told later"
        assert [each.task_id for each in Wishes(A).look()] == [other.id]
    assert show_following([one.id, other.id])
    assert {each.task_id for each in Wishes(A).look()} == {one.id, other.id}


async def test_whom_somebody_had_locked_is_told_at_the_next_look(
    house: Make, monkeypatch: pytest.MonkeyPatch
):
    there, here = house(A), house(B)
    task = there.open(held(asyncio.Event()))
    await there.saved()
    await here.reader(task.id)
    told: list[float] = []
    answers = iter([False, True, True])
    now = 0.0

    def tell(ids: list[str]) -> bool:
        told.append(now)
        return next(answers)

    monkeypatch.setattr(processes, "show_following", tell)
    for now in (0.0, 0.5, 0.9, 1.1):
        await here.look(now)
    assert told == [0.0, 0.5, 1.1]


def test_what_is_asked_of_others_is_one_statement():
    """Who is stopped between two holds up what the tasks' process writes."""
    one = row(process=A, state="running")
    for ask in (lambda: show_following([one.id]), lambda: ask_to_cancel([one.id], "client")):
        with CaptureQueriesContext(connection) as asked:
            ask()
        assert len(asked) == 1, [each["sql"] for each in asked]


@only_postgresql
async def test_a_stopped_process_loses_its_locks_and_no_record(house: Make, monkeypatch: pytest.MonkeyPatch):
    """One whose writer stands still in the middle of a transaction: nobody could take over what it locked."""
    monkeypatch.setattr(records, "STALLED", 0.2)
    there = house(A)
    gate = asyncio.Event()
    task = there.open(held(gate))
    await there.saved()
    locked, goes_on = threading.Event(), threading.Event()
    lock = stored_rows

    def stand_still(notes: Any) -> Any:
        found = lock(notes)
        locked.set()
        goes_on.wait(60)
        return found

    monkeypatch.setattr(records, "stored_rows", stand_still)
    there.recorder.started(task)
    assert await asyncio.to_thread(locked.wait, 20)

    def claimed() -> str:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '10s'")
                return StreamTask.objects.select_for_update().get(pk=task.id).process
        finally:
            connections.close_all()

    try:
        assert await asyncio.to_thread(claimed) == A
    finally:
        monkeypatch.setattr(records, "stored_rows", lock)
        goes_on.set()
    gate.set()
    await ended(task)
    await there.saved()
    assert there.recorder.failed_writes == 1
    assert (await stored(task.id)).state == "complete"


# Statistics


@pytest.mark.skipif(connection.vendor != "sqlite", reason="its words for a plan")
async def test_no_look_at_the_others_reads_the_whole_table(house: Make):
    here = house(A)
    for _ in range(300):
        await arow(state="complete", process=A)
    task = here.open(held(asyncio.Event()))
    await here.saved()
    await sync_to_async(show_following)([task.id])

    def plans() -> list[str]:
        with CaptureQueriesContext(connection) as looked:
            Registry.tick(here.registry, 1e9, able=True)
        queries = [each["sql"] for each in looked if each["sql"].startswith("SELECT")]
        assert len(queries) >= 5
        with connection.cursor() as cursor:
            found = []
            for query in queries:
                cursor.execute(f"EXPLAIN QUERY PLAN {query}")
                found += [f"{step[-1]}: {query}" for step in cursor.fetchall()]
        return found

    assert [
        plan for plan in await sync_to_async(plans)() if plan.startswith("SCAN streaming_streamtask")
    ] == []


def test_numbers_of_several_processes_are_those_of_one_service():
    def one(running: int, oldest: float, mean: float | None, draining: bool) -> dict[str, Any]:
        return {
            "pools": {
                "p": {
                    "running": running,
                    "max_workers": 5,
                    "oldest_wait_seconds": oldest,
                    "mean_service_seconds": mean,
                }
            },
            "draining": draining,
        }

    first, second = one(1, 0.0, None, True), one(2, 3.5, 4.0, False)
    second["pools"]["only here"] = {"running": 7}
    second["new"] = 1
    told = summed([first, second])
    assert told["pools"]["p"] == {
        "running": 3,
        "max_workers": 10,
        "oldest_wait_seconds": 3.5,
        "mean_service_seconds": 4.0,
    }
    assert told["pools"]["only here"] == {"running": 7}
    assert (told["draining"], told["new"]) == (False, 1)
    waits = [{"oldest_wait_by_class": waits} for waits in ({"0": 1.0, "1": 9.0}, {"1": 3.0, "2": 4.0}, {})]
    assert summed(waits) == {"oldest_wait_by_class": {"0": 1.0, "1": 9.0, "2": 4.0}}
    assert summed([first]) == first
    assert (
        summed([one(1, 0.0, 2.0, True), one(1, 0.0, 4.0, True)])["pools"]["p"]["mean_service_seconds"] == 3.0
    )


def test_each_process_shows_its_numbers_with_its_beat():
    registry = Registry(A)
    registry.tick(0.0, able=True)
    assert Process.objects.get(pk=A).statistics is None


# What is another's


def others_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of whom there is but a row show life."""

    async def stand_still(self: Elsewhere, beats: Any) -> bool:
        return False

    monkeypatch.setattr(Elsewhere, "_stand_still", stand_still)


async def test_an_unknown_id_is_not_denied_while_another_process_writes_nothing(
    house: Make, monkeypatch: pytest.MonkeyPatch
):
    """It may be behind with what it has accepted: what stops its beat stops its records, too."""
    monkeypatch.setattr(elsewhere, "UNWRITTEN", 0.05)
    here = house(B)
    await Process.objects.acreate(id=A, pid=1)
    monkeypatch.setattr(elsewhere, "BEHIND", 0.1)
    with pytest.raises(StorageUnavailable):
        await here.elsewhere.row("0" * 32)
    monkeypatch.setattr(elsewhere, "BEHIND", 20.0)
    for task_id, known in (("0" * 32, False), ("1" * 32, True)):
        looking = asyncio.create_task(here.elsewhere.row(task_id))
        await asyncio.sleep(0.3)
        assert not looking.done()
        if known:
            await arow(id=task_id, state="complete")
        await Process.objects.filter(pk=A).aupdate(beat=F("beat") + 1)
        (found,) = await asyncio.gather(looking, return_exceptions=True)
        assert isinstance(found, StreamTask if known else TaskNotFound)
    looking = asyncio.create_task(here.elsewhere.row("0" * 32))
    await asyncio.sleep(0.3)
    await Process.objects.filter(pk=A).adelete()
    (found,) = await asyncio.gather(looking, return_exceptions=True)
    assert isinstance(found, TaskNotFound), "it was dead"


async def _looks(here: Service, task_id: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the database for somebody's call with this id, which is answered 404."""
    asked: list[str] = []
    visit = here._elsewhere._visit

    async def noting(function: Any) -> Any:
        asked.append(str(function.__self__.query).replace(task_id, "ID"))
        return await visit(function)

    with monkeypatch.context() as patched:
        patched.setattr(here._elsewhere, "_visit", noting)
        with pytest.raises(TaskNotFound):
            await here.find(task_id, Caller("7", "127.0.0.1"))
    return asked


@pytest.mark.parametrize("others", [True, False], ids=["others-live", "alone"])
async def test_what_is_another_s_takes_the_way_of_what_is_absent(
    monkeypatch: pytest.MonkeyPatch, others: bool
):
    """So it takes its time as well: nobody learns from a clock which ids there are."""
    monkeypatch.setattr(elsewhere, "UNWRITTEN", 0.1)
    others_beat(monkeypatch)
    here = Service()
    # It looks exactly once more, however slow the machine is.
    here._elsewhere._schedule = PollSchedule(0.15, [(None, 1.0)])
    gate = asyncio.Event()
    try:
        if others:
            await Process.objects.acreate(id=C, pid=1)
        user = await get_user_model().objects.acreate(username="grace")
        stored = await arow(owner=user, state="complete", text="x" * 100_000)
        tasks = [here.supervisor.open(spec(held(gate), owner=str(user.pk))) for _ in range(2)]
        here.supervisor.cancel(tasks[1], CancelReason.CLIENT)
        await asyncio.wait([tasks[1].ended])
        absent = await _looks(here, "0" * 32, monkeypatch)
        assert len(absent) == (3 if others else 2)
        for task_id in (stored.id, *(task.id for task in tasks)):
            assert await _looks(here, task_id, monkeypatch) == absent
        for task_id in (stored.id, *(task.id for task in tasks)):
            assert (await here.find(task_id, Caller(str(user.pk), ""))).id == task_id
    finally:
        gate.set()
        await here.close(0)


async def test_who_looks_for_many_unknown_ids_looks_seldom(house: Make, monkeypatch: pytest.MonkeyPatch):
    """A row that comes meanwhile is found all the same; and others are not concerned."""
    monkeypatch.setattr(elsewhere, "UNWRITTEN", 0.5)
    monkeypatch.setattr(elsewhere, "LOOKING", 2)
    others_beat(monkeypatch)
    here = house(B)
    await Process.objects.acreate(id=A, pid=1)
    asked: Counter[str] = Counter()
    visit = here.elsewhere._visit

    async def noting(function: Any) -> Any:
        asked[str(function.__self__.query)] += 1
        return await visit(function)

    def looks(task_id: str) -> int:
        return sum(count for query, count in asked.items() if task_id in query)

    monkeypatch.setattr(here.elsewhere, "_visit", noting)
    ids = [f"{number:032x}" for number in range(0xF0, 0xF6)]
    ada = Caller("1", "127.0.0.1")
    mine = [asyncio.create_task(here.elsewhere.row(each, ada)) for each in ids[:5]]
    await eventually(lambda: here.elsewhere._looking[ada.share_key("")] == 2)
    other = asyncio.create_task(here.elsewhere.row(ids[5], Caller("2", "127.0.0.1")))
    await eventually(lambda: looks(ids[5]) > 2)
    await eventually(lambda: all(looks(each) for each in ids))
    await arow(id=ids[4], state="complete")
    found = await asyncio.gather(*mine, other, return_exceptions=True)
    assert [isinstance(each, TaskNotFound) for each in found] == [True] * 4 + [False, True]
    assert sorted(looks(each) > 2 for each in ids) == [False] * 3 + [True] * 3
    assert not here.elsewhere._looking
