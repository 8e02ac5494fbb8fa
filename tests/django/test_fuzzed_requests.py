"""Any path, query, headers and body, through both doors, and any socket: no fault of ours, and no word of it
in the log. In-process, so bytes that no server would let through come, too."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
from django.test import override_settings

from streaming.handler import StreamingHandler
from streaming.service import close_service
from tests.support.noise import BRIEF, METHODS, TASK, Noise
from tests.support.scale import ALL

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(3600 if ALL else 120)]

REQUESTS, CALLS, SOCKETS = (20_000, 5_000, 5_000) if ALL else (400, 100, 100)

PATIENCE: Final = 20.0
"""Seconds after which a call hangs."""

GENERATE: Final = "/content/generate/stream/async"

PLACES: Final = ("/ws/generate/", f"/ws/streams/{TASK}/", "/ws/notebooks/t/", "/ws/nowhere/")

SOUND: Final = json.dumps(BRIEF).encode()

HARMLESS: Final = (b"accept-encoding", b"accept-language", b"last-event-id", b"traceparent", b"x-request-id")
"""Headers for which no call is refused, however wrong they are."""

Messages = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _project() -> Iterator[None]:
    pools = {"agent_pool": {"max_workers": 20, "per_owner": 1000}, "kernel_pool": {}}
    with override_settings(
        ALLOW_ANONYMOUS="true",
        ALLOW_SCRIPTED_PROVIDER=False,
        ALLOWED_HOSTS=["testserver", "127.0.0.1", "[::1]"],
        STREAM_COMPRESSION=["gzip"],
        THREAD_CONFIG=pools,
    ):
        yield


@pytest.fixture
async def handler() -> AsyncIterator[StreamingHandler]:
    with override_settings(TRUSTED_PROXIES=["127.0.0.1"]):
        yield StreamingHandler()
        await close_service(0)


@pytest.fixture(autouse=True)
def _nothing_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Refusals are warnings, a wrong host included; a fault of ours is an error, or has a traceback."""
    caplog.set_level(logging.WARNING)
    yield
    for record in caplog.get_records("call"):
        assert record.levelno < logging.ERROR, record.getMessage()
        assert not record.exc_info, record.getMessage()


def scope_of(kind: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
        "extensions": {"websocket.http.response": {}},
    }


async def exchanged(handler: StreamingHandler, scope: dict[str, Any], said: Messages) -> Messages:
    """What the application sends to a client who says this and then waits; of an endless answer the first
    hundred messages."""
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    for each in said:
        incoming.put_nowait(each)
    sent: Messages = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if len(sent) == 100 or message["type"] in ("websocket.close", "websocket.http.response.body"):
            for _ in range(2):
                incoming.put_nowait({"type": f"{scope['type']}.disconnect", "code": 1000})

    async with asyncio.timeout(PATIENCE):
        await handler(scope, incoming.get, send)
    return sent


def check(start: dict[str, Any], case: Any) -> int:
    """The status of an answer whose head is sound."""
    status: int = start["status"]
    names = {name.lower() for name, _ in start["headers"]}
    assert status < 500 or (status == 503 and (b"retry-after" in names or case[1].startswith("/readyz"))), (
        case
    )
    for name, value in start["headers"]:
        assert not {*b"\r\n\0"} & {*name, *value}, case
    return status


async def asked(handler: StreamingHandler, method: str, path: str, query: bytes, noise: Noise) -> int:
    headers = noise.headers()
    if noise.dice.random() < 0.8:
        headers = [(b"host", b"testserver"), *(each for each in headers if each[0] != b"host")]
    body = noise.body() if method in ("POST", "PUT", "PATCH") else b""
    if body and noise.dice.random() < 0.5:
        body = SOUND
        headers = [(b"content-type", b"application/json"), *(each for each in headers if each[0] in HARMLESS)]
        headers += [(b"host", b"testserver")]
    case = (method, path, query, headers, body)
    scope = scope_of("http", path, query, headers) | {"method": method}
    try:
        sent = await exchanged(handler, scope, [{"type": "http.request", "body": body, "more_body": False}])
    except Exception as error:
        raise AssertionError(case) from error
    assert sent, case
    assert sent[0]["type"] == "http.response.start", case
    return check(sent[0], case)


def tell(what: str, found: Counter[int], capsys: pytest.CaptureFixture[str]) -> None:
    if ALL:
        with capsys.disabled():
            print(f"\n{found.total():,} {what}: {dict(sorted(found.items()))}")  # noqa: T201


async def test_no_request_is_a_fault_of_ours(
    handler: StreamingHandler, capsys: pytest.CaptureFixture[str]
) -> None:
    noise, found = Noise(1), Counter[int]()
    for _ in range(REQUESTS):
        method, path, query = noise.dice.choice(METHODS), noise.path(), noise.query()
        found[await asked(handler, method, path, query, noise)] += 1
    tell("requests", found, capsys)
    assert found.keys() >= {200, 400, 404, 405}


async def test_no_request_through_the_hot_door_is_a_fault_of_ours(
    handler: StreamingHandler, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sound call opens it; what comes with a cookie or an origin takes the other one again."""
    sound = [(b"host", b"testserver"), (b"content-type", b"application/json")]
    scope = scope_of("http", GENERATE, b"", sound) | {"method": "POST"}
    body = {"type": "http.request", "body": SOUND, "more_body": False}
    for _ in range(2):
        sent = await exchanged(handler, dict(scope), [body])
        assert sent[0]["status"] == 200
    noise, found = Noise(2), Counter[int]()
    for _ in range(CALLS):
        found[await asked(handler, "POST", GENERATE, noise.query(), noise)] += 1
    tell("calls through the hot door", found, capsys)
    assert found.keys() >= {200, 400, 415}


async def test_no_socket_is_a_fault_of_ours(
    handler: StreamingHandler, capsys: pytest.CaptureFixture[str]
) -> None:
    noise, found = Noise(3), Counter[int]()
    for _ in range(SOCKETS):
        path = noise.dice.choice(PLACES)
        headers = [(b"host", b"testserver"), *noise.headers(3)] if noise.dice.random() < 0.5 else []
        said: Messages = [{"type": "websocket.connect"}]
        for _ in range(noise.dice.randint(0, 8)):
            message = noise.message()
            kind = "text" if isinstance(message, str) else "bytes"
            said.append({"type": "websocket.receive", kind: message})
        said.append({"type": "websocket.disconnect", "code": 1000})
        case = (path, headers, said)
        scope = scope_of("websocket", path, b"", headers or [(b"host", b"testserver")])
        try:
            sent = await exchanged(handler, scope, said)
        except Exception as error:
            raise AssertionError(case) from error
        assert sent, case
        if sent[0]["type"] == "websocket.http.response.start":
            found[check(sent[0], ("GET", *case))] += 1
            continue
        found[101] += 1
        for each in sent[1:]:
            assert each["type"] in ("websocket.send", "websocket.close"), case
            if "text" in each:
                assert json.loads(each["text"])["type"] != "error" or "server_error" not in each["text"], case
    tell("sockets", found, capsys)
    assert found.keys() >= {101, 404}
