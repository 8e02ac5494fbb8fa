"""What the streams of a process count: right, at each moment, and nothing falls or is counted twice."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from contextlib import suppress

import pytest

from streaming.core.errors import UpstreamTimeout
from streaming.runtime.ledger import PoolRefused
from streaming.runtime.loop_lag import INTERVAL, WINDOW, LoopLag
from streaming.runtime.measures import FIRST_CONTENT, Measures
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import GAPS, CancelReason

from .fakes import Reader, ended, house, occupant, pool_limits, run, spec, virtual_time

POOL = "agent_pool"


def measured(supervisor: Supervisor) -> Measures:
    return supervisor.measures.now(supervisor.tasks.active.values(), supervisor.followers)


def numbers(supervisor: Supervisor) -> dict[str, list[int]]:
    """All that may only rise."""
    now = measured(supervisor)
    found = {
        "parts": [now.parts[POOL]],
        "events": [now.events[POOL]],
        "gaps": now.gaps[POOL].values,
        "bytes": [now.sent_bytes],
    }
    for name, each in (("first", now.first_contents), ("duration", now.durations), ("wait", now.queue_waits)):
        found |= {f"{name} {key}": distribution.values for key, distribution in each.items()}
    return found


def pieces(*pauses: float) -> Callable[[], object]:
    """Long enough that each is an event; after each pause one."""

    async def source():
        yield "x" * 30
        for pause in pauses:
            await asyncio.sleep(pause)
            yield "y" * 30

    return source


@virtual_time
async def test_gaps_are_those_between_events():
    async with house() as supervisor:
        await run(supervisor, pieces(0.01, 0.05, 0.15, 3.0))
        gaps = measured(supervisor).gaps[POOL]
    assert gaps.total == pytest.approx(3_210_000, abs=2_000)
    counts = dict(zip(GAPS, gaps.counts, strict=False))
    assert (counts[0.1], counts[0.2], counts[5.0]) == (2, 1, 1)
    assert sum(gaps.counts) == 4


@virtual_time
async def test_a_task_is_counted_while_it_runs_and_once():
    async with house() as supervisor:
        task = supervisor.open(spec(pieces(0.5, 0.5, 5.0)))
        await asyncio.sleep(0.7)
        now = measured(supervisor)
        key = (POOL, "test", "direct")
        assert (now.parts[POOL], now.events[POOL], sum(now.gaps[POOL].counts)) == (2, 2, 1)
        assert sum(now.first_contents[key].counts) == 1
        assert measured(supervisor).parts == now.parts, "a look changes nothing"
        await ended(task)
        now = measured(supervisor)
        assert (now.parts[POOL], now.events[POOL], sum(now.gaps[POOL].counts)) == (4, 4, 3)
        assert sum(now.first_contents[key].counts) == 1
        assert now.ends == {(POOL, "test", "complete", ""): 1}
        assert now.durations[POOL, "test", "complete"].total == pytest.approx(6_000_000, abs=10_000)


@virtual_time
async def test_nothing_falls_whatever_happens_to_a_task():
    async with house() as supervisor:
        tasks = [supervisor.open(spec(pieces(*[0.3] * 30))) for _ in range(4)]
        reader = Reader(supervisor, tasks[0])
        before: dict[str, list[int]] = {}
        for step in range(40):
            await asyncio.sleep(0.3)
            if step == 5:
                supervisor.abandon(tasks[1].id)
            elif step == 10:
                supervisor.cancel(tasks[2], CancelReason.CLIENT)
            elif step == 15:
                await reader.leave()
            after = numbers(supervisor)
            for name, values in before.items():
                assert all(new >= old for new, old in zip(after[name], values, strict=True)), name
            before = after
        assert not supervisor.tasks.active
        assert measured(supervisor).disconnects == 1


@virtual_time
async def test_decisions_waits_and_ends_have_their_reasons():
    source, gate = occupant()

    async def failing():
        yield "x"
        raise UpstreamTimeout("no token")

    async with house(pool=pool_limits(max_workers=1, queue_size=1)) as supervisor:
        supervisor.open(spec(source))
        waiting = supervisor.open(spec(failing, priority=2))
        with suppress(PoolRefused):
            supervisor.open(spec(failing))
        await asyncio.sleep(3)
        gate.set()
        await ended(waiting)
        now = measured(supervisor)
    assert now.decisions == {
        (POOL, "direct", "worker_free"): 1,
        (POOL, "queued", "workers_busy"): 1,
        (POOL, "rejected", "queue_full"): 1,
    }
    assert now.ends[POOL, "test", "error", "upstream_timeout"] == 1
    assert now.queue_waits[POOL, 2].total == pytest.approx(3_000_000, abs=10_000)
    first = now.first_contents[POOL, "test", "queued"]
    assert dict(zip(FIRST_CONTENT, first.counts, strict=False))[5.0] == 1, "waiting is included"


@virtual_time
async def test_an_admission_that_is_taken_back_was_a_decision():
    """A count that fell would look like a new process."""
    async with house() as supervisor:
        supervisor.retract(supervisor.open(spec(pieces())))
        assert supervisor.counters.routes["direct"] == 0
        assert measured(supervisor).decisions[POOL, "direct", "worker_free"] == 1


@virtual_time
async def test_readers_count_their_bytes():
    async with house() as supervisor:
        task = supervisor.open(spec(pieces(1.0)))
        reader = Reader(supervisor, task)
        await reader.saw("x")
        assert measured(supervisor).sent_bytes == sum(map(len, reader.chunks)) > 0
        await reader.end()
        again = Reader(supervisor, task, resumed=True)
        await again.end()
        now = measured(supervisor)
    assert now.sent_bytes == sum(map(len, reader.chunks + again.chunks))
    assert (now.resumes, now.disconnects) == (1, 0)
    assert now.status_messages == len(reader.named("status"))


# --- The event loop -----------------------------------------------------------------------------------


class FakeLoop:
    """Calls what is due when it is told that time has passed."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeLoop:
        heapq.heappush(self._timers, (self.now + delay, callback))
        return self

    def cancel(self) -> None:
        self._timers.clear()

    def passes(self, seconds: float) -> None:
        """In steps, so that every timer is in time."""
        for _ in range(round(seconds / INTERVAL)):
            self.blocked(INTERVAL)

    def blocked(self, seconds: float) -> None:
        """Nothing runs for so long."""
        self.now += seconds
        while self._timers and self._timers[0][0] <= self.now:
            heapq.heappop(self._timers)[1]()


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def lag(loop: FakeLoop) -> LoopLag:
    made = LoopLag(loop, lambda: loop.now)  # type: ignore[arg-type]
    made.start()
    return made


def test_a_loop_that_is_in_time_is_not_late(loop: FakeLoop, lag: LoopLag):
    loop.passes(10)
    assert lag.recent == 0
    assert lag.distribution.counts[0] == sum(lag.distribution.counts) == 40


def test_a_loop_that_is_held_up_is_late_and_it_is_remembered_for_a_while(loop: FakeLoop, lag: LoopLag):
    loop.passes(1)
    loop.blocked(INTERVAL + 0.8)
    assert lag.recent == pytest.approx(0.8)
    assert lag.distribution.total == 800_000
    loop.passes(WINDOW)
    assert lag.recent == pytest.approx(0.8)
    loop.passes(WINDOW + INTERVAL)
    assert lag.recent == 0


def test_a_look_that_is_overdue_counts_before_it_comes(loop: FakeLoop, lag: LoopLag):
    loop.now += INTERVAL + 3
    assert lag.recent == pytest.approx(3)


def test_a_closed_one_looks_no_more(loop: FakeLoop, lag: LoopLag):
    lag.close()
    loop.passes(10)
    assert lag.distribution.total == sum(lag.distribution.counts) == 0
    assert lag.recent == 0
