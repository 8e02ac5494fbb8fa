"""What things are done to: webs, workers and stores, in one of three modes, and what is known about them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from tests.support import cluster as clusters
from tests.support import postgresql
from tests.support.cluster import Node
from tests.support.programs import Programs, programs
from tests.support.redis import RedisServer
from tests.support.servers import environment, free_port, migrate
from tests.support.upstream import BEHAVIOURS, KEY, ModelService, model_service

from . import model
from .checker import Hit, Outage, Row, Violation
from .plan import Mode
from .records import InPostgresql, InSqlite, Records, Unreachable

DRAIN_GRACE: Final = 2.0

HEARTBEAT: Final = 2.0

GRACE: Final = 14.0
"""Seconds that a task outlives its readers: longer than a web stands still, whose readers wait for it."""

SETTINGS: Final = {
    # Everything comes from here, and numbers are for operators only where anonymous callers are strangers.
    "ALLOW_ANONYMOUS": "loopback",
    "AGENT_POOL_MAX_WORKERS": "6",
    "AGENT_POOL_QUEUE_SIZE": "60",
    # Clients of many end users: no limit of one of them shall be met.
    "AGENT_POOL_PER_OWNER": "2000",
    "SSE_MAX_FOLLOWERS": "3000",
    "SSE_HEARTBEAT_INTERVAL": str(HEARTBEAT),
    "SSE_DRAIN_GRACE": str(DRAIN_GRACE),
    "SSE_DISCONNECT_GRACE": str(GRACE),
    "SSE_RETRY": "0.2",
    "OPENAI_API_KEY": KEY,
    "OPENAI_MODEL": model.MODEL,
    "OPENAI_MODELS": ",".join(BEHAVIOURS),
    "CONTENT_PROVIDER": "scripted",
    # For a text that fills all buffers between a web and a reader who does not read.
    "SERVER_MAX_BODY_BYTES": str(1 << 23),
}

START_TRIES: Final = 5


@dataclass
class House:
    """Everything that runs. `stores` may be away; `lock_of` keeps two faults from one target at a time."""

    mode: Mode
    webs: list[Node]
    workers: list[Node]
    redis: RedisServer | None
    postgresql: postgresql.Cluster | None
    records: Records
    service: ModelService
    programs: Programs | None = None
    """Runs code of the project in its environment; in a cluster."""
    hits: list[Hit] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    timeline: list[tuple[float, str]] = field(default_factory=list)
    wrongs: list[Violation] = field(default_factory=list)
    """What faults met that may not happen."""
    cut_lines: Callable[[], int] = lambda: 0
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    baselines: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def nodes(self) -> list[Node]:
        """Webs and workers."""
        return [*self.webs, *self.workers]

    def lock_of(self, name: str) -> asyncio.Lock:
        """Held while something is done to what has that name."""
        return self._locks.setdefault(name, asyncio.Lock())

    def note(self, text: str) -> None:
        """A line of the timeline."""
        self.timeline.append((time.monotonic(), text))

    def blame(self, rule: str, whom: str, detail: str) -> None:
        """A fault saw that rule broken by one of its own calls, which have no story."""
        self.wrongs.append(Violation(rule, whom, detail))

    def begin(self) -> None:
        """A new round: what was done in the one before does not count any more."""
        self.hits, self.outages, self.timeline, self.wrongs = [], [], [], []

    async def query(self, command: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of the database that the processes share. Raises `Unreachable`."""
        return await asyncio.to_thread(self.records.ask, command, values)

    async def running_in(self, node: Node) -> frozenset[str] | None:
        """The tasks that the database has as running there; None where it cannot be asked."""
        pids = [node.process.pid]
        with suppress(psutil.NoSuchProcess):
            pids += [child.pid for child in psutil.Process(node.process.pid).children(recursive=True)]
        with suppress(Unreachable):
            async with asyncio.timeout(5):
                rows = await self.query(RUNNING.format(", ".join(["%s"] * len(pids))), *pids)
                return frozenset(str(row[0]) for row in rows)
        return None

    async def rows_of(self, prefix: str) -> dict[str, Row]:
        """The tasks of calls whose name begins so."""
        rows = await self.query(ROWS, prefix + "%")
        return {row[0]: Row(*row) for row in rows}

    async def start(self, node: Node) -> None:
        """Start it again; who meets a database that is away tries again, as a service manager does."""
        for attempt in range(START_TRIES):
            try:
                await asyncio.to_thread(node.start)
            except RuntimeError:
                if attempt == START_TRIES - 1:
                    raise
                self.note(f"{node.name} does not start, and is started again")
                if node.lives:
                    await asyncio.to_thread(node.kill)
                await asyncio.sleep(1.0)
            else:
                return

    async def see_all_alive(self) -> list[str]:
        """Start whatever is down; what was."""
        down = [node for node in self.nodes if not node.lives]
        for node in down:
            await self.start(node)
        return [node.name for node in down]


RUNNING: Final = """
SELECT task.id FROM streaming_streamtask task JOIN streaming_process process ON task.process = process.id
WHERE process.pid IN ({}) AND task.state = 'running'
"""

ROWS: Final = """
SELECT id, end_user, state, text, last_event_id, error_code, cancel_reason
FROM streaming_streamtask WHERE end_user LIKE %s
"""


@asynccontextmanager
async def house(
    mode: Mode, folder: Path, database: postgresql.Cluster | None = None, **overrides: str
) -> AsyncIterator[House]:
    """A running house of that mode, with its logs in `folder`. `database`: a PostgreSQL that runs already."""
    async with model_service() as service:
        settings = SETTINGS | {"OPENAI_API_BASE": service.base} | overrides
        stack = ExitStack()
        make = {"embedded": _embedded, "processes": _processes, "cluster": _cluster}
        try:
            yield await asyncio.to_thread(make[mode], stack, folder, database, service, settings)
        finally:
            await asyncio.to_thread(stack.close)


def _embedded(
    stack: ExitStack,
    folder: Path,
    database: postgresql.Cluster | None,
    service: ModelService,
    settings: dict[str, str],
) -> House:
    """As `make run` has it: one process, and a file."""
    folder.mkdir(parents=True, exist_ok=True)
    env = environment(folder) | settings
    migrate(env)
    port = free_port()
    web = Node("web 1", ["manage.py", "serve", "--port", str(port)], folder, env, port)
    web.launch()
    stack.callback(_end, web)
    web.wait()
    records = InSqlite(Path(env["DATABASE_URL"].removeprefix("sqlite:///")))
    return House("embedded", [web], [], None, None, records, service)


def _processes(
    stack: ExitStack,
    folder: Path,
    database: postgresql.Cluster | None,
    service: ModelService,
    settings: dict[str, str],
) -> House:
    folder.mkdir(parents=True, exist_ok=True)
    store = database or stack.enter_context(postgresql.cluster())
    url = store.migrated()
    env = environment(folder, DATABASE_URL=url) | settings
    ports = [free_port() for _ in range(2)]
    webs = [
        Node(f"web {number}", ["manage.py", "serve", "--port", str(port)], folder, env, port)
        for number, port in enumerate(ports, 1)
    ]
    for node in webs:
        node.launch()
        stack.callback(_end, node)
    for node in webs:
        node.wait()
    return House("processes", webs, [], None, store, InPostgresql(store, _name(url)), service)


def _cluster(
    stack: ExitStack,
    folder: Path,
    database: postgresql.Cluster | None,
    service: ModelService,
    settings: dict[str, str],
) -> House:
    # Clients come to the webs directly, as if each were the proxy, too.
    settings["TRUSTED_PROXIES"] = ""
    made = stack.enter_context(clusters.cluster(folder, database=database, overrides=settings))
    helper = stack.enter_context(programs(made.env))
    records = InPostgresql(made.postgresql, _name(made.env["DATABASE_URL"]))
    return House("cluster", made.web, made.workers, made.redis, made.postgresql, records, service, helper)


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _end(node: Node) -> None:
    if node.lives:
        node.thaw()
        node.kill()
