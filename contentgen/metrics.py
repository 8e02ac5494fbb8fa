"""What `/metrics` tells of the model service."""

from __future__ import annotations

from typing import Final

from streaming.core.errors import UpstreamError
from streaming.metrics import counter

FAILURES: Final = counter(
    "sluice_upstream_failures_total",
    "Requests to the model service that failed, each try counted.",
    code=[error.code for error in (UpstreamError, *UpstreamError.__subclasses__())],
)
