"""Whatever stands in a header, a query string or a message, what reads it gives a value or its own refusal.

Ten thousand cases in `make test`, a million in `make test-all`, always the same ones: a failure names its
number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, Final

import pytest
from django.test import RequestFactory

from contentgen.websocket import GenerateConsumer
from notebooks.websocket import NotebookConsumer
from streaming import compression, keys, requests
from streaming.core import cursor, origin, strict_json
from streaming.core.errors import BadCursor
from streaming.problems import Problem
from streaming.proxies import Proxies
from streaming.websocket import protocol
from streaming.websocket.consumers import FollowConsumer
from tests.support.noise import Noise
from tests.support.scale import ALL

CASES: Final = 1_000_000 if ALL else 10_000

SLOW: Final = 2.0
"""Seconds of processor that no case may take; one takes some millionths of them."""

PROXIES: Final = Proxies(["10.0.0.0/8", "127.0.0.1", "::1"])
KINDS: Final = (GenerateConsumer.kinds, NotebookConsumer.kinds, FollowConsumer.kinds)


def text(value: bytes) -> str:
    """As ASGI hands a header to Django."""
    return value.decode("latin-1")


def read_cursor(noise: Noise) -> None:
    value = text(noise.value(b"last-event-id"))
    with suppress(BadCursor):
        found = cursor.choose(value, "5")
        assert 0 <= found <= cursor.MAX
        assert value in (str(found), "")


def read_trace(noise: Noise) -> None:
    found = origin.trace_parent(text(noise.value(b"traceparent")))
    assert found is None or origin.trace_parent(found.header) == found
    kept = origin.sane_request_id(text(noise.value(b"x-request-id")))
    assert kept is None or (kept.isascii() and kept.isprintable() and len(kept) <= 128)


def read_coding(noise: Noise) -> None:
    offered = ("br", "gzip")
    assert compression.negotiate(text(noise.value(b"accept-encoding")), offered) in (None, *offered)


def read_key(noise: Noise) -> None:
    value = text(noise.value(b"authorization"))
    if keys.is_well_formed(value):
        assert keys.credential(value)


def read_proxies(noise: Noise) -> None:
    scope = {"type": "http", "scheme": "http", "client": ("127.0.0.1", 5), "headers": noise.headers()}
    PROXIES.apply(scope)
    assert isinstance(scope["client"], tuple)
    assert scope["scheme"] in ("http", "https")


_FACTORY: Final = RequestFactory()
_ENVIRON: Final = _FACTORY.get("/")


def read_request(noise: Noise) -> None:
    request = _ENVIRON
    for name in (b"accept", b"accept-language", b"idempotency-key", b"last-event-id"):
        request.META["HTTP_" + text(name).upper().replace("-", "_")] = text(noise.value(name))
    request.META["QUERY_STRING"] = text(noise.query())
    for read in (requests.idempotency_key, requests.framing, requests.require_json_accepted):
        with suppress(Problem):
            read(request)
    with suppress(Problem, BadCursor):
        assert 0 <= requests.follow_options(request, resumed=True).after <= cursor.MAX


def read_body(noise: Noise) -> None:
    with suppress(strict_json.BadJSON):
        assert isinstance(strict_json.loads_object(noise.body()), dict)


def read_message(noise: Noise) -> None:
    message = noise.message()
    kinds = noise.dice.choice(KINDS)
    try:
        found = protocol.parse(message if isinstance(message, str) else text(message), kinds)
    except Problem as problem:
        fault = problem
    else:
        assert isinstance(found, kinds)
        return
    assert fault.status in (400, 422)
    assert fault.response().content


READERS: Final[tuple[Callable[[Noise], None], ...]] = (
    *(read_cursor, read_trace, read_coding, read_key, read_proxies, read_request, read_body, read_message),
)


@pytest.mark.timeout(3600 if ALL else 120)
def test_headers_queries_bodies_and_messages_are_read_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    noise, began, slowest = Noise(33), time.process_time(), 0.0
    for number in range(CASES):
        read = READERS[number % len(READERS)]
        start = time.thread_time()
        try:
            read(noise)
        except Exception as error:
            raise AssertionError(f"case {number}, {read.__name__}: {error!r}") from error
        slowest = max(slowest, time.thread_time() - start)
    with capsys.disabled() if ALL else nullcontext():
        spent = time.process_time() - began
        print(f"\n{CASES:,} headers, queries, bodies and messages in {spent:.0f} s")  # noqa: T201
    assert slowest < SLOW


def test_the_noise_is_the_same_each_time_and_is_of_both_kinds() -> None:
    """Else a failure could not be repeated, or nothing would be read."""

    def drawn() -> list[Any]:
        noise = Noise(1)
        return [
            (noise.headers(), noise.path(), noise.query(), noise.body(), noise.message()) for _ in range(50)
        ]

    assert drawn() == drawn()
    noise = Noise(2)
    sound = 0
    for _ in range(200):
        with suppress(BadCursor):
            cursor.parse(text(noise.value(b"last-event-id")))
            sound += 1
    assert 20 < sound < 180
