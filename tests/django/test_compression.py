"""Compressed streams through both doors: each event can be read before the next one is made."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.test import override_settings
from django.urls import path

from settings.urls import urlpatterns as project_urls
from streaming import conf, stream
from streaming.handler import StreamingHandler
from streaming.hot_door import hot_route
from streaming.service import close_service
from tests.support.client import STREAM, brief
from tests.support.decompression import CODINGS, decoder

from .asgi_calls import PATIENCE, Call

pytestmark = pytest.mark.django_db(transaction=True)

ROOM = {"max_workers": 1000, "queue_size": 1000, "per_owner": 1000}

WORDS = ["one ", "two ", "three ", "four "]

_released: asyncio.Queue[str] = asyncio.Queue()


async def _words() -> AsyncIterator[str]:
    """Each word when the test asks for it."""
    while word := await _released.get():
        yield word


@hot_route
async def words(request: HttpRequest) -> HttpResponseBase:
    return await stream(request, _words(), anybody=True)


urlpatterns = [path("words", words), *project_urls]


@pytest.fixture(autouse=True)
async def _project() -> AsyncIterator[None]:
    global _released
    _released = asyncio.Queue()
    with override_settings(
        ROOT_URLCONF=__name__,
        ALLOW_SCRIPTED_PROVIDER=True,
        ALLOW_ANONYMOUS="loopback",
        ALLOWED_HOSTS=["testserver"],
        THREAD_CONFIG={"agent_pool": ROOM, "kernel_pool": ROOM},
        BUFFER_CONFIG={"flush_chars": 1},
        STREAM_COMPRESSION=["zstd", "br", "gzip"],
    ):
        yield
        await close_service(0)


class Reader:
    """What a client that decodes as it reads has of a call."""

    def __init__(self, call: Call, coding: str) -> None:
        self._call, self._read, self._taken = call, decoder(coding), 0
        self.text = b""

    async def sees(self, text: bytes) -> None:
        """Wait until `text` can be read."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.text:
                await asyncio.sleep(0.001)
                self.take()

    def take(self) -> None:
        body = self._call.body
        self.text += self._read(body[self._taken :])
        self._taken = len(body)


async def _warmed() -> StreamingHandler:
    """A handler whose hot door knows the view."""
    handler = StreamingHandler()
    _released.put_nowait("")
    await Call("/words", method="POST", handler=handler).end()
    assert handler._hot._routes, "the first call is watched"
    return handler


async def _cold() -> StreamingHandler:
    with override_settings(SERVER_CONFIG={"hot_door": False}):
        return StreamingHandler()


async def _django_s_own() -> Any:
    return ASGIHandler()


@pytest.mark.parametrize("make", [_warmed, _cold, _django_s_own])
@pytest.mark.parametrize("coding", CODINGS)
async def test_each_event_is_readable_before_the_next_one_is_made(
    coding: str, make: Callable[[], Any]
) -> None:
    call = Call("/words", method="POST", headers={"accept-encoding": coding}, handler=await make())
    reader = Reader(call, coding)
    await reader.sees(b"event: status")
    for word in WORDS:
        _released.put_nowait(word)
        await reader.sees(f'"delta":"{word}"'.encode())
    _released.put_nowait("")
    await call.end()
    reader.take()
    assert b"event: complete" in reader.text
    assert call.headers["content-encoding"] == coding
    assert "Accept-Encoding" in call.headers["vary"].split(", ")


async def test_heartbeats_are_readable_at_once() -> None:
    with override_settings(SSE_CONFIG={"heartbeat_interval": 0.05, "status_message_interval": 0}):
        call = Call("/words", method="POST", headers={"accept-encoding": "gzip"})
        reader = Reader(call, "gzip")
        await reader.sees(b": heartbeat")
        _released.put_nowait("")
        await call.end()


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_resumed_stream_is_a_stream_of_its_own(coding: str) -> None:
    handler = StreamingHandler()
    body = json.dumps(brief(options={"tokens": 50, "interval": 0})).encode()
    first = await Call(STREAM, method="POST", body=body, handler=handler).end()
    where = f"/streams/{first.headers['x-stream-id']}/events?after=10"
    plain = await Call(where, handler=handler).end()
    again = await Call(where, headers={"accept-encoding": coding}, handler=handler).end()
    assert decoder(coding)(again.body) == plain.body
    assert len(again.body) < len(plain.body)
    done = f"/streams/{first.headers['x-stream-id']}/events?after=51"
    assert (await Call(done, headers={"accept-encoding": coding}, handler=handler).end()).status == 204


async def test_much_text_is_exact() -> None:
    """A long stream from its beginning, of what nobody can foresee."""
    chance = random.Random(1)
    text = "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(60_000))
    handler = StreamingHandler()
    with override_settings(BUFFER_CONFIG={}):
        body = json.dumps(brief(options={"text": text, "interval": 0})).encode()
        first = await Call(STREAM, method="POST", body=body, handler=handler).end()
        where = f"/streams/{first.headers['x-stream-id']}/events"
        call = await Call(where, headers={"accept-encoding": "gzip"}, handler=handler).end()
    read = decoder("gzip")(call.body).decode()
    deltas = [json.loads(line[6:]) for line in read.split("\n") if line.startswith("data: ")]
    assert "".join(each.get("delta", "") for each in deltas) == text


@pytest.mark.parametrize("make", [_warmed, _cold])
async def test_who_wants_none_gets_none_and_caches_are_told(make: Callable[[], Any]) -> None:
    handler = await make()
    for headers in ({}, {"accept-encoding": "identity"}, {"accept-encoding": "deflate"}):
        _released.put_nowait("")
        call = await Call("/words", method="POST", headers=headers, handler=handler).end()
        assert b"event: complete" in call.body
        assert call.headers["content-encoding"] == "identity"
        assert "Accept-Encoding" in call.headers["vary"].split(", ")


async def test_both_doors_give_the_same_head() -> None:
    heads = []
    for make in (_warmed, _cold):
        handler = await make()
        for headers in ({}, {"accept-encoding": "br"}, {"idempotency-key": make.__name__}):
            _released.put_nowait("")
            call = await Call("/words", method="POST", headers=headers, handler=handler).end()
            varying = {"x-stream-id", "x-request-id", "location"}
            heads.append({name: value for name, value in call.headers.items() if name not in varying})
    assert heads[:3] == heads[3:]
    assert all(head["vary"].split(", ").count("Accept-Encoding") == 1 for head in heads)


@override_settings(STREAM_COMPRESSION=[])
async def test_by_default_nothing_is_compressed() -> None:
    call = Call("/words", method="POST", headers={"accept-encoding": "gzip, br, zstd"})
    _released.put_nowait("")
    await call.end()
    assert b"event: complete" in call.body
    assert call.headers["content-encoding"] == "identity"
    assert "accept-encoding" not in call.headers.get("vary", "").lower()


async def test_django_s_gzip_middleware_leaves_it_alone(settings: Any) -> None:
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    for headers, coding in (({"accept-encoding": "gzip"}, "gzip"), ({"accept-encoding": "identity"}, None)):
        _released.put_nowait("")
        call = await Call("/words", method="POST", headers=headers, handler=StreamingHandler()).end()
        body = decoder(coding)(call.body) if coding else call.body
        assert b"event: complete" in body
        assert call.headers["content-encoding"] == (coding or "identity")


@pytest.mark.parametrize("value", [["deflate"], "gzip", [3], ["gzip", ""]])
def test_a_wrong_setting_is_named(value: Any) -> None:
    with override_settings(STREAM_COMPRESSION=value):
        assert [name for name, _ in conf.problems()] == ["STREAM_COMPRESSION"]


def test_a_package_that_is_missing_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with override_settings(STREAM_COMPRESSION=["br", "gzip"]):
        ((_, text),) = conf.problems()
    assert "brotli" in text
