"""What becomes of readers when a journal goes away under them: by a purge, by age, for want of memory."""

from __future__ import annotations

import asyncio

import pytest

from streaming.core.errors import EventsPruned
from streaming.core.framing import NDJSON, SSE
from streaming.descriptions import text_of as text_in
from streaming.runtime.follower import FollowOptions
from streaming.runtime.task import CancelReason
from tests.unit.runtime.fakes import (
    TERMINAL,
    Reader,
    Seen,
    ended,
    house,
    parse,
    spec,
    text_of,
    virtual_time,
)

WORDS = [f"{number} " for number in range(300)]


async def words():
    for word in WORDS:
        yield word
        await asyncio.sleep(0.06)


async def stubborn():
    """Says something, and does not obey for five seconds."""
    yield "a"
    try:
        await asyncio.sleep(1_000)
    finally:
        await asyncio.sleep(5)


def behind(supervisor, task, **options):
    """A reader that has begun, and whose write blocks from now on."""
    follower = supervisor.follow(task, FollowOptions(framing=SSE, **options))
    events = parse(follower.take())
    follower.sending(lambda: None)
    return follower, events


def rest(follower, events: list[Seen]) -> list[Seen]:
    """What it gets once it can write again, to the end of its bytes."""
    follower.sent()
    while not follower.done:
        events += parse(follower.take())
    follower.close()
    return events


def nothing_left(supervisor) -> bool:
    statistics = supervisor.statistics()
    held = statistics["journal_bytes"], supervisor.backlogs.size, statistics["tasks"]
    return held == (0, 0, {"active": 0, "foreign": 0, "in_memory": 0})


@pytest.mark.parametrize("times", [1, 8])
@pytest.mark.parametrize("cancelled", [False, True])
@virtual_time
async def test_who_reads_when_a_task_is_purged_gets_the_rest_and_one_end(times, cancelled):
    async with house() as supervisor:
        task = supervisor.open(spec(words))
        readers = [behind(supervisor, task) for _ in range(5)]
        if cancelled:
            await asyncio.sleep(5)
            supervisor.cancel(task, CancelReason.CLIENT)
        await ended(task)
        whole = await text_in(task)
        for _ in range(times):
            supervisor.tasks.forget(task)
        assert supervisor.tasks.find(task.id) is None
        for follower, events in readers:
            assert not nothing_left(supervisor)
            rest(follower, events)
            assert "gap" not in {each.name for each in events}
            assert [each.name for each in events if each.name in TERMINAL] == [task.final.name]
            assert events[-1].name == task.final.name
            assert text_of(events) == whole
        assert nothing_left(supervisor)


@virtual_time
async def test_a_purged_task_is_refused_to_newcomers_while_others_still_read_it():
    async with house() as supervisor:
        task = supervisor.open(spec(words))
        follower, _ = behind(supervisor, task)
        await ended(task)
        supervisor.tasks.forget(task)
        with pytest.raises(EventsPruned):
            supervisor.follow(task, FollowOptions(framing=SSE))
        follower.close()
        with pytest.raises(EventsPruned):
            supervisor.follow(task, FollowOptions(framing=SSE))
        assert nothing_left(supervisor)


@virtual_time
async def test_readers_that_leave_or_are_too_slow_leave_nothing_of_a_purged_task():
    async with house(connection_timeout=60) as supervisor:
        task = supervisor.open(spec(words))
        left, slow = behind(supervisor, task)[0], behind(supervisor, task)[0]
        await ended(task)
        supervisor.tasks.forget(task)
        left.close()
        assert not nothing_left(supervisor)
        await asyncio.sleep(61)
        assert slow.slow
        assert nothing_left(supervisor)


@virtual_time
async def test_a_producer_that_comes_back_late_takes_nothing_from_readers():
    async with house() as supervisor:
        task = supervisor.open(spec(stubborn))
        await asyncio.sleep(1)
        follower, events = behind(supervisor, task)
        supervisor.cancel(task, CancelReason.CLIENT)
        await ended(task)
        supervisor.tasks.forget(task)
        await asyncio.sleep(10)
        assert [each.name for each in rest(follower, events)][-1] == "cancelled"
        assert text_of(events) == "a"
        assert nothing_left(supervisor)


@virtual_time
async def test_who_is_behind_when_a_task_is_too_old_gets_the_rest():
    async with house(replay_ttl=5, cleanup_interval=1) as supervisor:
        task = supervisor.open(spec(words))
        follower, events = behind(supervisor, task)
        await ended(task)
        await asyncio.sleep(10)
        assert supervisor.tasks.find(task.id) is None
        rest(follower, events)
        assert text_of(events) == "".join(WORDS)
        assert events[-1].name == "complete"
        assert nothing_left(supervisor)


@pytest.mark.parametrize("purged", [False, True])
@virtual_time
async def test_for_want_of_memory_who_is_behind_loses_text_but_not_the_end(purged):
    async def long():
        for _ in range(80):
            yield "x" * 1_000

    async with house(journal_memory=50_000) as supervisor:
        task = supervisor.open(spec(long))
        other = supervisor.open(spec(words))
        follower, events = behind(supervisor, task)
        await ended(task)
        if purged:
            supervisor.tasks.forget(task)
        await asyncio.sleep(1)
        assert supervisor.statistics()["journal_bytes"] <= 50_000
        assert supervisor.statistics()["evicted_journals"] == 1
        assert other.journal.first_id == 1
        rest(follower, events)
        assert [each.name for each in events][-2:] == ["gap", "complete"]
        assert events[-2].data["available_from"] == events[-1].id
        await ended(other)
        supervisor.tasks.forget(other)
        assert nothing_left(supervisor)


@virtual_time
async def test_who_waits_for_the_whole_has_it_although_it_was_purged():
    async with house() as supervisor:
        task = supervisor.open(spec(words))
        supervisor.attendance.attend(task)
        await ended(task)
        supervisor.tasks.forget(task)
        assert await text_in(task) == "".join(WORDS)
        supervisor.attendance.leave(task)
        assert nothing_left(supervisor)


@virtual_time
async def test_what_is_not_kept_goes_with_its_last_reader():
    async with house() as supervisor:
        task = supervisor.open(spec(words, kept=False))
        readers = [Reader(supervisor, task), Reader(supervisor, task, NDJSON)]
        for reader in readers:
            await reader.end()
        await asyncio.sleep(0)
        assert nothing_left(supervisor)
