"""Signals of the app (see Django's documentation of signals)."""

from __future__ import annotations

from typing import Final

from django.core.cache import close_caches
from django.core.handlers.base import reset_urlconf
from django.db import close_old_connections, reset_queries
from django.dispatch import Signal

serving = Signal()
"""`manage.py serve` listens. Arguments: `url`, where a browser on this machine finds it; `host`, the address
it listens on. A receiver returns the lines (a list, it may be empty) to print under the announcement."""

preparing = Signal()
"""`manage.py serve` is about to listen. Argument: `workers`, the number of processes. A receiver that cannot
be served so raises `django.core.management.base.CommandError`."""

stopping = Signal()
"""The server goes down and its streams have ended; the event loop still runs. Sent with `asend`, for
receivers that close what they hold open. They must not raise, nor take long."""

starting = Signal()
"""A server process starts its event loop (ASGI's lifespan; not on servers without it), or a worker. Argument:
`http`, whether it takes requests; a worker does not. Sent with `asend`, for receivers that prepare what the
first request or task would otherwise wait for. They must not raise, nor take long."""

_DJANGOS_RECEIVERS: Final = frozenset({reset_queries, close_old_connections, close_caches, reset_urlconf})


def only_djangos_receivers(signal: Signal) -> bool:
    """Whether nobody but Django itself listens to `request_started` or `request_finished`; its own receivers
    wait for nothing."""
    try:
        return all(receiver() in _DJANGOS_RECEIVERS for _, receiver, *_ in signal.receivers)
    except TypeError:
        # Another shape in another version of Django: the slower way is always right.
        return False
