"""A reader that reads nothing costs bounded memory and is closed in time, on every server; others go on."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import httpx2
import psutil
import pytest

from tests.support.client import (
    STREAM,
    brief,
    check_replay,
    client,
    eventually,
    frozen,
    generate,
    read_stream,
)
from tests.support.scale import SERVERS
from tests.support.servers import Server, environment, migrate, started

pytestmark = [pytest.mark.server, pytest.mark.every_variant]

MIB = 1 << 20
TEXT = ("\U0001f3f4" + "\U000e0061" * 9_999) * 100
"""4 MB in long grapheme clusters: more than the kernel takes for a reader that reads nothing."""

SIZE = len(TEXT.encode())

TIMEOUT = 1.5
READERS = 24


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("frozen")
    limits = {
        "SSE_CONNECTION_TIMEOUT": str(TIMEOUT),
        "SSE_HEARTBEAT_INTERVAL": "1",
        "SSE_MAX_JOURNAL_BYTES": str(64 * MIB),
        "SERVER_MAX_BODY_BYTES": str(16 * MIB),
    }
    env = environment(folder, **limits)
    migrate(env)
    with started(request.param, folder, env) as made:
        yield made
        log = made.log()
        assert "Traceback" not in log, log[-3000:]
        assert "is not known" not in log
        assert "Producer was not unregistered" not in log
        assert "ERROR uvicorn" not in log, "it is ordinary"


async def long_stream(http: httpx2.AsyncClient) -> str:
    """A long ended stream."""
    reading = await generate(http, options={"text": TEXT, "interval": 0})
    assert (reading.end.name, len(reading.text)) == ("complete", len(TEXT))
    place: str = reading.response.headers["location"]
    return place


async def slow_readers(http: httpx2.AsyncClient) -> int:
    count: int = (await http.get("/stats")).json()["slow_readers_closed"]
    return count


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes connections at the end, come what may."""
    with ExitStack() as stack:
        yield stack


async def test_frozen_readers_cost_little_and_are_closed(server: Server, opened: ExitStack) -> None:
    process = psutil.Process(server.process.pid)
    async with client(server.url) as http:
        place = await long_stream(http)
        # The first round fills what Python and the C library keep for later.
        await freeze(server, http, process, place, opened)
        beside = asyncio.create_task(generate(http, options={"tokens": 60, "interval": 0.02}))
        grown, connections = await freeze(server, http, process, place, opened)
        assert grown < READERS * MIB / 2, "on a server whose `send` does not wait it is four times as much"
        reading = await beside
        assert (reading.text, reading.end.name) == ("".join(f"{k} " for k in range(60)), "complete")

        async def none_follows() -> bool:
            return bool((await http.get("/stats")).json()["followers"] == 0)

        assert await eventually(none_follows)
        if server.kind == "daphne":
            for connection in connections:
                assert await asyncio.to_thread(was_cut, connection)


async def freeze(
    server: Server, http: httpx2.AsyncClient, process: psutil.Process, place: str, opened: ExitStack
) -> tuple[int, list[socket.socket]]:
    """Open readers that read nothing and wait until all are closed: the growth in memory, and the sockets."""
    closed_before = await slow_readers(http)
    before = peak = process.memory_info().rss
    connections = [opened.enter_context(closing(frozen(server, place))) for _ in range(READERS)]

    async def all_closed() -> bool:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)
        return await slow_readers(http) == closed_before + READERS

    assert await eventually(all_closed, 20)
    return peak - before, connections


def was_cut(connection: socket.socket) -> bool:
    """Read what the kernel had taken: then the connection is at its end, before the stream is."""
    connection.settimeout(10)
    received, last = 0, b""
    try:
        while piece := connection.recv(1 << 18):
            received, last = received + len(piece), (last + piece)[-2000:]
    except ConnectionResetError:
        pass
    return received < SIZE and b"event: complete" not in last


async def test_who_was_closed_comes_back_and_gets_the_rest(server: Server) -> None:
    async with client(server.url) as http:
        place = await long_stream(http)
        closed_before = await slow_readers(http)
        with closing(frozen(server, place)) as connection:

            async def closed() -> bool:
                return await slow_readers(http) == closed_before + 1

            assert await eventually(closed, 20)
            connection.settimeout(5)
            start = connection.recv(100_000)
        assert start.startswith(b"HTTP/1.1 200")
        whole = await read_stream(http, "GET", f"{place}/events")
        assert whole.text == TEXT
        half = whole.ids[len(whole.ids) // 2]
        rest = await read_stream(http, "GET", f"{place}/events?after={half}")
        check_replay(rest.durable, whole.durable, half)


async def test_a_reader_that_is_slow_but_reads_is_not_closed(server: Server) -> None:
    async with client(server.url) as http:
        place = await long_stream(http)
        closed_before = await slow_readers(http)

        with closing(frozen(server, place)) as connection:
            body = await asyncio.to_thread(read_all, connection)
        assert b"event: complete" in body[-2000:]
        assert await slow_readers(http) == closed_before


async def test_a_reader_that_is_behind_when_its_task_is_purged_gets_the_rest(server: Server) -> None:
    async with client(server.url) as http:
        place = await long_stream(http)
        held = (await http.get("/stats")).json()["journal_bytes"]
        with closing(frozen(server, place)) as connection:

            async def reads() -> bool:
                return bool((await http.get("/stats")).json()["followers"] == 1)

            assert await eventually(reads)
            purges = (http.delete(f"{place}?purge=true") for _ in range(3))
            assert {answer.status_code for answer in await asyncio.gather(*purges)} == {204}
            assert (await http.get(f"{place}/events")).status_code == 410
            body = await asyncio.to_thread(read_all, connection)
        assert b"event: gap" not in body
        assert body.count(b"event: complete\n") == 1
        assert len(body) > SIZE

        async def gone() -> bool:
            return bool((await http.get("/stats")).json()["journal_bytes"] < held - SIZE // 2)

        assert await eventually(gone)


def read_all(connection: socket.socket) -> bytes:
    """Read at last, to the end of the answer."""
    connection.settimeout(20)
    pieces: list[bytes] = []
    while not b"".join(pieces[-3:]).endswith(b"0\r\n\r\n"):
        pieces.append(connection.recv(1 << 16))
    return b"".join(pieces)


async def test_a_connection_serves_on_after_a_stream(server: Server) -> None:
    """Two streams and a plain answer on one connection."""

    def exchange() -> list[str]:
        body = json.dumps(brief(options={"tokens": 20, "interval": 0.001})).encode()
        headers = {"Content-Type": "application/json"}
        seen = []
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
            connection.connect()
            used = connection.sock
            for _ in range(2):
                connection.request("POST", STREAM, body, headers)
                stream = connection.getresponse().read().decode()
                seen.append(stream)
                connection.request("GET", "/healthz")
                assert connection.getresponse().read()
                assert connection.sock is used, "the same connection"
        return seen

    for stream in await asyncio.to_thread(exchange):
        assert stream.count("event: complete") == 1
        deltas = [json.loads(line[6:])["delta"] for line in stream.splitlines() if '"delta"' in line]
        assert "".join(deltas) == "".join(f"{k} " for k in range(20))
