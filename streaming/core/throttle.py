"""When a follower is told how its task stands: on news, and seldom otherwise.

Leading edge: the first status leaves at once, so does a change of state or route. A change of queue
position leaves at most once a second, the latest position wins. While nothing changes and no content
flows, one message each interval shows that the task lives; while content flows, none.
"""

from __future__ import annotations

from typing import Final

POSITION_INTERVAL: Final = 1.0
"""Seconds between two messages that only tell a new queue position."""


class StatusThrottle:
    """The memory of one follower's status messages. Times are seconds on one monotonic clock.

    `interval`: seconds between messages while nothing changes; 0 means only on change.
    """

    __slots__ = ("_content_at", "_interval", "_pending", "_position", "_sent_at", "_state")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._state: tuple[str, str] | None = None
        self._position: int | None = None
        self._sent_at = 0.0
        self._content_at = 0.0
        self._pending = False

    def content_flowed(self, now: float) -> None:
        """Content was handed to the reader at `now`: that is sign of life enough."""
        self._content_at = now

    def wants(self, state: str, route: str, position: int | None, now: float) -> bool:
        """Whether a status must be sent now; if so it is taken as sent."""
        if self._state == (state, route):
            self._pending = position != self._position
            due = self.due
            if due is None or now < due:
                return False
        self._state = (state, route)
        self._position = position
        self._sent_at = now
        self._pending = False
        return True

    @property
    def due(self) -> float | None:
        """When to ask again if nothing changes until then; None: not before a change."""
        if self._state is None:
            return 0.0
        if self._pending:
            return self._sent_at + POSITION_INTERVAL
        if self._interval <= 0:
            return None
        return max(self._sent_at, self._content_at) + self._interval
