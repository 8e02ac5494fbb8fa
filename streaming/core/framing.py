"""How one follower's events become bytes: SSE or NDJSON, with or without `sent_at`.

The journal keeps each durable event as its SSE frame, encoded once; every other framing is cut out of
those bytes. A framing holds no state of its own, so one instance serves all followers of its kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from . import events, ndjson, sse


class Framing(Protocol):
    """The wire format of one transport. `sent_at` in seconds since the epoch, None: leave it out."""

    content_type: str

    def retry(self, seconds: float) -> bytes:
        """The reconnect delay; on a stream the first bytes."""
        ...

    def durable(self, frames: Sequence[bytes], sent_at: float | None) -> bytes:
        """Journalled SSE frames, in order."""
        ...

    def ephemeral(self, event: events.Event, sent_at: float | None) -> bytes:
        """An event without an id."""
        ...

    def heartbeat(self, text: str) -> bytes:
        """Bytes that only show life."""
        ...


class SSEFraming:
    """`text/event-stream`."""

    content_type = "text/event-stream; charset=utf-8"

    def retry(self, seconds: float) -> bytes:
        return sse.retry(seconds)

    def durable(self, frames: Sequence[bytes], sent_at: float | None) -> bytes:
        if sent_at is None:
            return b"".join(frames)
        return b"".join([sse.with_sent_at(frame, sent_at) for frame in frames])

    def ephemeral(self, event: events.Event, sent_at: float | None) -> bytes:
        frame = sse.frame(None, event.name, events.encode(event))
        return frame if sent_at is None else sse.with_sent_at(frame, sent_at)

    def heartbeat(self, text: str) -> bytes:
        return sse.comment(text)


class NDJSONFraming:
    """`application/x-ndjson`: one event a line, the id as a member, an empty line as heartbeat."""

    content_type = "application/x-ndjson; charset=utf-8"

    def retry(self, seconds: float) -> bytes:
        return b""

    def durable(self, frames: Sequence[bytes], sent_at: float | None) -> bytes:
        if sent_at is not None:
            frames = [sse.with_sent_at(frame, sent_at) for frame in frames]
        return b"".join([ndjson.from_frame(frame) for frame in frames])

    def ephemeral(self, event: events.Event, sent_at: float | None) -> bytes:
        frame = sse.frame(None, event.name, events.encode(event))
        return ndjson.from_frame(frame if sent_at is None else sse.with_sent_at(frame, sent_at))

    def heartbeat(self, text: str) -> bytes:
        return ndjson.HEARTBEAT


SSE: Final = SSEFraming()
NDJSON: Final = NDJSONFraming()
