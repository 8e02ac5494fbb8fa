"""One stream on a socket: a follower's events, one message each, as fast as its reader takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from enum import Enum

from streaming.core import ndjson
from streaming.core.ack_window import AckWindow
from streaming.core.framing import messages
from streaming.runtime.follower import MAX_FRAMES, Follower, follow

Send = Callable[[str], Awaitable[None]]


class Outcome(Enum):
    """How reading ended: with the terminal event; with `reconnect`; because the reader was too slow, or
    lost a right that it needs beside signing in; by a fault of ours."""

    ENDED = "ended"
    SENT_AWAY = "sent away"
    SLOW = "slow"
    REVOKED = "revoked"
    FAILED = "failed"


class StreamReader:
    """Carries one follower's events to `send`. `window`: what may be on the way."""

    def __init__(self, follower: Follower, window: AckWindow, send: Send) -> None:
        self.follower = follower
        self.task_id = follower.task.id
        self._send = send
        self._window = window
        self._acknowledged = asyncio.Event()

    def acknowledge(self, event_id: int) -> None:
        """The client has everything up to `event_id`. Raises `ValueError` for what was not sent yet."""
        self._window.acknowledge(event_id)
        self._acknowledged.set()

    async def run(self) -> Outcome:
        """Send to the end. The follower is closed on return; what `send` raises is passed on."""
        task = asyncio.current_task()
        assert task is not None
        follower = self.follower
        burst = 0
        try:
            async with aclosing(follow(follower)) as chunks:
                async for chunk in chunks:
                    for message in messages(chunk):
                        await self._deliver(message)
                        burst += 1
                        if burst >= MAX_FRAMES:
                            # A send that need not wait lets nobody else run, and one chunk has many of them.
                            burst = 0
                            await asyncio.sleep(0)
        except asyncio.CancelledError:
            # The follower's timer cancels us when a write, or the wait for room, takes too long.
            if not follower.slow or task.uncancel() > 0:
                raise
            return Outcome.REVOKED if follower.revoked else Outcome.SLOW
        if follower.revoked:
            return Outcome.REVOKED
        if not follower.done:
            return Outcome.FAILED
        return Outcome.ENDED if follower.task.journal.closed else Outcome.SENT_AWAY

    async def _deliver(self, message: bytes) -> None:
        event_id = ndjson.event_id(message)
        if event_id is None:
            # The reader's own messages are few, and cannot be acknowledged.
            await self._send(message.decode())
            return
        while not self._window.has_room(len(message)):
            self._acknowledged.clear()
            await self._acknowledged.wait()
        await self._send(message.decode())
        self._window.sent(event_id, len(message))
