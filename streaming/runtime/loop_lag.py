"""How late the event loop is: a timer that looks how late it is itself.

Whatever holds the loop up holds up every stream. What is shorter than the timer's interval is met only
sometimes, and then only its rest is seen; over many looks the shares are right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from streaming.core.distribution import Distribution

INTERVAL: Final = 0.25
"""Seconds between two looks."""

WINDOW: Final = 5.0
"""Seconds that `recent` remembers at least, and at most twice as many."""

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LoopLag:
    """See the module. Seconds. Belongs to `loop`; it looks from `start` until `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self.distribution = Distribution(BOUNDS)
        self._loop = loop
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._worst = self._worst_before = 0.0
        self._window_ends = 0.0

    def start(self) -> None:
        """Begin to look."""
        self._window_ends = self._clock() + WINDOW
        self._arm()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def overdue(self) -> float:
        """By how much the next look is late already, below 0 if it is not; may be asked from any thread."""
        return 0.0 if self._timer is None else self._clock() - self._due

    @property
    def recent(self) -> float:
        """The longest of late, and the present one if the next look is overdue."""
        return max(self._worst, self._worst_before, self.overdue)

    def _arm(self) -> None:
        # The loop's own clock may stand still while the loop is held up (uvloop).
        self._due = self._clock() + INTERVAL
        self._timer = self._loop.call_later(INTERVAL, self._look)

    def _look(self) -> None:
        now = self._clock()
        late = max(now - self._due, 0.0)
        self.distribution.observe(late)
        if now >= self._window_ends:
            self._worst, self._worst_before = 0.0, self._worst
            self._window_ends = now + WINDOW
        self._worst = max(self._worst, late)
        self._arm()
