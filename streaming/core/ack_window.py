"""How much a reader may have in flight: bytes that were sent and that it has not acknowledged yet.

TCP tells how much left this machine, not how much was read, and some servers buffer without a bound. So a
reader may acknowledge what it has handled: from its first word on, or from the start where it said that
it would, it is held to a limit.
"""

from __future__ import annotations

from collections import deque
from typing import Final

LIMIT: Final = 262_144
"""Bytes that a reader who acknowledges may have in flight."""


class AckWindow:
    """The events of one stream on their way to one reader. `after`: the cursor it began with. `counting`: the
    reader will acknowledge, so count from the start."""

    __slots__ = ("_in_flight", "_last_id", "_limit", "counting", "unacknowledged")

    def __init__(self, after: int = 0, counting: bool = False, limit: int = LIMIT) -> None:
        self._limit = limit
        self._last_id = after
        self._in_flight: deque[tuple[int, int]] = deque()
        self.counting = counting
        self.unacknowledged = 0

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes may be sent now. One event alone always may, however large it is."""
        return not self.counting or not self.unacknowledged or self.unacknowledged + size <= self._limit

    def sent(self, event_id: int, size: int) -> None:
        """A durable event of `size` bytes was sent."""
        self._last_id = event_id
        if self.counting:
            self._in_flight.append((event_id, size))
            self.unacknowledged += size

    def acknowledge(self, event_id: int) -> None:
        """The reader has everything up to `event_id`; with its first word counting begins.

        Raises `ValueError` for an id that was not sent yet.
        """
        if event_id > self._last_id:
            raise ValueError("an event that was not sent cannot be acknowledged")
        self.counting = True
        while self._in_flight and self._in_flight[0][0] <= event_id:
            self.unacknowledged -= self._in_flight.popleft()[1]
