"""What peers are called in the report, and in which order they stand there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

TITLES: Final = {
    "raw": "raw ASGI",
    "starlette": "Starlette + sse-starlette",
    "fastapi": "FastAPI",
    "channels": "Channels",
    "django-bare": "Django, no middleware",
    "django": "Django, default middleware",
    "django-auth": "Django, logged-in user",
    "eventstream": "django-eventstream",
    "polled": "polled pool (first report)",
    "polled-fast": "polled pool, faster polls",
    "sluice": "Sluice",
    "sluice-uncoalesced": "Sluice, uncoalesced",
    "sluice-blocking": "Sluice, blocking producer",
    "starlette-blocking": "sse-starlette, blocking producer",
    "django-blocking": "Django, blocking producer",
}

PARTS: Final = {
    "sluice-anonymous": "without API key",
    "sluice-gzip": "with a client that takes gzip",
    "sluice-one-door": "without the hot door",
}
"""Variants of Sluice whose names do not say it: others are `sluice-no-…` or `sluice-without-…`."""

_WHOLE: Final = {"sluice", "sluice-uncoalesced", "sluice-default-switch"}

BLOCKING: Final = "-blocking"


def title(peer: str) -> str:
    """How a peer is called."""
    if peer in TITLES:
        return TITLES[peer]
    return f"Sluice, {part(peer)}" if is_part(peer) else peer


def part(peer: str) -> str:
    """What is different in a variant of Sluice."""
    if peer in PARTS:
        return PARTS[peer]
    name = peer.removeprefix("sluice-").removeprefix("without-").removeprefix("no-")
    return f"without {name.replace('-', ' ')}"


def is_part(peer: str) -> bool:
    """Whether it is Sluice with one part turned off (or on), measured to see what that part costs."""
    return peer.startswith("sluice-") and peer not in _WHOLE and not is_blocking(peer)


def is_blocking(peer: str) -> bool:
    """Whether its producers block, so that each has a thread."""
    return peer.endswith(BLOCKING)


def ordered(peers: Iterable[str]) -> list[str]:
    """The known ones in the order of the titles, then the others."""
    known = list(TITLES)
    return sorted(peers, key=lambda peer: (known.index(peer) if peer in known else len(known), peer))
