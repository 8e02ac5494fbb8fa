"""How soon a cell's output is with its reader, how soon a kernel is ready, and how soon a dead one is told.

A real `manage.py serve` with real kernels. A cell prints the time each 50 ms; what is measured is how long
after that each line is with the client, over HTTP. In turn, so that what the machine does meanwhile falls on
all alike: the kernel as shipped, the same kernel with ipykernel's own interval for collecting output (0.2 s),
and a kernel of `jupyter_client` alone, without a server, with either interval. Besides: from a call to the
first line of a notebook that has no kernel yet, with and without one that was started beforehand; and from
`kill -9` of a kernel to the event that says so.

    .venv/bin/python -m benchmarks.notebooks [--repetitions 5] [--seconds 5]

A cell that does not end as it should ends the benchmark with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx2
from jupyter_client.manager import AsyncKernelManager

from benchmarks.machine import machine, versions
from notebooks.kernels.launch import OnlySpec
from tests.support.client import Reading, client, read_events, read_stream
from tests.support.servers import ROOT, Server, environment, migrate, started

RESULT: Final = ROOT / "benchmarks" / "results" / "notebooks.json"

OPERATION: Final = "/send_operation"

INTERVAL: Final = 0.05
"""Seconds between two lines of a cell."""

IPYKERNELS_INTERVAL: Final = 0.2
"""Seconds that ipykernel collects output by itself."""

OUR_INTERVAL: Final = 0.02
"""The same, as `notebooks/kernels/program.py` sets it."""

LINES: Final = (
    "import time\nfor _ in range({lines}):\n    print(repr(time.monotonic()))\n    time.sleep({interval})\n"
)

COLLECT: Final = "import sys\nsys.stdout.flush_interval = {seconds}\n"

WAYS: Final = ("shipped", "server, 0.2 s", "jupyter_client, 0.02 s", "jupyter_client, 0.2 s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measured cell")
    arguments = parser.parse_args()
    before = machine()
    found = asyncio.run(_measure(arguments.repetitions, round(arguments.seconds / INTERVAL)))
    result = {
        "what": "milliseconds until output, kernels and their ends are with a client",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": before,
        "load_average_after": os.getloadavg(),
        "versions": versions(
            ("django", "uvicorn", "uvloop", "ipykernel", "ipython", "jupyter-client", "pyzmq")
        ),
        "repetitions": arguments.repetitions,
        "lines_each": round(arguments.seconds / INTERVAL),
        "interval_s": INTERVAL,
        "lateness": {way: _summary(runs) for way, runs in found["lateness"].items()},
        **{name: _summary([runs]) for name, runs in found.items() if name != "lateness"},
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    _print(result)


async def _measure(repetitions: int, lines: int) -> dict[str, Any]:
    """Seconds: by way and repetition, and of starts and ends."""
    lateness: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    found: dict[str, Any] = {"lateness": lateness, "cold": [], "prestarted": [], "died": []}
    with tempfile.TemporaryDirectory() as folder:
        env = environment(Path(folder), KERNELS_ENABLED="true")
        migrate(env)
        key = _key(env)
        with (
            started("serve", Path(folder), env) as cold,
            started("serve", Path(folder), env | {"KERNEL_PRESTARTED": "1"}) as prepared,
        ):
            house = _House(cold, key)
            ready = _House(prepared, key)
            for repetition in range(repetitions):
                async with house.notebook() as cell:
                    found["cold"].append(await _first_line(cell))
                    lateness["shipped"].append(await _lateness(cell, lines))
                    await _run(cell, COLLECT.format(seconds=IPYKERNELS_INTERVAL))
                    lateness["server, 0.2 s"].append(await _lateness(cell, lines))
                    found["died"].append(await _death(cell))
                await _until_ready(prepared)
                async with ready.notebook() as cell:
                    found["prestarted"].append(await _first_line(cell))
                for way, seconds in zip(WAYS[2:], (OUR_INTERVAL, IPYKERNELS_INTERVAL), strict=True):
                    lateness[way].append(await _without_a_server(lines, seconds))
                print(f"repetition {repetition + 1} of {repetitions}", file=sys.stderr)
    return found


class _House:
    """A server, and new notebooks in it."""

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key
        self._number = 0

    @asynccontextmanager
    async def notebook(self) -> AsyncIterator[_Cells]:
        """One that has no kernel yet; its kernel ends with it."""
        self._number += 1
        async with client(self._server.url, headers={"Authorization": f"Bearer {self._key}"}) as http:
            # So that the first call does not pay for the connection.
            (await http.get("/healthz")).raise_for_status()
            cells = _Cells(http, f"measured-{self._number}")
            yield cells
            await cells.operation(type="shutdown")


class _Cells:
    """The cells of a notebook."""

    def __init__(self, http: httpx2.AsyncClient, notebook: str) -> None:
        self.http = http
        self._notebook = notebook

    def body(self, **operation: Any) -> dict[str, Any]:
        return {"notebook_id": self._notebook, "operation": operation, "lang": "en"}

    async def operation(self, **operation: Any) -> Reading:
        reading = await read_stream(self.http, "POST", OPERATION, json=self.body(**operation))
        if reading.response.status_code != 200:
            raise RuntimeError(f"{operation}: {reading.response.text}")
        return reading


async def _run(cells: _Cells, code: str) -> Reading:
    reading = await cells.operation(type="execute", code=code)
    if reading.end.name != "complete" or reading.end.data["finish_reason"] != "stop":
        raise RuntimeError(f"a cell ended with {reading.end}")
    return reading


async def _first_line(cells: _Cells) -> float:
    began = time.monotonic()
    reading = await _run(cells, "print(1)")
    return reading.named("content")[0].at - began


async def _lateness(cells: _Cells, lines: int) -> list[float]:
    reading = await _run(cells, LINES.format(lines=lines, interval=INTERVAL))
    late = [
        event.at - float(line) for event in reading.named("content") for line in event.data["delta"].split()
    ]
    if len(late) != lines:
        raise RuntimeError(f"{len(late)} lines came of {lines}")
    return late


async def _death(cells: _Cells) -> float:
    """From the signal to the event."""
    code = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    killed = 0.0
    body = cells.body(type="execute", code=code)
    async with cells.http.stream("POST", OPERATION, json=body) as response:
        response.raise_for_status()
        async for event in read_events(response):
            if event.name == "content":
                killed = time.monotonic()
                os.kill(int(event.data["delta"]), signal.SIGKILL)
            if event.name == "error" and event.data["code"] == "kernel_died":
                return event.at - killed
    raise RuntimeError("a killed kernel was not told")


async def _without_a_server(lines: int, seconds: float) -> list[float]:
    """The lateness of a kernel's output for whoever reads its sockets."""
    manager = AsyncKernelManager(
        kernel_spec_manager=OnlySpec([sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    )
    await manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kernel = manager.client()
    kernel.start_channels()
    late: list[float] = []

    def heard(message: dict[str, Any]) -> None:
        now = time.monotonic()
        if message["msg_type"] == "stream":
            late.extend(now - float(line) for line in message["content"]["text"].split())

    try:
        await kernel.wait_for_ready(timeout=60)
        await kernel.execute_interactive(COLLECT.format(seconds=seconds))
        await kernel.execute_interactive(
            LINES.format(lines=lines, interval=INTERVAL), output_hook=heard, allow_stdin=False
        )
    finally:
        kernel.stop_channels()
        await manager.shutdown_kernel(now=True)
    if len(late) != lines:
        raise RuntimeError(f"{len(late)} lines came of {lines}")
    return late


async def _until_ready(server: Server) -> None:
    """Until the kernel that nobody has asked for has started, and the machine is calm again."""
    for _ in range(500):
        if await asyncio.to_thread(_has_kernels, server):
            await asyncio.sleep(2)
            return
        await asyncio.sleep(0.05)
    raise RuntimeError("no kernel was started beforehand")


def _has_kernels(server: Server) -> bool:
    done = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=False
    )
    return "ipykernel_launcher" in done.stdout


def _key(env: dict[str, str]) -> str:
    """The key of the only user, who may do everything."""
    for command in (
        ("createsuperuser", "--noinput", "--username", "measured", "--email", "measured@example.org"),
        ("create_api_key", "measured"),
    ):
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=ROOT,
            env=env | {"DJANGO_SUPERUSER_PASSWORD": "of-no-use-to-anybody"},
            check=True,
            capture_output=True,
            text=True,
        )
    return done.stdout.strip()


def _summary(runs: list[list[float]]) -> dict[str, Any]:
    """Over all repetitions in milliseconds, and the median of each."""
    every = sorted(1000 * seconds for run in runs for seconds in run)
    cuts = statistics.quantiles(every, n=100, method="inclusive")
    return {
        "measured": len(every),
        "p50_ms": round(statistics.median(every), 1),
        "p95_ms": round(cuts[94], 1),
        "max_ms": round(every[-1], 1),
        "p50_ms_by_repetition": [round(1000 * statistics.median(run), 1) for run in runs],
    }


def _print(result: dict[str, Any]) -> None:
    print(f"{'':44} {'median':>8} {'p95':>8} {'most':>8}  ms")
    rows = {f"a line is late: {way}": row for way, row in result["lateness"].items()}
    rows |= {
        "to the first line, no kernel yet": result["cold"],
        "to the first line, a kernel beforehand": result["prestarted"],
        "from kill -9 to kernel_died": result["died"],
    }
    for name, row in rows.items():
        print(f"{name:44} {row['p50_ms']:8.1f} {row['p95_ms']:8.1f} {row['max_ms']:8.1f}")


if __name__ == "__main__":
    main()
