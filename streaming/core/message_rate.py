"""How many messages a client may send on one socket: a bucket of tokens, a warning, then the end."""

from __future__ import annotations

from enum import Enum
from typing import Final

RATE: Final = 100.0
"""Messages a second for as long as one likes: eight streams, each acknowledged ten times a second."""

BURST: Final = 200
"""Messages at once."""

TOLERANCE: Final = 100
"""Messages over the limit that are still taken, after the warning."""


class Verdict(Enum):
    """What to do about one message."""

    FINE = "fine"
    WARN = "warn"
    CLOSE = "close"


class MessageRate:
    """The bucket of one socket. Times are seconds on one monotonic clock."""

    __slots__ = ("_tokens", "_updated", "_warned")

    def __init__(self, now: float) -> None:
        self._tokens = float(BURST)
        self._updated = now
        self._warned = False

    def spend(self, now: float) -> Verdict:
        """A message came: fine; fine, but the first one over the limit; or one too many."""
        self._tokens = min(BURST, self._tokens + (now - self._updated) * RATE) - 1
        self._updated = now
        if self._tokens >= 0:
            # Who keeps to the limit for a while is warned again the next time.
            self._warned = self._warned and self._tokens < BURST / 2
            return Verdict.FINE
        if self._tokens < -TOLERANCE:
            return Verdict.CLOSE
        if self._warned:
            return Verdict.FINE
        self._warned = True
        return Verdict.WARN
