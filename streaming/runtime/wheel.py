"""One timer for everything that is due "about then": waiting text; heartbeats, status messages, slow readers.

A hashed timing wheel (Varghese and Lauck, SOSP 1987): callbacks of the same tick share a bucket, so ten
thousand followers cost one loop timer. There is no cancel: a callback looks whether it is still wanted,
and asks again for later where it came too early.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import time
from collections.abc import Callable
from typing import Final

RESOLUTION: Final = 0.1
"""Seconds per tick of what is for people, who do not notice a tenth."""

FINE: Final = 0.005
"""Seconds per tick of text that waits for more."""

logger = logging.getLogger(__name__)


class TimerWheel:
    """Callbacks by due time on `clock` (seconds, monotonic). `resolution`: seconds per tick; a callback runs
    at most this late, beside the lateness of the loop itself."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
        resolution: float = RESOLUTION,
    ) -> None:
        self._loop = loop
        self._resolution = resolution
        self._clock = clock
        self._buckets: dict[int, list[Callable[[], None]]] = {}
        self._ticks: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed_tick = 0
        self._earliest = 0

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Run `callback` once, not before `when` and at most one tick later."""
        tick = math.ceil(when / self._resolution)
        if tick * self._resolution < when:
            # The division rounded down; a callback that comes early would not be asked again.
            tick += 1
        tick = max(tick, self._earliest)
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.append(callback)
            return
        self._buckets[tick] = [callback]
        heapq.heappush(self._ticks, tick)
        if self._timer is None or tick < self._armed_tick:
            self._arm()

    def close(self) -> None:
        """Forget everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._buckets.clear()
        self._ticks.clear()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ticks:
            self._armed_tick = self._ticks[0]
            delay = max(self._armed_tick * self._resolution - self._clock(), 0.0)
            self._timer = self._loop.call_later(delay, self._run)

    def _run(self) -> None:
        self._timer = None
        now = self._clock()
        # A callback that asks for "at once" gets the next tick: served in this loop, it would never end.
        self._earliest = math.floor(now / self._resolution) + 1
        while self._ticks and self._ticks[0] * self._resolution <= now:
            for callback in self._buckets.pop(heapq.heappop(self._ticks)):
                try:
                    callback()
                except Exception:
                    # One broken callback must not silence everybody else's heartbeat.
                    logger.exception("a timer callback failed")
        self._earliest = 0
        self._arm()
