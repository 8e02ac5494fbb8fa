"""`python -m tests.soak`: see the package. The exit code is 1 if anything grew, was left or was lost."""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from tests.support.servers import Server, environment, migrate, serving
from tests.support.wire import ask

from .levels import MEGABYTE, Allowed, Level, grown, left_behind, slope
from .load import INTERVAL, Load

LOOK: Final = 2.0
"""Seconds between two looks at the process."""

TELL: Final = 30.0
"""Seconds between two lines that say how it stands."""

GRACE: Final = 2.0
REPLAY: Final = 20.0
"""Seconds that tasks outlive their readers, and their ends: short, so that a level is reached soon."""

SETTLE: Final = GRACE + REPLAY + 10.0
"""Seconds after which nothing of a load that is over may be left."""

TOLD: Final = 20
"""Faults that are told, at most."""

CROWD: Final = 40
"""Streams at once, and callers a second, of the warm-up."""

PEAK: Final = 2.0
"""Times the load that is judged, before it. An allocator keeps what its fullest moment took, in pools with
a few objects each, and the number of streams varies by chance: without a fuller moment before it, each new
maximum under a steady load would look like something that grows."""

ROOM: Final = 3.0
"""Workers for each stream that shall be open at once: a soak is no test of the queue."""


def main() -> int:
    """Run what the command line asks for."""
    options = _parser().parse_args()
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=options.keep))
    print(
        f"seed {options.seed}, {options.streams} streams, {options.joins:g} joins/s, "
        f"{options.faults:.0%} faults, {options.seconds:.0f} s; log in {folder}",
        flush=True,
    )
    workers = round(options.streams * ROOM)
    env = environment(
        folder,
        AGENT_POOL_MAX_WORKERS=str(workers),
        AGENT_POOL_PER_OWNER="10",
        SSE_DISCONNECT_GRACE=str(GRACE),
        SSE_REPLAY_TTL=str(REPLAY),
        SSE_CLEANUP_INTERVAL="1",
    )
    migrate(env)
    dice = random.Random(options.seed)
    async with serving("serve", folder, env) as server:
        watch = _Watch(server)
        load = Load(server.port, options.streams, options.joins, options.faults, dice)
        # So long it takes until as many streams are open, and as many kept, as there will be.
        rise = load.tokens * INTERVAL + REPLAY
        # What is kept up to a bound (of who asked, and what) is full after some thousand callers.
        crowd = Load(server.port, CROWD, CROWD, options.faults, dice, "crowd")
        await crowd.run(options.warm_up)
        peak = Load(server.port, PEAK * options.streams, PEAK * options.joins, options.faults, dice, "peak")
        await peak.run(rise)
        load.violations += crowd.violations + peak.violations
        before = await _at_rest(watch)
        begun = time.monotonic()
        watching = asyncio.create_task(watch.look_until_cancelled(lambda: _standing(load)))
        await load.run(rise + options.seconds)
        watching.cancel()
        await asyncio.wait([watching])
        steady = [each for each in watch.levels if rise <= each.at - before.at <= rise + options.seconds]
        after = await _at_rest(watch)
        took = time.monotonic() - begun
        log = server.log()
    return _verdict(options, load, steady, before, after, took, log)


async def _at_rest(watch: _Watch) -> Level:
    """The level when everything of the load is over, or could be."""
    await asyncio.sleep(SETTLE)
    return await watch.look()


def _standing(load: Load) -> str:
    done = ", ".join(f"{name} {count}" for name, count in sorted(load.done.items()))
    return f"{len(load.violations)} violations; {done}"


class _Watch:
    """Looks at a server's process from outside, and at what it says of itself."""

    def __init__(self, server: Server) -> None:
        self._port = server.port
        self._process = psutil.Process(server.process.pid)
        self._begun = time.monotonic()
        self.levels: list[Level] = []

    async def look(self) -> Level:
        """The level now."""
        said = await ask(self._port, "/stats")
        process = self._process
        with process.oneshot():
            # One of the connections is that of the question.
            return Level(
                at=time.monotonic() - self._begun,
                memory=process.memory_info().rss,
                threads=process.num_threads(),
                files=process.num_fds(),
                connections=len(process.net_connections("tcp")),
                tasks=sum(pool["running"] + pool["waiting"] for pool in said["pools"].values()),
                readers=said["followers"],
                lag=said["loop_lag_seconds"],
            )

    async def look_until_cancelled(self, standing: Callable[[], str]) -> None:
        """Note the level every few seconds, and tell it now and then."""
        told = time.monotonic()
        while True:
            level = await self.look()
            self.levels.append(level)
            if time.monotonic() - told >= TELL:
                told = time.monotonic()
                print(f"{_line(level)}; {standing()}", flush=True)
            await asyncio.sleep(LOOK)


def _line(level: Level) -> str:
    return (
        f"{level.at:6.0f} s  {level.memory / MEGABYTE:6.1f} MB  {level.threads} threads  "
        f"{level.files} files  "
        f"{level.connections} connections  {level.tasks} tasks  {level.readers} readers  "
        f"lag {level.lag:.3f} s"
    )


def _verdict(
    options: argparse.Namespace,
    load: Load,
    steady: list[Level],
    before: Level,
    after: Level,
    took: float,
    log: str,
) -> int:
    allowed = Allowed(memory=options.slope * MEGABYTE)
    lags = sorted(level.lag for level in steady)
    late = lags[int(len(lags) * 0.99)] if lags else 0.0
    wrong = [*load.violations, *left_behind(before, after, allowed), *grown(steady, allowed)]
    if late > options.lag:
        wrong.append(f"the event loop was late by {late:.3f} s (p99 of looks), {options.lag:g} s are allowed")
    if "Traceback" in log:
        wrong.append(f"the log has a traceback: {log[log.index('Traceback') :][:2000]}")
    print(f"before {_line(before)}\nafter  {_line(after)}")
    print(
        f"{sum(load.done.values()):,} clients in {took:.0f} s, "
        f"{slope(steady) / MEGABYTE:+.2f} MB in ten minutes, lag p99 {late:.3f} s; "
        f"{_standing(load)}; seed {options.seed}"
    )
    for each in wrong[:TOLD]:
        print(f"WRONG: {each}")
    if len(wrong) > TOLD:
        print(f"and {len(wrong) - TOLD} more")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of the load that is judged (600)")
    parser.add_argument(
        "--warm-up", type=float, default=60.0, help="seconds of many short streams before it (60)"
    )
    parser.add_argument("--streams", type=int, default=200, help="at once, about (200)")
    parser.add_argument("--joins", type=float, default=5.0, help="clients that come each second (5)")
    parser.add_argument("--faults", type=float, default=0.1, help="share of clients who misbehave (0.1)")
    parser.add_argument(
        "--slope", type=float, default=1.0, help="megabytes to be gained in ten minutes at most (1)"
    )
    parser.add_argument(
        "--lag", type=float, default=0.25, help="seconds by which the loop may be late, p99 (0.25)"
    )
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(1_000_000), help="of a run to be repeated"
    )
    parser.add_argument("--keep", help="an existing folder for logs and databases")
    return parser


if __name__ == "__main__":
    sys.exit(main())
