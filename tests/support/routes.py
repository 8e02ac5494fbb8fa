"""The calls of the API, for tests that want the same of each."""

from __future__ import annotations

from typing import Final

from tests.support.client import STREAM

ABSENT: Final = "0123456789abcdef" * 2
"""A task's id that was never given."""

CALLS: Final = [
    ("POST", STREAM),
    ("POST", "/content/generate"),
    ("POST", "/content/generate/async"),
    ("GET", "/streams"),
    ("GET", f"/streams/{ABSENT}"),
    ("DELETE", f"/streams/{ABSENT}"),
    ("GET", f"/streams/{ABSENT}/events"),
    ("GET", "/stats"),
    ("POST", "/tickets"),
]
"""Method and path of all that read their query."""
