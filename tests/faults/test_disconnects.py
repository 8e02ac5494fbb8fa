"""R1, R2: readers who leave at any moment, in any way, leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.conftest import Figures, Scale
from tests.support.client import STREAM, brief, client, generate
from tests.support.scale import SERVERS
from tests.support.servers import Server, environment, migrate, serving
from tests.support.toxics import reset
from tests.support.upstream import BEHAVIOURS, KEY, ModelService, model_service
from tests.support.wire import ask, percentile, start

pytestmark = pytest.mark.server

AT_ONCE = 40
WORKERS = 8
UPSTREAM_CONNECTIONS = 6
BATCH = 250
"""Readers between two looks at how soon everything is free again."""

IN_HEAD, IN_BODY, BEFORE_THE_ANSWER, IN_THE_MIDDLE, AFTER_THE_END = range(5)
RST, FIN, HALF_CLOSE = "rst", "fin", "half-close"

PATIENCE = 30.0
"""Seconds until all must be gone; a grace of 0.2 s and one part of a blocking producer would do."""

COMPLAINT = "Future exception was never retrieved"
"""What asyncio says when asgiref forgets the cancelled call of a thread. It costs a few lines in the log."""

SYNC_MIDDLEWARE = """
from settings.settings import *

MIDDLEWARE = [*MIDDLEWARE, "with_sync_middleware.pass_through"]


def pass_through(get_response):
    def middleware(request):
        return get_response(request)

    return middleware
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("disconnects")
    env = environment(folder, AGENT_POOL_MAX_WORKERS=str(WORKERS), AGENT_POOL_QUEUE_SIZE="100")
    migrate(env)
    return folder, env


@pytest.mark.load
@pytest.mark.parametrize("kind", SERVERS)
async def test_readers_who_leave_take_everything_with_them(
    kind: str, house: tuple[Path, dict[str, str]], scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """R1. Permits, places, readers, threads, files, sockets, connections to the database and to the model
    service: all back."""
    folder, env = house
    async with model_service() as service:
        upstream = {
            "OPENAI_API_KEY": KEY,
            "OPENAI_API_BASE": service.base,
            "OPENAI_MODEL": "endless",
            "OPENAI_MODELS": ",".join(BEHAVIOURS),
            "OPENAI_MAX_CONNECTIONS": str(UPSTREAM_CONNECTIONS),
        }
        async with serving(kind, folder, env | upstream) as server:
            await _warm_up(server)
            process = psutil.Process(server.process.pid)
            await _until(lambda: _sockets(process, service) == 0, "sockets stay open")
            before = process.num_threads(), process.num_fds(), _database_files(process)
            ways: Counter[str] = Counter()
            freed = []
            begin = time.monotonic()
            for first in range(0, drops := scale(250, 10_000), BATCH):
                numbers = range(first, min(first + BATCH, drops))
                await _all(lambda number: _drop(server, number, dice, ways), numbers)
                freed.append(await _until_quiet(server))
            seconds = time.monotonic() - begin

            left = (await _stats(server))["ends"]
            assert "error" not in left
            assert set(left) >= {"cancelled", "complete"}
            await _everything_works(server, service)
            await _until(lambda: _sockets(process, service) == 0, "sockets stay open")
            await _until(lambda: service.open <= UPSTREAM_CONNECTIONS, "connections to the model stay")
            threads, files, database = before
            await _until(lambda: process.num_threads() <= threads + 2, "threads stay")
            await _until(lambda: process.num_fds() <= files + 4 + UPSTREAM_CONNECTIONS, "files stay open")
            await _until(lambda: _database_files(process) <= database + 1, "the database stays open")
            _assert_calm(server)
            figures(
                "R1",
                dropped=drops,
                **{way.replace("-", "_"): count for way, count in sorted(ways.items())},
                left_behind=0,
                all_free_after_p99=percentile(freed, 0.99),
                upstream_calls=len(service.chats),
                threads=f"{threads} → {process.num_threads()}",
                files=f"{files} → {process.num_fds()}",
                took=seconds,
            )


@pytest.mark.parametrize("kind", SERVERS)
async def test_who_leaves_before_the_first_byte_keeps_no_place(
    kind: str, house: tuple[Path, dict[str, str]], scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """R2. With a synchronous middleware, for which Django would hold a thread for each request."""
    folder, env = house
    (folder / "with_sync_middleware.py").write_text(SYNC_MIDDLEWARE)
    extra = {"DJANGO_SETTINGS_MODULE": "with_sync_middleware", "PYTHONPATH": str(folder)}
    async with serving(kind, folder, env | extra) as server:
        begin = time.monotonic()
        readers = scale(150, 10_000)
        await _all(lambda number: _leave_early(server, number, dice), range(readers))
        seconds = time.monotonic() - begin
        freed = await _until_quiet(server)
        pool = (await _stats(server))["pools"]["agent_pool"]
        assert (pool["running"], pool["waiting"], pool["stuck"]) == (0, 0, 0)
        log = server.log()
        assert "a view failed" not in log, log[-3000:]
        figures(
            "R2",
            left_early=readers,
            permits_lost=0,
            all_free_after=freed,
            complaints_of_asgiref=log.count(COMPLAINT),
            took=seconds,
        )


# --- How a client leaves ------------------------------------------------------------------------------


async def _all(one: Callable[[int], Awaitable[None]], numbers: range) -> None:
    turn = asyncio.Semaphore(AT_ONCE)

    async def in_turn(number: int) -> None:
        async with turn:
            await one(number)

    async with asyncio.timeout(PATIENCE * 4 + len(numbers) * 0.2):
        await asyncio.gather(*(in_turn(number) for number in numbers))


async def _drop(server: Server, number: int, dice: random.Random, ways: Counter[str]) -> None:
    moment = dice.choice((IN_HEAD, IN_BODY, BEFORE_THE_ANSWER, IN_THE_MIDDLE, IN_THE_MIDDLE, AFTER_THE_END))
    way = dice.choice((RST, FIN, HALF_CLOSE))
    pause, bytes_read = dice.random() ** 4 * 0.3, dice.randrange(1, 2000)
    members = _members(number, dice, short=moment == AFTER_THE_END)
    head, body = _request(members)
    sent = {IN_HEAD: dice.randrange(1, len(head)), IN_BODY: len(head) + dice.randrange(len(body))}
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    ways[way] += 1
    try:
        writer.write((head + body)[: sent.get(moment)])
        await writer.drain()
        if moment in (IN_HEAD, IN_BODY, BEFORE_THE_ANSWER):
            await asyncio.sleep(pause)
        else:
            await _read_some(reader, bytes_read if moment == IN_THE_MIDDLE else None)
        if way == HALF_CLOSE and not writer.is_closing():
            writer.write_eof()
            await _read_some(reader, None)
    except ConnectionError:
        pass
    finally:
        if way == RST:
            reset(writer)
        writer.close()


async def _leave_early(server: Server, number: int, dice: random.Random) -> None:
    """0 to 300 ms after the request, mostly at once."""
    members = _members(number, dice, short=False)
    head, body = _request(members)
    pause, way = dice.random() ** 3 * 0.3, dice.choice((RST, FIN))
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head + body)
    await asyncio.sleep(pause)
    if way == RST:
        reset(writer)
    writer.close()


def _members(number: int, dice: random.Random, *, short: bool) -> dict[str, Any]:
    script = {"tokens": 3 if short else 100, "interval": 0.005 if short else 0.02}
    kind = dice.choice(("asynchronous", "blocking", "model service"))
    members: dict[str, Any] = {"options": script | {"blocking": kind == "blocking"}}
    if kind == "model service":
        members = {"provider": "openai", "model": "slow-start" if short else "endless"}
    return brief(user_id=f"user {number}", on_disconnect=dice.choice(["cancel", 0.2]), **members)


def _request(members: dict[str, Any]) -> tuple[bytes, bytes]:
    body = json.dumps(members).encode()
    head = (
        f"POST {STREAM} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode(), body


async def _read_some(reader: asyncio.StreamReader, size: int | None) -> None:
    """`size` bytes (None: to the end), but at most for two seconds: it may stand in the queue."""
    try:
        async with asyncio.timeout(2):
            await (reader.read() if size is None else reader.readexactly(size))
    except (TimeoutError, asyncio.IncompleteReadError):
        return


# --- What is left -------------------------------------------------------------------------------------


async def _warm_up(server: Server) -> None:
    """Make the server start all threads and connections that it keeps."""
    options = {"tokens": 20, "interval": 0.02, "blocking": True}
    async with client(server.url) as http:
        await asyncio.gather(
            *(generate(http, user_id=f"warm {k}", options=options) for k in range(WORKERS)),
        )
        await http.get("/streams/" + "0" * 32)


async def _everything_works(server: Server, service: ModelService) -> None:
    """All permits and all connections can be taken again, at the same time."""
    script = {"tokens": 5, "interval": 0.01}
    async with client(server.url) as http:
        for blocking in (False, True):
            reading = await generate(http, options=script | {"blocking": blocking})
            assert (reading.text, reading.end.name) == ("0 1 2 3 4 ", "complete")
        readings = await asyncio.gather(
            *(
                generate(http, user_id=f"after {k}", provider="openai", model="slow-start")
                for k in range(UPSTREAM_CONNECTIONS)
            )
        )
        assert [reading.end.name for reading in readings] == ["complete"] * UPSTREAM_CONNECTIONS
    tasks = [
        await start(server.port, user_id=f"holds {k}", options={"hang_after": 1}) for k in range(WORKERS)
    ]
    pool = (await _stats(server))["pools"]["agent_pool"]
    assert (pool["running"], pool["waiting"]) == (WORKERS, 0)
    for task_id in tasks:
        await ask(server.port, f"/streams/{task_id}", "DELETE")


async def _stats(server: Server) -> dict[str, Any]:
    numbers: dict[str, Any] = await ask(server.port, "/stats")
    return numbers


async def _until_quiet(server: Server) -> float:
    """Seconds until nothing runs, waits or reads."""
    begin = time.monotonic()
    while True:
        numbers = await _stats(server)
        pool = numbers["pools"]["agent_pool"]
        busy = (pool["running"], pool["waiting"], numbers["followers"], numbers["tasks"]["active"])
        if busy == (0, 0, 0, 0):
            assert pool["stuck"] == 0
            return time.monotonic() - begin
        assert time.monotonic() - begin < PATIENCE, f"something stays: {numbers}"
        await asyncio.sleep(0.02)


def _assert_calm(server: Server) -> None:
    log = server.log()
    for word in ("traceback", "never retrieved", "exception"):
        assert word not in log.lower(), log[-3000:]


def _sockets(process: psutil.Process, service: ModelService | None = None) -> int:
    """Open connections of clients."""
    return sum(
        each.status != psutil.CONN_LISTEN
        for each in process.net_connections("tcp")
        if service is None or not each.raddr or each.raddr.port != service.port
    )


def _database_files(process: psutil.Process) -> int:
    return sum(each.path.endswith(".sqlite3") for each in process.open_files())


async def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.1)
