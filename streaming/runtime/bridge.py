"""From a blocking iterator in a thread to the event loop: in batches, without polling, bounded.

The thread appends parts to a deque and wakes the loop only if the loop sleeps: under load one wake-up
carries many parts, and an idle loop gets the first part at once. The thread waits when the loop has
fallen behind by `HIGH_WATER`, so a fast producer cannot fill the memory.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

HIGH_WATER: Final = 256
"""Parts that may wait for the loop before the thread waits for it."""

LOOK_AGAIN: Final = 1.0
"""Seconds after which a thread that waits for the loop looks whether the loop is still there."""


class ThreadBridge:
    """One blocking iterator. `run` is the thread's side; `next_batch`, `stop` are the loop's.

    `exited` is called on the loop when the thread's job is over, whether or not anybody still reads;
    `tidy` is called in the thread at its end (to close what the thread opened).
    """

    def __init__(
        self,
        source: Iterator[Any],
        loop: asyncio.AbstractEventLoop,
        *,
        exited: Callable[[], None],
        tidy: Callable[[], None] | None = None,
    ) -> None:
        self._source = source
        self._loop = loop
        self._exited = exited
        self._tidy = tidy
        self._parts: deque[Any] = deque()
        self._room = threading.Event()
        self._room.set()
        self._stopped = False
        self._over = False
        self._error: BaseException | None = None
        self._loop_sleeps = False
        self._waiter: asyncio.Future[None] | None = None

    def run(self) -> None:
        """Iterate to the end, to the first error, or until stopped; the source is closed here."""
        try:
            for part in self._source:
                if self._stopped:
                    break
                self._parts.append(part)
                if self._loop_sleeps:
                    self._loop_sleeps = False
                    self._call_loop(self._wake)
                if len(self._parts) >= HIGH_WATER:
                    self._wait_for_room()
        except BaseException as error:
            self._error = error
        finally:
            try:
                self._close_source()
            except BaseException as error:
                self._error = self._error or error
            finally:
                self._over = True
                self._call_loop(self._finish)

    async def next_batch(self) -> list[Any]:
        """What came since the last call, waiting for at least one part; empty at the end.

        Raises what the iterator raised, after the parts that came before it.
        """
        while not self._parts:
            if self._over:
                # The thread may have added its last parts between the two looks.
                if self._parts:
                    break
                if self._error is not None:
                    raise self._error
                return []
            self._waiter = self._loop.create_future()
            self._loop_sleeps = True
            if self._parts or self._over:
                self._loop_sleeps = False
                continue
            await self._waiter
        batch = [self._parts.popleft() for _ in range(len(self._parts))]
        if not self._room.is_set():
            self._room.set()
        return batch

    def stop(self) -> None:
        """Ask the thread to end at its next part; never waits for it."""
        self._stopped = True
        self._room.set()

    def _wait_for_room(self) -> None:
        self._room.clear()
        # The loop may have emptied the deque, or stopped us, just before the flag was cleared.
        if len(self._parts) >= HIGH_WATER and not self._stopped:
            while not self._room.wait(LOOK_AGAIN):
                if self._loop.is_closed():
                    # Nobody is left to make room; at exit the interpreter waits for this thread.
                    self._stopped = True
                    return

    def _close_source(self) -> None:
        try:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
        finally:
            if self._tidy is not None:
                self._tidy()

    def _call_loop(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            # The loop is closed: the process is going down and nobody is left to be told.
            self._stopped = True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _finish(self) -> None:
        self._wake()
        self._exited()
