"""Server-sent events: frames out, an incremental decoder in. No I/O and no clock.

Rules from the HTML standard, "Server-sent events": section 9.2.5 "Parsing an event stream" (the grammar)
and 9.2.6 "Interpreting an event stream" (the algorithm), https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

from streaming.core import events
from streaming.core.lines import completed

_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_BOM: Final = b"\xef\xbb\xbf"

# Everything that `str.splitlines()` takes for a line end, and NUL: a comment must stay one line for
# clients that split wrongly, too. JSON needs no such table, `events.encode` escapes all of these.
_ONE_LINE: Final = str.maketrans(dict.fromkeys("\0\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", " "))

# A server that sends a reconnection time of a million digits gets the largest one that we can store.
_MAX_RETRY: Final = 2**63 - 1


# --- Frames -------------------------------------------------------------------------------------------


def frame(event_id: int | None, name: str, data: bytes) -> bytes:
    """One event: `id` (durable events only), `event` and a single `data` line (grammar: 9.2.5).

    `data` is one line of JSON in UTF-8. Raises `ValueError` for an id below 1, for a name outside
    `[A-Za-z0-9._:-]{1,64}` and for CR or LF in `data`: any of them could forge an event.
    """
    if b"\n" in data or b"\r" in data:
        raise ValueError("the data of an event must be one line")
    if event_id is None:
        return b"event: %b\ndata: %b\n\n" % (_name_field(name), data)
    if event_id < 1:
        raise ValueError("event ids count from 1")
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event_id, _name_field(name), data)


def content_frame(event_id: int, delta: str, channel: str | None) -> bytes:
    """The frame of a `Content` event, byte for byte as `frame` and `events.encode` make it, but faster.

    Lone surrogates become U+FFFD. Raises `ValueError` for an id below 1.
    """
    if event_id < 1:
        raise ValueError("event ids count from 1")
    text = _json_string(delta)
    if channel is None:
        return b'id: %d\nevent: content\ndata: {"type":"content","delta":%b}\n\n' % (event_id, text)
    return b'id: %d\nevent: content\ndata: {"type":"content","delta":%b,"channel":%b}\n\n' % (
        event_id,
        text,
        _json_string(channel),
    )


def payload(frame: bytes) -> bytes:
    """The JSON inside a frame that `frame` made. Raises `ValueError` when there is no data line."""
    return frame[frame.index(b"\ndata: ") + 7 : -2]


def event_id(frame: bytes) -> int | None:
    """The id of a frame that `frame` made; None for an ephemeral event."""
    return int(frame[4 : frame.index(b"\n")]) if frame.startswith(b"id: ") else None


def name(frame: bytes) -> str:
    """The event name of a frame that `frame` made. Raises `ValueError` when there is none."""
    start = frame.index(b"event: ") + 7
    return frame[start : frame.index(b"\n", start)].decode("ascii")


def with_sent_at(frame: bytes, sent_at: float) -> bytes:
    """The frame with `"sent_at": seconds since the epoch` as last member of its JSON object.

    Nothing is encoded again, so frames can be shared between followers. Raises `ValueError` when the
    data is not an object, or the time is not finite (JSON has no NaN).
    """
    if not math.isfinite(sent_at):
        raise ValueError("sent_at must be finite")
    head = frame.rstrip()
    if not head.endswith(b"}"):
        raise ValueError("the data of the frame is not a JSON object")
    head = head[:-1].rstrip()
    comma = b"" if head.endswith(b"{") else b","
    return b'%b%b"sent_at":%b}\n\n' % (head, comma, repr(float(sent_at)).encode("ascii"))


def comment(text: str) -> bytes:
    """A comment, which readers ignore (9.2.7 advises one against idle time-outs of proxies).

    NUL and all that some client takes for a line end become spaces, lone surrogates U+FFFD.
    """
    return b": %b\n\n" % events.clean_text(text).translate(_ONE_LINE).encode()


def retry(seconds: float) -> bytes:
    """The client's reconnection time, sent in whole milliseconds (9.2.6, field `retry`).

    Raises `ValueError` unless `seconds` is finite and not negative.
    """
    if not 0 <= seconds < math.inf:
        raise ValueError("a reconnection time is finite and not negative")
    return b"retry: %d\n\n" % round(seconds * 1000)


@lru_cache(maxsize=256)
def _name_field(name: str) -> bytes:
    if _NAME.fullmatch(name) is None:
        raise ValueError("an event name is 1 to 64 of A-Z a-z 0-9 . _ : -")
    return name.encode("ascii")


def _json_string(text: str) -> bytes:
    try:
        return events.encode_text(text)
    except UnicodeEncodeError:
        return events.encode_text(events.clean_text(text))


# --- Decoder ------------------------------------------------------------------------------------------


class ServerSentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as dispatched (9.2.6). `id` is the last event id at that moment, "" when there was none."""

    event: str = "message"
    data: str
    id: str = ""


class SSELimitExceeded(ValueError):
    """A line or an event is over its bound; the stream cannot be followed further.

    `events` are those that were complete in the refused chunk before the limit was hit.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.events: list[ServerSentEvent] = []


class Decoder:
    """Incremental decoder of an event stream; the events do not depend on how the bytes are cut.

    `max_line` bounds one line (bytes without its end, a BOM included), `max_event` the data of one event
    (bytes, one more per data line). `on_comment` is called with the text of each comment, at once.

    `last_event_id` is what a reconnect sends as `Last-Event-ID`; `retry` is the reconnection time in
    milliseconds, None until the server names one.
    """

    def __init__(
        self,
        max_line: int = 1_048_576,
        max_event: int = 4_194_304,
        on_comment: Callable[[str], None] | None = None,
    ) -> None:
        self.max_line = max_line
        self.max_event = max_event
        self.on_comment = on_comment
        self.last_event_id = ""
        self.retry: int | None = None
        self._tail = bytearray()
        self._failed = False
        self.close()

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that `data` completes.

        Raises `SSELimitExceeded` when a bound is passed, and on every later call until `close`.
        """
        if self._failed:
            raise SSELimitExceeded("this stream was over a limit before")
        found: list[ServerSentEvent] = []
        try:
            for line in self._split(data):
                self._read_line(line, found)
        except SSELimitExceeded as error:
            self._failed = True
            error.events = found
            raise
        return found

    def close(self) -> None:
        """The connection ended: an incomplete event is discarded (9.2.6).

        `last_event_id` and `retry` outlive it, so the same decoder reads the next connection.
        """
        self._tail.clear()
        self._first_line = True
        self._after_cr = False
        self._failed = False
        self._id = self.last_event_id
        self._reset_event()

    def _reset_event(self) -> None:
        self._event = ""
        self._data: list[str] = []
        self._size = 0

    def _split(self, data: bytes) -> list[bytes]:
        """Lines completed by `data`, the rest kept. Cutting before decoding is safe: no byte of a longer
        UTF-8 sequence equals CR or LF, and a broken sequence never swallows them."""
        if not data:
            return []
        if self._after_cr and data.startswith(b"\n"):  # the second half of a CRLF
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        pieces = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return completed(pieces, self._tail, self.max_line)

    def _read_line(self, line: bytes, found: list[ServerSentEvent]) -> None:
        if len(line) > self.max_line:
            raise SSELimitExceeded(f"a line is longer than {self.max_line} bytes")
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            self._dispatch(found)
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field:
            self._read_field(field, value)
        elif self.on_comment is not None:
            self.on_comment(value.decode("utf-8", "replace"))

    def _read_field(self, field: bytes, value: bytes) -> None:
        """Apply one field (9.2.6, "process the field"); unknown ones are ignored."""
        if field == b"data":
            self._size += len(value) + 1
            if self._size > self.max_event:
                raise SSELimitExceeded(f"the data of an event is longer than {self.max_event} bytes")
            self._data.append(value.decode("utf-8", "replace"))
        elif field == b"event":
            self._event = value.decode("utf-8", "replace")
        elif field == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif field == b"retry" and value.isdigit():
            self.retry = _milliseconds(value)

    def _dispatch(self, found: list[ServerSentEvent]) -> None:
        """An empty line ends an event (9.2.6, "dispatch the event"); without data there is none."""
        self.last_event_id = self._id
        if self._data:
            found.append(
                ServerSentEvent(event=self._event or "message", data="\n".join(self._data), id=self._id)
            )
        self._reset_event()


def _milliseconds(digits: bytes) -> int:
    # `int` refuses, and takes quadratic time for, thousands of digits.
    significant = digits.lstrip(b"0")
    return min(int(significant or b"0"), _MAX_RETRY) if len(significant) < 20 else _MAX_RETRY
