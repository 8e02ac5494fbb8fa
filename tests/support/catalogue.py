"""The catalogue of bad input: exact bytes for a server, their answer, and that nothing came of it."""

from __future__ import annotations

import json
import socket
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.support.client import STREAM, brief
from tests.support.servers import Server

PATIENCE: Final = 20.0
"""Seconds until a silent server counts as hanging; an answer takes milliseconds, on a busy machine more."""

HOST: Final = b"Host: 127.0.0.1\r\n"
BRIEF: Final = json.dumps(brief(options={"tokens": 1, "interval": 0})).encode()


@dataclass(frozen=True)
class Case:
    """One input of a row. `code` is empty where the server refuses it by itself, in its own words."""

    row: str
    name: str
    request: bytes
    status: int
    code: str = ""


def parametrised(cases: list[Case]) -> pytest.MarkDecorator:
    """One test for each, named by its row."""
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=f"{case.row}-{case.name.replace(' ', '-')}") for case in cases]
    )


def get(
    path: bytes = b"/streams", headers: bytes = b"", host: bytes = HOST, version: bytes = b"1.1"
) -> bytes:
    """A GET after which the connection ends."""
    return b"GET %b HTTP/%b\r\n%b%bConnection: close\r\n\r\n" % (path, version, host, headers)


def post(
    headers: bytes = b"",
    body: bytes = BRIEF,
    path: bytes = STREAM.encode(),
    host: bytes = HOST,
    version: bytes = b"1.1",
    media: bytes = b"application/json",
) -> bytes:
    """A sound start of a stream but for what is given."""
    head = b"POST %b HTTP/%b\r\n%bContent-Type: %b\r\nContent-Length: %d\r\n%bConnection: close\r\n\r\n"
    return head % (path, version, host, media, len(body), headers) + body


def bare_post(headers: bytes, body: bytes = BRIEF) -> bytes:
    """One that says by itself how long its body is."""
    head = b"POST %b HTTP/1.1\r\n%bContent-Type: application/json\r\nConnection: close\r\n%b\r\n"
    return head % (STREAM.encode(), HOST, headers) + body


def converse(server: Server, request: bytes) -> bytes:
    """Everything that the server says until it closes. Raises `TimeoutError` where it says nothing more and
    does not close either."""
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        # Who is refused in the middle of a long head may be cut off before it has sent it all.
        with suppress(ConnectionError):
            connection.sendall(request)
        with suppress(ConnectionError):
            while data := connection.recv(65_536):
                answer += data
    return answer


def told(answer: bytes) -> tuple[int, str]:
    """Status and code of the only answer in these bytes; 0 where there is none."""
    assert answer.count(b"HTTP/1.") <= 1, "more than one request was seen in it"
    if not answer:
        return 0, ""
    head, _, body = answer.partition(b"\r\n\r\n")
    start, end = body.find(b'{"type":"urn:'), body.rfind(b"}")
    problem: dict[str, Any] = json.loads(body[start : end + 1]) if start >= 0 else {}
    return int(head.split(b" ", 2)[1]), problem.get("code", "")


def started(server: Server) -> dict[str, int]:
    """How many tasks were started, by route."""
    with urllib.request.urlopen(f"{server.url}/stats", timeout=PATIENCE) as answer:  # noqa: S310 (our own)
        routes: dict[str, int] = json.load(answer)["routes"]
        return routes


def assert_refused(server: Server, case: Case) -> None:
    """It gets the answer of its row, in time, and nothing is started. (What the log says is looked at by the
    fixture `clean_log`.)"""
    before = started(server)
    status, code = told(converse(server, case.request))
    if server.kind == "daphne":
        # It refuses much before we see it, in other words or by closing the connection.
        assert status == 0 or 400 <= status < 500
    else:
        assert (status, code) == (case.status, case.code)
    assert started(server) == before


def assert_served(server: Server, case: Case) -> bytes:
    """It is a stream with an end, as if what is odd about it were not there. Returns all of it."""
    answer = converse(server, case.request)
    status, _ = told(answer)
    assert status == 200, answer[:500]
    assert b"event: complete" in answer
    return answer
