"""Where a reader wants to go on: the id of the last event that it has, 0 for the start.

A cursor comes from outside, as the `Last-Event-ID` header or as `?after=`. Only a plain decimal number
is one, so nothing else ever reaches a store (to Redis `-`, `+`, `$` and `*` mean something).
"""

from __future__ import annotations

import re
from typing import Final

from streaming.core.errors import BadCursor

MAX: Final = 2**63 - 1
"""The largest id that every store can keep (a signed 64-bit integer)."""

_DIGITS: Final = re.compile(r"0|[1-9][0-9]{0,18}")


def parse(value: str | None) -> int:
    """The id behind a header or parameter; 0, from the start, when it is None or empty.

    Raises `BadCursor` for anything but ASCII digits without sign, leading zero or white space, and above
    `MAX`. HTTP strips blanks around a header value before we see it (RFC 9110, section 5.5).
    """
    if not value:
        return 0
    if _DIGITS.fullmatch(value) is None or int(value) > MAX:
        raise BadCursor(f"not an event id: {value[:24]!a}")
    return int(value)


def choose(header: str | None, query: str | None) -> int:
    """The cursor of a request: a `Last-Event-ID` header that is not empty beats the query parameter.

    Mercure's rule: a browser reconnects to the same URL, whose parameter is then the older of the two.
    An empty header counts as absent. A bad header is refused, not passed over. Raises `BadCursor`.
    """
    return parse(header or query)
