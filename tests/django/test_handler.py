"""The door without a server: what a request borrows, what it gives back and when."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import SyncToAsync
from django.contrib.auth import get_user_model
from django.core.signals import request_finished, request_started
from django.test import Client, override_settings

from streaming.handler import StreamingHandler
from streaming.responses import Opened
from streaming.service import close_service, service
from streaming.threads import ThreadLender
from tests.support.client import eventually

from . import urls
from .asgi_calls import Call

pytestmark = pytest.mark.django_db(transaction=True)

BRIEF = {"user_id": "u", "topic": "t", "provider": "scripted", "options": {"tokens": 3, "interval": 0}}

GENERATE = "/content/generate/stream/async"


@pytest.fixture(autouse=True)
def _project() -> Iterator[None]:
    with override_settings(
        ROOT_URLCONF="tests.django.urls",
        ALLOW_ANONYMOUS="loopback",
        ALLOW_SCRIPTED_PROVIDER=True,
        ALLOWED_HOSTS=["testserver"],
    ):
        yield


@pytest.fixture(autouse=True)
async def _service() -> Any:
    yield
    await close_service(0)


# --- Threads ------------------------------------------------------------------------------------------


class Hops:
    """Counts visits to threads up to the first byte of a body."""

    def __init__(self) -> None:
        self.before_first_byte = 0
        self._open = True

    def sent(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body" and message.get("body"):
            self._open = False

    def watch(self) -> Any:
        call = SyncToAsync.__call__

        async def counted(hop: Any, *args: Any, **kwargs: Any) -> Any:
            self.before_first_byte += self._open
            return await call(hop, *args, **kwargs)

        return mock.patch.object(SyncToAsync, "__call__", counted)


async def test_an_anonymous_stream_starts_without_visiting_a_thread():
    hops = Hops()
    with hops.watch():
        call = await Call(GENERATE, method="POST", body=json.dumps(BRIEF).encode(), on_send=hops.sent).end()
    assert call.status == 200
    assert b"event: complete" in call.body
    assert hops.before_first_byte == 0


async def test_following_visits_no_thread_either():
    first = await Call("/summarise").end()
    hops = Hops()
    with hops.watch():
        call = await Call(f"/streams/{first.headers['x-stream-id']}/events", on_send=hops.sent).end()
    assert b"event: complete" in call.body
    assert hops.before_first_byte == 0


async def test_a_borrowed_thread_goes_back_before_the_first_byte():
    user = await get_user_model().objects.acreate(username="reader")
    cookie = await asyncio.to_thread(_session_of, user)
    order: list[str] = []
    take_back, borrow = ThreadLender.take_back, ThreadLender.borrow

    def noted_back(lender: ThreadLender, thread: Any) -> None:
        order.append("back")
        take_back(lender, thread)

    def noted_borrow(lender: ThreadLender) -> Any:
        order.append("borrow")
        return borrow(lender)

    with (
        mock.patch.object(ThreadLender, "take_back", noted_back),
        mock.patch.object(ThreadLender, "borrow", noted_borrow),
    ):
        headers = {"cookie": f"sessionid={cookie}"}
        call = Call("/forever", headers=headers, on_send=lambda message: order.append(message["type"]))
        await call.saw(b"event: content")
        assert order[:4] == ["borrow", "back", "http.response.start", "http.response.body"]
        call.leave()
        await call.end()


def test_a_thread_that_comes_back_after_its_loop_has_ended_ends_quietly(caplog: pytest.LogCaptureFixture):
    """At shutdown: a view that was cancelled still runs in its thread."""
    loop = asyncio.new_event_loop()
    lender = ThreadLender(lambda: None, loop.call_soon_threadsafe)
    thread = lender.borrow()
    go = threading.Event()
    thread.submit(go.wait, 60)
    lender.take_back(thread)
    loop.close()
    go.set()
    (worker,) = thread._threads
    worker.join(30)
    assert not worker.is_alive()
    assert "Event loop is closed" not in caplog.text


def _session_of(user: Any) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


# --- Leaving ------------------------------------------------------------------------------------------


async def test_hundreds_of_leavers_leave_no_task_and_no_follower():
    handler = StreamingHandler()
    await Call("/forever", handler=handler).saw(b"content")  # whatever is made once is made now
    here = service()
    dice = random.Random(7)

    async def leave(_: int) -> None:
        call = Call(dice.choice(["/forever", "/source/sync", "/plain/"]), handler=handler)
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
        if dice.random() < 0.3:
            await asyncio.sleep(dice.random() * 0.05)
        call.leave()
        await call.end()

    before = len(asyncio.all_tasks())
    for _ in range(8):
        await asyncio.gather(*(leave(number) for number in range(50)))
    for _ in range(1000):
        numbers: Any = here.statistics()
        if (
            numbers["followers"] <= 1
            and numbers["tasks"]["active"] <= 1
            and len(asyncio.all_tasks()) <= before
        ):
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError((numbers, asyncio.all_tasks()))
    pool = numbers["pools"]["agent_pool"]
    assert (pool["running"], pool["waiting"]) == (1, 0), "only the first one still reads"


async def test_who_leaves_before_the_body_is_whole_is_answered_nothing():
    sent: list[dict[str, Any]] = []
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
    incoming.put_nowait({"type": "http.disconnect"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": GENERATE, "headers": [], "query_string": b""}
    await StreamingHandler()(scope, incoming.get, send)
    assert sent == []


async def test_a_cancel_by_the_server_is_not_swallowed():
    call = Call("/forever")
    await call.saw(b"content")
    call.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.running
    assert service().statistics()["followers"] == 0


async def test_each_request_is_started_and_finished_once():
    seen: list[str] = []

    def started(**kwargs: Any) -> None:
        seen.append("started")

    def finished(**kwargs: Any) -> None:
        seen.append("finished")

    request_started.connect(started)
    request_finished.connect(finished)
    try:
        await Call("/plain/").end()
        await Call("/summarise").end()
        gone = Call("/forever")
        await gone.saw(b"content")
        gone.leave()
        await gone.end()
    finally:
        request_started.disconnect(started)
        request_finished.disconnect(finished)
    assert seen == ["started", "finished"] * 3


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous iterators")
async def test_what_a_project_closes_it_closes_in_a_thread():
    """It may ask the database there, as under Django's own handler."""
    urls.Closing.closed_in.clear()
    await Call("/closing/").end()
    (thread,) = urls.Closing.closed_in
    assert thread != threading.current_thread().name


# --- Protocol -----------------------------------------------------------------------------------------


async def test_a_body_is_closed_once_and_last():
    call = await Call("/summarise").end()
    flags = [each.get("more_body", False) for each in call.messages[1:]]
    assert flags == [True] * (len(flags) - 1) + [False]


async def test_lifespan_is_answered():
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "lifespan.startup"})
    sent = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    running = asyncio.create_task(StreamingHandler()({"type": "lifespan"}, incoming.get, send))

    async def has_started() -> bool:
        return sent == ["lifespan.startup.complete"]

    assert await eventually(has_started)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_an_unknown_protocol_is_an_error():
    with pytest.raises(ValueError, match="gopher"):
        await StreamingHandler()({"type": "gopher"}, None, None)


async def test_a_web_socket_that_nobody_serves_is_refused_without_noise():
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await StreamingHandler()({"type": "websocket", "path": "/nowhere"}, None, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_responses_leave_no_cycle():
    """A stream's objects go when they are no longer needed, not when the garbage collector comes."""
    await Call("/summarise").end()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await Call("/summarise").end()
        from streaming.responses import EventStream

        # By its type: to ask an object of another test for its class may wake what is lazy.
        alive = sum(type(each) is EventStream for each in gc.get_objects())
    finally:
        gc.enable()
    assert alive <= 2


class Closable:
    """A follower that is closed or not."""

    closed = False

    def close_from_any_thread(self) -> None:
        self.closed = True


def test_no_stream_outlives_the_request_that_opened_it():
    opened, in_time, too_late = Opened(), Closable(), Closable()
    opened.add(in_time)  # type: ignore[arg-type]
    assert not in_time.closed
    opened.close()
    assert in_time.closed
    opened.add(too_late)
    assert too_late.closed, "a synchronous middleware loses what comes after its reader has left"
