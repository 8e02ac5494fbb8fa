"""Metrics of the service, and those of apps beside it.

An app adds its own at import time, and `/metrics` shows them with ours:

    from streaming.metrics import counter, gauge

    FAILURES = counter("bakery_oven_failures_total", "Ovens that went out.", code=("gas", "fuse"))
    FAILURES.add("gas")

    @gauge("bakery_ovens", "Ovens that are hot.")
    def _hot_ovens() -> float:
        return len(ovens)
"""

from .apps import counter, gauge

__all__ = ["counter", "gauge"]
