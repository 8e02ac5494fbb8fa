"""Newline-delimited JSON: one event a line, the durable id as its first member.

The format is the one of https://github.com/ndjson/ndjson-spec: UTF-8, each line ends with LF, CR before
it is tolerated, empty lines are ignored. Ours serve as heartbeats.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streaming.core import sse
from streaming.core.lines import completed

HEARTBEAT: Final = b"\n"
"""A line without an event: keeps a connection busy, readers skip it."""

_decoder: Final = msgspec.json.Decoder(dict[str, Any])


def line(event_id: int | None, data: bytes) -> bytes:
    """The line of one event: the JSON object `data`, with the id (if durable) spliced in front.

    Raises `ValueError` when `data` holds CR or LF or is not an object, and for an id below 1.
    """
    if b"\n" in data or b"\r" in data:
        raise ValueError("an event must be one line")
    if event_id is None:
        return _splice(None, data)
    if event_id < 1:
        raise ValueError("event ids count from 1")
    return _splice(b"%d" % event_id, data)


def from_frame(frame: bytes) -> bytes:
    """The line of the event in an SSE frame that `sse.frame` made; by slicing, nothing is parsed.

    Raises `ValueError` when the frame holds no JSON object.
    """
    durable = frame.startswith(b"id: ")
    return _splice(frame[4 : frame.index(b"\n")] if durable else None, sse.payload(frame))


def event_id(line: bytes) -> int | None:
    """The id of a line that `line` or `from_frame` made; None for an ephemeral event."""
    return int(line[6 : line.index(b",")]) if line.startswith(b'{"id":') else None


def _splice(event_id: bytes | None, data: bytes) -> bytes:
    if not data.startswith(b"{"):
        raise ValueError("an event must be a JSON object")
    if event_id is None:
        return data + b"\n"
    rest = data[1:].lstrip()
    comma = b"" if rest.startswith(b"}") else b","
    return b'{"id":%b%b%b\n' % (event_id, comma, rest)


class BadLine(ValueError):
    """A line that is no JSON object, or is over the bound. `line_number` counts from 1, empty ones too.

    `events` are those of the refused chunk before that line.
    """

    def __init__(self, line_number: int, reason: str, events: list[dict[str, Any]]) -> None:
        super().__init__(f"line {line_number}: {reason}")
        self.line_number = line_number
        self.events = events


class Decoder:
    """Incremental decoder; the events do not depend on how the bytes are cut.

    `max_line` bounds one line in bytes, its LF not counted. A line cut by the end of the stream is no
    event: nothing is to be done at the end.
    """

    def __init__(self, max_line: int = 1_048_576) -> None:
        self.max_line = max_line
        self.line_number = 0
        self._tail = bytearray()
        self._failed = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The events that `data` completes.

        Raises `BadLine` (`ValueError`), which names the line, and the same on every later call: where one
        line is broken, the framing cannot be trusted.
        """
        if self._failed:
            raise BadLine(self.line_number, "this stream had a bad line before", [])
        found: list[dict[str, Any]] = []
        try:
            for item in completed(data.split(b"\n"), self._tail, self.max_line):
                self._read_line(item, found)
        except BadLine:
            self._failed = True
            raise
        return found

    def _read_line(self, line: bytes, found: list[dict[str, Any]]) -> None:
        self.line_number += 1
        if len(line) > self.max_line:
            raise BadLine(self.line_number, f"longer than {self.max_line} bytes", found)
        if not line.strip(b" \t\r"):
            return
        try:
            found.append(_decoder.decode(line))
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise BadLine(self.line_number, reason, found) from None
