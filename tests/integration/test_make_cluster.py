"""`make cluster`: everything starts, is found behind one address, and ends when told."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.support.cluster import missing
from tests.support.scale import ALL
from tests.support.servers import ROOT, environment, free_port

pytestmark = pytest.mark.server

PATIENCE = 120.0

EACH = 2 if ALL else 1
"""Webs, and workers: by default two."""


@dataclass
class Shown:
    """A cluster that runs, and what it says of itself."""

    process: subprocess.Popen[bytes]
    output: Path
    url: str

    def says(self) -> str:
        """All that it has printed so far."""
        return self.output.read_text(errors="replace")

    def until(self, pattern: str) -> bool:
        """Wait until a line begins so, or it has ended."""
        deadline = time.monotonic() + PATIENCE
        line = re.compile(pattern, re.MULTILINE)
        while not line.search(self.says()) and time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.05)
        return line.search(self.says()) is not None


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Shown]:
    if absent := missing():
        pytest.skip(absent)
    output, port = tmp_path / "output", free_port()
    with output.open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "scripts/cluster.py",
                *(() if ALL else ("--web", str(EACH), "--workers", str(EACH))),
            ],
            cwd=ROOT,
            env=environment(tmp_path, PORT=str(port)),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    made = Shown(process, output, f"http://127.0.0.1:{port}")
    try:
        yield made
    finally:
        # It ends its own; killed it would leave them.
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.timeout(300)
def test_it_starts_serves_shows_and_ends(shown: Shown) -> None:
    assert shown.until(r"^cluster: call .* Ctrl-C ends all"), shown.says()
    numbers = re.findall(r"^  (\w+(?: \d)?) +pid (\d+)", shown.says(), re.MULTILINE)
    pids = {name: int(number) for name, number in numbers}
    nodes = [f"{kind} {number}" for kind in ("web", "worker") for number in range(1, EACH + 1)]
    assert set(pids) == {"postgresql", "redis", "nginx", *nodes}
    assert all(psutil.pid_exists(pid) for pid in pids.values())

    for _ in range(EACH):
        assert httpx2.get(f"{shown.url}/readyz", trust_env=False, timeout=PATIENCE).status_code == 200
    for name in nodes[:EACH]:
        assert shown.until(rf"^{name} +\| .*path=/readyz"), "they take turns"

    # Who comes through a proxy is no operator.
    web = re.findall(r"^  web 1 .*(http://\S+)$", shown.says(), re.MULTILINE)[0]
    deadline = time.monotonic() + PATIENCE
    found: set[int] = set()
    while len(found) < len(nodes) and time.monotonic() < deadline:
        statistics = httpx2.get(f"{web}/stats", trust_env=False, timeout=PATIENCE).json()
        found = {process["pid"] for process in statistics["processes"]}
    assert found == {pids[name] for name in nodes}

    psutil.Process(pids["worker 1"]).kill()
    assert shown.until(r"^cluster: worker 1 ended \(-9\); it is not restarted")

    shown.process.send_signal(signal.SIGTERM)
    assert shown.process.wait(PATIENCE) == 0
    assert shown.says().endswith("cluster: ended\n")
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
