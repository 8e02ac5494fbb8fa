"""Merge small text deltas into fewer, larger events without anybody feeling it.

The first text of a stream leaves at once. After that text waits until there is enough of it or until
its oldest character has waited long enough, whichever is first. An *eager* buffer does not let text wait that
comes after a pause: it only keeps events from leaving closer together than the interval. Time comes in as an
argument and the next deadline goes out as a property; nothing here sleeps.
"""

from __future__ import annotations

from typing import Final

Chunk = tuple[str, str | None]
"""Text and its channel (None: the main text), ready to become one `content` event."""

# One event should stay small enough for any reader's line buffer and for a WebSocket frame.
MAX_CHUNK_CHARS: Final = 16_384

# When the loop is late by this share of the interval, waking less often is what helps it.
_LATE_SHARE: Final = 0.5
_WIDEN: Final = 1.5
_NARROW: Final = 0.9


class Coalescer:
    """The buffer of one stream.

    `flush_chars`: code points that are enough to send. `flush_interval`: seconds that the oldest
    buffered character may wait. `buffer_size`: a delta of this many code points is never held back.
    `max_flush_interval`: seconds to which the interval may widen while the loop is late. `eager`: for sources
    that say little at a time, and rarely.
    """

    __slots__ = (
        "_at_once",
        "_base",
        "_buffer",
        "_buffered",
        "_channel",
        "_eager",
        "_flush_chars",
        "_free_at",
        "_interval",
        "_large",
        "_maximum",
        "_oldest",
        "_started",
        "full_flushes",
        "widened",
    )

    def __init__(
        self,
        *,
        flush_chars: int,
        flush_interval: float,
        buffer_size: int,
        max_flush_interval: float,
        eager: bool = False,
    ) -> None:
        self._flush_chars = flush_chars
        self._large = buffer_size
        self._at_once = min(flush_chars, buffer_size)
        self._base = self._interval = flush_interval
        self._maximum = max(flush_interval, max_flush_interval)
        self._buffer: list[str] = []
        self._buffered = 0
        self._channel: str | None = None
        self._oldest = 0.0
        self._started = False
        self._eager = eager
        self._free_at = 0.0
        # How often text left because enough of it waited, and how often the interval was widened.
        self.full_flushes = self.widened = 0

    @property
    def deadline(self) -> float | None:
        """When the buffered text must leave, on the clock of `offer`; None while nothing waits."""
        return self._due if self._buffer else None

    @property
    def interval(self) -> float:
        """Seconds that text may wait now."""
        return self._interval

    def offer(self, text: str, channel: str | None, now: float) -> list[Chunk]:
        """Take a delta; returns what must leave now, in order (mostly nothing)."""
        if not text:
            return []
        size = len(text)
        ready: list[Chunk] = []
        if not self._buffer or channel != self._channel:
            ready = self.flush()
            at_once = size >= self._at_once or not self._started or (self._eager and now >= self._free_at)
            if at_once and size <= MAX_CHUNK_CHARS:
                self._started = True
                self._free_at = now + self._interval
                ready.append((text, channel))
                return ready
            self._oldest = now
            self._channel = channel
        self._buffer.append(text)
        self._buffered += size
        if (
            self._buffered >= self._flush_chars
            or size >= self._large
            or now >= self._due
            or not self._started
        ):
            self._started = True
            self.full_flushes += 1
            return ready + self.flush()
        return ready

    def flush(self) -> list[Chunk]:
        """Everything that waits, in chunks of at most `MAX_CHUNK_CHARS`; the buffer is empty afterwards."""
        if not self._buffer:
            return []
        text = "".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        self._free_at = max(self._free_at, self._oldest) + self._interval
        if len(text) <= MAX_CHUNK_CHARS:
            return [(text, self._channel)]
        return [
            (text[start : start + MAX_CHUNK_CHARS], self._channel)
            for start in range(0, len(text), MAX_CHUNK_CHARS)
        ]

    @property
    def _due(self) -> float:
        """When what is buffered must leave."""
        return self._free_at if self._eager else self._oldest + self._interval

    def observe_lateness(self, seconds: float) -> None:
        """Tell how late a deadline was served: the interval widens under load and narrows after it."""
        if seconds > self._base * _LATE_SHARE:
            self._interval = min(self._interval * _WIDEN, self._maximum)
            self.widened += 1
        else:
            self._interval = max(self._interval * _NARROW, self._base)
