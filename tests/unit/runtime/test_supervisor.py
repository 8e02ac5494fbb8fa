"""The owner of all tasks: admission, time-outs, grace, drain, memory; and nothing leaks."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading

import pytest

from streaming.core.errors import EventsPruned
from streaming.core.framing import SSE
from streaming.runtime.follower import FollowOptions
from streaming.runtime.ledger import PoolRefused
from streaming.runtime.task import CancelReason

from .fakes import (
    PATIENCE,
    FakeMessages,
    FakeRecorder,
    Reader,
    check_stream,
    ended,
    eventually,
    house,
    in_memory,
    now,
    occupant,
    pool_limits,
    pool_numbers,
    run,
    spec,
    text_of,
    virtual_time,
)

ONE = {"max_workers": 1}


async def silence():
    await asyncio.sleep(100_000)
    yield "never"


async def short():
    yield "a"
    await asyncio.sleep(1)
    yield "b"


def slow_to_die(seconds):
    """Ignores its cancel for a while."""

    async def source():
        yield "x"
        end = now() + seconds
        while now() < end:
            try:
                await asyncio.sleep(end - now())
            except asyncio.CancelledError:
                continue

    return source


# --- Admission and order ------------------------------------------------------------------------------


@virtual_time
async def test_of_a_task_whose_admission_may_be_void_nothing_is_written():
    """It waited, and gets its permit while another process is asked whether it has the same key."""
    recorder = FakeRecorder()
    async with house(recorder=recorder) as supervisor:
        first = [supervisor.open(spec(short)) for _ in range(5)]
        void = supervisor.open(spec(silence))
        for task in first:
            await ended(task)
        assert pool_numbers(supervisor)["running"] == 1
        supervisor.retract(void)
        await ended(void)
    assert recorder.count("started") == recorder.count("accepted") == 0


@virtual_time
async def test_burst_of_100():
    recorder = FakeRecorder()
    async with house(recorder=recorder) as supervisor:
        tasks, refused = [], 0
        most = [0, 0]
        for _ in range(100):
            try:
                tasks.append(supervisor.open(spec(short)))
                supervisor.record(tasks[-1])
            except PoolRefused as refusal:
                refused += 1
                assert refusal.retry_after > 0  # noqa: PT017
            numbers = pool_numbers(supervisor)
            most = [max(most[0], numbers["running"]), max(most[1], numbers["waiting"])]
        assert (len(tasks), refused, most) == (35, 65, [5, 30])
        assert supervisor.statistics()["routes"] == {"direct": 5, "queued": 30, "rejected": 65}
        assert supervisor.statistics()["refusals"] == {"queue_full": 65}
        for task in tasks:
            await ended(task)
        numbers = pool_numbers(supervisor)
        assert (numbers["running"], numbers["waiting"]) == (0, 0)
        assert supervisor.statistics()["ends"] == {"complete": 35}
    assert (recorder.count("refused"), recorder.count("started"), recorder.count("ended")) == (65, 30, 35)


@virtual_time
async def test_order_of_the_queue_is_honoured():
    """Class first, then fair share, then arrival."""
    source, gate = occupant()
    order = []

    def noting(name):
        async def note():
            order.append(name)
            yield name

        return note

    async with house(pool=pool_limits(**ONE)) as supervisor:
        supervisor.open(spec(source))
        tasks = [
            supervisor.open(spec(noting(name), priority=priority, share_key=owner))
            for name, priority, owner in [
                ("batch", 2, "a"),
                ("a1", 0, "a"),
                ("a2", 0, "a"),
                ("b1", 0, "b"),
                ("normal", 1, "c"),
            ]
        ]
        gate.set()
        for task in tasks:
            await ended(task)
    assert order == ["a1", "b1", "a2", "normal", "batch"]


@virtual_time
async def test_record_then_reader_and_the_receipt():
    recorder = FakeRecorder()
    async with house(recorder=recorder) as supervisor:
        task = supervisor.open(spec(short))
        assert await supervisor.record(task).wait(1)
        events = await Reader(supervisor, task).end()
        assert [name for name, _ in recorder.calls] == ["accepted", "ended"]
        assert in_memory(supervisor, task.id) is task
        timing = events[-1].data["timing"]
        assert timing["route"] == "direct"
        assert timing["total_ms"] == pytest.approx(1000, abs=20)
        assert timing["first_content_ms"] == pytest.approx(0, abs=5)
        assert timing["coalesced_ratio"] == 1.0


@virtual_time
@pytest.mark.parametrize(("delay", "late"), [(0.1, 0), (100, 1)])
async def test_terminal_event_waits_for_the_record_but_not_for_long(delay, late):
    async with house(recorder=FakeRecorder(delay)) as supervisor:
        start = now()
        await run(supervisor, lambda: short())
        assert now() - start == pytest.approx(1 + min(delay, 0.25), abs=0.01)
        assert supervisor.statistics()["late_commits"] == late


@virtual_time
async def test_statistics_are_json():
    async with house() as supervisor:
        supervisor.open(spec(silence))
        json.dumps(supervisor.statistics())
        assert supervisor.tasks.find("0" * 32) is None
        with pytest.raises(KeyError):
            supervisor.open(spec(silence, pool="no such pool"))


# --- Cancel -------------------------------------------------------------------------------------------


@virtual_time
async def test_cancel_while_queued():
    async with house(pool=pool_limits(**ONE)) as supervisor:
        supervisor.open(spec(silence))
        task, behind = supervisor.open(spec(silence)), supervisor.open(spec(silence))
        reader, other = Reader(supervisor, task), Reader(supervisor, behind)
        await reader.until(lambda reader: reader.events)
        supervisor.cancel(task, CancelReason.CLIENT)
        supervisor.cancel(task, CancelReason.ADMIN)
        assert pool_numbers(supervisor)["waiting"] == 1
        events = await reader.end()
        check_stream(events)
        assert events[-1].data["reason"] == "client"
        await other.until(lambda reader: reader.named("status")[-1].data.get("position") == 1)


@virtual_time
async def test_cancel_before_the_pumps_first_step():
    opened = []

    def source():
        opened.append(1)
        return silence()

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        reader = Reader(supervisor, task)
        supervisor.cancel(task, CancelReason.CLIENT)
        check_stream(await reader.end())
        assert reader.events[-1].name == "cancelled"
        assert opened == []
        assert pool_numbers(supervisor)["running"] == 0


@virtual_time
async def test_cancel_while_running_gives_the_permit_to_the_next():
    async with house(pool=pool_limits(**ONE)) as supervisor:
        task, following = supervisor.open(spec(silence)), supervisor.open(spec(short))
        await asyncio.sleep(0.1)
        start = now()
        supervisor.cancel(task, CancelReason.CLIENT)
        await ended(task)
        await ended(following)
        assert now() - start <= 1.1
        assert following.final.name == "complete"


@virtual_time
async def test_cancel_of_an_ended_task_changes_nothing():
    async with house() as supervisor:
        task = supervisor.open(spec(short))
        events = await Reader(supervisor, task).end()
        supervisor.cancel(task, CancelReason.CLIENT)
        await asyncio.sleep(2)
        assert task.final.name == "complete"
        assert task.journal.last_id == events[-1].id


@virtual_time
async def test_a_producer_that_ignores_cancel_is_stuck_and_keeps_its_permit():
    async with house(pool=pool_limits(**ONE)) as supervisor:
        task = supervisor.open(spec(slow_to_die(20)))
        waiting = supervisor.open(spec(short))
        reader = Reader(supervisor, task)
        await reader.saw("x")
        start = now()
        supervisor.cancel(task, CancelReason.CLIENT)
        events = await reader.end()
        check_stream(events)
        assert events[-1].name == "cancelled"
        assert now() - start <= 1.1
        assert pool_numbers(supervisor)["running"] == 1
        assert pool_numbers(supervisor)["stuck"] == 0
        await asyncio.sleep(2)
        assert pool_numbers(supervisor)["stuck"] == 1
        assert waiting.started is None, "its permit is not free"
        await ended(waiting)
        assert now() - start <= 22.5
        numbers = pool_numbers(supervisor)
        assert (numbers["running"], numbers["stuck"]) == (0, 0)


@virtual_time
async def test_stuck_is_shown_although_its_events_were_purged():
    async with house() as supervisor:
        task = supervisor.open(spec(slow_to_die(200)))
        await asyncio.sleep(0.1)
        supervisor.cancel(task, CancelReason.CLIENT)
        await ended(task)
        supervisor.tasks.forget(task)
        await asyncio.sleep(5)
        assert pool_numbers(supervisor)["stuck"] == 1
        await asyncio.sleep(300)
        assert pool_numbers(supervisor)["stuck"] == pool_numbers(supervisor)["running"] == 0


async def test_a_stuck_thread_is_shown_and_its_permit_comes_back():
    go = threading.Event()

    def source():
        yield "x"
        assert go.wait(PATIENCE)
        yield "y"

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        reader = Reader(supervisor, task)
        await reader.saw("x")
        supervisor.cancel(task, CancelReason.CLIENT)
        check_stream(await reader.end())
        await eventually(lambda: pool_numbers(supervisor)["stuck"] == 1)
        go.set()
        await eventually(lambda: pool_numbers(supervisor)["running"] == 0)
        assert pool_numbers(supervisor)["stuck"] == 0


# --- Time-outs ----------------------------------------------------------------------------------------


@virtual_time
async def test_queue_timeout():
    async with house(pool=pool_limits(max_workers=1, queue_timeout=30)) as supervisor:
        supervisor.open(spec(silence))
        start = now()
        events = await run(supervisor, silence)
        assert (events[-1].data["code"], events[-1].data["retryable"]) == ("queue_timeout", True)
        assert 30 <= now() - start <= 30.5
        assert pool_numbers(supervisor)["waiting"] == 0


@virtual_time
async def test_run_timeout_counts_from_the_permit():
    async with house(pool=pool_limits(max_workers=1, run_timeout=30)) as supervisor:
        start = now()
        supervisor.open(spec(silence))
        events = await run(supervisor, silence)
        assert events[-1].data["code"] == "run_timeout"
        assert 60 <= now() - start <= 61.5


# --- Grace --------------------------------------------------------------------------------------------


@virtual_time
@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("grace", [0.0, 30.0])
async def test_cancelled_when_nobody_came_back_in_grace(grace, queued):
    async with house(pool=pool_limits(**ONE)) as supervisor:
        if queued:
            supervisor.open(spec(silence))
        task = supervisor.open(spec(silence, grace=grace))
        reader, second = Reader(supervisor, task), Reader(supervisor, task)
        await reader.until(lambda reader: reader.events)
        await reader.leave()
        await asyncio.sleep(100)
        assert not task.state.terminal, "one still reads"
        await second.leave()
        start = now()
        await ended(task)
        assert grace <= now() - start <= grace + 1
        assert task.final.reason == "disconnect"


@virtual_time
async def test_reattach_in_grace():
    async with house(pool=pool_limits(run_timeout=10_000)) as supervisor:
        task = supervisor.open(spec(silence, grace=30.0))
        for _ in range(5):
            reader = Reader(supervisor, task)
            await asyncio.sleep(40)
            await reader.leave()
            await asyncio.sleep(29)
        assert not task.state.terminal
        await asyncio.sleep(3)
        assert task.final.reason == "disconnect"


@virtual_time
async def test_infinite_grace_goes_on():
    async with house() as supervisor:
        task = supervisor.open(spec(short))
        reader = Reader(supervisor, task)
        await reader.saw("a")
        await reader.leave()
        await ended(task)
        assert task.final.name == "complete"


@virtual_time
async def test_who_waits_without_reading_counts():
    async with house() as supervisor:
        task = supervisor.open(spec(silence, grace=0.0))
        supervisor.attendance.attend(task)
        reader = Reader(supervisor, task)
        await reader.until(lambda reader: reader.events)
        await reader.leave()
        await asyncio.sleep(5)
        assert not task.state.terminal
        supervisor.attendance.leave(task)
        await ended(task)
        assert task.final.reason == "disconnect"


# --- Drain --------------------------------------------------------------------------------------------


@virtual_time
async def test_drain():
    """What can finish finishes; what waits is told at once; the rest is interrupted; nobody is left."""
    async with house(pool=pool_limits(max_workers=3)) as supervisor:
        finishing, endless, stuck = (
            Reader(supervisor, supervisor.open(spec(source))) for source in (short, silence, slow_to_die(30))
        )
        waiting = [Reader(supervisor, supervisor.open(spec(short))) for _ in range(4)]
        readers = [finishing, endless, stuck, *waiting]
        await asyncio.sleep(0.1)
        start = now()
        await supervisor.drain(4.0)
        assert now() - start <= 4 + 1.5
        for reader in readers:
            check_stream(await reader.end())
        assert finishing.events[-1].name == "complete"
        for reader in (endless, stuck, *waiting):
            assert reader.events[-1].data["code"] == "interrupted"
            assert reader.events[-1].data["retryable"] is True
        assert all(reader.events[-1].at - start < 0.3 for reader in waiting)
        assert supervisor.followers == set()
        with pytest.raises(PoolRefused) as refusal:
            supervisor.open(spec(short))
        assert refusal.value.decision.reason.value == "draining"
        assert supervisor.statistics()["draining"] is True


class HangingRecorder(FakeRecorder):
    """Its commits ignore the patience of who waits."""

    def ended(self, task):
        super().ended(task)
        return self

    async def wait(self, seconds):
        await asyncio.sleep(30)
        return False


@virtual_time
async def test_drain_sends_readers_away_whose_task_does_not_end_in_time():
    async with house(recorder=HangingRecorder()) as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(silence)))
        await reader.until(lambda reader: reader.events)
        start = now()
        await supervisor.drain(1.0)
        assert now() - start <= 2.5
        await reader.end()
        assert [each.name for each in reader.events[-2:]] == ["retry", "reconnect"]
        assert supervisor.followers == set()


@virtual_time
async def test_drain_of_an_idle_supervisor_takes_no_time():
    async with house() as supervisor:
        start = now()
        await supervisor.drain(4.0)
        assert now() == start


@virtual_time
async def test_drain_ends_as_soon_as_the_last_task_ends():
    async with house() as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(short)))
        start = now()
        await supervisor.drain(100.0)
        assert now() - start < 2
        check_stream(await reader.end())


async def test_drain_with_a_blocking_producer():
    go = threading.Event()

    def source():
        yield "x"
        go.wait(PATIENCE)

    async with house() as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(source)))
        await reader.saw("x")
        async with asyncio.timeout(PATIENCE):
            await supervisor.drain(0.01)
        check_stream(await reader.end())
        assert reader.events[-1].data["code"] == "interrupted"
        go.set()
        await eventually(lambda: pool_numbers(supervisor)["running"] == 0)


# --- Memory -------------------------------------------------------------------------------------------


def writing(size, then_for=0.0):
    async def source():
        for _ in range(size // 1_000):
            yield "x" * 1_000
        await asyncio.sleep(then_for)

    return source


@virtual_time
async def test_ended_journals_leave_first_oldest_first():
    async with house(journal_memory=100_000, cleanup_interval=1_000) as supervisor:
        running = supervisor.open(spec(writing(40_000, 100)))
        done = []
        for _ in range(3):
            done.append(supervisor.open(spec(writing(30_000))))
            await ended(done[-1])
        await asyncio.sleep(1)
        statistics = supervisor.statistics()
        assert statistics["journal_bytes"] <= 100_000
        assert statistics["evicted_journals"] == 2
        assert statistics["trimmed_journals"] == 0
        for task in done[:2]:
            assert supervisor.tasks.find(task.id) is None
        assert in_memory(supervisor, done[2].id) is done[2]
        assert running.journal.first_id == 1


@virtual_time
async def test_running_journals_are_trimmed_last_and_told():
    async with house(journal_memory=50_000) as supervisor:
        longest = supervisor.open(spec(writing(80_000, 10)))
        small = supervisor.open(spec(writing(5_000, 10)))
        await asyncio.sleep(2)
        assert supervisor.statistics()["journal_bytes"] <= 50_000
        assert small.journal.first_id == 1
        reader = Reader(supervisor, longest)
        events = await reader.end()
        assert [each.name for each in events if each.name == "gap"] == ["gap"]
        assert events[-1].name == "complete"
        assert events[-1].data["content_length"] == 80_000


@virtual_time
async def test_ended_tasks_are_forgotten_after_replay_ttl():
    async with house(replay_ttl=600, cleanup_interval=30) as supervisor:
        task = supervisor.open(spec(short))
        await ended(task)
        await asyncio.sleep(590)
        assert text_of(await Reader(supervisor, task).end()) == "ab"
        await asyncio.sleep(45)
        assert supervisor.tasks.find(task.id) is None
        with pytest.raises(EventsPruned):
            supervisor.follow(task, FollowOptions(framing=SSE))
        statistics = supervisor.statistics()
        assert (statistics["journal_bytes"], statistics["tasks"]) == (
            0,
            {"active": 0, "foreign": 0, "in_memory": 0},
        )


# --- Faults of the world outside ----------------------------------------------------------------------


class BrokenMessages(FakeMessages):
    def status(self, task, status, position, eta, language):
        raise KeyError("bad placeholder")

    def error(self, code, language):
        raise KeyError("bad placeholder")


@virtual_time
async def test_a_task_ends_although_there_are_no_words_for_it():
    async def source():
        yield "x"
        raise ValueError

    async with house(messages=BrokenMessages()) as supervisor:
        events = await run(supervisor, source)
        assert events[-1].data["code"] == "producer_failed"
        assert events[1].data["status"] == "started"
        assert pool_numbers(supervisor)["running"] == 0


# --- Nothing leaks ------------------------------------------------------------------------------------


async def test_1000_random_abandons_leave_nothing():
    """R1, R2: readers that leave at any moment, tasks in any state, async and blocking producers."""
    randomness = random.Random(7)
    interval = sys.getswitchinterval()
    threads_before, tasks_before = threading.active_count(), asyncio.all_tasks()

    async def talker():
        for number in range(1_000):
            yield f"{number} "
            await asyncio.sleep(0.001)

    async def burst():
        for number in range(100):
            yield f"{number} "

    def blocking():
        for number in range(200):
            yield f"{number} "

    opened = refused = 0
    async with house() as supervisor:

        async def abandon():
            nonlocal opened, refused
            source = randomness.choice([talker, burst, silence, blocking])
            try:
                task = supervisor.open(spec(source, grace=0.0, share_key=randomness.randrange(9)))
            except PoolRefused:
                refused += 1
                return
            opened += 1
            reader = Reader(supervisor, task)
            for _ in range(randomness.randrange(6)):
                await asyncio.sleep(0)
            if randomness.random() < 0.2:
                await asyncio.sleep(randomness.random() * 0.02)
            if randomness.random() < 0.1:
                supervisor.cancel(task, CancelReason.CLIENT)
            await reader.leave()
            # A reader that was cancelled before its first step never ran its `finally`: the edge closes.
            reader.follower.close()

        while opened < 1_000:
            await asyncio.gather(*(abandon() for _ in range(40)))
        await eventually(lambda: supervisor.statistics()["tasks"]["active"] == 0)
        await eventually(lambda: pool_numbers(supervisor)["running"] == 0)
        numbers = pool_numbers(supervisor)
        assert (numbers["running"], numbers["waiting"], numbers["stuck"]) == (0, 0, 0)
        assert supervisor.followers == set()
        assert len(supervisor._waiting) == 0, "a withdrawn task is remembered for ever"
        assert sum(supervisor.statistics()["ends"].values()) == opened
        await eventually(lambda: asyncio.all_tasks() == tasks_before, "a task is left")
    await eventually(lambda: threading.active_count() <= threads_before, "a thread is left")
    sys.setswitchinterval(interval)


# A task that was lost to another process and has come back


async def test_news_of_an_earlier_loss_leave_a_task_that_has_come_back():
    async with house() as supervisor:
        source, gate = occupant()
        task = supervisor.open(spec(source))
        task.epoch = 3
        supervisor.abandon(task.id, 1)
        assert supervisor.tasks.runs(task)
        supervisor.abandon(task.id, 3)
        assert not supervisor.tasks.runs(task)
        gate.set()


async def test_an_end_that_is_being_written_when_the_task_is_lost_ends_no_later_one_of_its_id():
    async with house(recorder=FakeRecorder(delay=0.05)) as supervisor:

        async def source():
            yield "x"

        lost = supervisor.open(spec(source))
        await eventually(lambda: lost.final is not None)
        supervisor.abandon(lost.id)
        held, gate = occupant()
        again = supervisor.open(spec(held))
        again.id = lost.id
        supervisor.tasks.active[lost.id] = again
        assert lost.pump is not None
        await asyncio.wait([lost.pump])
        assert supervisor.tasks.runs(again)
        assert not again.journal.closed
        gate.set()
        await asyncio.wait([again.ended])
