"""Heads of requests that are refused before anything reads them: larger than any of an honest client, or
of a body in a coding that we would not undo.

A server hands over whatever came (uvicorn with httptools: megabytes of headers). Some of it costs time that
grows with the square of its length, and would stop the loop for seconds: quotes in `Accept` and
`Content-Type` (`email.message`), backslashes in `Cookie` (`http.cookies` before Python 3.11.10,
CVE-2024-7592).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from .problems import Problem

MAX_FIELDS: Final = 1000
"""Header lines; a browser may send each of some hundred cookies in one of its own (RFC 9113, 8.2.3)."""

MAX_BYTES: Final = 65_536
"""All names and values together, but those of `_JUDGED`."""

MAX_JUDGED_BYTES: Final = 2_097_152
"""All names and values together."""

_JUDGED: Final = frozenset({b"authorization", b"last-event-id"})
"""What is refused for what it is, however long it is: 401 and 400."""

_SMALL: Final = 2048
"""Bytes of a whole head that can do no harm, whatever they are; nearly all heads are smaller."""

_PARSED: Final = (b"accept", b"content-type")
_MAX_PARSED_BYTES: Final = 2048
_MAX_COOKIE_WORK: Final = 1_000_000
"""Backslashes times bytes; some 15 ms."""


def refusal(scope: dict[str, Any]) -> Problem | None:
    """Why the head of this request is not taken, 431 (RFC 6585, 5) or 400; None if it is.

    `Transfer-Encoding: gzip, chunked` is sound HTTP, but servers undo the chunks alone. RFC 9112, 6.1,
    suggests 501 for it; of 5xx we promise none but 503.
    """
    headers: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())
    count = size = 0
    for name, value in headers:
        count += 1
        size += len(name) + len(value)
        if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            return Problem(400, "invalid_request", headers={"Connection": "close"})
    if size <= _SMALL and count <= MAX_FIELDS:
        return None
    if count > MAX_FIELDS or size > MAX_JUDGED_BYTES or _is_too_much(headers):
        return Problem(431, "headers_too_large", headers={"Connection": "close"})
    return None


def _is_too_much(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    # Django joins fields of one name before it reads them.
    sizes: defaultdict[bytes, int] = defaultdict(int)
    backslashes = 0
    for name, value in headers:
        sizes[name] += len(name) + len(value)
        if name == b"cookie":
            backslashes += value.count(b"\\")
    return (
        sum(size for name, size in sizes.items() if name not in _JUDGED) > MAX_BYTES
        or any(sizes[name] > _MAX_PARSED_BYTES for name in _PARSED)
        or backslashes * sizes[b"cookie"] > _MAX_COOKIE_WORK
    )
