"""Clients of WebSockets: a proper one, and one that sends whatever bytes a test wants."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.client import brief
from tests.support.servers import Server

GENERATE = "/ws/generate/"

ENDS = ("complete", "error", "cancelled")

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


class Socket:
    """An open socket; messages are JSON objects."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, **values: Any) -> None:
        """Send a message."""
        await self.connection.send(json.dumps(values))

    async def start(self, request_id: str, **members: Any) -> None:
        """Ask for a scripted stream."""
        await self.say(type="start", request_id=request_id, brief=brief(**members))

    async def next(self, kind: str | None = None) -> dict[str, Any]:
        """The next message, or the next one of that type. Raises `ConnectionClosed`."""
        while True:
            found: dict[str, Any] = json.loads(await self.connection.recv())
            if kind in (None, found["type"]):
                return found

    async def rest(self) -> list[dict[str, Any]]:
        """All messages up to the close, whose code is then in `connection.close_code`."""
        found = []
        try:
            while True:
                found.append(await self.next())
        except ConnectionClosed:
            return found

    def cut(self) -> None:
        """Break the connection, without a word."""
        self.connection.transport.abort()


@asynccontextmanager
async def opened(server: Server, path: str = GENERATE, **options: Any) -> AsyncIterator[Socket]:
    """A socket to `path`. Raises `InvalidStatus` when refused."""
    defaults: dict[str, Any] = {"proxy": None, "max_size": None, "compression": None, "open_timeout": 30}
    async with connect(f"ws://127.0.0.1:{server.port}{path}", **defaults | options) as connection:
        yield Socket(connection)


def frame(opcode: int, payload: bytes, *, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """One frame (RFC 6455, 5.2), sound or not."""
    size = len(payload)
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    mark = 0x80 if masked else 0
    if size < 126:
        head += bytes([mark | size])
    elif size < 65_536:
        head += struct.pack("!BH", mark | 126, size)
    else:
        head += struct.pack("!BQ", mark | 127, size)
    if not masked:
        return head + payload
    # A mask of zeros changes nothing, and is one.
    return head + b"\0\0\0\0" + payload


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """A close frame with that code."""
    return frame(CLOSE, struct.pack("!H", code) + reason)


class RawSocket:
    """A TCP connection after the handshake. Reads frames, and answers none."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Exact bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def read_frame(self) -> tuple[int, bytes]:
        """Opcode and payload. Raises `IncompleteReadError` or `ConnectionError` at the end."""
        first, size = await self.reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(size)

    async def close_code(self) -> int | None:
        """The code of the server's close frame; None if it went without one."""
        try:
            while True:
                opcode, payload = await self.read_frame()
                if opcode == CLOSE:
                    return int(struct.unpack("!H", payload[:2])[0])
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def gone(self) -> None:
        """Return when the server has closed the connection."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            return


def upgrade(path: str, **headers: str) -> bytes:
    """The request that asks for a socket."""
    named = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()


@asynccontextmanager
async def raw(server: Server, path: str = GENERATE, buffer: int | None = None) -> AsyncIterator[RawSocket]:
    """An open socket for exact bytes. `buffer`: how much the kernel takes in, unread."""
    plain = socket.socket()
    if buffer is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", server.port))
    limit = 65_536 if buffer is None else buffer
    reader, writer = await asyncio.open_connection(sock=plain, limit=limit)
    try:
        writer.write(upgrade(path))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield RawSocket(reader, writer)
    finally:
        writer.transport.abort()
