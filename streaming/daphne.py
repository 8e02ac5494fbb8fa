"""Backpressure on Daphne, whose `send` returns at once and lets the server's buffer grow without bound; and
what its access log shall not have.

Twisted tells a *push producer* when the buffer of its connection is full and when it is empty again. One is
registered here on the object behind Daphne's `send`, and `send` waits in between. This is the only place that
touches a server's objects. Where they look different from what we know, `send` stays as it was, and one line
in the log says so.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

logger = logging.getLogger(__name__)

Send = Callable[[Any], Awaitable[None]]


def paced(send: Send) -> Send:
    """A `send` of an HTTP response that waits while its connection takes nothing. On other servers `send`
    itself, which waits already. `release` must follow."""
    return _paced(send, lambda request: request)


def paced_socket(send: Send) -> Send:
    """`paced` for the `send` of an accepted WebSocket."""
    return _paced(send, lambda protocol: _Upgraded(protocol.transport))


def rename_query(send: Send, query: bytes) -> None:
    """Let Daphne's own access log know of this query of an HTTP request, and not of the one that was sent.
    Other servers read it in the scope."""
    request = send.args[0] if isinstance(send, partial) and send.args else None
    uri = getattr(request, "uri", None)
    if request is not None and isinstance(uri, bytes):
        path = uri.partition(b"?")[0]
        request.uri = path + b"?" + query if query else path


def release(send: Send) -> None:
    """Undo `paced`, so that the connection can serve its next request. Idempotent."""
    if isinstance(send, _PacedSend):
        send.release()


def abort(send: Send) -> None:
    """Close the connection behind a paced `send` now, without what still waits in its buffer. Other servers
    close it when the application leaves a response unfinished."""
    if isinstance(send, _PacedSend):
        send.abort()


class _PacedSend:
    """A `send` that is Twisted's `IPushProducer` at the same time; all on the event loop's thread."""

    def __init__(self, send: Send, consumer: Any, transport: Any) -> None:
        self._send = send
        self._consumer = consumer
        self._close: Callable[[], None] = transport.abortConnection
        self._registered = True
        self._may_send = asyncio.Event()
        self._may_send.set()
        consumer.registerProducer(self, True)

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            # Twisted wants its producer to be gone before the response is finished.
            self.release()
        await self._send(message)
        await self._may_send.wait()

    def release(self) -> None:
        """See the function."""
        self._may_send.set()
        if self._registered:
            self._registered = False
            if _connected(self._consumer):
                self._consumer.unregisterProducer()

    def abort(self) -> None:
        """See the function."""
        self.release()
        self._close()

    # IPushProducer

    def pauseProducing(self) -> None:  # noqa: N802 (Twisted's name)
        """The buffer is full."""
        if self._registered:
            self._may_send.clear()

    def resumeProducing(self) -> None:  # noqa: N802
        """The buffer is empty."""
        self._may_send.set()

    def stopProducing(self) -> None:  # noqa: N802
        """The connection is lost; the server tells the application by itself."""
        self._may_send.set()


class _Upgraded:
    """The connection of a WebSocket, looking like a request: what served HTTP before the upgrade is still
    registered as its producer, and is not needed any more."""

    finished = False

    def __init__(self, transport: Any) -> None:
        self.transport = self.channel = transport

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        self.transport.unregisterProducer()
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:  # noqa: N802
        self.transport.unregisterProducer()


def _paced(send: Send, consumer_of: Callable[[Any], Any]) -> Send:
    # Twisted puts its reactor in the place of this module.
    reactor = sys.modules.get("twisted.internet.reactor")
    if not getattr(reactor, "running", False):
        return send
    try:
        if not isinstance(send, partial):
            raise TypeError(f"`send` is {send!r}")
        consumer = consumer_of(send.args[0])
        if not _connected(consumer):
            return send
        return _PacedSend(send, consumer, consumer.transport)
    except Exception as error:
        _tell_once(error)
        return send


def _connected(consumer: Any) -> bool:
    return not consumer.finished and consumer.channel is not None


_told = False


def _tell_once(error: Exception) -> None:
    global _told
    if not _told:
        _told = True
        logger.warning(
            "this version of Daphne, or what wraps its `send`, is not known (%s: %s): readers that do not "
            "read are not noticed, and the server buffers their streams",
            type(error).__name__,
            error,
        )
