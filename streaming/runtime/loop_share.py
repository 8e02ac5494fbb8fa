"""Fairness on the event loop: a source that never suspends must not starve everybody else.

An `await` that finds its result ready does not let other tasks run, so a fast producer can hold the loop
for as long as it likes. A pump asks here after each part whether it should step aside.
"""

from __future__ import annotations

import asyncio
from typing import Final

MAX_SLICE: Final = 0.005
"""Seconds of work after which a pump steps aside."""

MAX_PARTS: Final = 64
"""Parts after which it does so in any case."""


class LoopShare:
    """One pump's turn. The loop's own progress is seen by a marker that it runs between turns, so that a
    source which suspends by itself costs no extra turn."""

    __slots__ = ("_began", "_loop", "_parts", "_turned")

    def __init__(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._loop = loop
        self._parts = 0
        self._began = now
        self._turned = False

    def used_up(self, now: float) -> bool:
        """Count one part handled at `now` (seconds); True: await `asyncio.sleep(0)` before the next."""
        if not self._parts:
            # Only now: the turn that we asked for at the end of the last slice must not count for this one.
            self._began = now
            self._turned = False
            self._loop.call_soon(self._mark)
        self._parts += 1
        if self._parts < MAX_PARTS and now - self._began < MAX_SLICE:
            return False
        self._parts = 0
        return not self._turned

    def _mark(self) -> None:
        self._turned = True
