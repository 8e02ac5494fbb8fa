"""Who is dead: processes whose beat stands still, seen by an observer who can be wrong about clocks but not
about its own.

Each process raises its beat once a second in a table that all can read. Nobody compares wall clocks: an
observer notes, by its own monotonic clock, when it last saw a beat move. It judges only by time in which it
could write itself, because a database that is away stops all beats at once. (After Chandra and Toueg's
eventually perfect failure detector, 1996, with a fixed time-out: a wrong suspicion is possible, and harmless,
because taking over raises the task's epoch and the suspect's writes no longer count.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PATIENCE: Final = 5.0
"""Seconds for which a beat must stand still."""


class Observer:
    """Watches the beats of other processes. Times in monotonic seconds."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._seen: dict[str, tuple[int, float]] = {}
        self._last_look: float | None = None

    def look(self, beats: Mapping[str, int], now: float, *, able: bool) -> set[str]:
        """Take in the beats by process, and return the processes that are dead by now.

        `able`: whether the observer's own writes succeeded since its last look; the time since then counts
        for nobody's death otherwise, nor does a pause in which it could not look at all.
        """
        lost = self._lost(now, able=able)
        self._last_look = now
        seen: dict[str, tuple[int, float]] = {}
        for process, beat in beats.items():
            known, since = self._seen.get(process, (None, now))
            seen[process] = (beat, since + lost if beat == known else now)
        self._seen = seen
        return {process for process, (_, since) in seen.items() if now - since >= self._patience}

    def _lost(self, now: float, *, able: bool) -> float:
        """Seconds since the last look that prove nothing."""
        if self._last_look is None:
            return 0.0
        passed = now - self._last_look
        return passed if not able else max(0.0, passed - self._patience / 2)
