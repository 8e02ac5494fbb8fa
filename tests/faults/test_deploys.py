"""R9, R10, R22: processes that are told to go, and what becomes of their readers."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from tests.faults.conftest import Figures, Scale
from tests.support.scale import SERVERS
from tests.support.servers import STOP_LIMIT, Server, environment, free_port, migrate, serving
from tests.support.toxics import CLEAN, Link, Plan, Proxy, Toxics, always, proxy
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
@pytest.mark.parametrize("kind", SERVERS)
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
    """Half of all connections are cut, so that their readers come back through the other process."""
    return lambda dice: Link(down=Toxics(limit=dice.randint(500, longest) if dice.random() < 0.5 else None))


class _Passenger(Persistent):
    """A reader who starts its stream through one line, and after a cut follows it through another."""

    def __init__(self, there: Proxy, elsewhere: Proxy, key: str) -> None:
        super().__init__(self._address, pause=0.02, key=key)
        self._lines = there, elsewhere
        self._crossed_at: float | None = None

    def _address(self) -> int:
        there, elsewhere = self._lines
        if not self.task_id or not self.cuts:
            return there.port
        self._crossed_at = self._crossed_at or time.monotonic()
        return elsewhere.port

    @property
    def live(self) -> float:
        """Seconds over which text came after the change of process."""
        at = [at for _, at, text in self.seen if text and self._crossed_at and at > self._crossed_at]
        return at[-1] - at[0] if at else 0.0

    @property
    def left_to_read(self) -> float:
        """Seconds that the stream went on after the change."""
        return self.end.at - self._crossed_at if self.end and self._crossed_at else 0.0


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(_calm, id="calm", marks=pytest.mark.long),
        pytest.param(_cutting, id="cut"),
    ],
)
async def test_a_rolling_restart_fails_no_stream(
    plan: Callable[[int], Plan], tmp_path: Path, scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """R10. Two processes on one database behind one address; SIGTERM to each in turn while streams come all
    the time, twice as many at once as there are workers. A stream takes less than the grace, but who waits
    may have to go on in the other process. Who is cut follows through the other process, live."""
    rounds = scale(1, 20)
    wanted = scale(40, 2_000)
    workers = scale(10, 20)
    tokens, interval = 40, 0.02
    text = "".join(f"{k} " for k in range(tokens))
    env = house(tmp_path, SSE_DRAIN_GRACE="2", AGENT_POOL_MAX_WORKERS=str(workers))
    ports = [free_port(), free_port()]
    readers: list[_Passenger] = []
    async with AsyncExitStack() as stack:
        houses = [serving("serve", tmp_path, env, port=port) for port in ports]
        servers: list[Server] = [await house.__aenter__() for house in houses]
        line = await stack.enter_async_context(proxy(ports[0], plan(4_000), dice))
        other_line = await stack.enter_async_context(proxy(ports[1]))
        reading: list[asyncio.Task[None]] = []
        over = asyncio.Event()

        async def arrivals() -> None:
            while len(readers) < wanted or not over.is_set():
                for _ in range(2 * workers):
                    reader = _Passenger(line, other_line, f"call-{len(readers)}")
                    readers.append(reader)
                    options = {"tokens": tokens, "interval": interval}
                    coming = reader.generate(user_id=f"n {len(readers)}", options=options)
                    reading.append(asyncio.create_task(coming))
                await asyncio.sleep(4 * tokens * interval)

        coming = asyncio.create_task(arrivals())
        try:
            for number in range(rounds):
                here, there = number % 2, 1 - number % 2
                await asyncio.sleep(dice.uniform(0.3, 1.0))
                line.retarget(ports[there])
                other_line.retarget(ports[there])
                servers[here].process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(servers[here].process.wait, STOP_LIMIT) == 0
                await houses[here].__aexit__(None, None, None)
                houses[here] = serving("serve", tmp_path, env, port=ports[here])
                servers[here] = await houses[here].__aenter__()
                other_line.retarget(ports[here])
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
            assert reader.gaps == []
            assert reader.end is not None
            assert reader.end.name == "complete"
        assert all("Traceback" not in server.log() for server in servers)
        with closing(sqlite3.connect(servers[0].database)) as database:
            routes = dict(database.execute("SELECT route, count(*) FROM streaming_streamtask GROUP BY route"))
        assert sum(routes.values()) == len(readers), "a call that is repeated is one task"
        # Whoever changed with a good part of the text still to come saw it come, and not all at the end. (On
        # a busy machine the last third of a second may come at once.)
        changed = [reader for reader in readers if reader.left_to_read > tokens * interval / 2]
        live = [reader for reader in changed if reader.live]
        assert plan is _calm or live
        assert len(live) * 4 >= len(changed) * 3
        gaps = [gap for reader in readers for gap in reader.resume_gaps]
        figures(
            "R10",
            restarts=rounds,
            streams=len(readers),
            queued=routes["queued"],
            lost=0,
            cuts=sum(reader.cuts for reader in readers),
            live_through_the_other_process=f"{len(live)} of {len(changed)}",
            sent_away=sum(reader.sent_away for reader in readers),
            refused_with_retry_after=sum(sum(reader.refusals.values()) for reader in readers),
            resume_gap_p50=percentile(gaps, 0.5),
            resume_gap_p95=percentile(gaps, 0.95),
        )


# --- R22 ----------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("kind", SERVERS)
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
