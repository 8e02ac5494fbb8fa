"""The hot door answers as the ordinary one where one easily forgets it: decorators, languages, TLS, log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from functools import wraps
from typing import Any
from unittest import mock

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.db.models import ForeignKey, UUIDField
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template import engines
from django.template.response import TemplateResponse
from django.test import override_settings
from django.urls import include, path

from streaming import hot_route, idempotency, stream
from streaming.handler import StreamingHandler
from streaming.models import StreamTask
from streaming.problems import Problem
from streaming.requests import endpoint
from streaming.service import close_service, service
from streaming.storage import rows

from .asgi_calls import Call

pytestmark = pytest.mark.django_db(transaction=True)

GENERATE = "/content/generate/stream/async"
BRIEF = {"user_id": "u", "topic": "t", "provider": "scripted", "options": {"tokens": 3, "interval": 0}}
BODY = json.dumps(BRIEF).encode()


async def letters() -> AsyncIterator[str]:
    yield "a"


async def endless() -> AsyncIterator[str]:
    while True:
        yield "a"
        await asyncio.sleep(0.01)


async def passed_on(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk


def members_only(view: Any) -> Any:
    @wraps(view)
    async def guarded(request: HttpRequest) -> HttpResponseBase:
        if "HTTP_X_MEMBER" not in request.META:
            raise PermissionDenied
        response: HttpResponseBase = await view(request)
        return response

    guarded.csrf_exempt = True  # type: ignore[attr-defined]
    return guarded


@members_only
@hot_route
async def for_members(request: HttpRequest) -> HttpResponseBase:
    return await stream(request, letters())


@hot_route
@endpoint("POST")
async def moody(request: HttpRequest) -> HttpResponseBase:
    if b"refuse" in request.body:
        raise Problem(422, "validation_failed", "x" * 300)
    response = await stream(
        request, endless() if b"endless" in request.body else letters(), on_disconnect="cancel"
    )
    if b"wrapped" in request.body:
        response.streaming_content = passed_on(response.streaming_content)  # type: ignore[attr-defined]
    if b"template" in request.body:
        return TemplateResponse(request, engines["django"].from_string("hello"))
    if b"fail" in request.body:
        raise Problem(409, "not_finished")
    return response


urlpatterns = [
    path("members", for_members),
    path("moody", moody),
    *i18n_patterns(path("moody-in", moody)),
    path("", include("settings.urls")),
]

handler400 = "streaming.error_views.bad_request"
handler403 = "streaming.error_views.permission_denied"
handler500 = "streaming.error_views.server_error"


@pytest.fixture(autouse=True)
async def _project() -> Any:
    with override_settings(
        ROOT_URLCONF=__name__,
        ALLOW_ANONYMOUS="loopback",
        ALLOW_SCRIPTED_PROVIDER=True,
        ALLOWED_HOSTS=["testserver"],
    ):
        yield
        await close_service(0)


async def post(handler: StreamingHandler, path: str, body: bytes = BODY, **headers: str) -> Call:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await Call(path, method="POST", body=body, headers=named, handler=handler).end()


async def warm(path: str, body: bytes = BODY, **headers: str) -> StreamingHandler:
    """A handler whose hot door knows the path."""
    handler = StreamingHandler()
    call = await post(handler, path, body, **headers)
    assert call.status == 200, call.body
    assert handler._hot._routes
    return handler


async def test_a_decorator_around_the_hot_view_is_not_left_out():
    handler = StreamingHandler()
    assert (await post(handler, "/members")).status == 403
    assert (await post(handler, "/members", x_member="yes")).status == 200
    assert (await post(handler, "/members")).status == 403


@override_settings(SECURE_SSL_REDIRECT=True, SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"))
async def test_of_two_headers_about_tls_the_first_counts_at_both_doors():
    async def twice(handler: StreamingHandler) -> int:
        messages: list[Any] = []
        incoming = iter([{"type": "http.request", "body": BODY, "more_body": False}])

        async def receive() -> Any:
            for message in incoming:
                return message
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            messages.append(message)

        headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
        headers += [(b"x-forwarded-proto", b"http"), (b"x-forwarded-proto", b"https")]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": GENERATE,
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 80),
        }
        await handler(scope, receive, send)
        return int(messages[0]["status"])

    with override_settings(ALLOW_ANONYMOUS="true"):
        assert await twice(StreamingHandler()) == 301
        handler = await warm(GENERATE, x_forwarded_proto="https")
        assert await twice(handler) == 301


async def test_a_refusal_speaks_the_default_language_after_one_that_spoke_another():
    """As when requests are pipelined: uvicorn starts the next one in the context of the one before."""
    handler = await warm(GENERATE)

    async def one(language: dict[str, str]) -> str:
        messages: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{", "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        named = {"host": "testserver", "content-type": "application/json", **language}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": GENERATE,
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 80),
        }
        await handler(scope, receive, send)
        return str(dict(messages[0]["headers"])[b"Content-Language"], "ascii")

    async def both() -> list[str]:
        return [await one({"accept-language": "zh"}), await one({})]

    assert await asyncio.create_task(both()) == ["zh-hans", "en"]


async def test_a_path_with_a_language_speaks_it():
    handler = StreamingHandler()
    first = await post(handler, "/zh-hans/moody-in", b"refuse")
    assert first.headers["content-language"] == "zh-hans"
    await post(handler, "/zh-hans/moody-in", b"go")
    assert handler._hot._routes
    again = await post(handler, "/zh-hans/moody-in", b"refuse")
    assert again.headers["content-language"] == "zh-hans"


async def test_refusals_are_logged_alike(caplog: pytest.LogCaptureFixture):
    logging.getLogger("django").propagate = True
    cold = StreamingHandler()
    handler = await warm(GENERATE)
    try:
        with caplog.at_level("WARNING", "django.request"):
            await post(cold, GENERATE, authorization="Bearer nonsense")
            ordinary = told(caplog)
            await post(handler, GENERATE, authorization="Bearer nonsense")
    finally:
        logging.getLogger("django").propagate = False
    assert ordinary
    assert told(caplog) == 2 * ordinary


def told(caplog: pytest.LogCaptureFixture) -> int:
    """Lines about requests; streams of a moment ago tell of themselves, too."""
    return sum(record.name == "django.request" for record in caplog.records)


async def test_a_wrong_host_is_refused_before_the_body_is_looked_at():
    handler = await warm(GENERATE)
    cold = await post(StreamingHandler(), GENERATE, b"{", host="evil.example")
    hot = await post(handler, GENERATE, b"{", host="evil.example")
    assert json.loads(cold.body)["code"] == "bad_host"
    assert json.loads(hot.body)["code"] == "bad_host"


async def test_a_stream_that_its_view_opened_and_lost_is_let_go():
    async def readers(handler: StreamingHandler) -> int:
        before = set(service().supervisor.tasks.active)
        assert (await post(handler, "/moody", b"endless fail")).status == 409
        await asyncio.sleep(0)
        return sum(
            len(task.followers)
            for task_id, task in service().supervisor.tasks.active.items()
            if task_id not in before
        )

    handler = await warm("/moody", b"go")
    assert await readers(StreamingHandler()) == 0
    assert await readers(handler) == 0


async def test_a_long_refusal_is_compressed_alike():
    from django.conf import settings

    with override_settings(MIDDLEWARE=["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]):
        handler = StreamingHandler()
        await post(handler, "/moody", b"go")
        cold = await post(StreamingHandler(), "/moody", b"refuse", accept_encoding="gzip")
        hot = await post(handler, "/moody", b"refuse", accept_encoding="gzip")
        assert hot.headers.get("vary") == cold.headers.get("vary")
        assert hot.headers.get("content-encoding") == cold.headers.get("content-encoding")


async def test_places_of_streams_are_not_kept_for_each_root_path():
    """Daphne takes the root path from a header of the client's."""
    from streaming.responses import _folder

    for number in range(2000):
        _folder("settings.urls", f"/{number}/")
    size = _folder.cache_info().currsize
    _folder.cache_clear()
    assert size < 2000


async def test_a_keyed_task_that_another_process_took_over_stays_with_it():
    """Its row is there before it is noted, so a process that stops for some seconds just then may lose it."""
    write = idempotency._write

    def write_and_lose(row: Any, *rest: Any) -> bool:
        won = write(row, *rest)
        StreamTask.objects.filter(pk=row["id"]).update(process="2" * 32, epoch=2)
        return won

    with mock.patch.object(idempotency, "_write", write_and_lose):
        call = await post(StreamingHandler(), GENERATE, idempotency_key="k")
    await service().recorder.flush().wait(20)
    row = await StreamTask.objects.aget(pk=call.headers["x-stream-id"])
    assert (row.process, row.epoch, row.state) == ("2" * 32, 2, "running")


async def test_the_key_of_an_owner_is_stored_as_its_model_stores_it(monkeypatch: pytest.MonkeyPatch):
    """A project's users may have UUIDs, which SQLite keeps as 32 digits."""
    monkeypatch.setattr(ForeignKey, "target_field", UUIDField())
    owner = "12345678-1234-5678-1234-567812345678"
    row = rows._stored({"id": "1" * 32, "owner_id": owner}, connection.ops.adapt_datetimefield_value)
    assert owner.replace("-", "") in row


async def test_a_template_response_is_rendered():
    handler = await warm("/moody", b"go")
    assert (await post(StreamingHandler(), "/moody", b"template")).status == 200
    assert (await post(handler, "/moody", b"template")).status == 200


async def test_who_leaves_another_kind_of_stream_ends_it():
    """A hot view may answer with a stream that a decorator of its own has wrapped."""
    for handler in (StreamingHandler(), await warm("/moody", b"go")):
        call = Call("/moody", method="POST", body=b"endless wrapped", handler=handler)
        await call.saw(b"event: content")
        call.leave()
        await asyncio.wait([call.running], timeout=2)
        left = call.running.done()
        call.running.cancel()
        await asyncio.wait([call.running], timeout=2)
        assert left


async def test_a_server_that_raises_for_who_has_left_makes_no_noise(caplog: pytest.LogCaptureFixture):
    """As ASGI lets it (since 2.4: an `OSError` of its own)."""

    def left(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client has left")

    logging.getLogger("streaming").propagate = True
    try:
        for handler in (StreamingHandler(), await warm("/moody", b"go")):
            await Call("/moody", method="POST", body=b"endless", on_send=left, handler=handler).end()
    finally:
        logging.getLogger("streaming").propagate = False
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("prefix", ["/{}", "/{0}", "/{a}"])
async def test_any_root_path_has_streams(prefix: str):
    """Daphne takes it from a header of the client's."""
    with override_settings(FORCE_SCRIPT_NAME=prefix):
        call = await post(StreamingHandler(), f"{prefix}/moody", b"go")
        assert call.status == 200
