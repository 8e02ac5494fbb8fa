"""Several machines on one: webs behind an nginx, workers, a Redis and a PostgreSQL, all on loopback.

`cluster(...)` starts them and ends them by their pids; `scripts/cluster.py` shows one to people. Nothing is
restarted by itself: tests kill, freeze, stop and start each part.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

from tests.support import nginx, postgresql
from tests.support.redis import INSTALL as INSTALL_REDIS
from tests.support.redis import RedisServer, find_redis, redis_server
from tests.support.servers import ROOT, START_LIMIT, STOP_LIMIT, Signalled, environment, free_port

INSTALL_NGINX: Final = "nginx is not here: sudo apt-get install nginx"

REDIS_OPTIONS: Final = {
    "save": "",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory_policy": "noeviction",
}
"""As docs/cluster.md asks for."""

PROXY: Final = "127.0.0.3"
"""From where nginx calls: whoever calls a web directly is no proxy."""

WORKER_READY: Final = "Sluice works for"
"""What `manage.py worker` prints when it takes tasks."""


class Node(Signalled):
    """A `manage.py` process of ours. `name`: "web 1", "worker 2"; `output`: the file with all that it
    printed; `port`: where a web listens, 0 for a worker."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str], port: int
    ) -> None:
        self.name = name
        self.port = port
        self.output = folder / f"{name.replace(' ', '-')}.log"
        self.env = dict(env)
        self._command = [sys.executable, *command]

    @property
    def url(self) -> str:
        """Where a web listens."""
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """What it printed so far, in all its lives."""
        return self.output.read_text(errors="replace")

    def launch(self, **overrides: str) -> None:
        """Start it (again), and return at once. `overrides` of its environment stay."""
        self.env.update(overrides)
        with self.output.open("ab") as log:
            self._begins = log.tell()
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self.env, stdout=log, stderr=subprocess.STDOUT, process_group=0
            )

    def wait(self) -> None:
        """Wait until it does its work. Raises `RuntimeError`."""
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline and self.lives:
            if self._is_ready():
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} {'does not answer' if self.lives else 'ended'}:\n{self.log()}")

    def start(self, **overrides: str) -> None:
        """`launch`, then `wait`."""
        self.launch(**overrides)
        self.wait()

    def _is_ready(self) -> bool:
        if not self.port:
            return WORKER_READY.encode() in self.output.read_bytes()[self._begins :]
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=5):  # noqa: S310 (our own)
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


@dataclass
class Cluster:
    """See the module. `env`: the environment of webs and workers."""

    web: list[Node]
    workers: list[Node]
    redis: RedisServer
    postgresql: postgresql.Cluster
    nginx: nginx.Nginx
    env: dict[str, str]

    @property
    def url(self) -> str:
        """Where nginx listens; webs take turns behind it."""
        return self.nginx.url

    @property
    def nodes(self) -> list[Node]:
        """Webs and workers."""
        return [*self.web, *self.workers]

    @property
    def parts(self) -> dict[str, Signalled]:
        """Everything that runs, by name."""
        services = {"postgresql": self.postgresql, "redis": self.redis, "nginx": self.nginx}
        return {**services, **{node.name: node for node in self.nodes}}

    @property
    def logs(self) -> dict[str, Path]:
        """The file with what each of the parts tells, by name."""
        services = {
            "postgresql": self.postgresql.output,
            "redis": self.redis.folder / "redis.log",
            "nginx": self.nginx.folder / "error.log",
        }
        return {**services, **{node.name: node.output for node in self.nodes}}


class Cancelled(Exception):
    """Somebody wants the start to end before it is done."""


def missing() -> str:
    """How to get the programs that a cluster needs and that are not here; empty if all are."""
    wanted = {
        postgresql.INSTALL: postgresql.find_programs(),
        INSTALL_REDIS: find_redis(),
        INSTALL_NGINX: nginx.find_nginx(),
    }
    return "\n".join(text for text, found in wanted.items() if found is None)


def _end(nodes: Sequence[Node]) -> None:
    """All at once, as they drain."""
    for node in nodes:
        if node.lives:
            node.thaw()
            node.process.terminate()
    until = time.monotonic() + STOP_LIMIT
    for node in nodes:
        try:
            node.process.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            node.kill()


@contextmanager
def cluster(
    folder: Path,
    *,
    web: int = 2,
    workers: int = 2,
    port: int | None = None,
    database: postgresql.Cluster | None = None,
    redis_options: Mapping[str, str] = REDIS_OPTIONS,
    worker_options: Sequence[str] = (),
    cancelled: Event | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """A running cluster, with its logs in `folder`. `port`: nginx's, else any that is free; `database`: a
    PostgreSQL that runs already, in which it gets a database of its own; `worker_options`: of `manage.py
    worker`; `cancelled`: once set, the start is given up with `Cancelled`; `overrides` of the environment.

    Raises `RuntimeError` with the output of what does not start, having ended everything else.
    """
    if absent := missing():
        raise RuntimeError(absent)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = cancelled or Event()
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(**redis_options))
        served = nullcontext(database) if database is not None else postgresql.cluster()
        postgres = stack.enter_context(served)
        if wanted.is_set():
            raise Cancelled
        settings = {
            "DATABASE_URL": postgres.migrated(),
            "REDIS_URL": redis.url(0),
            "STREAM_ENGINE": "celery",
            "CELERY_BROKER_URL": redis.url(1),
            "TRUSTED_PROXIES": PROXY,
            "ALLOW_ANONYMOUS": "true",
        }
        env = environment(folder, **settings | dict(overrides or {}))
        ports = [free_port() for _ in range(web)]
        webs = [
            Node(f"web {number}", ["manage.py", "serve", "--port", str(each)], folder, env, each)
            for number, each in enumerate(ports, 1)
        ]
        others = [
            Node(f"worker {number}", ["manage.py", "worker", *worker_options], folder, env, 0)
            for number in range(1, workers + 1)
        ]
        launched: list[Node] = []
        stack.callback(_end, launched)
        for node in [*webs, *others]:
            node.launch()
            launched.append(node)
        for node in [*webs, *others]:
            if wanted.is_set():
                raise Cancelled
            node.wait()
        place = folder / "nginx"
        place.mkdir()
        speaking = {"proxy_http_version 1.1;": f"proxy_http_version 1.1; proxy_bind {PROXY};"}
        front = stack.enter_context(nginx.fronted(place, ports, speaking, port))
        yield Cluster(webs, others, redis, postgres, front, env)
