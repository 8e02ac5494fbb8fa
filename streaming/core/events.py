"""The vocabulary of a stream: one frozen record per event type.

A *durable* event has an id (1, 2, 3 … within its task), is kept in the journal and replayed. An
*ephemeral* event belongs to one follower and is never kept. Every record encodes itself to one line
of JSON whose `type` member equals the event name, so a reader that lost the framing still knows what
it holds.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

_encoder: Final = msgspec.json.Encoder()

# Line ends for some clients' `splitlines()` although JSON and SSE do not treat them so; escaped, they
# cannot cut a `data:` line in two (Unicode: LINE SEPARATOR, PARAGRAPH SEPARATOR, NEXT LINE).
_ESCAPED_LINE_ENDS: Final = (
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
    (b"\xc2\x85", b"\\u0085"),
)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all events. `durable` and `terminal` are facts about the type, not about a record."""

    durable: ClassVar[bool] = True
    terminal: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The event name on the wire, equal to the `type` member."""
        return _NAMES[type(self)]


class Content(Event, frozen=True, kw_only=True, tag="content"):
    """A piece of text. `channel` is absent for the main text, else `stdout`, `stderr`, `reasoning`."""

    delta: str
    channel: str | None = None


class Output(Event, frozen=True, kw_only=True, tag="output"):
    """Rich output of a notebook cell: a MIME bundle, or a cell's exception, with a `code` where a program
    should know it."""

    output_type: str
    data: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    display_id: str | None = None
    late: bool = False
    wait: bool = False
    ename: str | None = None
    evalue: str | None = None
    traceback: list[str] | None = None
    code: str | None = None


class Result(Event, frozen=True, kw_only=True, tag="result"):
    """The answer of an operation that answers once."""

    data: Any


class Restart(Event, frozen=True, kw_only=True, tag="restart"):
    """What came before is void: the reader clears it. `attempt` counts from 2."""

    attempt: int
    reason: str


class Truncated(Event, frozen=True, kw_only=True, tag="truncated"):
    """Text was cut at `limit` (bytes of journal); `dropped_chars` code points were not kept."""

    dropped_chars: int
    limit: int


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """What a task cost. Times in milliseconds; `coalesced_ratio` = events sent per part produced."""

    route: str
    queued_ms: float
    first_content_ms: float | None
    total_ms: float
    coalesced_ratio: float | None
    blocked_ms: float
    status_messages: int
    resumes: int


class Complete(Event, frozen=True, kw_only=True, tag="complete"):
    """The successful end. `content_length` in code points of the main text; `chunks` content events."""

    terminal: ClassVar[bool] = True

    # Members that a reader counts on are present even at their default.
    task_id: str
    finish_reason: str
    content_length: int
    chunks: int
    usage: dict[str, Any] | None
    model: str | None
    cached: bool
    timing: Timing
    execution_count: int | None = None
    duration_ms: float | None = None


class Error(Event, frozen=True, kw_only=True, tag="error"):
    """The failed end. `code` is stable, `message` is for people, `retryable` for programs."""

    terminal: ClassVar[bool] = True

    code: str
    message: str
    retryable: bool


class Cancelled(Event, frozen=True, kw_only=True, tag="cancelled"):
    """The end that somebody asked for: `client`, `admin` or `disconnect`."""

    terminal: ClassVar[bool] = True

    reason: str


class Status(Event, frozen=True, kw_only=True, tag="status"):
    """Where the task stands: `queued`, `started` or `processing`. Seconds; `position` from 1."""

    durable: ClassVar[bool] = False

    status: str
    message: str
    task_id: str
    route: str
    reason: str
    position: int | None = None
    eta_seconds: float | None = None
    elapsed_seconds: float
    timestamp: str


class Gap(Event, frozen=True, kw_only=True, tag="gap"):
    """Events between `requested` and `available_from` are gone (`lost`: in a crash)."""

    durable: ClassVar[bool] = False

    requested: int
    available_from: int
    lost: bool = False


class Reconnect(Event, frozen=True, kw_only=True, tag="reconnect"):
    """The server is going down or full: come back in `retry` milliseconds and resume after id `after`."""

    durable: ClassVar[bool] = False

    after: int
    retry: int | None = None


class Ping(Event, frozen=True, kw_only=True, tag="ping"):
    """A heartbeat as an event, for clients that cannot see comments (`?heartbeat=event`)."""

    durable: ClassVar[bool] = False

    state: str
    elapsed_seconds: float
    timestamp: str


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """A producer's last part: what `complete` shall say. Never leaves the process as such."""

    finish_reason: str = "stop"
    usage: dict[str, Any] | None = None
    model: str | None = None
    cached: bool = False
    execution_count: int | None = None
    duration_ms: float | None = None


Terminal = Complete | Error | Cancelled
"""One of these ends every stream."""

ALL: Final[tuple[type[Event], ...]] = (
    Content,
    Output,
    Result,
    Restart,
    Truncated,
    Complete,
    Error,
    Cancelled,
    Status,
    Gap,
    Reconnect,
    Ping,
)

_decoder: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(
    Content
    | Output
    | Result
    | Restart
    | Truncated
    | Complete
    | Error
    | Cancelled
    | Status
    | Gap
    | Reconnect
    | Ping
)


def event_name(kind: type[Event]) -> str:
    """The name on the wire of an event type."""
    tag = kind.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


_NAMES: Final = {kind: event_name(kind) for kind in ALL}

TERMINAL_NAMES: Final = frozenset(_NAMES[kind] for kind in ALL if kind.terminal)
"""The names of terminal events on the wire."""


def encode(event: Event) -> bytes:
    """One line of UTF-8 JSON. Lone surrogates in any text become U+FFFD."""
    try:
        data = _encoder.encode(event)
    except UnicodeEncodeError:
        data = _encoder.encode(_without_surrogates(msgspec.to_builtins(event)))
    return escape_line_ends(data)


def encode_text(text: str) -> bytes:
    """A JSON string of `text`, safe inside one `data:` line. Raises `UnicodeEncodeError` on surrogates."""
    data = _encoder.encode(text)
    return data if len(data) == len(text) + 2 else escape_line_ends(data)


def escape_line_ends(data: bytes) -> bytes:
    """JSON with U+2028, U+2029 and U+0085 as escapes; everything else unchanged."""
    if data.isascii():
        return data
    for raw, escaped in _ESCAPED_LINE_ENDS:
        if raw in data:
            data = data.replace(raw, escaped)
    return data


def decode(data: bytes) -> Event:
    """The record behind one line of JSON that `encode` made. Raises `ValueError` on anything else."""
    try:
        return _decoder.decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def clean_text(text: str) -> str:
    """`text` fit for UTF-8: surrogate pairs become their character, lone surrogates U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(item) for item in value]
    return value
