"""A stream over ASGI: from its follower to the server's `send`, nothing in between.

One write for whatever is ready, one Future while nothing is; who leaves is noticed by one task, which
begins when there is first nothing to send. Public ASGI only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from django.http.response import HttpResponseBase

from streaming.runtime.follower import MAX_BURST, Follower

from .compression import Encode
from .daphne import abort, paced, release
from .logs import UNFINISHED
from .responses import EventStream

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PIECE: Final = 65_536
"""Bytes of a write that are handed to the server at once."""

_END: Final[Message] = {"type": "http.response.body", "body": b"", "more_body": False}


async def send_stream(
    follower: Follower,
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    receive: Receive,
    send: Send,
    encode: Encode | None = None,
) -> None:
    """Send a response with that head and the follower's bytes; returns at their end, or when the reader has
    left or was closed as too slow. `encode`: what compresses them.

    The request's body must have been received. Lets go of the follower always.
    """
    reader = asyncio.current_task()
    assert reader is not None
    give_up = reader.cancel
    send = paced(send)
    watcher: asyncio.Task[None] | None = None
    try:
        # A producer that is ready has its first part in the same write as the head.
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        del headers
        burst = 0
        while not follower.closed:
            chunk = follower.take()
            if chunk or follower.done:
                if encode is not None:
                    chunk = encode(chunk, follower.done)
                follower.sending(give_up)
                while len(chunk) > PIECE:
                    # In pieces, so that the server can say when it has enough.
                    await send({"type": "http.response.body", "body": chunk[:PIECE], "more_body": True})
                    chunk = chunk[PIECE:]
                await send({"type": "http.response.body", "body": chunk, "more_body": not follower.done})
                follower.sent()
            if follower.done:
                return
            burst += follower.passed
            if burst >= MAX_BURST:
                burst = 0
                await asyncio.sleep(0)
            if watcher is None:
                watcher = asyncio.create_task(_close_when_gone(follower, receive))
            if (news := follower.news()) is not None:
                await news
        await send(_END)
    except asyncio.CancelledError:
        if not _closed_as_slow(follower, send):
            raise
    except OSError:
        # So a server may tell that the reader has left (ASGI 2.4).
        logger.debug("stream %s: the reader has left", follower.task.id)
    except Exception:
        # No terminal event was sent: the reader comes back.
        logger.exception("stream %s: the reader's bytes failed", follower.task.id)
        await send(_END)
    finally:
        if watcher is not None:
            watcher.cancel()
        follower.close()
        release(send)


async def send_iterated(
    response: HttpResponseBase, send: Send, send_response: Callable[[Any, Send], Awaitable[None]]
) -> None:
    """Send any other response by Django's `send_response`, or a stream whose bytes a middleware of the
    project changes."""
    if not isinstance(response, EventStream):
        await send_response(response, send)
        return
    send = paced(send)
    try:
        await send_response(response, send)
    except asyncio.CancelledError:
        if not _closed_as_slow(response.follower, send):
            raise
    finally:
        release(send)


class CancelOnDisconnect:
    """Cancels the task inside when the client leaves, and swallows just that cancellation.

    A cancellation from outside (the server's) passes through.
    """

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watcher = asyncio.create_task(self._watch())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._watcher.cancel()
        if self._gone and kind is asyncio.CancelledError:
            return self._task.uncancel() == 0
        return False

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()


async def _close_when_gone(follower: Follower, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    follower.close()


def _closed_as_slow(follower: Follower, send: Send) -> bool:
    """Whether this task was cancelled because its reader blocked for too long, and for nothing else; then
    the connection is closed: servers do so by themselves when a response does not end, but for Daphne."""
    task = asyncio.current_task()
    if not follower.slow or task is None or task.uncancel() > 0:
        return False
    abort(send)
    # The server ends the connection because of that, and would call it an error.
    UNFINISHED.set(True)
    logger.warning("stream %s: a reader that did not read was closed", follower.task.id)
    return True
