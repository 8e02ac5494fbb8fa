"""Filters for Python's logging."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Final

_REFUSALS: Final = frozenset({429, 503})

UNFINISHED: Final[ContextVar[bool]] = ContextVar("sluice_unfinished", default=False)
"""Whether the running code has left its response unfinished on purpose: its reader takes nothing."""


class WithoutTraceback(logging.Filter):
    """Leaves the line and drops the stack of what was answered with a 4xx: faults of clients, who must not be
    able to fill the log. Of `django.request` and `django.security`, which say what was answered."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record shall be logged."""
        if 400 <= getattr(record, "status_code", 0) < 500:
            record.exc_info = record.exc_text = None
        return True


class WithoutPeersFaults(logging.Filter):
    """Drops what peers do and uvicorn calls an error: its stack for text on a WebSocket that is not UTF-8,
    where the peer gets its 1007 anyway; its line for the unfinished response of a reader that we cut off
    because it does not read, of whom we have said so."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record shall be logged."""
        message = record.getMessage()
        if message.startswith("ASGI callable returned without completing response"):
            return not UNFINISHED.get()
        return not message.startswith("Invalid UTF-8 sequence received")


class CountedRefusals(logging.Filter):
    """Drops Django's line per refused request: refusals are counted, and logged once a second with their
    number (see `records`), so that a flood of requests does not become a flood of lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record shall be logged."""
        return getattr(record, "status_code", None) not in _REFUSALS


class ForeignHosts(logging.Filter):
    """Makes a warning of Django's error for each call with a `Host` that is not ours: faults of clients, who
    must not be able to alert anybody. Of `django.security.DisallowedHost`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record shall be logged."""
        record.levelno = min(record.levelno, logging.WARNING)
        record.levelname = logging.getLevelName(record.levelno)
        return True
