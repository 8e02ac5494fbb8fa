"""Quotas as headers: `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers, as
structured fields (RFC 9651)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from streaming.core.quota import Quota, Standing

POLICY: Final = "RateLimit-Policy"
STATE: Final = "RateLimit"

_UNITS: Final = {
    Quota.STREAMS: ';qu="concurrent-requests"',
    Quota.PLACES: ';qu="concurrent-requests"',
    Quota.BYTES: ';qu="content-bytes"',
}
"""The draft has names of units; without one they are the quota's own."""


def headers(standings: Sequence[Standing]) -> list[tuple[str, str]]:
    """What a caller is told; nothing where no quota is set."""
    if not standings:
        return []
    return [(POLICY, ", ".join(map(_policy, standings))), (STATE, ", ".join(map(_state, standings)))]


def _policy(standing: Standing) -> str:
    window = "" if standing.window is None else f";w={math.ceil(standing.window)}"
    return f'"{standing.quota.value}";q={standing.limit}{window}{_UNITS.get(standing.quota, "")}'


def _state(standing: Standing) -> str:
    again = "" if standing.whole_after is None else f";t={math.ceil(standing.whole_after)}"
    return f'"{standing.quota.value}";r={standing.remaining}{again}'
