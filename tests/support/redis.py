"""A Redis of the tests' own: on a free loopback port, with its files in a temporary folder, ended by its
pid.

The fixture `redis_server` (tests/conftest.py) is one that keeps nothing on disk; its `url()` gives each test
a database number of its own. Tests that stop, freeze or fill a Redis make one by `redis_server(...)`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import redis

from tests.support.servers import Signalled, free_port

INSTALL: Final = "Redis is not here: sudo apt-get install redis-server"

START_LIMIT: Final = 30.0
DATABASES: Final = 512


def find_redis() -> str | None:
    """Where `redis-server` is; None if nowhere."""
    return shutil.which("redis-server")


@dataclass
class RedisServer(Signalled):
    """A running Redis. `options`: of its command line, by name."""

    folder: Path
    port: int
    options: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start it (again), and wait until it answers. Raises `RuntimeError`."""
        words = [word for name, value in self.options.items() for word in (f"--{name}", value)]
        command = ["redis-server", "--port", str(self.port), "--dir", str(self.folder), *words]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, process_group=0)
        until = time.monotonic() + START_LIMIT
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(redis.RedisError), self.client() as client:
                # While it loads what it has on disk it answers with an error.
                client.ping()
                return
            time.sleep(0.02)
        raise RuntimeError((self.folder / "redis.log").read_text())

    def url(self, number: int | None = None) -> str:
        """REDIS_URL of the database `number`, else of one that nobody else has been given."""
        return f"redis://127.0.0.1:{self.port}/{next(self._numbers) if number is None else number}"

    def client(self, number: int = 0) -> redis.Redis:
        """A connection of the test's own."""
        return redis.Redis(port=self.port, db=number, socket_timeout=10)


@contextmanager
def redis_server(**options: str) -> Iterator[RedisServer]:
    """A Redis until the block ends; `options` of its command line, `_` for `-`. Keeps nothing on disk, unless
    they say so."""
    chosen = {
        "bind": "127.0.0.1",
        "save": "",
        "appendonly": "no",
        "databases": str(DATABASES),
        **{name.replace("_", "-"): value for name, value in options.items()},
    }
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder), free_port(), chosen)
        try:
            yield server
        finally:
            server.kill()
