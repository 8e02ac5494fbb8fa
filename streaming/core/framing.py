"""How one follower's events become bytes: SSE, NDJSON or WebSocket, with or without `sent_at`.

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


class WebSocketFraming(NDJSONFraming):
    """Messages of a WebSocket, as one line each: `messages` takes a write apart again.

    The line is that of NDJSON; with `request_id`, every event has it as a last member, so that streams can
    share a socket. A heartbeat is a typed `ping`, the reconnect delay a member of `reconnect`.
    """

    content_type = "application/json"

    def __init__(self, request_id: str | None = None) -> None:
        named = b"" if request_id is None else b',"request_id":%b' % events.encode_text(request_id)
        self._end = named + b"}\n"

    def durable(self, frames: Sequence[bytes], sent_at: float | None) -> bytes:
        return self._named(super().durable(frames, sent_at))

    def ephemeral(self, event: events.Event, sent_at: float | None) -> bytes:
        return self._named(super().ephemeral(event, sent_at))

    def heartbeat(self, text: str) -> bytes:
        return b""

    def _named(self, lines: bytes) -> bytes:
        # An event has at least its type, so a comma fits; and a raw LF only ever ends a line.
        return lines if len(self._end) == 2 else lines.replace(b"}\n", self._end)


def messages(data: bytes) -> list[bytes]:
    """The messages in what a `WebSocketFraming` made, each one JSON object."""
    return data.split(b"\n")[:-1]


SSE: Final = SSEFraming()
NDJSON: Final = NDJSONFraming()
