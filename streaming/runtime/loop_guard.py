"""Where the event loop stands while it does not turn.

That it is late is measured (`loop_lag`); who holds it up can only be seen meanwhile, and only from beside it:
a thread looks, and tells of each standstill once, with the lines of code in which it met the loop. Where that
thread stood still as well (the process was frozen, or something kept the interpreter's lock all the time), it
tells nothing: it has seen nothing.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

LOOKS: Final = 4
"""In each `limit`."""

FRAMES: Final = 12
"""Innermost calls that are told."""


class LoopGuard:
    """See the module. `limit`: seconds of standing still that are told, 0: none; `overdue`: for how long the
    loop has been late, in seconds; `stack`: what it is doing, as text; `ended`: whether it is closed."""

    def __init__(
        self,
        limit: float,
        overdue: Callable[[], float],
        stack: Callable[[], str],
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        self._limit = limit
        self._overdue = overdue
        self._stack = stack
        self._ended = ended
        self._told = False
        self._over = threading.Event()
        self.stalls = 0

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        if self._limit:
            threading.Thread(target=self._run, name="loop guard", daemon=True).start()

    def close(self) -> None:
        """Look no more; the thread is not waited for."""
        self._over.set()

    def look(self) -> None:
        """Tell of a standstill that is new."""
        late = self._overdue()
        if late < self._limit:
            self._told = False
        elif not self._told:
            self._told = True
            logger.warning("the event loop stands still, for %.1f s so far, in:\n%s", late, self._stack())
            self.stalls += 1

    def _run(self) -> None:
        slept_at = time.monotonic()
        while not self._over.wait(self._limit / LOOKS) and not self._ended():
            woke_at = time.monotonic()
            if woke_at - slept_at < self._limit:
                self.look()
            slept_at = time.monotonic()


def stack_of(thread: int) -> str:
    """The innermost calls of the thread with that identifier, innermost last; lines of code, no values."""
    frame = sys._current_frames().get(thread)
    lines = [] if frame is None else traceback.format_list(traceback.extract_stack(frame)[-FRAMES:])
    return "".join(lines).rstrip("\n")
