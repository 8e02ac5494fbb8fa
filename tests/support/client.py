"""A client of event streams over a real connection, reading with our decoder or with a plain split."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from streaming.core.sse import Decoder
from tests.support.servers import Server

T = TypeVar("T")

STREAM = "/content/generate/stream/async"

DURABLE = ("content", "output", "result", "restart", "truncated", "complete", "error", "cancelled")


@dataclass
class Received:
    """One event as a client saw it; `at` in seconds on the monotonic clock."""

    name: str
    data: dict[str, Any]
    id: str
    at: float


@dataclass
class Reading:
    """A stream as far as it was read."""

    response: httpx2.Response
    events: list[Received] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    retry: int | None = None

    @property
    def text(self) -> str:
        """The main channel, concatenated."""
        return "".join(
            event.data["delta"]
            for event in self.events
            if event.name == "content" and "channel" not in event.data
        )

    @property
    def end(self) -> Received:
        """The last event."""
        return self.events[-1]

    def named(self, name: str) -> list[Received]:
        """The events of one type."""
        return [event for event in self.events if event.name == name]

    @property
    def durable(self) -> list[Received]:
        """The events that have an id of their own."""
        return [event for event in self.events if event.name in DURABLE]

    @property
    def ids(self) -> list[int]:
        """The ids of durable events in order of arrival (each counted once)."""
        return [int(event.id) for event in self.durable]


def brief(**members: Any) -> dict[str, Any]:
    """A valid brief for the scripted provider; keyword `options` replaces the script's options."""
    return {"user_id": "tester", "topic": "a test", "provider": "scripted", **members}


@asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with patience and many connections."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
    # `verify`: there is no TLS here, and reading the certificates costs 0.1 s a client.
    defaults: dict[str, Any] = {"timeout": 60, "limits": limits, "trust_env": False, "verify": False}
    async with httpx2.AsyncClient(base_url=url, **defaults | options) as made:
        yield made


async def read_events(response: httpx2.Response) -> AsyncIterator[Received]:
    """The events of an open SSE response as they arrive."""
    decoder = Decoder(max_line=1 << 26, max_event=1 << 26)
    async for chunk in response.aiter_raw():
        for event in decoder.feed(chunk):
            yield Received(event.event, json.loads(event.data), event.id, time.monotonic())


async def read_stream(
    http: httpx2.AsyncClient,
    method: str,
    path: str,
    *,
    until: int | None = None,
    headers: Mapping[str, str] | None = None,
    accepted: asyncio.Event | None = None,
    **options: Any,
) -> Reading:
    """Read a stream to its end, or until `until` events have come (then the connection is dropped).
    `accepted` is set when the answer has begun."""
    async with http.stream(method, path, headers=headers, **options) as response:
        reading = Reading(response)
        if accepted is not None:
            accepted.set()
        if response.status_code != 200:
            await response.aread()
            return reading
        decoder = Decoder(max_line=1 << 26, max_event=1 << 26, on_comment=reading.comments.append)
        async for chunk in response.aiter_raw():
            for event in decoder.feed(chunk):
                reading.events.append(
                    Received(event.event, json.loads(event.data), event.id, time.monotonic())
                )
            reading.retry = decoder.retry
            if until is not None and len(reading.events) >= until:
                break
        return reading


async def generate(http: httpx2.AsyncClient, until: int | None = None, **members: Any) -> Reading:
    """Start a scripted stream and read it."""
    return await read_stream(http, "POST", STREAM, until=until, json=brief(**members))


def check_replay(events: list[Received], whole: list[Received], after: int) -> None:
    """`events`, the durable ones behind the cursor `after`, stand for exactly what `whole`, a stream from its
    first event, has there: each for one event, or for neighbouring texts of one channel."""
    texts = {"content"}
    for event in events:
        covered = [each for each in whole if after < int(each.id) <= int(event.id)]
        after = int(event.id)
        assert {each.name for each in covered} == {event.name}
        assert len(covered) == 1 or event.name in texts
        assert covered[-1].id == event.id
        delta = "".join(each.data.get("delta", "") for each in covered)
        expected = covered[-1].data | ({"delta": delta} if event.name in texts else {})
        assert event.data == expected
        assert {each.data.get("channel") for each in covered} == {event.data.get("channel")}
    assert after == int(whole[-1].id)


def exchange(
    server: Server, request: bytes, *, seconds: float = 10.0
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send exact bytes on a connection of their own and read one response with its (unchunked) body."""
    method = request.split(b" ", 1)[0].decode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection, method=method)
        try:
            response.begin()
            return response, response.read()
        finally:
            response.close()


def frozen(server: Server, place: str, **headers: str) -> socket.socket:
    """Ask for the stream at `place` with a buffer of 4 KB, and never read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection.sendall(f"GET {place}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n".encode())
    return connection


async def is_blocked(connection: socket.socket) -> bool:
    """Whether its peer has bytes for it that the kernel does not take off its hands any more (Linux)."""
    before = _unsent(connection)
    await asyncio.sleep(0.3)
    return _unsent(connection) == before > 0


def _unsent(connection: socket.socket) -> int:
    """Bytes in the peer's send buffer, on this machine (proc(5), /proc/net/tcp)."""
    ends = [f":{port[1]:04X}" for port in (connection.getpeername(), connection.getsockname())]
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines():
        found = line.split()
        if found[1].endswith(ends[0]) and found[2].endswith(ends[1]):
            return int(found[4].partition(":")[0], 16)
    return 0


def lines_of(body: bytes) -> list[dict[str, Any]]:
    """The events of an NDJSON body, heartbeats left out."""
    return [json.loads(line) for line in body.split(b"\n") if line]


def row(server: Server, column: str, value: str) -> dict[str, Any] | None:
    """A task's durable record, straight from the server's database, by `id` or `end_user`."""
    with closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True, timeout=20)) as database:
        database.row_factory = sqlite3.Row
        query = f"SELECT * FROM streaming_streamtask WHERE {column} = ?"  # noqa: S608 (names are ours)
        found = database.execute(query, (value,)).fetchone()
        return None if found is None else dict(found)


async def eventually(check: Callable[[], Awaitable[T]], seconds: float = 10.0) -> T:
    """Ask again until the answer is true; returns it, or the last false one after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := await check()) and time.monotonic() < deadline:  # noqa: ASYNC110 (another process)
        await asyncio.sleep(0.05)
    return answer
