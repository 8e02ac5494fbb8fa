"""A PostgreSQL of the tests' own: a cluster in a temporary folder, on a free loopback port, without fsync.

The fixture `postgresql` (tests/conftest.py) is one; its `migrated()` gives the DATABASE_URL of a new database
with all tables, `database()` that of an empty one.
PostgreSQL refuses to run as root, so root runs it as the user `postgres` or `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg

from tests.support.servers import STOP_LIMIT, Signalled, environment, free_port, migrate

INSTALL: Final = "PostgreSQL is not here: sudo apt-get install postgresql"

START_LIMIT: Final = 60.0

OPTIONS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # The cluster lives as long as the tests: what a crash of the machine would lose does not matter.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
}


def find_programs() -> Path | None:
    """Where `initdb` and `postgres` are: on PATH, or the newest of Debian's; None if nowhere."""
    if (found := shutil.which("initdb")) and shutil.which("postgres"):
        return Path(found).parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return debian[-1].parent if debian else None


@dataclass
class Cluster(Signalled):
    """A running PostgreSQL."""

    launch: Callable[[], subprocess.Popen[bytes]]
    port: int
    output: Path
    process: subprocess.Popen[bytes] = field(init=False)
    _numbers: Iterator[int] = field(default_factory=count)
    _template: str = ""

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers. Raises `RuntimeError`."""
        self.process = self.launch()
        _wait_until_it_answers(self)

    def stop(self, number: int = signal.SIGINT, seconds: float = STOP_LIMIT) -> int:
        """End it, and send away whoever is connected; if that takes too long, as a crash does."""
        with suppress(subprocess.TimeoutExpired):
            return super().stop(number, seconds)
        return super().stop(signal.SIGQUIT)

    def kill(self) -> None:
        """End it as a crash of the machine would. (SIGKILL would leave its children, and their memory, which
        hinder the next start.)"""
        self.stop(signal.SIGQUIT)

    def freeze(self) -> None:
        """Let it answer nothing: also who is connected already has a process there."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)

    def url(self, name: str) -> str:
        """DATABASE_URL of the database `name`."""
        return f"postgres://sluice@127.0.0.1:{self.port}/{name}"

    def database(self, template: str = "template1") -> str:
        """DATABASE_URL of a new database: empty, or a copy of `template`."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def migrated(self) -> str:
        """DATABASE_URL of a new database with all tables."""
        if not self._template:
            url = self.database()
            migrate(environment(self.output.parent, DATABASE_URL=url))
            self._template = url.rpartition("/")[2]
        return self.database(self._template)

    def execute(self, command: str, name: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one command as superuser in the database `name`; its rows, if it has any."""
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            cursor = connection.execute(command)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running cluster; ended by its own pid. Raises `RuntimeError` where there is no PostgreSQL."""
    programs = find_programs()
    if programs is None:
        raise RuntimeError(INSTALL)
    # Not pytest's folder: nobody but its owner may enter that.
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    try:
        with _running(programs, folder) as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(programs: Path, folder: Path) -> Iterator[Cluster]:
    who = _who(folder)
    data, output = folder / "data", folder / "log"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "sluice", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        timeout=START_LIMIT,
        **who,
    )
    port = free_port()
    settings = [f"--{name}={value}" for name, value in (OPTIONS | {"port": str(port)}).items()]

    def launch() -> subprocess.Popen[bytes]:
        with output.open("ab") as log:
            return subprocess.Popen(
                [programs / "postgres", "-D", data, *settings],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                process_group=0,
                **who,
            )

    made = Cluster(launch, port, output)
    try:
        yield made
    finally:
        made.stop()


def _who(folder: Path) -> dict[str, Any]:
    """As whom it runs: arguments of `subprocess`. The folder becomes theirs."""
    if os.getuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _wait_until_it_answers(made: Cluster) -> None:
    deadline = time.monotonic() + START_LIMIT
    while True:
        if made.process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended at its start:\n{made.output.read_text()}")
        try:
            made.execute("SELECT 1")
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
