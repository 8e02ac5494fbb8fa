"""What becomes of a task whose readers have left: waiting or running, with grace or without."""

from __future__ import annotations

import asyncio
import random

import pytest

from streaming.core.framing import SSE
from streaming.core.states import State
from streaming.runtime.follower import FollowOptions
from streaming.runtime.ledger import PoolRefused
from streaming.runtime.room import ROOM_PATIENCE
from streaming.runtime.task import CancelReason

from .fakes import (
    Reader,
    check_stream,
    ended,
    house,
    now,
    occupant,
    pool_limits,
    pool_numbers,
    spec,
    virtual_time,
)

ONE = {"max_workers": 1}
GRACE = 30.0


async def silence():
    await asyncio.sleep(100_000)
    yield "never"


async def short():
    yield "a"
    await asyncio.sleep(1)
    yield "b"


async def stubborn():
    """Ignores its cancel for 20 s."""
    end = now() + 20
    yield "x"
    while now() < end:
        try:
            await asyncio.sleep(end - now())
        except asyncio.CancelledError:
            continue


async def left(supervisor, task):
    """A reader of the task comes, sees something and leaves."""
    reader = Reader(supervisor, task)
    await reader.until(lambda reader: reader.events)
    await reader.leave()


# --- Waiting ------------------------------------------------------------------------------------------


@virtual_time
async def test_a_queued_task_whose_reader_left_is_passed_and_starts_when_one_is_back():
    source, gate = occupant()
    async with house(pool=pool_limits(**ONE)) as supervisor:
        supervisor.open(spec(source))
        task, behind = (supervisor.open(spec(short, grace=GRACE)) for _ in range(2))
        other = Reader(supervisor, behind)
        await left(supervisor, task)
        assert (pool_numbers(supervisor)["waiting"], pool_numbers(supervisor)["away"]) == (2, 1)
        assert supervisor.place_of(task) == (None, None)
        await other.until(lambda reader: reader.named("status")[-1].data.get("position") == 1)
        gate.set()
        check_stream(await other.end())
        await asyncio.sleep(5)
        assert (task.state, pool_numbers(supervisor)["running"]) == (State.QUEUED, 0)
        reader = Reader(supervisor, task)
        assert task.state is State.RUNNING, "a permit was free"
        check_stream(await reader.end())
        assert [each.data["status"] for each in reader.named("status")] == ["started"]
        assert reader.events[-1].name == "complete"


@virtual_time
async def test_who_comes_back_before_its_turn_has_its_old_place():
    async with house(pool=pool_limits(**ONE)) as supervisor:
        supervisor.open(spec(silence))
        task, behind = (supervisor.open(spec(short, grace=GRACE)) for _ in range(2))
        other = Reader(supervisor, behind)
        await left(supervisor, task)
        await asyncio.sleep(GRACE - 5)
        back = Reader(supervisor, task)
        assert supervisor.place_of(task)[0] == 1
        assert supervisor.place_of(behind)[0] == 2
        await asyncio.sleep(2 * GRACE)
        assert back.named("status")[-1].data["position"] == 1
        assert other.named("status")[-1].data["position"] == 2
        assert pool_numbers(supervisor)["away"] == 0


@virtual_time
async def test_one_of_two_readers_is_enough_to_stand_in_line():
    async with house(pool=pool_limits(**ONE)) as supervisor:
        supervisor.open(spec(silence))
        task = supervisor.open(spec(short, grace=GRACE))
        Reader(supervisor, task)
        await left(supervisor, task)
        assert pool_numbers(supervisor)["away"] == 0
        await asyncio.sleep(3 * GRACE)
        assert task.state is State.QUEUED


@virtual_time
async def test_who_waits_for_the_whole_answer_is_a_reader():
    async with house(pool=pool_limits(**ONE)) as supervisor:
        supervisor.open(spec(silence))
        task = supervisor.open(spec(short, grace=GRACE))
        supervisor.attendance.attend(task)
        supervisor.attendance.leave(task)
        assert pool_numbers(supervisor)["away"] == 1
        supervisor.attendance.attend(task)
        assert pool_numbers(supervisor)["away"] == 0


@virtual_time
async def test_at_the_end_of_its_grace_a_waiting_task_is_dropped_and_its_place_is_free():
    async with house(pool=pool_limits(max_workers=1, queue_size=1)) as supervisor:
        supervisor.open(spec(silence))
        task = supervisor.open(spec(short, grace=GRACE))
        await left(supervisor, task)
        with pytest.raises(PoolRefused):
            supervisor.open(spec(short))
        start = now()
        await ended(task)
        assert GRACE <= now() - start <= GRACE + 0.5
        assert (task.final.name, task.final.reason) == ("cancelled", "disconnect")
        assert (pool_numbers(supervisor)["waiting"], pool_numbers(supervisor)["away"]) == (0, 0)
        supervisor.open(spec(short))


@virtual_time
async def test_continue_runs_in_turn_without_readers():
    source, gate = occupant()
    async with house(pool=pool_limits(**ONE)) as supervisor:
        supervisor.open(spec(source))
        task, behind = supervisor.open(spec(short)), supervisor.open(spec(short))
        await left(supervisor, task)
        assert pool_numbers(supervisor)["away"] == 0
        gate.set()
        await ended(task)
        assert (task.final.name, behind.final) == ("complete", None)


@virtual_time
async def test_a_free_permit_goes_to_newcomers_while_all_who_wait_are_away():
    source, gate = occupant()
    async with house(pool=pool_limits(**ONE)) as supervisor:
        supervisor.open(spec(source))
        task = supervisor.open(spec(short, grace=GRACE))
        await left(supervisor, task)
        gate.set()
        await asyncio.sleep(1)
        newcomer = supervisor.open(spec(short))
        assert newcomer.route == "direct"
        back = Reader(supervisor, task)
        assert task.state is State.QUEUED
        check_stream(await back.end())
        assert task.started >= newcomer.finished - 0.01


@virtual_time
@pytest.mark.parametrize("queued", [False, True])
async def test_a_reader_closed_as_slow_has_left(queued):
    async with house(pool=pool_limits(**ONE), connection_timeout=60.0) as supervisor:
        if queued:
            supervisor.open(spec(silence))
        task = supervisor.open(spec(silence, grace=GRACE))
        follower = supervisor.follow(task, FollowOptions(framing=SSE))
        assert follower.take()
        follower.sending(lambda: None)
        start = now()
        await ended(task)
        assert follower.slow
        assert 60 + GRACE <= now() - start <= 60 + GRACE + 1
        assert task.final.reason == "disconnect"


@virtual_time
@pytest.mark.parametrize("readers", ["one", "away", "never"])
@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("grace", [0.0, GRACE, float("inf")])
async def test_an_explicit_stop_ends_a_task_at_once_in_all_states(grace, queued, readers):
    async with house(pool=pool_limits(**ONE)) as supervisor:
        if queued:
            supervisor.open(spec(silence))
        task = supervisor.open(spec(silence, grace=grace))
        if readers == "one":
            Reader(supervisor, task)
        elif readers == "away" and grace:
            await left(supervisor, task)
        await asyncio.sleep(0.1)
        start = now()
        supervisor.cancel(task, CancelReason.CLIENT)
        await ended(task)
        assert now() - start <= 0.3
        assert task.final.reason == "client"
        numbers = pool_numbers(supervisor)
        assert (numbers["running"], numbers["waiting"], numbers["away"]) == (int(queued), 0, 0)


# --- Accepted, and read by nobody yet -----------------------------------------------------------------


@virtual_time
@pytest.mark.parametrize("queued", [False, True])
async def test_the_grace_of_an_accepted_task_begins_with_the_answer(queued):
    async with house(pool=pool_limits(**ONE)) as supervisor:
        if queued:
            supervisor.open(spec(silence))
        task = supervisor.open(spec(silence, grace=GRACE))
        supervisor.attendance.answered_unread(task)
        assert pool_numbers(supervisor)["away"] == int(queued)
        start = now()
        await ended(task)
        assert GRACE <= now() - start <= GRACE + 1
        assert task.final.reason == "disconnect"


@virtual_time
@pytest.mark.parametrize("grace", [0.0, float("inf")])
async def test_an_accepted_task_without_a_time_runs_in_turn(grace):
    source, gate = occupant()
    async with house(pool=pool_limits(**ONE)) as supervisor:
        supervisor.open(spec(source))
        task = supervisor.open(spec(short, grace=grace))
        supervisor.attendance.answered_unread(task)
        await asyncio.sleep(100)
        assert (task.state, pool_numbers(supervisor)["away"]) == (State.QUEUED, 0)
        gate.set()
        await ended(task)
        assert task.final.name == "complete"


# --- Room for a newcomer ------------------------------------------------------------------------------


def full(**changes):
    """A pool where an owner may have two tasks."""
    return pool_limits(**{"max_workers": 2, "per_owner": 2, **changes})


async def enter(supervisor, **changes):
    """As the service does."""
    asked = spec(silence, **{"grace": GRACE, **changes})
    await supervisor.make_room(asked)
    return supervisor.open(asked)


@virtual_time
@pytest.mark.parametrize("queued", [False, True])
async def test_the_oldest_unread_task_in_grace_makes_room(queued):
    async with house(pool=full(max_workers=1 if queued else 4)) as supervisor:
        if queued:
            supervisor.open(spec(silence, share_key="else"))
        older, newer = await enter(supervisor), await enter(supervisor)
        await left(supervisor, newer)
        await left(supervisor, older)
        start = now()
        third = await enter(supervisor)
        assert now() - start <= 0.1
        await ended(older)
        assert older.final.reason == "disconnect"
        assert (newer.final, third.final) == (None, None)
        assert supervisor.statistics()["refusals"] == {}
        assert pool_numbers(supervisor)["running"] + pool_numbers(supervisor)["waiting"] == 2 + queued


@virtual_time
@pytest.mark.parametrize("why", ["read", "goes on", "another's"])
async def test_who_has_no_unread_task_in_grace_is_refused_without_delay_and_counted_once(why):
    async with house(pool=full(max_workers=4)) as supervisor:
        whose = "else" if why == "another's" else "somebody"
        grace = float("inf") if why == "goes on" else GRACE
        tasks = [await enter(supervisor, grace=grace, share_key=whose) for _ in range(2)]
        for task in tasks:
            if why == "read":
                Reader(supervisor, task)
            else:
                await left(supervisor, task)
        if why == "another's":
            for _ in range(2):
                Reader(supervisor, await enter(supervisor))
        start = now()
        with pytest.raises(PoolRefused) as refusal:
            await enter(supervisor)
        assert now() == start
        load = refusal.value.snapshot
        assert refusal.value.decision.reason.value == "owner_limit"
        assert (load.owner_active, load.per_owner) == (2, 2)
        assert supervisor.statistics()["refusals"] == {"owner_limit": 1}
        assert supervisor.statistics()["routes"]["rejected"] == 1
        assert not any(task.state.terminal for task in tasks)


@virtual_time
async def test_below_the_limit_nothing_is_given_up_and_nothing_suspends():
    async with house(pool=full()) as supervisor:
        task = await enter(supervisor)
        await left(supervisor, task)
        with pytest.raises(StopIteration):
            supervisor.make_room(spec(silence)).send(None)
        assert task.ending is None


@virtual_time
async def test_a_producer_that_does_not_obey_keeps_its_permit_and_the_newcomer_is_refused_after_all():
    async with house(pool=full(per_owner=1)) as supervisor:
        task = supervisor.open(spec(stubborn, grace=GRACE))
        await left(supervisor, task)
        start = now()
        with pytest.raises(PoolRefused):
            await enter(supervisor)
        assert now() - start == pytest.approx(ROOM_PATIENCE, abs=0.01)
        assert supervisor.statistics()["refusals"] == {"owner_limit": 1}
        assert pool_numbers(supervisor)["running"] == 1
        await asyncio.sleep(25)
        await enter(supervisor)


@virtual_time
async def test_two_newcomers_at_once_get_a_place_each_from_two_unread_tasks():
    async with house(pool=full()) as supervisor:
        unread = [await enter(supervisor) for _ in range(2)]
        for task in unread:
            await left(supervisor, task)
        new = await asyncio.gather(enter(supervisor), enter(supervisor))
        assert all(task.final.reason == "disconnect" for task in unread)
        assert not any(task.state.terminal for task in new)


@virtual_time
async def test_while_going_down_nothing_is_given_up():
    async with house(pool=full(per_owner=1)) as supervisor:
        task = await enter(supervisor)
        await left(supervisor, task)
        for pool in supervisor.pools.values():
            pool.ledger.stop_granting()
        with pytest.raises(PoolRefused) as refusal:
            await enter(supervisor)
        assert refusal.value.decision.reason.value == "draining"
        assert task.ending is None


# --- Anything in any order ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_whoever_comes_leaves_returns_and_stops_no_permit_and_no_place_is_lost(seed):
    """At every step: no more run and wait than may, and nobody with a reader waits for a free permit."""
    dice = random.Random(seed)
    limits = pool_limits(max_workers=2, queue_size=4, per_owner=3)

    async def work():
        await asyncio.sleep(dice.uniform(0.1, 8))
        yield "x"

    @virtual_time
    async def story():
        async with house(pool=limits) as supervisor:
            tasks, readers = [], []
            for _ in range(400):
                match dice.choice(["come", "come", "leave", "leave", "return", "stop", "pass"]):
                    case "come":
                        grace = dice.choice([0.0, 2.0, 10.0, float("inf")])
                        asked = spec(work, grace=grace, share_key=dice.choice("ab"))
                        await supervisor.make_room(asked)
                        try:
                            task = supervisor.open(asked)
                        except PoolRefused:
                            continue
                        tasks.append(task)
                        if dice.random() < 0.7:
                            readers.append(Reader(supervisor, task))
                        else:
                            supervisor.attendance.answered_unread(task)
                    case "leave" if readers:
                        await readers.pop(dice.randrange(len(readers))).leave()
                    case "return" if tasks:
                        readers.append(Reader(supervisor, dice.choice(tasks)))
                    case "stop" if tasks:
                        supervisor.cancel(dice.choice(tasks), CancelReason.CLIENT)
                    case "pass":
                        await asyncio.sleep(dice.choice([0.1, 1.0, 5.0]))
                numbers = pool_numbers(supervisor)
                queued = [task for task in tasks if task.state is State.QUEUED and task.ending is None]
                unread = [task for task in queued if task.unattended_since is not None]
                assert numbers["running"] <= limits.max_workers
                assert numbers["waiting"] == len(queued) <= limits.queue_size
                assert numbers["away"] == len(unread)
                assert len(queued) == len(unread) or numbers["running"] == limits.max_workers
                assert all(task.attended is False for task in unread)
            for reader in readers:
                await reader.leave()
            for task in tasks:
                await ended(task)
            numbers = pool_numbers(supervisor)
            assert (numbers["running"], numbers["waiting"], numbers["away"]) == (0, 0, 0)

    story()
