"""R9, R10, R22: processes that are told to go, and what becomes of their readers."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.faults.conftest import Figures, Scale
from tests.support.servers import STOP_LIMIT, Server, environment, free_port, migrate, serving
from tests.support.toxics import CLEAN, Link, Plan, Toxics, always, proxy
from tests.support.wire import Persistent, percentile, until, until_running

pytestmark = pytest.mark.server

GRACE = 1.0
"""Seconds that running streams get."""


def house(folder: Path, **overrides: str) -> dict[str, str]:
    limits = {"AGENT_POOL_MAX_WORKERS": "300", "AGENT_POOL_PER_OWNER": "1000", "SSE_DRAIN_GRACE": str(GRACE)}
    env = environment(folder, **limits | overrides)
    migrate(env)
    return env


@pytest.mark.load
@pytest.mark.parametrize("kind", ["serve", "daphne"])
async def test_two_hundred_open_streams_are_all_told(
    kind: str, tmp_path: Path, scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """R9. SIGTERM: each stream ends as `complete` within the grace or is told; then the process goes."""
    rounds, streams = scale(1, 5), scale(60, 200)
    told: Counter[str] = Counter()
    exits = []
    env = house(tmp_path)
    for _ in range(rounds):
        async with serving(kind, tmp_path, env) as server:
            readers = [Persistent(lambda: server.port) for _ in range(streams)]
            lengths = [dice.choice([20, 10_000]) for _ in readers]
            reading = [
                asyncio.create_task(
                    reader.generate(
                        user_id=f"open {k}",
                        options={"tokens": length, "interval": 0.05, "blocking": k % 10 == 0},
                    )
                )
                for k, (reader, length) in enumerate(zip(readers, lengths, strict=True))
            ]
            await until(lambda: all(reader.after for reader in readers))  # noqa: B023 (awaited here)
            begin = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            # Whoever was not told would come back for ever, so that this would not end.
            async with asyncio.timeout(GRACE + 20):
                await asyncio.gather(*reading)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(server.process.wait, STOP_LIMIT)
            exits.append(time.monotonic() - begin)
            assert server.process.returncode == 0
            assert "Traceback" not in server.log(), server.log()[-3000:]
        for reader, length in zip(readers, lengths, strict=True):
            assert reader.violations == []
            assert reader.cuts == reader.unreachable == 0
            assert reader.end is not None
            told[reader.end.data.get("code", reader.end.name)] += 1
            text = "".join(f"{k} " for k in range(length))
            assert text.startswith(reader.text)
            assert (reader.end.name == "complete") == (reader.text == text)
    assert set(told) <= {"complete", "interrupted"}
    assert told["interrupted"] > 0
    figures(
        "R9",
        streams=rounds * streams,
        **told,
        not_told=0,
        drain_grace=GRACE,
        gone_after_most=max(exits),
        beyond_the_grace=max(exits) - GRACE,
    )
    assert max(exits) <= GRACE + scale(5.0, 3.0)


# --- R10 ----------------------------------------------------------------------------------------------


def _calm(longest: int) -> Plan:
    return always(CLEAN)


def _cutting(longest: int) -> Plan:
    """Half of all connections are cut, so that their readers come back through whoever serves now: to a
    stream of the other process they come when it has ended, for following it live is not there yet."""
    return lambda dice: Link(down=Toxics(limit=dice.randint(500, longest) if dice.random() < 0.5 else None))


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(_calm, id="calm"),
        pytest.param(_cutting, id="cut", marks=pytest.mark.long),
    ],
)
async def test_a_rolling_restart_fails_no_stream(
    plan: Callable[[int], Plan], tmp_path: Path, scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """R10. Two processes on one database behind one address; SIGTERM to each in turn while streams come all
    the time. A stream takes less than the grace."""
    rounds = scale(1, 20)
    wanted = scale(30, 2_000)
    tokens, interval = 40, 0.02
    text = "".join(f"{k} " for k in range(tokens))
    env = house(tmp_path, SSE_DRAIN_GRACE="2")
    ports = [free_port(), free_port()]
    pause = 0.0
    readers: list[Persistent] = []
    async with AsyncExitStack() as stack:
        houses = [serving("serve", tmp_path, env, port=port) for port in ports]
        servers: list[Server] = [await house.__aenter__() for house in houses]
        line = await stack.enter_async_context(proxy(ports[0], plan(4_000), dice))
        reading: list[asyncio.Task[None]] = []
        over = asyncio.Event()

        async def arrivals() -> None:
            while len(readers) < wanted or not over.is_set():
                reader = Persistent(lambda: line.port, pause=0.02)
                readers.append(reader)
                options = {"tokens": tokens, "interval": interval}
                coming = reader.generate(user_id=f"n {len(readers)}", options=options)
                reading.append(asyncio.create_task(coming))
                await asyncio.sleep(pause or scale(0.05, 0.03))

        coming = asyncio.create_task(arrivals())
        try:
            for number in range(rounds):
                here, there = number % 2, 1 - number % 2
                await asyncio.sleep(dice.uniform(0.3, 1.0))
                line.retarget(ports[there])
                servers[here].process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(servers[here].process.wait, STOP_LIMIT) == 0
                await houses[here].__aexit__(None, None, None)
                houses[here] = serving("serve", tmp_path, env, port=ports[here])
                servers[here] = await houses[here].__aenter__()
            over.set()
            await coming
            await asyncio.gather(*reading)
        finally:
            coming.cancel()
            for house_ in houses:
                await house_.__aexit__(None, None, None)
        for reader in readers:
            assert reader.violations == []
            assert reader.text == text
            assert reader.end is not None
            assert reader.end.name == "complete"
        assert all("Traceback" not in server.log() for server in servers)
        gaps = [gap for reader in readers for gap in reader.resume_gaps]
        figures(
            "R10",
            restarts=rounds,
            streams=len(readers),
            lost=0,
            cuts=sum(reader.cuts for reader in readers),
            sent_away=sum(reader.sent_away for reader in readers),
            refused_with_retry_after=sum(sum(reader.refusals.values()) for reader in readers),
            resume_gap_p95=percentile(gaps, 0.95),
        )


# --- R22 ----------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("kind", ["serve", "daphne"])
async def test_threads_that_ignore_the_stop_do_not_keep_the_process(
    kind: str, tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    """R22. Some sleep for ever, some compute for ever; each holds a thread that nothing can end. (In `make
    test` it is test_shutdown.py that sees to it.)"""
    exits = []
    env = house(tmp_path)
    for _ in range(scale(1, 5)):
        async with serving(kind, tmp_path, env) as server:
            readers = [Persistent(lambda: server.port) for _ in range(4)]
            sleeps = {"tokens": 10, "interval": 0, "hang_after": 3}
            computes = {"tokens": 10, "interval": 0, "burn": 10_000}
            reading = [
                asyncio.create_task(
                    reader.generate(user_id=f"stuck {k}", options={**options, "blocking": True})
                )
                for k, (reader, options) in enumerate(
                    zip(readers, [sleeps, sleeps, sleeps, computes], strict=True)
                )
            ]
            await until_running(server.port, len(readers))
            await asyncio.sleep(0.3)
            begin = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*reading)
            assert await asyncio.to_thread(server.process.wait, STOP_LIMIT) == 0
            exits.append(time.monotonic() - begin)
            assert "Traceback" not in server.log(), server.log()[-3000:]
        assert [reader.end and reader.end.data.get("code") for reader in readers] == ["interrupted"] * 4
    figures(
        "R22", stuck=4, drain_grace=GRACE, gone_after_most=max(exits), beyond_the_grace=max(exits) - GRACE
    )
    assert max(exits) < GRACE + scale(8.0, 4.0)
