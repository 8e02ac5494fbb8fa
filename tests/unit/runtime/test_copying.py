"""A task that copies another: the same chunks and the same end, no permit, and neither harms the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streaming.core.errors import UpstreamRateLimited
from streaming.core.events import Content, Finish, Output, Restart, Result
from streaming.runtime.copying import copying
from streaming.runtime.ledger import PoolRefused
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import CancelReason, Task

from .fakes import ended, eventually, house, now, occupant, pool_limits, pool_numbers, run, spec, virtual_time


def copy(supervisor: Supervisor, source: Task, **changes: Any) -> Task:
    return supervisor.open(spec(copying(source), source=source, **changes))


def end_of(task: Task) -> Any:
    """Its terminal event."""
    assert task.state.terminal
    return task.final


def durable(task: Task) -> list[bytes]:
    """The events but the terminal one, which has an id of its own."""
    return task.journal.read(0, task.journal.last_id)[:-1]


PARTS = [
    "a",
    "bc",
    "a text that is long enough to leave at once",
    Content(delta="hm", channel="reasoning"),
    Output(output_type="display_data", data={"text/plain": "42"}),
    Restart(attempt=2, reason="retry"),
    "x" * 40_000,
    Result(data=[1]),
    Finish(model="m", usage={"tokens": 3}),
]


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.07])
@virtual_time
async def test_a_copy_has_the_same_events_running_or_ended(delay: float):
    async def source():
        for part in PARTS:
            await asyncio.sleep(delay)
            yield part

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        await asyncio.sleep(delay * 3.5)
        running = copy(supervisor, task)
        await ended(running)
        late = copy(supervisor, task)
        await ended(late)
        for each in (running, late):
            assert durable(each) == durable(task)
            assert each.id != task.id
            assert (end_of(each).finish_reason, end_of(each).cached, end_of(each).model) == (
                "stop",
                True,
                "m",
            )
            assert end_of(each).usage == {"tokens": 3}
            assert (each.counts.chunks, each.counts.content_length) == (
                task.counts.chunks,
                task.counts.content_length,
            )
        assert end_of(task).cached is False


@virtual_time
async def test_a_running_source_is_followed_at_its_pace():
    async def source():
        for number in range(5):
            yield f"{number} "
            await asyncio.sleep(1)

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        await asyncio.sleep(2.5)
        begun = now()
        events = await run(supervisor, copying(task), source=task)
        content = [event.at - begun for event in events if event.name == "content"]
        assert content == pytest.approx([0, 0, 0, 0.5, 1.5], abs=0.1)


@virtual_time
async def test_a_copy_takes_no_permit_and_no_limit_refuses_it():
    source, gate = occupant()
    async with house(pool=pool_limits(max_workers=1, queue_size=0, per_owner=1)) as supervisor:
        task = supervisor.open(spec(source))
        copies = [copy(supervisor, task) for _ in range(20)]
        assert {(each.route, each.reason) for each in copies} == {("direct", "cached")}
        assert (pool_numbers(supervisor)["running"], pool_numbers(supervisor)["waiting"]) == (1, 0)
        with pytest.raises(PoolRefused):
            supervisor.open(spec(source))
        gate.set()
        for each in copies:
            await ended(each)
            assert end_of(each).name == "complete"
        assert pool_numbers(supervisor)["running"] == 0
        assert supervisor.lingering == 0


@virtual_time
async def test_a_copy_may_wait_longer_than_a_task_may_run():
    """For a source that waits in the queue: its limits are the source's."""
    source, gate = occupant()
    async with house(pool=pool_limits(max_workers=1, run_timeout=50.0, queue_timeout=100.0)) as supervisor:
        supervisor.open(spec(source))
        waiting = supervisor.open(spec(source))
        follower = copy(supervisor, waiting)
        await asyncio.sleep(60)
        assert follower.final is None
        gate.set()
        await ended(follower)
        assert end_of(follower).name == "complete"


@virtual_time
async def test_cancelling_a_copy_does_not_cancel_its_source():
    source, gate = occupant()
    async with house() as supervisor:
        for grace in (float("inf"), 0.0, 30.0):
            task = supervisor.open(spec(source, grace=grace))
            follower = copy(supervisor, task)
            await asyncio.sleep(1)
            supervisor.cancel(follower, CancelReason.CLIENT)
            await ended(follower)
            await asyncio.sleep(100)
            assert task.final is None, grace
        gate.set()


@virtual_time
async def test_a_source_is_not_dropped_while_its_copy_runs_and_is_afterwards():
    source, gate = occupant()
    async with house() as supervisor:
        task = supervisor.open(spec(source, grace=5.0))
        follower = copy(supervisor, task)
        supervisor.attendance.attend(task)
        supervisor.attendance.leave(task)
        await asyncio.sleep(60)
        assert task.final is None
        supervisor.cancel(follower, CancelReason.CLIENT)
        await asyncio.sleep(6)
        assert end_of(task).reason == "disconnect"
        gate.set()


@virtual_time
async def test_a_source_in_its_grace_is_kept_by_a_copy():
    source, gate = occupant()
    async with house() as supervisor:
        task = supervisor.open(spec(source, grace=5.0))
        supervisor.attendance.attend(task)
        supervisor.attendance.leave(task)
        await asyncio.sleep(3)
        follower = copy(supervisor, task)
        await asyncio.sleep(20)
        gate.set()
        await ended(follower)
        assert end_of(follower).name == "complete"


@virtual_time
async def test_a_copy_brings_a_source_that_stepped_aside_back_into_line():
    source, gate = occupant()
    async with house(pool=pool_limits(max_workers=1)) as supervisor:
        supervisor.open(spec(source))
        waiting = supervisor.open(spec(source, grace=50.0))
        supervisor.attendance.attend(waiting)
        supervisor.attendance.leave(waiting)
        assert pool_numbers(supervisor)["away"] == 1
        follower = copy(supervisor, waiting)
        assert pool_numbers(supervisor)["away"] == 0
        gate.set()
        await asyncio.sleep(1)
        assert end_of(follower).name == "complete"


@virtual_time
async def test_a_source_s_fault_is_the_copy_s_with_words_of_its_own():
    async def source():
        yield "a"
        await asyncio.sleep(1)
        raise UpstreamRateLimited

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        follower = copy(supervisor, task, language="zh-hans")
        await ended(follower)
        assert (end_of(follower).code, end_of(follower).retryable) == ("upstream_rate_limited", True)
        assert end_of(follower).message == "upstream_rate_limited in zh-hans"


@pytest.mark.parametrize("reason", list(CancelReason))
@virtual_time
async def test_a_source_that_somebody_cancels_interrupts_the_copy(reason: CancelReason):
    source, gate = occupant()
    async with house() as supervisor:
        task = supervisor.open(spec(source))
        follower = copy(supervisor, task)
        await asyncio.sleep(1)
        supervisor.cancel(task, reason)
        await ended(follower)
        assert (end_of(follower).code, end_of(follower).retryable) == ("interrupted", True)
        gate.set()


@virtual_time
async def test_a_source_that_another_process_took_over_interrupts_the_copy():
    source, gate = occupant()
    async with house() as supervisor:
        task = supervisor.open(spec(source))
        follower = copy(supervisor, task)
        await asyncio.sleep(1)
        supervisor.abandon(task.id)
        await ended(follower)
        assert end_of(follower).code == "interrupted"
        gate.set()


@virtual_time
async def test_a_source_that_is_forgotten_right_after_the_admission_is_copied_whole():
    async def source():
        yield "whole"

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        await ended(task)
        whole = durable(task)
        follower = copy(supervisor, task)
        supervisor.tasks.forget(task)
        await ended(follower)
        assert durable(follower) == whole
        assert end_of(follower).name == "complete"


@virtual_time
async def test_a_source_that_lost_events_interrupts_the_copy():
    source, gate = occupant()
    async with house() as supervisor:
        task = supervisor.open(spec(source))
        await asyncio.sleep(1)
        task.journal.trim(2)
        follower = copy(supervisor, task)
        await ended(follower)
        assert end_of(follower).code == "interrupted"
        gate.set()


@virtual_time
async def test_a_truncated_source_is_truncated_in_the_copy():
    async def source():
        for _ in range(100):
            yield "x" * 50
            await asyncio.sleep(0.01)

    async with house(max_journal_bytes=2_000) as supervisor:
        task = supervisor.open(spec(source))
        follower = copy(supervisor, task)
        await ended(follower)
        assert durable(follower) == durable(task)
        assert end_of(follower).finish_reason == "length"


@virtual_time
async def test_no_copy_is_begun_while_the_process_goes_down():
    source, gate = occupant()
    async with house() as supervisor:
        task = supervisor.open(spec(source))
        draining = asyncio.create_task(supervisor.drain(10))
        await asyncio.sleep(1)
        with pytest.raises(PoolRefused) as refusal:
            copy(supervisor, task)
        assert refusal.value.decision.reason.value == "draining"
        gate.set()
        await draining


async def test_a_blocking_source_is_copied():
    def source():
        yield from "abc"

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        follower = copy(supervisor, task)
        await ended(follower)
        assert durable(follower) == durable(task)
        await eventually(lambda: pool_numbers(supervisor)["running"] == 0)
