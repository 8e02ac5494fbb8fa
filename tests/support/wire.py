"""Readers by the thousand: HTTP on bare connections, and readers who come back after every cut."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httptools
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from streaming.core.sse import Decoder
from tests.support.client import STREAM, Received, brief

TERMINAL: Final = ("complete", "error", "cancelled")

PATIENCE: Final = 20.0
"""Seconds without a byte after which a reader takes a connection for dead."""


class Silence(ConnectionError):
    """Nothing came for so long that the connection is taken for dead."""


class Exchange:
    """One request on a connection of its own, and its answer as it comes. Made by `request`."""

    def __init__(self, reader: asyncio.StreamReader, patience: float) -> None:
        self._reader = reader
        self._patience = patience
        self.status = 0
        self.headers: dict[str, str] = {}
        self.reads = 0
        """Pieces in which the answer came."""
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._complete = False
        self._in_head = True

    async def head(self) -> None:
        """Read to the end of the header. Raises `ConnectionError`."""
        while self._in_head:
            await self._feed()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises `ConnectionError` when it ends before its end."""
        while True:
            if self._body:
                data = b"".join(self._body)
                self._body.clear()
                yield data
            if self._complete:
                return
            await self._feed()

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def json(self) -> Any:
        """The whole body, decoded."""
        return json.loads(await self.body())

    async def _feed(self) -> None:
        try:
            async with asyncio.timeout(self._patience):
                data = await self._reader.read(65_536)
        except TimeoutError:
            raise Silence from None
        if not data:
            raise ConnectionResetError("the answer ended before its end")
        self.reads += 1
        self._parser.feed_data(data)

    # What the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line."""
        self.headers[name.decode().lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The header is over."""
        self.status = self._parser.get_status_code()
        self._in_head = False

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._complete = True


@asynccontextmanager
async def request(
    port: int, method: str, path: str, body: Any = None, *, patience: float = PATIENCE, **headers: str
) -> AsyncIterator[Exchange]:
    """An answered request; the connection is closed at the end. `patience`: seconds without a byte until
    `Silence`. Raises `OSError`."""
    data = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        exchange = Exchange(reader, patience)
        await exchange.head()
        yield exchange
    finally:
        writer.close()


async def ask(port: int, path: str, method: str = "GET", body: Any = None) -> Any:
    """The decoded answer of a JSON route."""
    async with request(port, method, path, body) as answer:
        return await answer.json()


async def start(port: int, **members: Any) -> str:
    """Start a scripted task that nobody reads yet; its id."""
    async with request(port, "POST", "/content/generate/async", brief(**members)) as answer:
        assert answer.status == 202, (answer.status, await answer.body())
        return str((await answer.json())["task_id"])


def code_of(body: bytes) -> str:
    """That of a problem document; of anything else how it begins."""
    try:
        return str(json.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return repr(body[:60])


class Refused(Exception):
    """An answer that no coming back will change: its status and code."""


@dataclass
class Persistent:
    """A reader who comes back with its cursor until it has seen the end. `address`: the port to try next.
    Its methods raise `Refused`.

    `violations` is empty unless an event came twice, out of order, or after the end.
    """

    address: Callable[[], int]
    task_id: str = ""
    after: int = 0
    pieces: list[str] = field(default_factory=list)
    seen: list[tuple[int, float, str]] = field(default_factory=list)
    """Of each durable event its id, when it came (monotonic seconds), and its text."""
    end: Received | None = None
    gaps: list[dict[str, Any]] = field(default_factory=list)
    restarts: list[dict[str, Any]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    cuts: int = 0
    resume_gaps: list[float] = field(default_factory=list)
    """Seconds from a cut to the next event, of connections that lived long enough to bring one."""
    sent_away: int = 0
    retry: int | None = None
    refusals: Counter[int] = field(default_factory=Counter)
    silent_refusals: int = 0
    """Refusals that did not say when to come back."""
    unreachable: int = 0
    pause: float = 0.0
    """Seconds of waiting after a cut."""
    key: str = ""
    """The `Idempotency-Key` of its call; without one, a call whose answer is lost becomes another task."""
    patience: float = PATIENCE
    """Seconds without a byte after which it takes a connection for dead."""
    _cut_at: float | None = None

    @property
    def text(self) -> str:
        """What it has read."""
        return "".join(self.pieces)

    async def generate(self, **members: Any) -> None:
        """Start a stream by reading it, and read to its end, however often it is cut."""
        while not self.task_id:
            await self._once("POST", STREAM, brief(**members))
        await self.follow()

    async def follow(self, deadline: float | None = 120.0) -> None:
        """Read to the end. Raises `TimeoutError` after `deadline` seconds; None: never."""
        async with asyncio.timeout(deadline):
            while self.end is None:
                await self._once("GET", f"/streams/{self.task_id}/events", None)

    async def _once(self, method: str, path: str, body: Any) -> None:
        headers = {"Last_Event_ID": str(self.after)} if self.after else {}
        if self.key and method == "POST":
            headers["Idempotency_Key"] = self.key
        try:
            address = self.address()
            async with request(address, method, path, body, patience=self.patience, **headers) as answer:
                self.task_id = self.task_id or answer.headers.get("x-stream-id", "")
                if answer.status != 200:
                    await self._refused(answer)
                    return
                await self.read(answer)
        except ConnectionRefusedError:
            self.unreachable += 1
            await asyncio.sleep(0.05)
        except OSError as error:
            await self._was_cut(error)

    async def _was_cut(self, error: Exception) -> None:
        self.cuts += 1
        self._cut_at = time.monotonic()
        if self.pause:
            await asyncio.sleep(self.pause)

    async def _refused(self, answer: Exchange) -> None:
        code = code_of(await answer.body())
        await self._was_refused(answer.status, code, told_when="retry-after" in answer.headers)

    async def _was_refused(self, status: int, code: str, *, told_when: bool) -> None:
        self.refusals[status] += 1
        if status not in (429, 503):
            raise Refused(status, code)
        self.silent_refusals += not told_when
        await asyncio.sleep(random.uniform(0.2, 0.6))

    async def read(self, answer: Exchange) -> None:
        """Read one answer to its end. Raises `ConnectionError` if that is not the stream's."""
        decoder = Decoder(max_line=1 << 26, max_event=1 << 26)
        away = False
        async for chunk in answer.chunks():
            for event in decoder.feed(chunk):
                received = Received(event.event, json.loads(event.data), event.id, time.monotonic())
                away = away or event.event == "reconnect"
                self._note(received)
            self.retry = decoder.retry
        if away:
            await self._went_away()
        elif self.end is None:
            raise ConnectionResetError("the body ended in order, the stream did not")

    async def _went_away(self) -> None:
        self.sent_away += 1
        await asyncio.sleep((self.retry or 0) / 1000 * 0.1)

    def _note(self, event: Received) -> None:
        if self._cut_at is not None:
            self.resume_gaps.append(event.at - self._cut_at)
            self._cut_at = None
        if event.name == "gap":
            self.gaps.append(event.data)
            return
        if event.name not in ("content", "truncated", "restart", *TERMINAL):
            return
        number = int(event.id)
        if self.end is not None:
            self.violations.append(f"{event.name} {number} after the end")
        if number <= self.after:
            self.violations.append(f"{event.name} {number} after {self.after}")
        self.after = number
        if event.name == "restart":
            self.restarts.append(event.data)
            self.pieces.clear()
        text = event.data["delta"] if event.name == "content" else ""
        self.pieces.append(text)
        self.seen.append((number, event.at, text))
        if event.name in TERMINAL:
            self.end = event


class PersistentSocket(Persistent):
    """The same over WebSockets: started on one socket, resumed on others."""

    async def _once(self, method: str, path: str, body: Any) -> None:
        try:
            if method == "POST":
                async with self._connected("/ws/generate/") as socket:
                    await socket.send(json.dumps({"type": "start", "request_id": "one", "brief": body}))
                    await self._take(socket)
            else:
                async with self._connected(f"/ws/streams/{self.task_id}/?after={self.after}") as socket:
                    await self._take(socket)
        except ConnectionRefusedError:
            self.unreachable += 1
            await asyncio.sleep(0.05)
        except InvalidStatus as refusal:
            answer = refusal.response
            code = code_of(bytes(answer.body or b""))
            await self._was_refused(answer.status_code, code, told_when="Retry-After" in answer.headers)
        except TimeoutError:
            await self._was_cut(Silence())
        except (OSError, EOFError, InvalidHandshake, ConnectionClosed) as error:
            await self._was_cut(error)

    @asynccontextmanager
    async def _connected(self, path: str) -> AsyncIterator[ClientConnection]:
        url = f"ws://127.0.0.1:{self.address()}{path}"
        socket = await connect(url, proxy=None, compression=None, max_size=None, open_timeout=self.patience)
        try:
            yield socket
        finally:
            # No farewell: who leaves may have been cut off.
            socket.transport.abort()

    async def _take(self, socket: ClientConnection) -> None:
        """The messages of one stream, to its end or to that of the socket. Raises `ConnectionClosed`."""
        while self.end is None:
            async with asyncio.timeout(self.patience):
                values = json.loads(await socket.recv())
            name, at = values.pop("type"), time.monotonic()
            self.task_id = self.task_id or values.get("task_id", "")
            if name == "problem":
                told_when = "retry_after" in values
                await self._was_refused(values["status"], values["code"], told_when=told_when)
                return
            if name == "reconnect":
                self.retry = values["retry"]
                await self._went_away()
                return
            if name == "ended":
                self.violations.append(f"nothing behind {self.after}, which is not the end")
                raise Refused(200, "ended")
            self._note(Received(name, values, str(values.pop("id", "")), at))


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def until(check: Callable[[], object], seconds: float = 60.0) -> None:
    """Look until `check` is true, whose answer may have to be awaited. Raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while True:
            answer = check()
            if await answer if isinstance(answer, Awaitable) else answer:
                return
            await asyncio.sleep(0.02)


async def until_running(port: int, wanted: int) -> None:
    """Wait until at least so many tasks run. Raises `TimeoutError`."""

    async def run() -> bool:
        return bool((await ask(port, "/stats"))["pools"]["agent_pool"]["running"] >= wanted)

    await until(run)
