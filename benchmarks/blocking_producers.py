"""What five busy blocking producers do to the pace of an asynchronous stream in the same process.

A real `manage.py serve`; an asynchronous stream of one event each 20 ms is read alone and beside five
blocking streams, in turn, so that what the machine does meanwhile falls on all alike. A gap is the time
between two events as the server handed them over (`?timing=1`), so the reader's own slowness is not in
it. The same again with CPython's default switch interval, for contrast.

    .venv/bin/python -m benchmarks.blocking_producers [--repetitions 5] [--seconds 3]

A stream that does not end whole, or neighbours that end early, end the benchmark with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx2

from benchmarks.machine import machine, versions
from tests.support.client import STREAM, brief, client, read_stream
from tests.support.servers import COMMANDS, ROOT, Server, environment, migrate, started

RESULT: Final = ROOT / "benchmarks" / "results" / "blocking_producers.json"

NEIGHBOURS: Final = 5
INTERVAL: Final = 0.02

# Script options of the five neighbours. Seconds between tokens; milliseconds of pure Python a token.
LOADS: Final[dict[str, dict[str, float] | None]] = {
    "alone": None,
    "half a processor": {"interval": 0.01, "burn": 1},
    "a whole processor": {"interval": 0.005, "burn": 1},
    "more than there is": {"interval": 0.001, "burn": 2},
}

DEFAULT_SWITCH: Final = (
    "import sys, streaming.runtime.switch_interval as threads; threads.SWITCH_INTERVAL = 1.0;"
    "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'settings.settings';"
    "from django.core.management import execute_from_command_line as run; run(['manage.py', *sys.argv[1:]])"
)

SERVERS: Final = {
    "as shipped (0.5 ms, shared)": "serve",
    "CPython's default (5 ms)": "serve, default switch interval",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measured stream")
    arguments = parser.parse_args()
    COMMANDS[SERVERS["CPython's default (5 ms)"]] = ["-c", DEFAULT_SWITCH, "serve", "--port", "{port}"]
    gaps = asyncio.run(_measure(arguments.repetitions, round(arguments.seconds / INTERVAL)))
    result = {
        "what": "milliseconds between events of an asynchronous stream of one event each 20 ms",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "repetitions": arguments.repetitions,
        "events_each": round(arguments.seconds / INTERVAL),
        "neighbours": NEIGHBOURS,
        "loads": LOADS,
        "results": {
            server: {load: _summary(runs) for load, runs in by_load.items()}
            for server, by_load in gaps.items()
        },
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    _print(result)


async def _measure(repetitions: int, tokens: int) -> dict[str, dict[str, list[list[float]]]]:
    """Gaps in seconds by server, load and repetition."""
    gaps: dict[str, dict[str, list[list[float]]]] = {
        server: {load: [] for load in LOADS} for server in SERVERS
    }
    with tempfile.TemporaryDirectory() as folder:
        # One event for each token, so that the pace is the producer's and not the coalescer's.
        env = environment(Path(folder), AGENT_POOL_MAX_WORKERS="10", BUFFER_FLUSH_CHARS="1")
        migrate(env)
        with (
            started(SERVERS["as shipped (0.5 ms, shared)"], Path(folder), env) as shipped,
            started(SERVERS["CPython's default (5 ms)"], Path(folder), env) as contrast,
        ):
            servers = dict(zip(SERVERS, (shipped, contrast), strict=True))
            for repetition in range(repetitions):
                for load in LOADS:
                    for name, server in servers.items():
                        gaps[name][load].append(await _one(server, load, tokens))
                print(f"repetition {repetition + 1} of {repetitions}", file=sys.stderr)
    return gaps


async def _one(server: Server, load: str, tokens: int) -> list[float]:
    """Read the asynchronous stream once under a load. Raises when anything is not as it should be."""
    async with client(server.url) as http:
        options = LOADS[load]
        neighbours = (
            []
            if options is None
            else [asyncio.create_task(_neighbour(http, number, options)) for number in range(NEIGHBOURS)]
        )
        try:
            await _until_running(http, len(neighbours))
            await asyncio.sleep(0.5)
            members = brief(user_id="measured", options={"tokens": tokens, "interval": INTERVAL})
            reading = await read_stream(http, "POST", f"{STREAM}?timing=1", json=members)
            ended = [each for each in neighbours if each.done()]
            if ended:
                raise RuntimeError(f"{load}: a neighbour ended early: {ended[0]}")
        finally:
            for neighbour in neighbours:
                neighbour.cancel()
            await asyncio.gather(*neighbours, return_exceptions=True)
        if reading.end.name != "complete" or reading.text != "".join(f"{k} " for k in range(tokens)):
            raise RuntimeError(f"{load}: the measured stream ended with {reading.end}")
        await _until_running(http, 0)
    moments = [event.data["sent_at"] for event in reading.named("content")]
    if len(moments) < tokens / 2:
        raise RuntimeError(f"{load}: only {len(moments)} events for {tokens} tokens")
    return [later - earlier for earlier, later in pairwise(moments)]


async def _neighbour(http: httpx2.AsyncClient, number: int, options: dict[str, float]) -> None:
    """Read a blocking stream without looking at it, until cancelled."""
    script = {"tokens": 1_000_000, "blocking": True, **options}
    members = brief(user_id=f"neighbour {number}", on_disconnect="cancel", options=script)
    async with http.stream("POST", STREAM, json=members) as response:
        response.raise_for_status()
        async for _ in response.aiter_raw():
            pass
    raise RuntimeError("a neighbour's stream ended")


async def _until_running(http: httpx2.AsyncClient, wanted: int) -> None:
    running = -1
    for _ in range(500):
        running = (await http.get("/stats")).json()["pools"]["agent_pool"]["running"]
        if running == wanted:
            return
        await asyncio.sleep(0.02)
    raise RuntimeError(f"{running} tasks run, not {wanted}")


def _summary(runs: list[list[float]]) -> dict[str, Any]:
    """Percentiles over all repetitions in milliseconds, and the median of each repetition's own p99."""
    every = sorted(1000 * gap for run in runs for gap in run)
    cuts = statistics.quantiles(every, n=100)
    return {
        "gaps": len(every),
        "p50_ms": round(cuts[49], 2),
        "p95_ms": round(cuts[94], 2),
        "p99_ms": round(cuts[98], 2),
        "max_ms": round(every[-1], 2),
        "p99_ms_by_repetition": [round(1000 * statistics.quantiles(run, n=100)[98], 2) for run in runs],
    }


def _print(result: dict[str, Any]) -> None:
    names = ("p50", "p95", "p99", "max")
    print(f"{'switch interval':26} {'five blocking producers':24}", *(f"{name:>8}" for name in names), " ms")
    for server, by_load in result["results"].items():
        for load, row in by_load.items():
            numbers = " ".join(f"{row[f'{name}_ms']:8.2f}" for name in names)
            print(f"{server:26} {load:24} {numbers}")


if __name__ == "__main__":
    main()
