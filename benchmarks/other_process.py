"""What it costs to follow and to cancel a stream through another process than the one that runs it.

Two real `manage.py serve` on one database. A stream of one event each 50 ms is read through its owner and,
in turn, through the other process; an event's lateness is the time from the moment at which it was due by the
producer's pace (anchored at the earliest event of that stream seen through its owner) to its arrival at the
reader. Both readers of one stream read at the same time, so that what the machine does falls on both alike.
A cancel is timed from the call to its answer, which comes once the end is durable.

    .venv/bin/python -m benchmarks.other_process [--repetitions 6] [--seconds 4]

PostgreSQL is left out where it is not installed. A stream that does not end whole ends the benchmark.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx2

from benchmarks.machine import machine, versions
from tests.support.client import brief, client, read_stream
from tests.support.postgresql import cluster, find_programs
from tests.support.servers import ROOT, Server, environment, migrate, started

RESULT: Final = ROOT / "benchmarks" / "results" / "other_process.json"

LATER: Final = "/content/generate/async"

INTERVAL: Final = 0.05

THROUGH: Final = ("the owner", "another process")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measured stream")
    arguments = parser.parse_args()
    measured = asyncio.run(_measure(arguments.repetitions, round(arguments.seconds / INTERVAL)))
    result = {
        "what": "milliseconds by which events are late, and that a cancel takes",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "repetitions": arguments.repetitions,
        "events_each": round(arguments.seconds / INTERVAL),
        "results": {
            database: {
                what: {through: _summary(values) for through, values in by_process.items()}
                for what, by_process in numbers.items()
            }
            for database, numbers in measured.items()
        },
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    _print(result)


_Numbers = dict[str, dict[str, list[float]]]


async def _measure(repetitions: int, tokens: int) -> dict[str, _Numbers]:
    """Seconds by database, what, and process. The databases take turns."""
    names = ["SQLite", *(["PostgreSQL"] if find_programs() else [])]
    measured: dict[str, _Numbers] = {
        name: {what: {through: [] for through in THROUGH} for what in ("lateness", "cancel")}
        for name in names
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        pairs = {name: stack.enter_context(_pair(name, Path(folder) / name)) for name in names}
        for repetition in range(repetitions):
            for name, pair in pairs.items():
                # Each of the two is the owner in turn.
                owner, other = pair if repetition % 2 else pair[::-1]
                await _one_stream(owner, other, tokens, measured[name]["lateness"])
                for _ in range(5):
                    for through, server in zip(THROUGH, (owner, other), strict=True):
                        measured[name]["cancel"][through].append(await _one_cancel(owner, server))
            print(f"repetition {repetition + 1} of {repetitions}", file=sys.stderr)
    return measured


@contextmanager
def _pair(database: str, folder: Path) -> Iterator[tuple[Server, Server]]:
    folder.mkdir()
    # One event for each token, so that the pace is the producer's and not the coalescer's.
    settings = {"AGENT_POOL_MAX_WORKERS": "10", "BUFFER_FLUSH_CHARS": "1"}
    with ExitStack() as stack:
        if database == "PostgreSQL":
            settings["DATABASE_URL"] = stack.enter_context(cluster()).migrated()
        env = environment(folder, **settings)
        if database == "SQLite":
            migrate(env)
        yield (
            stack.enter_context(started("serve", folder, env)),
            stack.enter_context(started("serve", folder, env)),
        )


async def _one_stream(owner: Server, other: Server, tokens: int, lateness: dict[str, list[float]]) -> None:
    """Read one stream through both at the same time. Raises when anything is not as it should be."""
    async with client(owner.url) as here, client(other.url) as there:
        task_id = await _begun(here, tokens)
        readers = (read_stream(http, "GET", f"/streams/{task_id}/events") for http in (here, there))
        readings = await asyncio.gather(*readers)
    arrivals: list[dict[int, float]] = []
    for reading in readings:
        if reading.end.name != "complete" or reading.text != "".join(f"{k} " for k in range(tokens)):
            raise RuntimeError(f"a stream ended with {reading.end}")
        # An event that is merged with others stands for all since the one before it.
        came: dict[int, float] = {}
        for event in reading.named("content"):
            for number in range(len(came) + 1, int(event.id) + 1):
                came[number] = event.at
        arrivals.append(came)
    begun = min(at - number * INTERVAL for number, at in arrivals[0].items())
    for through, came in zip(THROUGH, arrivals, strict=True):
        # Those that were there before the readers were are no news.
        lateness[through] += [at - begun - number * INTERVAL for number, at in came.items() if number > 10]


async def _one_cancel(owner: Server, through: Server) -> float:
    async with client(owner.url) as here, client(through.url) as there:
        task_id = await _begun(here, 10_000)
        # Somewhere in its life, and in the seconds of the looks.
        await asyncio.sleep(0.3 + 0.5 * (time.monotonic() % 1))
        began = time.monotonic()
        record = (await there.delete(f"/streams/{task_id}")).json()
        took = time.monotonic() - began
    if record["state"] != "cancelled":
        raise RuntimeError(f"a cancelled stream is {record['state']}")
    return took


async def _begun(http: httpx2.AsyncClient, tokens: int) -> str:
    members = brief(user_id="measured", options={"tokens": tokens, "interval": INTERVAL})
    response = await http.post(LATER, json=members)
    response.raise_for_status()
    task_id: str = response.json()["task_id"]
    return task_id


def _summary(values: list[float]) -> dict[str, Any]:
    """Percentiles in milliseconds."""
    every = sorted(1000 * value for value in values)
    cuts = statistics.quantiles(every, n=100, method="inclusive")
    names = {"p50_ms": cuts[49], "p95_ms": cuts[94], "p99_ms": cuts[98], "max_ms": every[-1]}
    return {"count": len(every), **{name: round(value, 1) for name, value in names.items()}}


def _print(result: dict[str, Any]) -> None:
    names = ("p50", "p95", "p99", "max")
    print(f"{'database':12} {'what':10} {'through':18}", *(f"{name:>8}" for name in names), " ms")
    for database, by_what in result["results"].items():
        for what, by_process in by_what.items():
            for through, row in by_process.items():
                numbers = " ".join(f"{row[f'{name}_ms']:8.1f}" for name in names)
                print(f"{database:12} {what:10} {through:18} {numbers}")


if __name__ == "__main__":
    main()
