"""What a supervisor does with tasks of other processes, and leaves to them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from streaming.core.errors import CursorAhead
from streaming.core.events import Content, Restart, encode
from streaming.core.framing import SSE
from streaming.core.routing import Decision, Reason, Route, Snapshot
from streaming.core.sse import content_frame, frame
from streaming.core.states import State
from streaming.runtime.copying import copying
from streaming.runtime.follower import FollowOptions
from streaming.runtime.journals.base import LOST_IDS
from streaming.runtime.ledger import Ticket
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import CancelReason, Task

from .fakes import (
    FakeRecorder,
    Reader,
    ended,
    house,
    now,
    occupant,
    pool_limits,
    pool_numbers,
    spec,
    text_of,
    virtual_time,
)

PLAIN_DATA: dict[str, Any] = {"arguments": {"say": "anything"}}
GRACE = 30.0


async def short():
    yield "a"
    await asyncio.sleep(1)
    yield "b"


async def silence():
    await asyncio.sleep(100_000)
    yield "never"


def foreign(supervisor: Supervisor, source: Any = short, **changes: Any) -> Task:
    """A task that waits, and that another process had admitted ten seconds ago."""
    load = Snapshot(
        pool="agent_pool",
        running=1,
        waiting=0,
        max_workers=1,
        queue_size=9,
        owner_active=0,
        per_owner=9,
        oldest_wait_seconds=0.0,
    )
    ticket = Ticket("owner", Decision(Route.QUEUED, Reason.WORKERS_BUSY), load, now())
    ticket.withdraw()
    return Task(
        id="f" * 32,
        spec=spec(source, **PLAIN_DATA | changes),
        journal=supervisor.tasks.new_journal(),
        ticket=ticket,
        created=now() - 10,
        created_at=datetime.now(UTC),
        ended=asyncio.get_running_loop().create_future(),
        epoch=2,
    )


@virtual_time
async def test_a_task_that_is_taken_up_runs_here_and_its_readers_stay():
    async with house() as supervisor:
        task = foreign(supervisor)
        supervisor.tasks.show(task)
        reader = Reader(supervisor, task)
        await reader.until(lambda reader: reader.events)
        assert supervisor.take_up(task)
        assert supervisor.tasks.runs(task)
        assert text_of(await reader.end()) == "ab"
        assert pool_numbers(supervisor)["running"] == 0


@virtual_time
async def test_a_task_that_is_taken_up_waits_where_its_arrival_puts_it():
    source, gate = occupant()
    async with house(pool=pool_limits(max_workers=1)) as supervisor:
        supervisor.open(spec(source))
        younger = supervisor.open(spec(short, share_key="somebody else"))
        task = foreign(supervisor)
        assert supervisor.take_up(task)
        reader = Reader(supervisor, task)
        assert task.state is State.QUEUED
        assert supervisor.place_of(younger)[0] is not None
        gate.set()
        assert text_of(await reader.end()) == "ab"
        await ended(younger)


@virtual_time
async def test_without_room_nothing_is_taken_up():
    source, gate = occupant()
    async with house(pool=pool_limits(max_workers=1, queue_size=1)) as supervisor:
        supervisor.open(spec(source))
        waiting = supervisor.open(spec(short))
        task = foreign(supervisor)
        assert supervisor.pools["agent_pool"].ledger.room() == 0
        assert not supervisor.take_up(task)
        assert not supervisor.tasks.runs(task)
        assert pool_numbers(supervisor)["waiting"] == 1
        gate.set()
        await ended(waiting)


@virtual_time
async def test_the_owners_limit_does_not_refuse_what_was_accepted():
    async with house(pool=pool_limits(per_owner=1)) as supervisor:
        supervisor.open(spec(silence, share_key="owner"))
        assert supervisor.take_up(foreign(supervisor, share_key="owner"))


@virtual_time
async def test_the_grace_of_a_task_that_is_taken_up_begins_anew():
    source, gate = occupant()
    async with house(pool=pool_limits(max_workers=1)) as supervisor:
        supervisor.open(spec(source))
        task = foreign(supervisor, grace=GRACE)
        assert supervisor.take_up(task)
        await asyncio.sleep(GRACE - 1)
        assert not task.state.terminal
        await asyncio.sleep(2)
        assert task.state is State.CANCELLED
        gate.set()


@virtual_time
async def test_going_down_leaves_waiting_plain_data_to_others_and_sends_its_readers_there():
    source, _ = occupant()
    async with house(pool=pool_limits(max_workers=1)) as supervisor:
        running = supervisor.open(spec(source))
        plain = supervisor.open(spec(short, **PLAIN_DATA))
        iterator = supervisor.open(spec(short))
        readers = [Reader(supervisor, task) for task in (plain, iterator)]
        await supervisor.drain(0.1)
        first, second = [(await reader.end())[-1] for reader in readers]
        assert (first.name, first.data["after"]) == ("reconnect", 0)
        assert (second.name, second.data["code"]) == ("error", "interrupted")
        assert plain.final is None
        assert running.state is State.ERROR
        recorder: Any = supervisor._recorder
        assert recorder.calls.count(("given up", plain.id)) == 1


def others() -> bool:
    return True


@virtual_time
async def test_going_down_gives_back_what_nobody_has_seen_if_somebody_is_there_to_do_it():
    async with house() as supervisor:
        unseen = supervisor.open(spec(silence, **PLAIN_DATA))
        seen = supervisor.open(spec(source_of_one, **PLAIN_DATA))
        iterator = supervisor.open(spec(silence))
        in_order = supervisor.open(spec(silence, series="notebook", **PLAIN_DATA))
        reader = Reader(supervisor, unseen)
        await supervisor.drain(0.1, others)
        assert (await reader.end())[-1].name == "reconnect"
        assert (unseen.state, unseen.final and unseen.final.name) == (State.QUEUED, "error")
        assert unseen.ended.done()
        for task in (seen, iterator, in_order):
            assert task.state is State.ERROR
        recorder: Any = supervisor._recorder
        assert [each for each in recorder.calls if each[0] == "given up"] == [("given up", unseen.id)]
        assert ("ended", unseen.id) not in recorder.calls


async def source_of_one():
    yield "one"
    await asyncio.sleep(100_000)


@virtual_time
async def test_who_is_alone_gives_back_only_what_may_begin_anew_although_it_was_seen():
    for restarts, state in ((False, State.ERROR), (True, State.QUEUED)):
        async with house(restarts=restarts) as supervisor:
            tasks = [supervisor.open(spec(source, **PLAIN_DATA)) for source in (silence, source_of_one)]
            await supervisor.drain(0.1)
            assert [task.state for task in tasks] == [state] * 2


@virtual_time
async def test_what_was_begun_as_often_as_it_may_be_is_not_given_back():
    async with house(restarts=True, max_attempts=1) as supervisor:
        task = supervisor.open(spec(silence, **PLAIN_DATA))
        await supervisor.drain(0.1, others)
        assert task.state is State.ERROR


@virtual_time
async def test_what_was_given_back_says_nothing_more():
    """Its producer does not stop at once."""

    async def stubborn():
        yield "one "
        try:
            await asyncio.sleep(100_000)
        finally:
            yield "more"

    async with house(restarts=True) as supervisor:
        task = supervisor.open(spec(stubborn, **PLAIN_DATA))
        supervisor.record(task)
        reader = Reader(supervisor, task)
        await supervisor.drain(0.1)
        assert "more" not in text_of(await reader.end())
        await asyncio.sleep(1)
        assert not supervisor.tasks.active
        assert pool_numbers(supervisor)["running"] == 0


@virtual_time
async def test_a_task_that_begins_anew_says_so_once_its_attempt_is_known():
    recorder = FakeRecorder(delay=3.0)
    async with house(recorder=recorder) as supervisor:
        task = foreign(supervisor)
        task.journal.append(Content(delta="void"))
        task.attempts, task.recorded_id = 1, 1
        task.journal.skip(LOST_IDS)
        assert task.begins_anew
        assert supervisor.take_up(task)
        readers = [Reader(supervisor, task, after=after) for after in (0, 1, 7)]
        await asyncio.sleep(2)
        assert task.journal.last_id == 1
        for reader, has_void in zip(readers, (True, False, False), strict=True):
            events = await reader.end()
            assert text_of(events) == ("voidab" if has_void else "ab")
            (restart,) = (each for each in events if each.name == "restart")
            assert (restart.id, restart.data["attempt"]) == (1 + LOST_IDS, 2)
        assert task.final is not None
        assert task.final.content_length == 2  # type: ignore[union-attr]


@virtual_time
async def test_a_copy_of_a_task_that_begins_anew_begins_anew():
    async with house() as supervisor:
        source = foreign(supervisor)
        supervisor.tasks.show(source)
        source.journal.append(Content(delta="void"))
        copy = supervisor.open(spec(copying(source), source=source))
        reader = Reader(supervisor, copy)
        await reader.saw("void")
        journal: Any = source.journal
        again = Restart(attempt=2, reason="process_lost")
        first_id = 1 + LOST_IDS
        journal.adopt(
            first_id, [frame(first_id, "restart", encode(again)), content_frame(first_id + 1, "right", None)]
        )
        await reader.saw("right")
        assert [each.name for each in reader.events if each.id] == ["content", "restart", "content"]
        supervisor.cancel(copy, CancelReason.ADMIN)
        await ended(copy)


@virtual_time
async def test_who_waits_for_a_whole_answer_cannot_come_back_and_is_told():
    source, _ = occupant()
    async with house(pool=pool_limits(max_workers=1)) as supervisor:
        supervisor.open(spec(source))
        task = supervisor.open(spec(short, **PLAIN_DATA))
        supervisor.attendance.attend(task)
        await supervisor.drain(0.1)
        assert task.state is State.ERROR


@virtual_time
async def test_a_reader_in_another_process_keeps_a_task_until_its_grace_is_over():
    async with house() as supervisor:
        task = supervisor.open(spec(silence, grace=GRACE))
        reader = Reader(supervisor, task)
        await reader.until(lambda reader: reader.events)
        await reader.leave()
        for _ in range(100):
            supervisor.attendance.followed_elsewhere(task)
            await asyncio.sleep(1)
        # The last sign of the other reader was a second ago.
        await asyncio.sleep(GRACE - 2)
        assert not task.state.terminal, "the grace begins when the other reader has left"
        await asyncio.sleep(2)
        assert task.state is State.CANCELLED


@virtual_time
async def test_a_reader_in_another_process_brings_a_waiting_task_back_into_line():
    source, gate = occupant()
    async with house(pool=pool_limits(max_workers=1)) as supervisor:
        supervisor.open(spec(source))
        task = supervisor.open(spec(short, grace=GRACE))
        reader = Reader(supervisor, task)
        await reader.until(lambda reader: reader.events)
        await reader.leave()
        assert pool_numbers(supervisor)["away"] == 1
        supervisor.attendance.followed_elsewhere(task)
        assert pool_numbers(supervisor)["away"] == 0
        gate.set()
        await ended(task)


@virtual_time
async def test_who_reads_what_is_gone_from_here_is_sent_away_and_misses_nothing():
    async with house() as supervisor:
        task = foreign(supervisor)
        supervisor.tasks.show(task)
        for word in ("a", "b", "c"):
            task.journal.append_content(word, None)
        follower = supervisor.follow(task, FollowOptions(framing=SSE, after=1, resumed=True))
        supervisor.tasks.hide(task)
        last = follower.take()
        assert b"event: reconnect" in last
        assert b'"after":1' in last
        assert b"gap" not in last
        assert follower.done
        follower.close()


@virtual_time
async def test_a_cursor_may_be_ahead_of_what_has_arrived_here_but_not_of_everything():
    async with house() as supervisor:
        task = foreign(supervisor)
        supervisor.tasks.show(task)
        task.journal.append_content("a", None)
        reader = Reader(supervisor, task, after=2, resumed=True)
        await asyncio.sleep(1)
        for word in ("b", "c"):
            task.journal.append_content(word, None)
        await reader.saw("c")
        assert text_of(reader.events) == "c"
        with pytest.raises(CursorAhead):
            supervisor.follow(task, FollowOptions(framing=SSE, after=2 * LOST_IDS))
        await reader.leave()
