"""One request and its answer, from the first header to the last byte: its id, its trace, its access line.

The handler begins an exchange with each connection's request, before anything else happens, and ends it when
the last byte has left or the client has gone. On the way it costs a look at the headers.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any, Final

from django.http.response import HttpResponseBase

from streaming.core.origin import Origin, sane_request_id, trace_parent
from streaming.runtime.follower import Follower

from .telemetry.background import BACKGROUND
from .telemetry.lines import ORIGIN, Line, emit, seconds_ago

logger = logging.getLogger("streaming.access")

HEADER: Final = "X-Request-ID"

CLIENT_LEFT: Final = 499
"""The status in the line of a request whose client left before the answer began; nginx calls it so, too."""

_MARK: Final = os.urandom(6).hex()
_numbers: Final = count(1)

Message = Mapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Exchange:
    """See the module. `stream`: the reader whose bytes are the answer, if it is a stream of ours."""

    KEY: Final = "streaming.exchange"
    """Where the handler puts it in the ASGI scope."""

    __slots__ = ("ended", "origin", "scope", "sent_bytes", "status", "stream", "task_id")

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.origin = origin_of(scope)
        self.status = 0
        self.sent_bytes: int | None = 0
        self.stream: Follower | None = None
        self.task_id: str | None = None
        self.ended = 0.0
        scope[Exchange.KEY] = self
        ORIGIN.set(self.origin)

    def name(self, response: HttpResponseBase) -> None:
        """Tell the client the id, in a response that is no stream of ours (those do so by themselves)."""
        response.headers.setdefault(HEADER, self.origin.request_id)

    def streams(self, follower: Follower, status: int) -> None:
        """The answer is what this reader gets."""
        self.stream, self.status = follower, status

    def counted(self, send: Send) -> Send:
        """`send`, with status and bytes noted; for answers that are no streams."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                for name, value in message["headers"]:
                    if name.lower() == b"x-stream-id":
                        self.task_id = value.decode("latin1")
            elif self.sent_bytes is not None:
                self.sent_bytes += len(message.get("body", b""))
            await send(message)

        return counting

    def over(self) -> None:
        """The last byte has left, or the client has."""
        # Each holds the other; without this only the garbage collector would let go of them.
        del self.scope[Exchange.KEY]
        if logger.isEnabledFor(logging.INFO):
            self.ended = time.monotonic()
            BACKGROUND.put(_log, self)


def origin_of(scope: Mapping[str, Any]) -> Origin:
    """What the headers say; an id of our own, 32 hex digits, where they name none that is sane."""
    request_id, parents, parent = None, 0, None
    for name, value in scope.get("headers", ()):
        if name == b"x-request-id":
            request_id = sane_request_id(value.decode("latin1"))
        elif name == b"traceparent":
            parents += 1
            parent = trace_parent(value.decode("latin1"))
    if request_id is None:
        # The number of the process too: one that was forked has the same mark.
        request_id = f"{_MARK}{os.getpid():08x}{next(_numbers):012x}"
    return Origin(request_id, parent if parents == 1 else None, time.monotonic())


def _log(exchange: Exchange) -> None:
    scope, origin, stream = exchange.scope, exchange.origin, exchange.stream
    is_socket = scope["type"] == "websocket"
    sent_bytes = exchange.sent_bytes if stream is None else stream.sent_bytes
    client = scope.get("client")
    line = Line(
        "request",
        method="WEBSOCKET" if is_socket else scope["method"],
        # Without the query, in which somebody may have put a secret.
        path=scope["path"],
        status=None if is_socket else exchange.status or CLIENT_LEFT,
        duration_ms=round((exchange.ended - origin.received) * 1000, 1),
        bytes=None if is_socket else sent_bytes,
        task_id=exchange.task_id if stream is None else stream.task.id,
        client=client[0] if client else None,
        request_id=origin.request_id,
        trace_id=None if origin.trace is None else origin.trace.trace_id,
    )
    emit(logger, logging.INFO, line, seconds_ago(exchange.ended))
