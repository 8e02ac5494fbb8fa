"""Peers as server processes on one processor core, and what they cost: processor time and memory."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

START_LIMIT: Final = 30.0
STOP_LIMIT: Final = 15.0

RESTING: Final = 0.05
"""Share of a core that servers use at most when they have nothing to do."""

REST_LIMIT: Final = 10.0

OPEN_FILES: Final = 65_536

UVICORN: Final = (
    *("-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop", "--http", "httptools"),
    *("--lifespan", "off", "--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "75"),
    *("--timeout-graceful-shutdown", "1", "--backlog", "2048", "--no-proxy-headers", "--no-server-header"),
)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """How a peer is started and asked.

    `prepare` makes what its database needs and returns the headers with which a client is known there.
    `members` go into the body of the request, `options` into its script. `coalesces`: an event may wait
    for more tokens. `polls`: a start takes so long that few are measured.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path, dict[str, str]], dict[str, str]] = lambda folder, environment: {}
    members: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    keeps_alive: bool = True
    coalesces: bool = False
    polls: bool = False


@dataclass
class Server:
    """A running peer. `headers` make its client known."""

    peer: Peer
    port: int
    process: subprocess.Popen[bytes]
    output: Path
    headers: dict[str, str]

    def cpu_seconds(self) -> float:
        """User and system time of the process and its children, ended ones included."""
        return sum(_cpu_seconds(pid) for pid in self._tree())

    def pss_kib(self) -> int:
        """Memory of the process and its children; what is shared is counted in shares."""
        return sum(_pss_kib(pid) for pid in self._tree())

    def log(self) -> str:
        """The last of what it printed."""
        return self.output.read_text(errors="replace")[-2000:]

    def _tree(self) -> list[int]:
        pids = [self.process.pid]
        for pid in pids:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                pids += map(int, _read(children).split())
        return pids


@contextmanager
def started(peer: Peer, core: int | None) -> Iterator[Server]:
    """The peer's server, on a free port, from its first answer to its end. Raises `RuntimeError`."""
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{peer.name}-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        environment = _environment(peer, folder)
        headers = peer.prepare(folder, environment)
        port = _free_port()
        output = folder / "output.log"
        with output.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *(piece.format(port=port) for piece in peer.command)],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: _in_the_child(core),
            )
        server = Server(peer, port, process, output, headers)
        _wait_until_it_listens(server)
        yield server
    finally:
        if process is not None:
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def rest(servers: Sequence[Server]) -> None:
    """Wait until the servers have nothing to do any more (records are written behind), but not for ever."""
    deadline = time.monotonic() + REST_LIMIT
    while time.monotonic() < deadline:
        before = sum(server.cpu_seconds() for server in servers)
        time.sleep(0.1)
        if sum(server.cpu_seconds() for server in servers) - before < 0.1 * RESTING:
            return


def _environment(peer: Peer, folder: Path) -> dict[str, str]:
    passed = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
    return {
        **{name: os.environ[name] for name in passed if name in os.environ},
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        **{name: value.format(folder=folder) for name, value in peer.environment.items()},
    }


def _in_the_child(core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_listens(server: Server) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"{server.peer.name} ended at its start:\n{server.log()}")
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{server.peer.name} does not listen:\n{server.log()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _cpu_seconds(pid: int) -> float:
    """From the process's own clock, in ns; /proc/<pid>/stat counts in steps of 10 ms only."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)
    except OSError:
        fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12]) if fields else 0
        return ticks / os.sysconf("SC_CLK_TCK")


def _pss_kib(pid: int) -> int:
    for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
