"""A thousand connections dropped at random moments leave nothing behind, on uvicorn and on Daphne."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.support.client import STREAM, brief, client, generate
from tests.support.servers import Server, environment, migrate, started

pytestmark = [pytest.mark.server, pytest.mark.load]

KINDS = ("serve", "daphne")
DROPS = 1000
AT_ONCE = 40
WORKERS = 8

IN_HEAD, IN_BODY, BEFORE_THE_ANSWER, IN_THE_MIDDLE, AFTER_THE_END = range(5)

PATIENCE = 30.0
"""Seconds until all must be gone; a grace of 0.2 s and one part of a blocking producer would do."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("disconnects")
    env = environment(folder, AGENT_POOL_MAX_WORKERS=str(WORKERS), AGENT_POOL_QUEUE_SIZE="100")
    migrate(env)
    return folder, env


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, house: tuple[Path, dict[str, str]]) -> Iterator[Server]:
    with started(request.param, *house) as made:
        yield made


async def test_a_thousand_dropped_connections_leave_nothing_behind(server: Server):
    process = psutil.Process(server.process.pid)
    async with client(server.url) as http:
        await _warm_up(http)
    await _until(lambda: _open_sockets(process) == 0, "sockets stay open")
    before = process.num_threads(), process.num_fds()

    turn = asyncio.Semaphore(AT_ONCE)
    dice = random.Random(2026)

    async def one(number: int) -> None:
        async with turn:
            await _drop(server, number, dice)

    async with asyncio.timeout(PATIENCE * 2):
        await asyncio.gather(*(one(number) for number in range(DROPS)))

    async with client(server.url) as http:
        numbers = await _quiet(http)
        assert numbers["routes"]["direct"] > WORKERS
        assert numbers["routes"]["queued"] > 0
        assert set(numbers["ends"]) >= {"cancelled", "complete"}
        assert "error" not in numbers["ends"]
        reading = await generate(http, options={"tokens": 5, "interval": 0.01})
        assert (reading.text, reading.end.name) == ("0 1 2 3 4 ", "complete")
        reading = await generate(http, options={"tokens": 5, "interval": 0.01, "blocking": True})
        assert (reading.text, reading.end.name) == ("0 1 2 3 4 ", "complete")
    await _until(lambda: _open_sockets(process) == 0, "sockets stay open")
    threads, files = before
    await _until(lambda: process.num_threads() <= threads + 2, "threads stay")
    await _until(lambda: process.num_fds() <= files + 4, "files stay open")
    log = server.log()
    assert "Traceback" not in log, log[-3000:]
    assert "never retrieved" not in log
    assert "exception" not in log.lower(), log[-3000:]


async def test_a_reader_who_leaves_takes_only_its_own_stream(server: Server):
    """Within a second for an asynchronous producer; a stream beside it does not notice."""
    async with client(server.url) as http:
        beside = asyncio.create_task(
            generate(http, user_id="stays", options={"tokens": 30, "interval": 0.05})
        )
        reading = await generate(
            http,
            until=3,
            user_id="leaves",
            on_disconnect="cancel",
            options={"tokens": 5000, "interval": 0.02},
        )
        task_id = reading.response.headers["X-Stream-Id"]
        record: dict[str, Any] = {}
        for _ in range(200):
            record = (await http.get(f"/streams/{task_id}")).json()
            if record["state"] != "running":
                break
            await asyncio.sleep(0.05)
        assert record["state"] == "cancelled"
        seen = await beside
        assert seen.end.name == "complete"
        assert seen.text == "".join(f"{k} " for k in range(30))


async def test_within_its_grace_a_reader_may_come_back(server: Server):
    options = {"tokens": 60, "interval": 0.05}
    async with client(server.url) as http:
        reading = await generate(http, until=4, on_disconnect=20, options=options)
        task_id = reading.response.headers["X-Stream-Id"]
        await asyncio.sleep(0.5)
        last = reading.ids[-1]
        async with http.stream(
            "GET", f"/streams/{task_id}/events", headers={"Last-Event-ID": str(last)}
        ) as response:
            rest = (await response.aread()).decode()
    deltas = re.findall(r'"delta":"(.*?)"', rest)
    assert reading.text + "".join(deltas) == "".join(f"{k} " for k in range(60))
    assert "event: complete" in rest


# --- How a client leaves ------------------------------------------------------------------------------


async def _drop(server: Server, number: int, dice: random.Random) -> None:
    moment = dice.choice((IN_HEAD, IN_BODY, BEFORE_THE_ANSWER, IN_THE_MIDDLE, IN_THE_MIDDLE, AFTER_THE_END))
    blocking = dice.random() < 0.3
    tokens = 3 if moment == AFTER_THE_END else 100
    members = brief(
        user_id=f"user {number}",
        on_disconnect=dice.choice(["cancel", 0.2]),
        options={
            "tokens": tokens,
            "interval": 0.005 if moment == AFTER_THE_END else 0.02,
            "blocking": blocking,
        },
    )
    body = json.dumps(members).encode()
    head = (
        f"POST {STREAM} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        if moment == IN_HEAD:
            writer.write(head[: dice.randrange(1, len(head))])
        elif moment == IN_BODY:
            writer.write(head + body[: dice.randrange(len(body))])
        else:
            writer.write(head + body)
        await writer.drain()
        if moment in (IN_HEAD, IN_BODY, BEFORE_THE_ANSWER):
            await asyncio.sleep(dice.random() ** 4 * 0.3)
        elif moment == IN_THE_MIDDLE:
            await _read_some(reader, dice.randrange(1, 2000))
        else:
            await _read_some(reader, None)
    finally:
        _leave(writer, reset=dice.random() < 0.5)


async def _read_some(reader: asyncio.StreamReader, size: int | None) -> None:
    """`size` bytes (None: to the end), but at most for two seconds: it may stand in the queue."""
    try:
        async with asyncio.timeout(2):
            await (reader.read() if size is None else reader.readexactly(size))
    except (TimeoutError, asyncio.IncompleteReadError):
        return


def _leave(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """With a FIN, or with an RST."""
    if reset:
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


# --- What is left -------------------------------------------------------------------------------------


async def _warm_up(http: httpx2.AsyncClient) -> None:
    """Make the server start all threads that it keeps."""
    options = {"tokens": 20, "interval": 0.02, "blocking": True}
    await asyncio.gather(*(generate(http, user_id=f"warm {k}", options=options) for k in range(WORKERS)))
    await http.get("/streams/" + "0" * 32)


async def _quiet(http: httpx2.AsyncClient) -> dict[str, Any]:
    """The statistics once nothing runs, waits or reads."""
    numbers: dict[str, Any] = {}
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        numbers = (await http.get("/stats")).json()
        pool = numbers["pools"]["agent_pool"]
        if (pool["running"], pool["waiting"], numbers["followers"], numbers["tasks"]["active"]) == (
            0,
            0,
            0,
            0,
        ):
            assert pool["stuck"] == 0
            return numbers
        await asyncio.sleep(0.1)
    raise AssertionError(f"something stays: {numbers}")


def _open_sockets(process: psutil.Process) -> int:
    return sum(each.status != psutil.CONN_LISTEN for each in process.net_connections("tcp"))


async def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.1)
