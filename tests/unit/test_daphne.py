"""Backpressure on Daphne: `send` waits while the connection is full; nothing changes anywhere else."""

from __future__ import annotations

import asyncio
import sys
import types
from functools import partial
from typing import Any

import pytest

from streaming import daphne
from streaming.daphne import abort, paced, paced_socket, release

PART = {"type": "http.response.body", "body": b"x", "more_body": True}
LAST = {"type": "http.response.body", "body": b"", "more_body": False}


class Transport:
    """As Twisted's: one producer at a time."""

    def __init__(self) -> None:
        self.producer: Any = None
        self.aborted = False

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        assert streaming
        assert self.producer is None, "Twisted would raise"
        self.producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802
        self.producer = None

    def abortConnection(self) -> None:  # noqa: N802
        self.aborted = True


class Request(Transport):
    """As `daphne.http_protocol.WebRequest`: what `send` of an HTTP response leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.transport = Transport()
        self.channel: Any = object()
        self.finished = 0
        self.sent: list[Any] = []

    def unregisterProducer(self) -> None:  # noqa: N802
        assert self.channel is not None, "Twisted would raise"
        super().unregisterProducer()


async def handle_reply(protocol: Any, message: Any) -> None:
    if message == LAST:
        assert protocol.producer is None, "Twisted would complain in the log"
    protocol.sent.append(message)


@pytest.fixture(autouse=True)
def on_daphne(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", types.SimpleNamespace(running=True))
    monkeypatch.setattr(daphne, "_told", False)


@pytest.fixture
def request_() -> Request:
    return Request()


@pytest.fixture
def send(request_: Request) -> Any:
    return paced(partial(handle_reply, request_))


async def waits(sending: asyncio.Task[None]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not sending.done()


async def test_it_waits_from_a_full_buffer_to_an_empty_one(request_: Request, send: Any) -> None:
    await send(PART)
    request_.producer.pauseProducing()
    sending = asyncio.ensure_future(send(PART))
    assert await waits(sending)
    assert request_.sent == [PART, PART], "what is sent is with the server, which waits"
    request_.producer.resumeProducing()
    await sending
    await send(PART)


async def test_the_last_message_lets_go_before_it_is_sent(request_: Request, send: Any) -> None:
    await send(PART)
    request_.producer.pauseProducing()
    await send(LAST)
    assert request_.producer is None
    release(send)
    release(send)
    assert request_.sent == [PART, LAST]


async def test_a_lost_connection_wakes_who_waits(request_: Request, send: Any) -> None:
    request_.producer.pauseProducing()
    sending = asyncio.ensure_future(send(PART))
    assert await waits(sending)
    request_.producer.stopProducing()
    request_.channel = None
    await sending
    release(send)


async def test_release_wakes_who_waits(request_: Request, send: Any) -> None:
    producer = request_.producer
    producer.pauseProducing()
    sending = asyncio.ensure_future(send(PART))
    assert await waits(sending)
    release(send)
    await sending
    producer.pauseProducing()
    await send(PART)


async def test_abort_closes_the_connection_at_once(request_: Request, send: Any) -> None:
    request_.producer.pauseProducing()
    abort(send)
    assert request_.transport.aborted
    assert request_.producer is None
    await send(PART)


async def test_a_socket_takes_the_place_of_what_served_http() -> None:
    class Socket:
        def __init__(self) -> None:
            self.transport = Transport()
            self.transport.producer = "the channel of HTTP"
            self.sent: list[Any] = []

    async def reply(protocol: Socket, message: Any) -> None:
        protocol.sent.append(message)

    socket = Socket()
    send = paced_socket(partial(reply, socket))
    message = {"type": "websocket.send", "text": "x"}
    await send(message)
    socket.transport.producer.pauseProducing()
    sending = asyncio.ensure_future(send(message))
    assert await waits(sending)
    socket.transport.producer.resumeProducing()
    await sending
    abort(send)
    assert socket.transport.aborted
    assert socket.transport.producer is None


@pytest.mark.parametrize("reactor", [None, types.SimpleNamespace(running=False)])
async def test_on_other_servers_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, request_: Request, reactor: Any
) -> None:
    """Also where Daphne is installed as an app, which loads the reactor."""
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    plain = partial(handle_reply, request_)
    assert paced(plain) is plain
    release(plain)
    abort(plain)
    assert not request_.transport.aborted
    assert caplog.text == ""


@pytest.mark.parametrize("state", ["finished", "lost"])
async def test_a_connection_that_is_closed_already_is_left_alone(
    caplog: pytest.LogCaptureFixture, request_: Request, state: str
) -> None:
    if state == "finished":
        request_.finished = 1
        del request_.channel
    else:
        request_.channel = None
    plain = partial(handle_reply, request_)
    assert paced(plain) is plain
    assert caplog.text == ""


class OtherShape:
    finished = 0
    channel = "something"


async def wrapped(message: Any) -> None:
    """A `send` of a middleware."""


@pytest.mark.parametrize(
    "plain",
    [wrapped, partial(handle_reply), partial(handle_reply, None), partial(handle_reply, OtherShape())],
)
async def test_another_shape_of_daphne_is_said_once_and_changes_nothing(
    caplog: pytest.LogCaptureFixture, plain: Any
) -> None:
    assert paced(plain) is plain
    assert paced(plain) is plain
    assert caplog.text.count("is not known") == 1


async def test_a_producer_that_is_there_already_is_not_pushed_out(
    caplog: pytest.LogCaptureFixture, request_: Request
) -> None:
    plain = partial(handle_reply, request_)
    request_.producer = "another"
    assert paced(plain) is plain
    assert request_.producer == "another"
    assert "is not known" in caplog.text
