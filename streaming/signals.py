"""Signals of the app (see Django's documentation of signals)."""

from __future__ import annotations

from django.dispatch import Signal

serving = Signal()
"""`manage.py serve` listens. Arguments: `url`, where a browser on this machine finds it; `host`, the address
it listens on. A receiver returns the lines (a list, it may be empty) to print under the announcement."""

stopping = Signal()
"""The server goes down and its streams have ended; the event loop still runs. Sent with `asend`, for
receivers that close what they hold open. They must not raise, nor take long."""

starting = Signal()
"""A server process starts its event loop (ASGI's lifespan; not on servers without it). Sent with `asend`, for
receivers that prepare what the first request would otherwise wait for. They must not raise, nor take long."""
