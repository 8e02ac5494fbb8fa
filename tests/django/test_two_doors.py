"""Two doors, one view: what comes in through the hot door is answered as through Django's own chain."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.core.signals import request_started
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.test import override_settings
from django.utils.decorators import async_only_middleware

from streaming.handler import StreamingHandler
from streaming.service import close_service, service
from streaming.validation import MAX_FAULTS
from tests.support.client import STREAM, brief

from .asgi_calls import Call

pytestmark = pytest.mark.django_db(transaction=True)

ROOM = {"max_workers": 1000, "queue_size": 1000, "per_owner": 1000}

_VARYING = [
    (rb"[0-9a-f]{32}", b"<id>"),
    (rb'"timestamp":"[^"]+"', b'"timestamp":""'),
    (rb'"sent_at":[0-9.]+', b'"sent_at":0'),
    (rb'"elapsed_seconds":[0-9.e-]+', b'"elapsed_seconds":0'),
    (rb'"(first_content|total|queued|blocked)_ms":[0-9.e-]+', rb'"\1_ms":0'),
    (rb'"coalesced_ratio":[0-9.e-]+', b'"coalesced_ratio":0'),
]


@pytest.fixture(autouse=True)
async def _project() -> AsyncIterator[None]:
    with override_settings(
        ALLOW_SCRIPTED_PROVIDER=True,
        ALLOW_ANONYMOUS="loopback",
        ALLOWED_HOSTS=["testserver"],
        THREAD_CONFIG={"agent_pool": ROOM, "kernel_pool": ROOM},
    ):
        yield
        await close_service(0)


def _body(**changes: Any) -> bytes:
    return json.dumps(brief(options={"tokens": 3, "interval": 0}, **changes)).encode()


async def _opened() -> StreamingHandler:
    """A handler whose hot door has learnt the way to the view."""
    handler = StreamingHandler()
    await Call(STREAM, method="POST", body=_body(), handler=handler).end()
    assert handler._hot._routes, "the first call is watched"
    return handler


def _shut() -> StreamingHandler:
    """A handler without the hot door."""
    with override_settings(SERVER_CONFIG={"hot_door": False}):
        return StreamingHandler()


def _masked(call: Call) -> tuple[int, dict[str, str], bytes]:
    headers = {
        name: re.sub(r"[0-9a-f]{32}", "<id>", value)
        for name, value in call.headers.items()
        if name != "content-length"
    }
    body = call.body
    for pattern, mask in _VARYING:
        body = re.sub(pattern, mask, body)
    return call.status, headers, body


REQUESTS: dict[str, dict[str, Any]] = {
    "a stream": {"body": _body()},
    "NDJSON": {"body": _body(), "headers": {"accept": "application/x-ndjson"}},
    "with times": {"path": f"{STREAM}?timing=1", "body": _body()},
    "in Chinese": {"body": _body(), "headers": {"accept-language": "zh-CN,zh;q=0.9"}},
    "in a language that nobody speaks": {"body": _body(), "headers": {"accept-language": "tlh"}},
    "Chinese, emoji and right to left": {"body": _body(requirements="中文 🎉 שלום")},
    "with a key for the call": {"body": _body(), "headers": {"idempotency-key": "two-doors"}},
    "no JSON": {"body": b"{"},
    "no JSON, told in Chinese": {"body": b"{", "headers": {"accept-language": "zh"}},
    "a field too many": {"body": _body(colour="red")},
    "a field too many, told in Chinese": {
        "body": _body(colour="red"),
        "headers": {"accept-language": "zh-CN"},
    },
    "no topic": {"body": b'{"user_id": "u"}'},
    "another type": {"body": _body(), "headers": {"content-type": "text/plain"}},
    "another format": {"body": _body(), "headers": {"accept": "text/html"}},
    "a bad query": {"path": f"{STREAM}?timing=2", "body": _body()},
    "a query twice": {"path": f"{STREAM}?timing=1&timing=0", "body": _body()},
    "a query that is no UTF-8": {"path": f"{STREAM}?timing=%ff", "body": _body()},
    "an unknown key": {"body": _body(), "headers": {"authorization": "Bearer sluice_" + "x" * 43}},
    "no bearer": {"body": _body(), "headers": {"authorization": "Basic Og=="}},
    "a key that is none": {"body": _body(), "headers": {"idempotency-key": "ü"}},
    "too large": {"body": b" " * 2_000_000},
    "declared too large": {"body": _body(), "headers": {"content-length": "9999999"}},
    "GET": {"method": "GET"},
    "OPTIONS": {"method": "OPTIONS"},
    "a proxy that speaks for others": {"body": _body(), "headers": {"x-forwarded-for": "192.0.2.1"}},
    "from a page": {"body": _body(), "headers": {"origin": "https://elsewhere.example"}},
    "with a cookie": {"body": _body(), "headers": {"cookie": "django_language=zh-hans"}},
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
async def test_both_doors_give_the_same_answer(request_: dict[str, Any]) -> None:
    kwargs = {"path": STREAM, "method": "POST"} | request_
    path = kwargs.pop("path")
    hot, shut = await _opened(), _shut()
    answers = []
    for number, handler in enumerate((hot, shut)):
        if key := kwargs.get("headers", {}).get("idempotency-key"):
            kwargs["headers"] = {"idempotency-key": f"{key}{number}"}
        answers.append(_masked(await Call(path, handler=handler, **kwargs).end()))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(brief(colour="red")).encode(),
        json.dumps({"operation": "x"} | {f"k{number}": 1 for number in range(15_000)}).encode(),
        b'{"a":[' + b"[]," * 100_000 + b"0]}",
        b"no JSON",
    ],
    ids=["an unknown field", "very many", "too many values", "no JSON"],
)
async def test_who_may_not_call_is_told_nothing_of_the_body(body: bytes) -> None:
    paths = ("/content/generate", "/content/generate/async", "/send_operation", "/tickets")
    calls = [(await _opened(), STREAM), *((_shut(), path) for path in (STREAM, *paths))]
    with override_settings(ALLOW_ANONYMOUS="false"):
        for handler, path in calls:
            call = await Call(path, method="POST", body=body, handler=handler).end()
            problem = json.loads(call.body)
            assert (call.status, problem["code"], "errors" in problem) == (401, "not_authenticated", False), (
                path
            )
        ping = json.dumps({"notebook_id": "t", "operation": {"type": "ping", "x": 1}}).encode()
        call = await Call("/send_operation", method="POST", body=ping, handler=_shut()).end()
        assert (call.status, json.loads(call.body)["code"]) == (422, "unknown_field")


async def test_a_call_of_very_many_faults_has_a_short_answer() -> None:
    many = json.dumps(brief(**{f"k{number}": 1 for number in range(19_000)})).encode()
    nested = json.dumps(brief(options={f"k{number}": 1 for number in range(19_000)})).encode()
    status = {"notebook_id": "t", "operation": {"type": "status"}}
    operation = json.dumps(status | {f"k{number}": 1 for number in range(19_000)}).encode()
    inner = json.dumps(
        status | {"operation": {"type": "status"} | {f"k{number}": 1 for number in range(19_000)}}
    ).encode()
    calls = [(await _opened(), STREAM, many), (_shut(), STREAM, nested)]
    calls += [(_shut(), "/send_operation", operation), (_shut(), "/send_operation", inner)]
    calls += [(_shut(), "/tickets", many)]
    for handler, path, body in calls:
        call = await Call(path, method="POST", body=body, handler=handler).end()
        assert (call.status, json.loads(call.body)["code"]) == (422, "unknown_field"), path
        assert len(json.loads(call.body)["errors"]) <= MAX_FAULTS
        assert len(call.body) < 6_000


async def test_a_host_that_is_not_ours_is_refused_at_both(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "django.security.DisallowedHost")
    for handler in (await _opened(), _shut()):
        call = Call(STREAM, method="POST", body=_body(), headers={"host": "evil.example"}, handler=handler)
        await call.end()
        assert (call.status, json.loads(call.body)["code"]) == (400, "bad_host")
    # Strangers must not be able to alert anybody.
    levels = [record.levelname for record in caplog.records if "DisallowedHost" in record.name]
    assert levels == ["WARNING"] * 2


async def test_an_error_that_is_a_page_has_its_policy_at_both() -> None:
    for handler in (await _opened(), _shut()):
        headers = {"host": "evil.example", "accept": "text/html"}
        call = Call(STREAM, method="POST", body=_body(), headers=headers, handler=handler)
        await call.end()
        assert call.headers["content-type"].startswith("text/html")
        assert "script-src 'self'" in call.headers["content-security-policy"]


async def test_the_hot_door_is_really_used() -> None:
    """Else the tests above compare a door with itself."""
    handler = await _opened()
    chain, seen = handler.run_get_response, []

    async def noted(request: HttpRequest) -> HttpResponseBase:
        seen.append(request.path)
        answer: HttpResponseBase = await chain(request)
        return answer

    handler.run_get_response = noted  # type: ignore[method-assign]
    await Call(STREAM, method="POST", body=_body(), handler=handler).end()
    await Call(STREAM, method="POST", body=b"{", handler=handler).end()
    assert seen == []
    for headers in ({"cookie": "a=b"}, {"origin": "http://testserver"}):
        await Call(STREAM, method="POST", body=_body(), headers=headers, handler=handler).end()
    await Call("/healthz", handler=handler).end()
    assert seen == [STREAM, STREAM, "/healthz"]


async def test_who_leaves_is_let_go_through_the_hot_door_as_well() -> None:
    handler = await _opened()
    body = json.dumps(brief(options={"tokens": 1, "hang_after": 1}, on_disconnect="cancel")).encode()
    call = Call(STREAM, method="POST", body=body, handler=handler)
    await call.saw(b"event: status")
    call.leave()
    await call.end()
    assert service().statistics()["followers"] == 0
    for _ in range(200):
        if service().statistics()["pools"]["agent_pool"]["running"] == 0:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("its permit is back")


# --- When it stays shut -------------------------------------------------------------------------------


@async_only_middleware
def stamping(get_response: Any) -> Any:
    """A project's own middleware."""

    async def stamped(request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = await get_response(request)
        response["X-Stamp"] = str(id(request))
        return response

    return stamped


async def _learns(handler: StreamingHandler) -> bool:
    await Call(STREAM, method="POST", body=_body(), handler=handler).end()
    return bool(handler._hot._routes)


async def test_no_middleware_of_the_project_is_left_out(settings: Any) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.stamping"]
    handler = StreamingHandler()
    assert not await _learns(handler)
    call = await Call(STREAM, method="POST", body=_body(), handler=handler).end()
    assert "x-stamp" in call.headers


@pytest.mark.parametrize(
    ("name", "value"),
    [("PREPEND_WWW", True), ("DISALLOWED_USER_AGENTS", [re.compile("bad")])],
)
async def test_settings_that_look_at_more_than_the_head_keep_it_shut(
    settings: Any, name: str, value: Any
) -> None:
    setattr(settings, name, value)
    assert StreamingHandler()._hot._shut


@pytest.fixture
def listener() -> Iterator[list[str]]:
    heard: list[str] = []

    def hear(**kwargs: Any) -> None:
        heard.append("started")

    request_started.connect(hear)
    yield heard
    request_started.disconnect(hear)


async def test_who_listens_to_requests_hears_of_all(listener: list[str]) -> None:
    handler = StreamingHandler()
    assert not await _learns(handler)
    await Call(STREAM, method="POST", body=_body(), handler=handler).end()
    assert listener == ["started"] * 2


async def test_who_begins_to_listen_later_hears_of_all_from_then_on() -> None:
    handler = await _opened()
    heard: list[str] = []

    def hear(**kwargs: Any) -> None:
        heard.append("started")

    request_started.connect(hear)
    try:
        await Call(STREAM, method="POST", body=_body(), handler=handler).end()
    finally:
        request_started.disconnect(hear)
    assert heard == ["started"]


async def test_a_redirect_to_tls_stays_one(settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    handler = StreamingHandler()
    secure = {"x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.1"}
    settings.ALLOW_ANONYMOUS = "true"
    for _ in range(2):
        call = await Call(STREAM, method="POST", body=_body(), headers=secure, handler=handler).end()
        assert call.status == 200
    assert handler._hot._routes
    for headers in ({}, {"x-forwarded-proto": "http"}):
        call = await Call(STREAM, method="POST", body=_body(), headers=headers, handler=handler).end()
        assert call.status == 301


async def test_strict_transport_security_is_told_over_tls_alone(settings: Any) -> None:
    settings.SECURE_HSTS_SECONDS = 60
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    settings.ALLOW_ANONYMOUS = "true"
    handler = StreamingHandler()
    for headers in ({"x-forwarded-proto": "https"}, {}) * 2:
        call = await Call(STREAM, method="POST", body=_body(), headers=headers, handler=handler).end()
        assert ("strict-transport-security" in call.headers) == bool(headers)


async def test_a_view_that_fails_is_told_as_by_django() -> None:
    handler = await _opened()
    ((key, route),) = handler._hot._routes.items()

    async def failing(request: HttpRequest) -> HttpResponse:
        raise LookupError("nobody foresaw this")

    handler._hot._routes[key] = dataclasses.replace(route, view=failing)
    call = await Call(STREAM, method="POST", body=_body(), handler=handler).end()
    assert call.status == 500
    assert b"nobody foresaw" not in call.body
