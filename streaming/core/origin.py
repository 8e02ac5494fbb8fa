"""Where a task comes from: the request's id, and the trace that it belongs to.

Both come from strangers as headers. `traceparent` is read by the rules of the W3C (Trace Context, 3.2), which
say that a malformed one counts as none; a request id is taken if it can do no harm in a log line.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final, NamedTuple

_REQUEST_ID: Final = re.compile(r"[\w.:~+/=@-]{1,128}", re.ASCII)

_TRACE_PARENT: Final = re.compile(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL
)

_SAMPLED: Final = 1


class TraceParent(NamedTuple):
    """Whose part a request is: ids as hex digits, 32 and 16, and whether the trace is kept."""

    trace_id: str
    span_id: str
    sampled: bool

    @property
    def header(self) -> str:
        """As the header is written."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


class Origin(NamedTuple):
    """The request that asked for a task. `received`: monotonic seconds."""

    request_id: str
    trace: TraceParent | None
    received: float


def span_id(task_id: str) -> str:
    """The id of a task's span, known before the span is made. It tells nothing of the task's own id, which
    may be all that is needed to read the task."""
    return blake2b(task_id.encode(), digest_size=8).hexdigest()


def trace_parent(header: str) -> TraceParent | None:
    """The header's meaning; None for a malformed one.

    A version that we do not know is read by the rules of version 00, which may be followed by more; version
    ff, and ids of zeros only, are none.
    """
    found = _TRACE_PARENT.fullmatch(header.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def sane_request_id(header: str) -> str | None:
    """The header if it is 1 to 128 letters, digits and `.:~+/=@_-` of ASCII, else None."""
    return header if _REQUEST_ID.fullmatch(header) else None
