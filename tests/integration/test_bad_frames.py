"""Rows W1 to W3, W6, W8 and K1 of the bad-input catalogue, as exact bytes on the servers of the HTTP suite.

What a message may say is ours, and the same everywhere. What a frame may be is the servers': `serve` closes
with the code of RFC 6455, 7.4.1; Daphne (autobahn) drops the connection without a close frame, so there the
code is None, and ours have 3000 more, since it lets applications send few.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import pytest

from tests.integration.conftest import idle
from tests.support.client import brief, client
from tests.support.notebooks import below
from tests.support.servers import Server
from tests.support.sockets import (
    BINARY,
    CLOSE,
    GENERATE,
    PING,
    TEXT,
    RawSocket,
    close_frame,
    frame,
    opened,
    raw,
    upgrade,
)

pytestmark = [pytest.mark.server, pytest.mark.every_variant, pytest.mark.usefixtures("clean_log")]

PATIENCE: Final = 60

PING_MESSAGE: Final = b'{"type":"ping"}'

PLACES: Final = {"generate": GENERATE, "notebook": "/ws/notebooks/any/"}


async def said(socket: RawSocket) -> dict[str, Any]:
    """The next message."""
    while True:
        opcode, payload = await socket.read_frame()
        assert opcode != CLOSE, payload
        if opcode == TEXT:
            found: dict[str, Any] = json.loads(payload)
            return found


async def assert_usable(socket: RawSocket) -> None:
    """The socket stays: it answers a `ping`."""
    await socket.send(frame(TEXT, PING_MESSAGE))
    assert await said(socket) == {"type": "pong"}


async def assert_refused(server: Server, place: str, text: str, status: int, code: str) -> None:
    """A problem is the answer, and the socket stays."""
    async with asyncio.timeout(PATIENCE), raw(server, place) as socket:
        await socket.send(frame(TEXT, text.encode()))
        problem = await said(socket)
        assert (problem["type"], problem["status"], problem["code"]) == ("problem", status, code)
        await assert_usable(socket)


async def assert_ended(server: Server, data: bytes, code: int | None) -> None:
    """The connection ends, with that code, and the server goes on."""
    async with asyncio.timeout(PATIENCE):
        async with raw(server) as socket, raw(server) as beside:
            await socket.send(data)
            assert await socket.close_code() == code
            await assert_usable(beside)
        async with raw(server) as next_one:
            await assert_usable(next_one)


MESSAGES: Final = {
    "W1-not-json": ("ping", 400, "invalid_json"),
    "W1-cut-in-half": ('{"type":"pi', 400, "invalid_json"),
    "W1-behind-it": ('{"type":"ping"} x', 400, "invalid_json"),
    "W1-two-in-one": ('{"type":"ping"}{"type":"ping"}', 400, "invalid_json"),
    "W1-not-a-number": ('{"type":NaN}', 400, "invalid_json"),
    "W1-empty": ("", 400, "invalid_json"),
    "W1-spaces": (" " * 65_536, 400, "invalid_json"),
    "W1-list": ("[]", 400, "object_expected"),
    "W1-list-of-messages": ('[{"type":"ping"}]', 400, "object_expected"),
    "W1-text": ('"ping"', 400, "object_expected"),
    "W1-null": ("null", 400, "object_expected"),
    "W1-deep": ("[" * 65_536, 400, "too_deep"),
    "W1-key-twice": ('{"type":"frob","type":"ping"}', 400, "duplicate_key"),
    "W1-no-type": ("{}", 400, "unknown_type"),
    "W1-unknown-type": ('{"type":"frob"}', 400, "unknown_type"),
    "W1-type-in-capitals": ('{"type":"PING"}', 400, "unknown_type"),
    "W1-type-null": ('{"type":null}', 400, "unknown_type"),
    "W1-type-of-a-class": ('{"type":"__class__"}', 400, "unknown_type"),
    "W1-unknown-field": ('{"type":"ping","frob":1}', 422, "unknown_field"),
    "W1-version-99": ('{"type":"ping","version":99}', 422, "unknown_field"),
    "W1-field-of-5-kb": ('{"type":"ping","' + "x" * 5_000 + '":1}', 422, "unknown_field"),
    "W6-stop-unknown": ('{"type":"cancel","request_id":"nobody"}', 404, "not_found"),
    "W6-ack-unknown": ('{"type":"ack","request_id":"nobody","id":1}', 404, "not_found"),
    "W6-follow-unknown": ('{"type":"follow","request_id":"a","task_id":"../x"}', 404, "not_found"),
}


@pytest.mark.parametrize(("text", "status", "code"), MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
async def test_a_bad_message_is_refused_and_the_socket_stays(
    server: Server, place: str, text: str, status: int, code: str
) -> None:
    await assert_refused(server, place, text, status, code)


COFFEE: Final = "咖".encode()

FRAMES: Final[dict[str, tuple[bytes, int, bool]]] = {
    # The frame, the code of RFC 6455, and whether it is ours, not the server's, to refuse it.
    "W2-binary": (frame(BINARY, PING_MESSAGE), 1003, True),
    "W2-binary-empty": (frame(BINARY, b""), 1003, True),
    "W2-binary-in-pieces": (frame(BINARY, b"{", fin=False) + frame(0, b"}"), 1003, True),
    "W2-64-kb-and-one": (frame(TEXT, b" " * 65_537), 1009, True),
    "W2-64-kb-in-characters-of-three": (frame(TEXT, COFFEE * 21_846), 1009, True),
    "W2-64-kb-in-two": (frame(TEXT, b" " * 40_000, fin=False) + frame(0, b" " * 40_000), 1009, True),
    "W2-latin-1": (frame(TEXT, b'{"type":"caf\xe9"}'), 1007, False),
    "W2-overlong": (frame(TEXT, b'"\xc0\xaf"'), 1007, False),
    "W2-surrogate": (frame(TEXT, b'"\xed\xa0\x80"'), 1007, False),
    "W2-utf-16": (frame(TEXT, PING_MESSAGE.decode().encode("utf-16")), 1007, False),
    "W2-cut-character": (frame(TEXT, COFFEE[:2]), 1007, False),
    "W2-cut-character-in-pieces": (frame(TEXT, COFFEE[:1], fin=False) + frame(0, b"x"), 1007, False),
    "W2-reason-not-utf-8": (close_frame(1000, b"\xff"), 1007, False),
    "W3-unmasked": (frame(TEXT, b"{}", masked=False), 1002, False),
    "W3-reserved-bit-1": (frame(TEXT, b"{}", reserved=4), 1002, False),
    "W3-reserved-bit-2": (frame(TEXT, b"{}", reserved=2), 1002, False),
    "W3-reserved-bit-3": (frame(TEXT, b"{}", reserved=1), 1002, False),
    "W3-reserved-bit-of-a-ping": (frame(PING, b"", reserved=4), 1002, False),
    "W3-opcode-3": (frame(3, b"{}"), 1002, False),
    "W3-opcode-11": (frame(11, b""), 1002, False),
    "W3-ping-of-126-bytes": (frame(PING, b"x" * 126), 1002, False),
    "W3-ping-in-pieces": (frame(PING, b"x", fin=False), 1002, False),
    "W3-continues-nothing": (frame(0, b"x"), 1002, False),
    "W3-begins-within-another": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002, False),
    **{f"W3-close-{code}": (close_frame(code), 1002, False) for code in (0, 999, 1004, 1005, 1006, 1015)},
    "W3-close-2999": (close_frame(2999), 1002, False),
    "W3-close-65535": (close_frame(65_535), 1002, False),
    "W3-close-of-one-byte": (frame(CLOSE, b"\x03"), 1002, False),
    "W3-long-reason": (close_frame(1000, b"x" * 124), 1002, False),
}


@pytest.mark.parametrize(("data", "code", "ours"), FRAMES.values(), ids=FRAMES)
async def test_a_bad_frame_ends_the_connection(server: Server, data: bytes, code: int, ours: bool) -> None:
    expected: int | None = code
    if server.kind == "daphne":
        expected = code + 3000 if ours else None
    await assert_ended(server, data, expected)


async def test_w2_a_length_without_a_message_is_not_waited_for(server: Server) -> None:
    """2⁶⁴ − 1 bytes are told, none comes."""
    told = bytes([0x80 | TEXT, 0x80 | 127]) + b"\xff" * 8 + b"\0\0\0\0"
    await assert_ended(server, told, None if server.kind == "daphne" else 1009)


async def test_w2_characters_cut_by_frames_are_whole(server: Server) -> None:
    """Frames may part a character (RFC 6455, 5.6), and a ping may come between them."""
    name = "咖啡" * 10
    text = json.dumps({"type": "cancel", "request_id": name}, ensure_ascii=False).encode()
    pieces = [text[at : at + 1] for at in range(len(text))]
    data = frame(TEXT, pieces[0], fin=False)
    for piece in pieces[1:-1]:
        data += frame(0, piece, fin=False)
    async with asyncio.timeout(PATIENCE), raw(server) as socket:
        await socket.send(data + frame(PING, b"between") + frame(0, pieces[-1]))
        assert (await said(socket))["code"] == "invalid_id"
        await assert_usable(socket)


@pytest.mark.parametrize(
    "data",
    [close_frame(1000), close_frame(4999, b"x" * 123), close_frame(3000, COFFEE), frame(CLOSE, b"")],
    ids=["1000", "4999-longest-reason", "3000", "no-code"],
)
async def test_w3_a_sound_close_is_answered(server: Server, data: bytes) -> None:
    """By a close frame, whatever its code."""
    async with asyncio.timeout(PATIENCE):
        async with raw(server) as socket:
            await socket.send(data)
            assert (await socket.read_frame())[0] == CLOSE
        async with raw(server) as next_one:
            await assert_usable(next_one)


async def test_w6_of_two_starts_in_one_packet_one_runs(server: Server) -> None:
    """And all that comes behind them at once is answered in its order."""
    start = {"type": "start", "request_id": "a", "brief": brief(options={"tokens": 1_000, "interval": 0.05})}
    cancel = {"type": "cancel", "request_id": "a"}
    data = b"".join(frame(TEXT, json.dumps(each).encode()) for each in (start, start, cancel, cancel))
    async with client(server.url) as http, asyncio.timeout(PATIENCE), raw(server) as socket:
        await socket.send(data)
        seen: list[dict[str, Any]] = []
        while not seen or seen[-1]["type"] != "cancelled" or len(answers_in(seen)) < 4:
            seen.append(await said(socket))
        assert answers_in(seen) == ["opened", "duplicate", "ok", "ok"]
        await assert_usable(socket)
        await idle(http)


def answers_in(messages: list[dict[str, Any]]) -> list[str]:
    """What was said to requests, by the codes of refusals."""
    kinds = ("opened", "problem", "ok")
    return [each.get("code", each["type"]) for each in messages if each["type"] in kinds]


HANDSHAKES: Final = {
    "W8-version-99": {"Sec_WebSocket_Version": "99"},
    "W8-no-key": {"Sec_WebSocket_Key": ""},
    "W8-key-of-three-bytes": {"Sec_WebSocket_Key": "AAAA"},
}


@pytest.mark.parametrize("headers", HANDSHAKES.values(), ids=HANDSHAKES)
async def test_a_bad_handshake_opens_nothing(server: Server, headers: dict[str, str]) -> None:
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(upgrade(GENERATE, **headers))
        status = int((await reader.readuntil(b"\r\n"))[9:12])
        writer.transport.abort()
        assert 400 <= status < 500
        async with raw(server) as next_one:
            await assert_usable(next_one)


async def test_k1_a_ping_without_kernels_starts_none(server: Server) -> None:
    """The operation and the message: this server has no kernels."""
    before = below(server)
    async with asyncio.timeout(PATIENCE), opened(server, "/ws/notebooks/any/") as socket:
        await socket.say(type="ping")
        assert await socket.next() == {"type": "pong"}
        await socket.say(type="operation", request_id="a", operation={"type": "ping"})
        assert (await socket.next("result"))["data"] == {"pong": True}
        assert (await socket.next("complete"))["request_id"] == "a"
        for number, name in enumerate(("execute", "restart")):
            members = {"code": "1"} if name == "execute" else {}
            await socket.say(type="operation", request_id=f"r{number}", operation={"type": name, **members})
            assert (await socket.next("problem"))["status"] in (401, 403)
    assert below(server) == before
