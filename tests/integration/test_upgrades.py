"""Requests that ask for another protocol, and fields behind a body: rows H10 and H11, byte by byte."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from contextlib import suppress
from typing import Final

import pytest

from tests.support.catalogue import BRIEF, HOST, bare_post, converse, get, post, started, told
from tests.support.client import STREAM, brief, client, eventually
from tests.support.servers import Server
from tests.support.sockets import upgrade

# Daphne's protocol is its own.
pytestmark = [
    pytest.mark.server,
    pytest.mark.usefixtures("clean_log"),
    pytest.mark.parametrize("server", ["serve"], indirect=True),
]

PATIENCE: Final = 20.0

H2C: Final = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n"
)
"""What Java's HttpClient sends with each call."""

ANY: Final = b"Connection: Upgrade\r\nUpgrade: foo\r\n"

HEALTH: Final = b"GET /healthz HTTP/1.1\r\n" + HOST + b"%b\r\n"


def spoken(server: Server, *pieces: bytes) -> bytes:
    """What the server says to pieces that come one after the other, until it closes. Raises
    `TimeoutError`."""
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):
            for number, piece in enumerate(pieces):
                time.sleep(0.1 if number else 0)
                connection.sendall(piece)
        with suppress(ConnectionError):
            while data := connection.recv(65_536):
                answer += data
    return answer


def chunked(body: bytes, trailers: bytes = b"") -> bytes:
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailers)


# --- Upgrade ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [H2C, ANY, H2C + H2C], ids=["h2c", "any", "twice"])
def test_an_upgrade_that_is_none_is_ignored_and_the_body_read(server: Server, asked: bytes) -> None:
    for request in (post(asked), bare_post(asked + b"Transfer-Encoding: chunked\r\n", chunked(BRIEF))):
        head, blank, body = request.partition(b"\r\n\r\n")
        for pieces in (
            [request],
            [head + blank, body],
            [head[:-9], head[-9:] + blank[:2], blank[2:] + body[:7], body[7:]],
        ):
            answer = spoken(server, *pieces)
            assert told(answer)[0] == 200, answer[:500]
            assert b"event: complete" in answer


@pytest.mark.parametrize(
    "length", [b"Content-Length: %d\r\n", b"Transfer-Encoding: chunked\r\n"], ids=["length", "chunks"]
)
def test_a_body_is_no_second_request(server: Server, length: bytes) -> None:
    within = get(b"/no/such/place")
    body = within if b"%d" in length else chunked(within)
    head = bare_post(ANY + (length % len(within) if b"%d" in length else length), b"")
    head = head.replace(b"Connection: close\r\n", b"")
    for pieces in ([head + body], [head, body], [head + body[:3], body[3:]]):
        answer = spoken(server, *pieces, HEALTH % b"Connection: close\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"400", b"200"]
        assert b'"code":"invalid_json"' in answer


@pytest.mark.parametrize(
    "hidden",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 4\r\nContent-Length: 400\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: identity\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding: gzip\r\n",
    ],
)
@pytest.mark.parametrize("asked", [ANY, ANY.replace(b"foo", b"websocket")], ids=["foo", "websocket"])
def test_two_lengths_stay_two_lengths(server: Server, asked: bytes, hidden: bytes) -> None:
    within = b"0\r\n\r\n" + HEALTH % b""
    assert told(spoken(server, bare_post(asked + hidden, b""), within)) == (400, "")


def test_the_connection_goes_on_behind_it(server: Server) -> None:
    """Three at once, one of them in the rest of another, and one when they are answered."""
    first = HEALTH % ANY
    second = post(H2C).replace(b"Connection: close\r\n", b"")
    assert b"close" not in second
    answer = spoken(server, first + second + first, HEALTH % (ANY + b"Connection: close\r\n"))
    assert answer.count(b"HTTP/1.1 200") == 4
    assert answer.count(b"event: complete") == 1
    between = answer.split(b"HTTP/1.1 200")
    assert b"event: complete" in between[2], "in order"


def test_very_many_at_once_are_answered(server: Server) -> None:
    number = 400
    answer = spoken(server, (HEALTH % ANY) * number + HEALTH % b"Connection: close\r\n")
    assert answer.count(b"HTTP/1.1 200") == number + 1


def test_nothing_is_upgraded_in_http_1_0(server: Server) -> None:
    asked = upgrade("/healthz").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert spoken(server, asked).startswith(b"HTTP/1.1 200")


def test_connect_is_refused(server: Server) -> None:
    request = b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n" + HOST + b"\r\n"
    assert told(spoken(server, request, HEALTH % b"")) == (400, "")


# --- Handshakes ---------------------------------------------------------------------------------------

LENGTH: Final = b"Content-Length: 2\r\n\r\n{}"
UNREADABLE: Final[dict[str, bytes]] = {
    "a body": upgrade("/ws/generate/")[:-2] + LENGTH,
    "a body where no socket is": upgrade("/healthz")[:-2] + LENGTH,
    "a body of a POST": upgrade(STREAM).replace(b"GET", b"POST", 1)[:-2] + LENGTH,
    "chunks": upgrade("/ws/generate/")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a long line": upgrade("/ws/generate/", X=9_000 * "x"),
    "many lines": upgrade("/ws/generate/")[:-2] + 200 * b"X: y\r\n" + b"\r\n",
}


@pytest.mark.parametrize("request_", UNREADABLE.values(), ids=UNREADABLE)
def test_a_handshake_that_cannot_be_read_is_answered_and_closed(server: Server, request_: bytes) -> None:
    before = started(server)
    assert told(spoken(server, request_))[0] == 400
    assert told(spoken(server, request_[:-2], request_[-2:]))[0] == 400
    assert started(server) == before


def test_a_handshake_behind_a_request_mixes_nothing(server: Server) -> None:
    """While an answer is under way it is an ordinary request, whose turn comes after it."""
    plain = post().replace(b"Connection: close\r\n", b"")
    asked = upgrade("/ws/generate/").replace(b"Connection: Upgrade", b"Connection: Upgrade, close")
    first, _, second = spoken(server, plain + asked).rpartition(b"HTTP/1.1 ")
    assert b"event: complete" in first
    assert second.startswith(b"426")


HANGING: Final = json.dumps(brief(options={"hang_after": 1}, on_disconnect="cancel")).encode()


def test_bytes_in_the_midst_of_an_answer_end_it(server: Server) -> None:
    """And put no other answer into it."""
    answer = spoken(server, post(body=HANGING).replace(b"Connection: close\r\n", b""), b"\0\r\n\r\n")
    assert told(answer)[0] == 200


async def test_a_reader_who_leaves_is_noticed_whatever_waits_behind(server: Server) -> None:
    endless = brief(options={"tokens": 400, "interval": 0.05}, on_disconnect="cancel")
    kept = post(body=json.dumps(endless).encode()).replace(b"Connection: close\r\n", b"")
    async with client(server.url) as http:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(kept + HEALTH % b"")
        head = await reader.readuntil(b"event: content")
        writer.close()
        found = re.search(rb"x-stream-id: (\w+)", head)
        assert found is not None

        async def cancelled() -> bool:
            answer = await http.get(f"/streams/{found[1].decode()}")
            return bool(answer.json()["state"] == "cancelled")

        assert await eventually(cancelled)


# --- Trailers -----------------------------------------------------------------------------------------

TRAILERS: Final = {
    "a key": b"Authorization: Bearer wrong\r\n",
    "a host": b"Host: evil.example\r\n",
    "a name": b"X-Request-ID: from-a-trailer\r\n",
    "a type": b"Content-Type: text/plain\r\n",
    "another protocol": ANY,
}


@pytest.mark.parametrize("trailers", TRAILERS.values(), ids=TRAILERS)
def test_what_comes_behind_a_body_is_no_header(server: Server, trailers: bytes) -> None:
    request = bare_post(b"Transfer-Encoding: chunked\r\n", chunked(BRIEF, trailers))
    cut = request.index(trailers)
    for pieces in ([request], [request[:cut], request[cut:]]):
        answer = spoken(server, *pieces)
        assert told(answer)[0] == 200, answer[:500]
        assert b"event: complete" in answer
        assert b"from-a-trailer" not in answer


def test_a_trailer_is_not_the_next_one_s_header(server: Server) -> None:
    kept = bare_post(b"Transfer-Encoding: chunked\r\n", b"").replace(b"Connection: close\r\n", b"")
    body = chunked(BRIEF, TRAILERS["a name"] + TRAILERS["a key"])
    answer = spoken(server, kept + body + kept + body + HEALTH % b"Connection: close\r\n")
    assert answer.count(b"HTTP/1.1 200") == 3
    assert b"from-a-trailer" not in answer


@pytest.mark.parametrize(
    "request_",
    [
        bare_post(b"Transfer-Encoding: chunked\r\n", chunked(BRIEF, b"X-A: " + b"x" * 20_000_000 + b"\r\n")),
        bare_post(b"Transfer-Encoding: chunked\r\n", chunked(BRIEF, b"X-A: b\r\n" * 1_000_000)),
        get(headers=b"X-A: " + b"x" * 20_000_000 + b"\r\n"),
        get(headers=b"X-A: b\r\n" * 1_000_000),
    ],
    ids=["a trailer", "trailers", "a header", "headers"],
)
def test_what_has_no_end_is_not_collected(server: Server, request_: bytes) -> None:
    before = started(server)
    assert told(converse(server, request_)) in ((400, ""), (0, "")), "0: it was still being sent"
    assert started(server) == before
