"""Real server processes on loopback and free ports, ended by their own pid."""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent

MIGRATED = "MIGRATED_DATABASE_FOLDER"
"""Environment variable: where the processes of one test run share a migrated database."""

START_LIMIT = 60.0
STOP_LIMIT = 30.0

SECRET_KEY = secrets.token_urlsafe(48)
"""One that `serve` takes on any address."""

COMMANDS = {
    "serve": ["manage.py", "serve", "--port", "{port}"],
    "serve with two workers": ["manage.py", "serve", "--port", "{port}", "--workers", "2"],
    "uvicorn": ["-m", "uvicorn", "settings.asgi:application", "--port", "{port}", "--no-access-log"],
    "uvicorn with its access log": ["-m", "uvicorn", "settings.asgi:application", "--port", "{port}"],
    "uvicorn without an own application": [
        *("-m", "uvicorn", "streaming.asgi:application", "--port", "{port}", "--no-access-log")
    ],
    "uvicorn with quick pings": [
        *("-m", "uvicorn", "settings.asgi:application", "--port", "{port}", "--no-access-log"),
        *("--ws-ping-interval", "1", "--ws-ping-timeout", "1"),
    ],
    "uvicorn with two workers": [
        *("-m", "uvicorn", "settings.asgi:application", "--port", "{port}", "--no-access-log"),
        *("--workers", "2"),
    ],
    "daphne": ["-m", "daphne", "-p", "{port}", "settings.asgi:application"],
    "runserver": ["manage.py", "runserver", "--noreload", "127.0.0.1:{port}"],
}


class Signalled:
    """Whatever has a process, to which things are done by its own pid; it may be replaced by another one."""

    process: subprocess.Popen[bytes]

    @property
    def lives(self) -> bool:
        """Whether it runs, or is frozen."""
        return self.process.poll() is None

    def stop(self, number: int = signal.SIGTERM, seconds: float = STOP_LIMIT) -> int:
        """Signal it and wait for its end; returns the exit code. Raises `subprocess.TimeoutExpired`."""
        if self.lives:
            self.process.send_signal(number)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it as a crash would."""
        self.stop(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it answer nothing, while its connections stay (SIGSTOP)."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def limited(self, what: int, limit: int) -> Iterator[None]:
        """Take something from it (`resource.RLIMIT_…`) while it runs, and give it back."""
        before = resource.prlimit(self.process.pid, what)
        resource.prlimit(self.process.pid, what, (limit, before[1]))
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                resource.prlimit(self.process.pid, what, before)


@dataclass
class Server(Signalled):
    """A running server. `output` is the file with everything that it printed."""

    kind: str
    port: int
    process: subprocess.Popen[bytes]
    output: Path
    database: Path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """What it printed so far."""
        return self.output.read_text(errors="replace")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(folder: Path, **overrides: str) -> dict[str, str]:
    """The environment of a test server: its own database, anonymous use on loopback, no `.env`."""
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SSE_", "BUFFER_", "OPENAI_"))
        },
        "ENV_FILE": "",
        "SECRET_KEY": SECRET_KEY,
        "DEBUG": "false",
        "ALLOWED_HOSTS": "127.0.0.1,localhost",
        "ALLOW_ANONYMOUS": "loopback",
        "ALLOW_SCRIPTED_PROVIDER": "true",
        "DATABASE_URL": f"sqlite:///{folder / 'test.sqlite3'}",
        # What a test does not ask for shall not happen in its midst.
        "ALERT_INTERVAL": "0",
        "PYTHONUNBUFFERED": "1",
        # But what django-unfold's newest release does not know of Django 6.1 yet (as in pyproject.toml).
        "PYTHONWARNINGS": "default,ignore:Overriding get_action_choices:PendingDeprecationWarning",
        **overrides,
    }


def migrate(env: dict[str, str]) -> None:
    """Make all tables in the database that `env` names; that of SQLite is a copy of one migrated once."""
    url = env["DATABASE_URL"]
    if url.startswith("sqlite:"):
        shutil.copyfile(migrated(), url.removeprefix("sqlite:///"))
    else:
        _migrate(env)


@cache
def migrated() -> Path:
    """A SQLite database with all tables and no rows, to be copied. Migrating takes seconds of processor, so
    it is done once for all processes of a test run, in the folder that the first one names (`MIGRATED`)."""
    if (named := os.environ.get(MIGRATED)) is None:
        folder = Path(tempfile.mkdtemp(prefix="migrated-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    else:
        folder = Path(named)
    new, made = folder / "new", folder / "made"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            new.mkdir()
            _migrate(environment(new))
            new.rename(made)
    return made / "test.sqlite3"


def _migrate(env: dict[str, str]) -> None:
    command = [sys.executable, "manage.py", "migrate", "-v", "0"]
    subprocess.run(command, cwd=ROOT, env=env, check=True, timeout=START_LIMIT)


@contextmanager
def running(kind: str, folder: Path, **overrides: str) -> Iterator[Server]:
    """A server of `kind` (a key of COMMANDS) with a fresh database in `folder`; stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    env = environment(folder, **overrides)
    migrate(env)
    with started(kind, folder, env) as server:
        yield server


@contextmanager
def started(
    kind: str, folder: Path, env: dict[str, str], project: Path = ROOT, port: int | None = None
) -> Iterator[Server]:
    """A server over a database that exists already, of the project with its `manage.py` in `project`; at
    `port`, or at any that is free."""
    port = free_port() if port is None else port
    output = folder / f"{kind.split()[0]}-{port}.log"
    command = [sys.executable, *(piece.format(port=port) for piece in COMMANDS[kind])]
    with output.open("ab") as log:
        process = subprocess.Popen(command, cwd=project, env=env, stdout=log, stderr=subprocess.STDOUT)
    server = Server(kind, port, process, output, folder / "test.sqlite3")
    try:
        _wait_until_it_answers(server)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_LIMIT)


@contextmanager
def side_by_side(folder: Path, env: dict[str, str]) -> Iterator[tuple[Server, Server]]:
    """Two servers that start at the same time."""
    houses = [started("serve", folder, env) for _ in range(2)]
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        for house in houses:
            stack.push(house)
        one, other = threads.map(lambda house: house.__enter__(), houses)
        yield one, other


@asynccontextmanager
async def serving(*arguments: Any, **options: Any) -> AsyncIterator[Server]:
    """`started`, for tests whose event loop has to go on meanwhile."""
    house = started(*arguments, **options)
    server = await asyncio.to_thread(house.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(house.__exit__, None, None, None)


def _wait_until_it_answers(server: Server) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"{server.kind} ended at its start:\n{server.log()}")
        try:
            with urllib.request.urlopen(f"{server.url}/healthz", timeout=5):  # noqa: S310 (our own)
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise RuntimeError(f"{server.kind} did not answer:\n{server.log()}")
