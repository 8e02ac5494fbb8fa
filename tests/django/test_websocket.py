"""Sockets without a server, through Channels' communicator: who may open one, what they say, how they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib.auth import get_user_model
from django.test import Client, override_settings

from streaming import keys
from streaming.core.ack_window import LIMIT
from streaming.core.events import Cancelled
from streaming.handler import StreamingHandler, get_asgi_application
from streaming.management.commands.serve import _config
from streaming.service import close_service, service
from streaming.signals import stopping
from streaming.websocket.consumers import MAX_STREAMS
from streaming.websocket.protocol import MAX_MESSAGE
from tests.support.client import eventually
from tests.unit.runtime.fakes import in_memory

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = 10
GENERATE = "/ws/generate/"
OWN = "http://testserver"
OTHER = "https://app.example"


@pytest.fixture(autouse=True)
def _project() -> Iterator[None]:
    pools = {"agent_pool": {"max_workers": 20, "per_owner": 20}, "kernel_pool": {}}
    with override_settings(
        ALLOW_ANONYMOUS="loopback",
        ALLOW_SCRIPTED_PROVIDER=True,
        ALLOWED_HOSTS=["testserver"],
        CORS_ALLOWED_ORIGINS=[OTHER],
        CSRF_TRUSTED_ORIGINS=["https://public.example", "https://*.wild.example"],
        THREAD_CONFIG=pools,
    ):
        yield


@pytest.fixture(autouse=True)
async def _service() -> Any:
    yield
    await close_service(0)


class Socket(WebsocketCommunicator):  # type: ignore[misc]  # Channels has no types
    """A client that sees each message, and how the socket was closed."""

    def __init__(self, path: str, headers: dict[str, str] | None = None, **scope: Any) -> None:
        named = {"host": "testserver", **(headers or {})}
        super().__init__(
            StreamingHandler(), path, [(name.encode(), value.encode()) for name, value in named.items()]
        )
        self.scope |= {"client": ["127.0.0.1", 50_000], "root_path": "", **scope}

    async def open(self) -> Socket:
        """Raises `AssertionError` when refused."""
        accepted, _ = await self.connect(PATIENCE)
        assert accepted
        return self

    async def denied(self) -> tuple[int, dict[str, Any]]:
        """Status and problem of a refused handshake."""
        self.scope["extensions"] = {"websocket.http.response": {}}
        await self.send_input({"type": "websocket.connect"})
        start = await self.receive_output(PATIENCE)
        assert start["type"] == "websocket.http.response.start", start
        body = await self.receive_output(PATIENCE)
        for _ in range(2):
            await self.send_input({"type": "websocket.disconnect", "code": 1006})
        await self.wait(PATIENCE)
        return start["status"], json.loads(body["body"])

    async def say(self, **values: Any) -> None:
        await self.send_to(json.dumps(values))

    async def next(self, kind: str | None = None) -> dict[str, Any]:
        """The next message, or the next one of that type; a close is `{"type": "close", "code": …}`."""
        while True:
            message = await self.receive_output(PATIENCE)
            if message["type"] == "websocket.close":
                return {"type": "close", "code": message["code"]}
            found: dict[str, Any] = json.loads(message["text"])
            if kind in (None, found["type"]):
                return found

    async def start(self, request_id: str, **members: Any) -> None:
        await self.say(type="start", request_id=request_id, brief=brief(**members))

    async def leave(self) -> None:
        await self.disconnect(timeout=PATIENCE)


@asynccontextmanager
async def opened(
    path: str = GENERATE, headers: dict[str, str] | None = None, **scope: Any
) -> AsyncIterator[Socket]:
    socket = await Socket(path, headers, **scope).open()
    yield socket
    await socket.leave()


def brief(**members: Any) -> dict[str, Any]:
    return {"user_id": "u", "topic": "t", "provider": "scripted", "options": {"interval": 0.01}, **members}


def endless() -> dict[str, Any]:
    return {"options": {"tokens": 100_000, "interval": 0.01}}


# --- Who may open a socket ----------------------------------------------------------------------------


@pytest.fixture
def alice(transactional_db: None) -> dict[str, str]:
    """What speaks for alice: her cookie, and an API key."""
    user = get_user_model().objects.create(username="alice")
    caller = Client()
    caller.force_login(user)
    return {"cookie": f"sessionid={caller.cookies['sessionid'].value}", "key": keys.issue(user)[1]}


@pytest.mark.parametrize("origin", [OWN, OTHER, "https://public.example", None])
async def test_a_page_of_ours_or_no_page_may_open_a_socket(origin: str | None):
    async with opened(headers={} if origin is None else {"origin": origin}) as socket:
        await socket.say(type="ping")
        assert await socket.next() == {"type": "pong"}


@pytest.mark.parametrize(
    "origin",
    [
        "http://testserver.evil.example",
        "http://testserver:81",
        "https://testserver",
        "HTTP://TESTSERVER",
        "http://testserver/",
        "https://app.example.evil.example",
        "https://app.example:444",
        "http://app.example",
        "https://sub.wild.example",
        "https://*.wild.example",
        "null",
        "",
        f"{OWN}, {OWN}",
    ],
)
async def test_no_other_page_may(origin: str, alice: dict[str, str]):
    for headers in ({}, {"cookie": alice["cookie"]}, {"authorization": f"Bearer {alice['key']}"}):
        status, problem = await Socket(GENERATE, {**headers, "origin": origin}).denied()
        assert (status, problem["code"]) == (403, "wrong_origin")


async def test_a_session_cookie_needs_an_origin(alice: dict[str, str]):
    status, problem = await Socket(GENERATE, {"cookie": alice["cookie"]}).denied()
    assert (status, problem["code"]) == (403, "wrong_origin")


async def test_who_signed_in_owns_what_they_start(alice: dict[str, str]):
    async with opened(headers={"cookie": alice["cookie"], "origin": OWN}) as hers:
        await hers.start("a", **endless())
        task_id = (await hers.next("opened"))["task_id"]
        owned = {"authorization": f"Bearer {alice['key']}"}
        async with opened(f"/ws/streams/{task_id}/", owned) as by_key:
            assert (await by_key.next("content"))["delta"].startswith("0 ")
        async with opened(f"/ws/streams/{task_id}/") as anonymous:
            problem = await anonymous.next()
            assert (problem["type"], problem["code"], problem["status"]) == ("problem", "not_found", 404)
            assert await anonymous.next() == {"type": "close", "code": 4404}
        async with opened() as anonymous:
            await anonymous.say(type="follow", request_id="b", task_id=task_id)
            theirs = await anonymous.next()
            await anonymous.say(type="follow", request_id="b", task_id="0" * 32)
            assert theirs == await anonymous.next()
            assert theirs["code"] == "not_found"


async def test_a_page_of_another_site_does_not_act_for_who_signed_in(alice: dict[str, str]):
    """It may call, as over HTTP without credentials, but the cookie is not read."""
    async with opened(headers={"cookie": alice["cookie"], "origin": OTHER}) as socket:
        await socket.start("a", options={"tokens": 1})
        task = in_memory(service().supervisor, (await socket.next("opened"))["task_id"])
        assert task.spec.owner is None
    with override_settings(ALLOW_ANONYMOUS="false"):
        status, problem = await Socket(GENERATE, {"cookie": alice["cookie"], "origin": OTHER}).denied()
        assert (status, problem["code"]) == (401, "not_authenticated")


@pytest.mark.parametrize(
    ("headers", "scope", "status", "code"),
    [
        ({"authorization": "Bearer sluice_nonsense"}, {}, 401, "invalid_key"),
        ({"authorization": "Basic YTpi"}, {}, 401, "not_authenticated"),
        ({"host": "evil.example"}, {}, 400, "bad_host"),
        ({"x-forwarded-for": "203.0.113.9"}, {}, 401, "not_authenticated"),
        ({"forwarded": "for=203.0.113.9"}, {}, 401, "not_authenticated"),
        ({}, {"client": ["203.0.113.9", 1]}, 401, "not_authenticated"),
    ],
)
async def test_nobody_in_particular_is_let_in_as_over_http(
    headers: dict[str, str], scope: dict[str, Any], status: int, code: str
):
    denied, problem = await Socket(GENERATE, headers, **scope).denied()
    assert (denied, problem["code"]) == (status, code)


async def test_behind_tls_the_origin_is_https():
    async with opened(headers={"origin": "https://testserver"}, scheme="wss") as socket:
        await socket.say(type="ping")
        assert await socket.next() == {"type": "pong"}


async def test_a_server_that_can_only_close_refuses_all_the_same():
    socket = Socket(GENERATE, {"origin": "https://evil.example"})
    assert await socket.connect(PATIENCE) == (False, 1000)


async def test_where_no_socket_is_there_is_404():
    for path in ("/ws/", "/ws/nowhere/", "/ws/streams/", "/", "/ws/generate/more"):
        status, problem = await Socket(path).denied()
        assert (status, problem["code"]) == (404, "not_found")


@override_settings(WEBSOCKET_URLCONF=None)
async def test_a_project_that_names_no_sockets_has_none():
    assert (await Socket(GENERATE).denied())[0] == 404


@override_settings(WEBSOCKET_URLCONF="streaming.websocket.routing")
async def test_a_project_that_uses_only_streaming_follows_streams():
    async with opened(f"/ws/streams/{'0' * 32}/") as socket:
        assert (await socket.next())["code"] == "not_found"
    assert (await Socket(GENERATE).denied())[0] == 404


@override_settings(WEBSOCKET_URLCONF="nowhere.at.all")
def test_a_project_with_wrong_sockets_does_not_start():
    with pytest.raises(ImportError, match="nowhere"):
        get_asgi_application()


@override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "nowhere.AtAll"}})
async def test_no_channel_layer_is_asked():
    async with opened() as socket:
        await socket.say(type="ping")
        assert await socket.next() == {"type": "pong"}


# --- What they say ------------------------------------------------------------------------------------


async def test_a_brief_becomes_a_stream():
    async with opened() as socket:
        await socket.start("a", options={"tokens": 4, "interval": 0.01})
        stream = [await socket.next()]
        while stream[-1]["type"] not in ("complete", "error"):
            stream.append(await socket.next())
    assert [each["type"] for each in stream[:2]] == ["opened", "status"]
    assert {each["request_id"] for each in stream} == {"a"}
    durable = [each for each in stream if "id" in each]
    assert [each["id"] for each in durable] == list(range(1, len(durable) + 1))
    assert "".join(each.get("delta", "") for each in durable) == "0 1 2 3 "
    assert stream[-1]["type"] == "complete"


async def test_a_message_that_is_wrong_is_refused_and_the_socket_stays():
    wrong = [
        ("not JSON", "invalid_json"),
        ("", "invalid_json"),
        ("[]", "object_expected"),
        ('{"type":"frob"}', "unknown_type"),
        ('{"type":"ping","frob":1}', "unknown_field"),
        ('{"type":"ping","version":99}', "unknown_field"),
    ]
    async with opened() as socket:
        for text, code in wrong:
            await socket.send_input({"type": "websocket.receive", "text": text})
            problem = await socket.next()
            assert (problem["type"], problem["code"]) == ("problem", code)
        await socket.say(type="ping")
        assert await socket.next() == {"type": "pong"}


async def test_a_wrong_brief_names_its_fields():
    async with opened() as socket:
        await socket.say(type="start", request_id="a", brief={"user_id": "u", "frob": 1})
        problem = await socket.next()
        assert (problem["status"], problem["code"]) == (422, "validation_failed")
        assert problem["request_id"] == "a"
        assert {each["field"] for each in problem["errors"]} == {"frob", "topic"}
        await socket.start("a", options={"tokens": 1})
        assert (await socket.next())["type"] == "opened", "a refused start leaves its name free"


@override_settings(THREAD_CONFIG={"agent_pool": {"max_workers": 1, "queue_size": 0, "per_owner": 1}})
async def test_the_limits_of_the_pool_are_those_of_http():
    async with opened() as socket:
        await socket.start("a", **endless())
        await socket.next("opened")
        await socket.start("b", **endless())
        problem = await socket.next("problem")
        assert (problem["status"], problem["code"], problem["request_id"]) == (429, "owner_limit", "b")
        assert (problem["active"], problem["limit"]) == (1, 1)
        assert problem["retry_after"] >= 1
        await socket.start("b", user_id="another", **endless())
        problem = await socket.next("problem")
        assert (problem["status"], problem["code"]) == (503, "queue_full")
        assert problem["retry_after"] >= 1


async def test_start_twice_cancel_unknown_cancel_twice():
    async with opened() as socket:
        await socket.start("a", **endless())
        await socket.next("opened")
        await socket.start("a", **endless())
        assert (await socket.next("problem"))["code"] == "duplicate"
        await socket.say(type="cancel", request_id="b")
        assert (await socket.next("problem"))["code"] == "not_found"
        await socket.say(type="cancel", request_id="a")
        assert await socket.next("ok") == {"type": "ok", "request_id": "a"}
        assert (await socket.next("cancelled"))["reason"] == "client"
        await socket.say(type="cancel", request_id="a")
        assert await socket.next() == {"type": "ok", "request_id": "a"}
        await socket.start("a", **endless())
        assert (await socket.next())["code"] == "duplicate", "an ended stream keeps its name"


async def test_eight_streams_and_no_more():
    async with opened() as socket:
        for number in range(MAX_STREAMS):
            await socket.start(f"r{number}", **endless())
            await socket.next("opened")
        await socket.start("one-more", **endless())
        problem = await socket.next("problem")
        assert (problem["status"], problem["code"], problem["limit"]) == (
            429,
            "too_many_streams",
            MAX_STREAMS,
        )
        await socket.say(type="cancel", request_id="r0")
        await socket.next("cancelled")
        await socket.start("one-more", **endless())
        assert (await socket.next("opened"))["request_id"] == "one-more"
    assert not service().supervisor.followers


async def test_several_streams_share_a_socket_each_in_order():
    async with opened() as socket:
        for name in "abc":
            await socket.start(name, options={"tokens": 30, "interval": 0.003})
        seen: dict[str, list[dict[str, Any]]] = {"a": [], "b": [], "c": []}
        ended = 0
        while ended < 3:
            event = await socket.next()
            seen[event["request_id"]].append(event)
            ended += event["type"] == "complete"
    for events in seen.values():
        durable = [each for each in events if "id" in each]
        assert [each["id"] for each in durable] == list(range(1, len(durable) + 1))
        assert "".join(each.get("delta", "") for each in durable) == "".join(f"{k} " for k in range(30))


async def test_a_stream_is_followed_from_a_cursor_and_its_end_is_told_once():
    async with opened() as socket:
        await socket.start("a", options={"tokens": 5, "interval": 0.01})
        task_id = (await socket.next("opened"))["task_id"]
        last = (await socket.next("complete"))["id"]
        await socket.say(type="follow", request_id="b", task_id=task_id, after=last - 1)
        assert (await socket.next())["type"] == "opened"
        assert (await socket.next())["id"] == last
        await socket.say(type="follow", request_id="c", task_id=task_id, after=last)
        assert await socket.next() == {"type": "ended", "request_id": "c", "task_id": task_id}
        await socket.say(type="follow", request_id="d", task_id=task_id, after=last + 1)
        assert (await socket.next())["code"] == "ahead_of_stream"
    async with opened(f"/ws/streams/{task_id}/?after={last - 1}") as one:
        assert [(await one.next())["type"] for _ in range(2)] == ["opened", "complete"]
        assert await one.next() == {"type": "close", "code": 1000}
    async with opened(f"/ws/streams/{task_id}/?after={last}") as one:
        assert await one.next() == {"type": "ended", "task_id": task_id}
        assert await one.next() == {"type": "close", "code": 1000}
    for query, code, close in (
        (f"after={last + 1}", "ahead_of_stream", 4409),
        ("after=x", "bad_event_id", 4400),
        ("after=1&after=2", "bad_query", 4400),
        ("timing=2", "bad_query", 4400),
    ):
        async with opened(f"/ws/streams/{task_id}/?{query}") as one:
            assert (await one.next())["code"] == code
            assert await one.next() == {"type": "close", "code": close}


async def test_timing_is_for_every_event():
    async with opened(GENERATE + "?timing=1") as socket:
        await socket.start("a", options={"tokens": 1})
        assert "sent_at" in await socket.next("status")
        assert "sent_at" in await socket.next("complete")


async def test_a_task_is_cancelled_over_its_own_socket():
    async with opened() as socket:
        await socket.start("a", **endless())
        task_id = (await socket.next("opened"))["task_id"]
        async with opened(f"/ws/streams/{task_id}/") as one:
            await one.next("content")
            await one.say(type="cancel")
            assert (await one.next("ok")) == {"type": "ok"}
            assert (await one.next("cancelled"))["reason"] == "client"
            assert await one.next() == {"type": "close", "code": 1000}
        assert (await socket.next("cancelled"))["request_id"] == "a"


# --- Limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"bytes": b"{}"}, 1003),
        ({"text": " " * 65_537}, 1009),
        ({"text": "咖" * 21_846}, 1009),
    ],
)
async def test_what_is_no_message_closes_the_socket(message: dict[str, Any], code: int):
    async with opened() as socket:
        await socket.send_input({"type": "websocket.receive", **message})
        assert await socket.next() == {"type": "close", "code": code}
        await socket.say(type="ping")
        assert await socket.receive_nothing()


async def test_the_largest_message_is_read():
    async with opened() as socket:
        await socket.send_input({"type": "websocket.receive", "text": '{"type":"ping"}'.ljust(65_536)})
        assert await socket.next() == {"type": "pong"}


async def test_too_many_messages_are_warned_of_then_close_the_socket():
    async with opened() as socket:
        for _ in range(1_000):
            await socket.say(type="ping")
        warned = await socket.next("problem")
        assert (warned["code"], warned["status"], warned["retry_after"]) == ("rate_limited", 429, 1)
        assert (await socket.next("close"))["code"] == 1008


async def test_who_acknowledges_gets_no_more_than_the_limit_until_it_does():
    line = "x" * 16_000
    async with opened() as socket:
        await socket.start("a", options={"tokens": 2, "interval": 60, "text": "ab"})
        task_id = (await socket.next("opened"))["task_id"]
        await socket.next("content")
        journal = in_memory(service().supervisor, task_id).journal
        async with opened(f"/ws/streams/{task_id}/") as one:
            await one.next("content")
            await one.say(type="ack", id=1)
            await one.say(type="ping")
            await one.next("pong")
            for _ in range(40):
                journal.append_content(line, None)
            in_flight, last = 0, 0
            while not await one.receive_nothing(0.2):
                event = await one.next()
                in_flight, last = in_flight + len(json.dumps(event)), event["id"]
            assert LIMIT - 2 * len(line) < in_flight <= LIMIT + 4_096
            await one.say(type="ack", id=last + 1)
            assert (await one.next())["code"] == "ahead_of_stream"
            while last < 41:
                await one.say(type="ack", id=last)
                last = (await one.next("content"))["id"]


@override_settings(SSE_CONFIG={"connection_timeout": 0.5, "heartbeat_interval": 0.2})
async def test_who_stops_acknowledging_is_closed_as_slow():
    async with opened() as socket:
        await socket.start("a", options={"tokens": 2, "interval": 60, "text": "ab"}, on_disconnect="continue")
        task_id = (await socket.next("opened"))["task_id"]
        await socket.next("content")
        async with opened(f"/ws/streams/{task_id}/") as one:
            await one.next("content")
            await one.say(type="ack", id=1)
            await one.say(type="ping")
            await one.next("pong")
            journal = in_memory(service().supervisor, task_id).journal
            for _ in range(40):
                journal.append_content("x" * 16_000, None)
            problem = await one.next("problem")
            assert (problem["code"], problem["status"]) == ("slow_reader", 408)
            assert await one.next() == {"type": "close", "code": 4408}
    assert service().supervisor.counters.slow_readers_closed == 1


@override_settings(SSE_CONFIG={"heartbeat_interval": 0.2, "status_message_interval": 0})
async def test_a_silent_stream_gets_typed_heartbeats():
    async with opened() as socket:
        await socket.start("a", options={"tokens": 2, "interval": 60})
        ping = await socket.next("ping")
        assert (ping["state"], ping["request_id"]) == ("running", "a")


# --- How they end -------------------------------------------------------------------------------------


async def test_who_leaves_begins_the_grace():
    async with opened() as socket:
        await socket.start("a", on_disconnect=0.2, **endless())
        task_id = (await socket.next("opened"))["task_id"]
        await socket.next("content")
    supervisor = service().supervisor
    task = in_memory(supervisor, task_id)
    assert not supervisor.followers
    assert not task.state.terminal
    async with asyncio.timeout(PATIENCE):
        await task.ended
    assert task.final == Cancelled(reason="disconnect")

    async def permit_is_back() -> bool:
        return not supervisor.pools["agent_pool"].ledger.statistics().running

    assert await eventually(permit_is_back)


async def test_who_leaves_at_once_leaves_nothing_behind():
    """The reader's task is cancelled before its first step."""
    for _ in range(20):
        socket = await Socket(GENERATE).open()
        await socket.start("a", on_disconnect="cancel", **endless())
        await socket.next("opened")
        await socket.leave()
    assert not service().supervisor.followers


async def test_going_down_everybody_is_told_and_newcomers_are_refused():
    idle = await Socket(GENERATE).open()
    busy = await Socket(GENERATE).open()
    await busy.start("a", **endless())
    task_id = (await busy.next("opened"))["task_id"]
    one = await Socket(f"/ws/streams/{task_id}/").open()
    await one.next("content")
    await close_service(0.1)
    for socket in (busy, one):
        end = await socket.next("error")
        assert (end["code"], end["retryable"]) == ("interrupted", True)
    assert await one.next() == {"type": "close", "code": 1000}
    status, problem = await Socket(GENERATE).denied()
    assert (status, problem["code"]) == (503, "draining")
    await busy.start("b", **endless())
    assert (await busy.next("problem"))["code"] == "draining"
    await stopping.asend(None)
    for socket in (busy, idle):
        assert await socket.next() == {"type": "close", "code": 1012}
    for socket in (busy, idle, one):
        await socket.leave()


def test_serve_closes_a_peer_that_vanished_within_forty_seconds():
    config = _config()
    assert config.ws_ping_interval is not None
    assert config.ws_ping_timeout is not None
    assert config.ws_ping_interval + config.ws_ping_timeout <= 40
    assert config.ws_max_size == MAX_MESSAGE


@override_settings(SSE_CONFIG={"max_followers": 1})
async def test_one_reader_too_many_shall_come_back():
    async with opened() as socket:
        await socket.start("a", **endless())
        task_id = (await socket.next("opened"))["task_id"]
        async with opened(f"/ws/streams/{task_id}/?after=0") as one:
            away = await one.next()
            assert away["type"] == "reconnect"
            assert away["after"] == 0
            assert away["retry"] >= 2000
            assert await one.next() == {"type": "close", "code": 1013}
        await socket.say(type="follow", request_id="b", task_id=task_id)
        assert (await socket.next("reconnect"))["request_id"] == "b"
