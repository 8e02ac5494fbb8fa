"""What `/metrics` tells of the model service."""

from __future__ import annotations

from typing import Final

from streaming.core.errors import UpstreamError
from streaming.metrics import counter

_KINDS: Final[list[type[UpstreamError]]] = [UpstreamError, *UpstreamError.__subclasses__()]

FAILURES: Final = counter(
    "sluice_upstream_failures_total",
    "Requests to the model service that failed, each try counted.",
    code=[kind.code for kind in _KINDS],
)
