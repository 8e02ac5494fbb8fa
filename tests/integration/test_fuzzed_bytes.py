"""Random bytes where requests and frames of WebSockets should be: the server closes or answers, goes on
serving everybody else, and says nothing of it but its ordinary lines."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import struct
from typing import Final

import httpx2
import pytest

from tests.support.client import STREAM, generate
from tests.support.noise import BRIEF, MESSAGES, METHODS, Noise
from tests.support.scale import ALL
from tests.support.servers import Server

pytestmark = [
    pytest.mark.server,
    pytest.mark.usefixtures("clean_log"),
    pytest.mark.every_variant,
    pytest.mark.timeout(1800 if ALL else 120),
]

REQUESTS, SOCKETS = (5_000, 2_000) if ALL else (150, 60)

PATIENCE: Final = 20.0
"""Seconds after which an exchange hangs, after our half of the connection is closed."""

BODY: Final = json.dumps(BRIEF).encode()

UPGRADE: Final = (
    b"GET /ws/generate/ HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % base64.b64encode(b"0" * 16)
)

STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


def exchange(server: Server, opening: bytes, more: bytes = b"", wait: float = 0.05) -> bytes:
    """What comes back for an opening, after so many seconds at most as it may ask for more bytes, and for
    `more`, which were the last. Raises `TimeoutError`."""
    found = b""
    # It may have closed already, with a reset, too.
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(opening)
        with contextlib.suppress(TimeoutError):
            found += connection.recv(65_536)
        connection.settimeout(PATIENCE)
        connection.sendall(more)
        connection.shutdown(socket.SHUT_WR)
        while received := connection.recv(65_536):
            found += received
    return found


def request(noise: Noise) -> bytes:
    """A request that is mostly damaged somewhere."""
    lines = [f"{noise.dice.choice(METHODS)} {noise.dice.choice((STREAM, '/streams', '/healthz'))} HTTP/1.1"]
    head = [lines[0].encode(), b"Host: 127.0.0.1", b"Content-Type: application/json"]
    head += [b"%b: %b" % header for header in noise.headers(3)]
    head.append(
        b"Content-Length: %d" % len(BODY) if noise.dice.random() < 0.7 else b"Transfer-Encoding: chunked"
    )
    return noise.damaged(b"\r\n".join(head) + b"\r\n\r\n" + BODY, 4)


def frame(noise: Noise) -> bytes:
    """A frame as clients send it (RFC 6455, 5.2), mostly damaged: opcode, length, mask or contents."""
    payload = json.dumps(noise.dice.choice(MESSAGES)).encode()
    mask = noise.dice.randbytes(4)
    length = (
        bytes([0x80 | len(payload)]) if len(payload) < 126 else struct.pack("!BH", 0x80 | 126, len(payload))
    )
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    return noise.damaged(bytes([0x80 | noise.dice.choice((1, 1, 1, 2, 8, 9))]) + length + mask + masked, 2)


def test_damaged_requests_are_answered_or_closed(server: Server) -> None:
    noise, statuses = Noise(4), set()
    for number in range(REQUESTS):
        sent = request(noise)
        try:
            answer = exchange(server, sent)
        except TimeoutError as error:
            raise AssertionError(f"no end of case {number}: {sent!r}") from error
        if begun := STATUS.match(answer):
            statuses.add(int(begun[1]))
            assert int(begun[1]) < 500 or int(begun[1]) in (501, 503, 505), (number, sent, answer[:500])
        assert b"Traceback" not in answer
    assert statuses >= {200, 400}


def test_damaged_frames_close_their_socket_and_no_other(server: Server) -> None:
    noise, opened = Noise(5), 0
    for number in range(SOCKETS):
        frames = [frame(noise) for _ in range(noise.dice.randint(1, 4))]
        try:
            answer = exchange(server, UPGRADE, b"".join(frames), PATIENCE)
        except TimeoutError as error:
            raise AssertionError(f"no end of case {number}: {frames!r}") from error
        opened += answer.startswith(b"HTTP/1.1 101 ")
        assert b"server_error" not in answer, (number, frames)
    assert opened == SOCKETS


async def test_then_everything_still_works(server: Server, http: httpx2.AsyncClient) -> None:
    assert (await generate(http, options={"tokens": 3, "interval": 0})).end.name == "complete"
    assert server.lives
