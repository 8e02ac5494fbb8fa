"""R19, R20, R29: full queues, starvation, and a wall clock that jumps."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from streaming.runtime.ledger import Ledger, PoolLimits
from tests.faults.conftest import Figures, Scale
from tests.support.client import STREAM, brief
from tests.support.scale import SERVERS
from tests.support.servers import Server, environment, migrate, serving
from tests.support.simulation import Arrival, simulate
from tests.support.wire import Persistent, ask, percentile, request, start, until, until_running

WORKERS, PLACES, MORE = 5, 30, 100
PACE = 0.02
"""Seconds between two parts."""


CLASSES = ("interactive", "normal", "batch")


# --- R19 ----------------------------------------------------------------------------------------------


@dataclass
class Answered:
    """What an arrival got. `seconds`: until the answer's header; `route` empty: refused."""

    priority: str
    status: int
    seconds: float
    route: str
    retry_after: str | None
    started: float
    exact: bool


@pytest.mark.server
@pytest.mark.load
@pytest.mark.parametrize("kind", SERVERS)
async def test_a_full_queue_refuses_at_once_and_serves_in_order(
    kind: str, tmp_path: Path, scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """R19. 5 run, then 30 wait and 100 more come, of all classes; nothing of the 100 is half begun."""
    env = environment(tmp_path, AGENT_POOL_AGING_SECONDS="3600")
    migrate(env)
    refused: list[float] = []
    refused_alone: list[float] = []
    inversions = 0
    rounds = scale(1, 10)
    # Those who hold the workers do so until all have come, however slow the machine is. Those who wait take
    # long enough for the promise on the longest wait (docs/fairness.md) to leave the order to the classes.
    parts = scale(30, 60)
    async with serving(kind, tmp_path, env) as server:
        for number in range(rounds):
            endless = {"tokens": 1_000_000, "interval": PACE}
            holders = [
                await start(server.port, user_id=f"{number} holds {k}", options=endless)
                for k in range(WORKERS)
            ]
            await until_running(server.port, WORKERS)
            coming = [
                asyncio.create_task(_arrive(server, f"{number} comes {k}", dice.choice(CLASSES), parts))
                for k in range(PLACES + MORE)
            ]
            await until(lambda: sum(each.done() for each in coming) >= MORE)  # noqa: B023 (awaited here)
            for k in range(5):
                probe = await _arrive(server, f"{number} asks {k}", "interactive", parts)
                assert probe.status == 503
                refused_alone.append(probe.seconds)
            for task_id in holders:
                await ask(server.port, f"/streams/{task_id}", "DELETE")
            crowd = await asyncio.gather(*coming)
            answered = [each for each in crowd if each.route]
            turned_away = [each for each in crowd if not each.route]
            assert (len(answered), len(turned_away)) == (PLACES, MORE)
            for each in turned_away:
                assert each.status == 503
                assert each.retry_after is not None
                assert int(each.retry_after) >= 1
            assert all(each.exact for each in answered)
            refused += [each.seconds for each in turned_away]
            inversions += _inversions(answered, parts * PACE)
        statistics = await ask(server.port, "/stats")
        pool = statistics["pools"]["agent_pool"]
        assert (pool["running"], pool["waiting"], statistics["tasks"]["active"]) == (0, 0, 0)
        assert statistics["ends"] == {"complete": rounds * PLACES, "cancelled": rounds * WORKERS}, (
            "nothing half begun"
        )
        assert "Traceback" not in server.log(), server.log()[-3000:]
    assert inversions == 0
    figures(
        "R19",
        served=rounds * PLACES,
        refused=len(refused),
        refused_without_retry_after=0,
        out_of_order=inversions,
        refused_within_p50=percentile(refused_alone, 0.5),
        refused_within_p99=percentile(refused_alone, 0.99),
        of_130_at_once_p99=percentile(refused, 0.99),
    )


async def _arrive(server: Server, user: str, priority: str, tokens: int) -> Answered:
    members = brief(user_id=user, priority=priority, options={"tokens": tokens, "interval": PACE})
    begin = time.monotonic()
    async with request(server.port, "POST", STREAM, members) as answer:
        seconds = time.monotonic() - begin
        if answer.status != 200:
            await answer.body()
            return Answered(priority, answer.status, seconds, "", answer.headers.get("retry-after"), 0, False)
        reader = Persistent(lambda: server.port)
        await reader.read(answer)
        exact = reader.text == "".join(f"{k} " for k in range(tokens)) and reader.violations == []
        return Answered(
            priority, 200, seconds, answer.headers["x-stream-route"], None, reader.seen[0][1], exact
        )


def _inversions(answered: list[Answered], task: float) -> int:
    """Pairs of which the lower class began clearly earlier: by a whole task (in seconds), so that it is not
    the moment at which this process looked."""
    return sum(
        CLASSES.index(first.priority) > CLASSES.index(second.priority)
        and first.started + task < second.started
        for first in answered
        for second in answered
    )


# --- R20 ----------------------------------------------------------------------------------------------

SERVICE = 10.0
"""Seconds that a task takes on the average."""


def test_nobody_starves(scale: Scale, seed: int, figures: Figures) -> None:
    """R20. A flood of low priority, and as much high priority as would keep all workers busy by itself."""
    limits = PoolLimits(
        name="agent_pool",
        max_workers=WORKERS,
        queue_size=PLACES,
        queue_timeout=86_400,
        run_timeout=86_400,
        per_owner=1_000,
        aging_seconds=30.0,
    )
    oldest = dict.fromkeys(CLASSES, 0.0)
    served: Counter[str] = Counter()
    for number in range(simulations := scale(5, 200)):
        dice = random.Random(f"{seed} {number}")
        arrivals = sorted(_of_class(0, 1.0, dice) + _of_class(2, 1.0, dice), key=lambda each: each.at)
        for visit in simulate(partial(Ledger, limits), arrivals):
            if visit.refused is None:
                name = CLASSES[visit.arrival.priority]
                oldest[name] = max(oldest[name], visit.wait)
                served[name] += 1
    assert min(served["interactive"], served["batch"]) > 0
    figures(
        "R20",
        simulated_hours=simulations,
        served_interactive=served["interactive"],
        served_batch=served["batch"],
        longest_interactive=oldest["interactive"],
        longest_batch=oldest["batch"],
        in_mean_service_times=max(oldest.values()) / SERVICE,
        in_longest_service_times=max(oldest.values()) / (SERVICE * 1.5),
        law=_bound(limits),
    )
    assert max(oldest.values()) <= 10 * SERVICE * 1.5
    assert max(oldest.values()) <= _bound(limits)


def _bound(limits: PoolLimits) -> float:
    """The law of docs/fairness.md for the lowest class."""
    return limits.aging_seconds * 3 + -(-limits.queue_size // limits.max_workers) * SERVICE * 1.5


def _of_class(priority: int, load: float, dice: random.Random) -> list[Arrival]:
    """An hour of arrivals that would keep `load` of all workers busy."""
    arrivals, at = [], 0.0
    while at < 3_600:
        at += dice.expovariate(WORKERS * load / SERVICE)
        owner = f"{priority} {dice.randrange(40)}"
        arrivals.append(Arrival(at, owner, priority, dice.uniform(0.5, 1.5) * SERVICE))
    return arrivals


# --- R29 ----------------------------------------------------------------------------------------------

JUMPING_CLOCK = '''
"""The wall clock of this process, off by as many seconds as the file named by JUMPING_CLOCK says."""

import datetime
import mmap
import os
import struct
import time

with open(os.environ["JUMPING_CLOCK"], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 8)
time_ = time.time


def offset():
    return struct.unpack_from("d", memory)[0]


class Meta(type(datetime.datetime)):
    def __instancecheck__(cls, instance):
        return isinstance(instance, real)


real = datetime.datetime


class Jumping(datetime.datetime, metaclass=Meta):
    @classmethod
    def now(cls, tz=None):
        return real.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls):
        return real.fromtimestamp(time.time(), datetime.timezone.utc).replace(tzinfo=None)


time.time = lambda: time_() + offset()
time.time_ns = lambda: int(time.time() * 1e9)
datetime.datetime = Jumping
'''

QUEUE_TIMEOUT, ON_DISCONNECT, RUN_TIMEOUT = 1.5, 2.5, 3.5


@pytest.mark.server
async def test_a_wall_clock_that_jumps_moves_no_timeout(
    tmp_path: Path, scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """R29. An hour back and forth while tasks wait, run, stand in their grace, and streams live."""
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK)
    clock = tmp_path / "clock"
    _set(clock, 0.0)
    env = environment(
        tmp_path,
        PYTHONPATH=str(tmp_path),
        JUMPING_CLOCK=str(clock),
        AGENT_POOL_MAX_WORKERS="3",
        AGENT_POOL_PER_OWNER="50",
        AGENT_POOL_QUEUE_TIMEOUT=str(QUEUE_TIMEOUT),
        AGENT_POOL_RUN_TIMEOUT=str(RUN_TIMEOUT),
        SSE_CLEANUP_INTERVAL="0.2",
        SSE_HEARTBEAT_INTERVAL="0.5",
    )
    migrate(env)
    seconds: dict[str, list[float]] = {"queue timeout": [], "run timeout": [], "grace": []}
    jumps = 0
    async with serving("serve", tmp_path, env) as server:
        for _ in range(rounds := scale(1, 20)):
            busy = [
                asyncio.create_task(_seconds_to_the_end(server, "run_timeout", hang_after=1))
                for _ in range(2)
            ]
            left = await start(
                server.port, user_id="leaves", on_disconnect=ON_DISCONNECT, options={"hang_after": 1}
            )
            await until_running(server.port, 3)
            waits = asyncio.create_task(_seconds_to_the_end(server, "queue_timeout"))
            grace = asyncio.create_task(_grace(server, left))
            while not (waits.done() and grace.done() and all(each.done() for each in busy)):
                _set(clock, dice.choice([-3_600.0, 0.0, 3_600.0]))
                jumps += 1
                await asyncio.sleep(dice.uniform(0.1, 0.5))
            seconds["queue timeout"].append(await waits)
            seconds["run timeout"] += [await each for each in busy]
            seconds["grace"].append(await grace)
            _set(clock, 0.0)
        log = server.log()
        assert "Traceback" not in log, log[-3000:]
        assert "dead" not in log
    early = late = 0
    for name, limit in (
        ("queue timeout", QUEUE_TIMEOUT),
        ("run timeout", RUN_TIMEOUT),
        ("grace", ON_DISCONNECT),
    ):
        early += sum(each < limit - 0.1 for each in seconds[name])
        late += sum(each > limit + 5 for each in seconds[name])
    figures(
        "R29",
        rounds=rounds,
        jumps=jumps,
        early=early,
        missed=late,
        **{name.replace(" ", "_"): f"{min(each):.2f}–{max(each):.2f}" for name, each in seconds.items()},
    )
    assert (early, late) == (0, 0)


def _set(clock: Path, seconds: float) -> None:
    if clock.exists():
        with clock.open("r+b") as file:
            file.write(struct.pack("d", seconds))
    else:
        clock.write_bytes(struct.pack("d", seconds))


async def _seconds_to_the_end(server: Server, code: str, **options: Any) -> float:
    reader = Persistent(lambda: server.port)
    begin = time.monotonic()
    await reader.generate(user_id=code, options=options)
    assert reader.end is not None
    assert reader.end.data["code"] == code
    return reader.end.at - begin


async def _grace(server: Server, task_id: str) -> float:
    """Seconds from the leaving of the only reader to the end of the task."""
    async with request(server.port, "GET", f"/streams/{task_id}/events") as answer:
        await anext(answer.chunks())
    begin = time.monotonic()

    async def over() -> bool:
        return bool((await ask(server.port, f"/streams/{task_id}"))["state"] != "running")

    await until(over)
    return time.monotonic() - begin
