"""Where a head of a request becomes too large, to the byte; sockets are refused likewise."""

from __future__ import annotations

from typing import Any

import pytest

from streaming.heads import MAX_BYTES, MAX_FIELDS, MAX_JUDGED_BYTES, refusal

Fields = list[tuple[bytes, bytes]]


def verdict(fields: Fields, kind: str = "http") -> int | None:
    scope: dict[str, Any] = {"type": kind, "headers": fields}
    problem = refusal(scope)
    return None if problem is None else problem.status


WITHIN: dict[str, Fields] = {
    "none": [],
    "a browser's": [(b"accept", b"text/html;q=0.9" * 20), (b"cookie", b"a=b; " * 300)],
    "many": [(b"x", b"")] * MAX_FIELDS,
    "long": [(b"x", b"y" * (MAX_BYTES - 1))],
    "a key that will be refused": [(b"authorization", b"x" * 1_000_000)],
    "a cursor that will be refused": [(b"last-event-id", b"1" * 1_000_000)],
    "many cookies": [(b"cookie", b"a=b; " * 10_000)],
    "some backslashes": [(b"cookie", b"\\" * 20 + b"a=b; " * 8_000)],
}

BEYOND: dict[str, Fields] = {
    "many": [(b"x", b"")] * (MAX_FIELDS + 1),
    "long": [(b"x", b"y" * MAX_BYTES)],
    "long name": [(b"x" * (MAX_BYTES + 1), b"")],
    "long together": [(b"x", b"y" * 1000)] * 70,
    "a key": [(b"authorization", b"x" * MAX_JUDGED_BYTES)],
    "accept": [(b"accept", b"x" * 2048)],
    "accept in pieces": [(b"accept", b"x" * 100)] * 21,
    "content type": [(b"content-type", b"x" * 2048)],
    "backslashes": [(b"cookie", b"\\" * 1100)] * 2,
    "backslashes in pieces": [(b"cookie", b"\\" * 20)] * 100,
}


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("fields", WITHIN.values(), ids=WITHIN)
def test_what_is_taken(fields: Fields, kind: str):
    assert verdict(fields, kind) is None


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("fields", BEYOND.values(), ids=BEYOND)
def test_what_is_refused(fields: Fields, kind: str):
    assert verdict(fields, kind) == 431
