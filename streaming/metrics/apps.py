"""Metrics that apps add: counters that they raise, gauges that they are asked for. `streaming` knows none."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from itertools import product
from typing import Final

from streaming.core.metering import OTHER, Kind, Merge, Metric, Samples

logger = logging.getLogger(__name__)

Number = Callable[[], float]
"""Called on the event loop, at each scrape, and once a second in one of several processes; must not block."""

_counters: Final[dict[str, AppCounter]] = {}
_gauges: Final[dict[str, tuple[Metric, Number]]] = {}


class AppCounter:
    """A counter; `add` may be called in any thread. `labels`: names, each with the values it may have."""

    def __init__(self, metric: Metric, labels: Mapping[str, Collection[str]]) -> None:
        self.metric = metric
        self._allowed = [frozenset(values) for values in labels.values()]
        self._lock = threading.Lock()
        # From the beginning, because a rate does not see the first step of a number that was not there.
        self._counts: Counter[tuple[str, ...]] = Counter(dict.fromkeys(product(*labels.values()), 0))

    def add(self, *labels: str, amount: int = 1) -> None:
        """Raise it by a whole number. `labels`: values in the order of the names; what is not among those
        allowed counts as `other`, so that the number of series stays bounded."""
        pairs = zip(labels, self._allowed, strict=True)
        key = tuple(value if value in allowed else OTHER for value, allowed in pairs)
        with self._lock:
            self._counts[key] += amount

    def samples(self) -> Samples:
        """Its numbers now."""
        with self._lock:
            return {(self.metric.name, labels): [count] for labels, count in self._counts.items()}


def counter(name: str, help: str, **labels: Collection[str]) -> AppCounter:
    """A new counter. `help`: what it counts; `labels`: their names, and the values that each may have. Raises
    `ValueError` for a name that does not end in `_total`, or is taken."""
    if not name.endswith("_total"):
        raise ValueError(f"the name of a counter ends in _total: {name!r}")
    made = AppCounter(Metric(name, help, labels=tuple(labels)), labels)
    _take(name)
    _counters[name] = made
    return made


def gauge(name: str, help: str, merge: Merge = Merge.SUM) -> Callable[[Number], Number]:
    """The decorated function is asked for the number of this process. Raises `ValueError` for a name that is
    taken."""

    def register(function: Number) -> Number:
        _take(name)
        _gauges[name] = Metric(name, help, Kind.GAUGE, merge=merge), function
        return function

    return register


def _take(name: str) -> None:
    from .catalogue import METRICS

    if name in METRICS or name in _counters or name in _gauges:
        raise ValueError(f"there is a metric {name!r} already")


def app_metrics() -> dict[str, Metric]:
    """All of them by name."""
    return {
        **{name: each.metric for name, each in _counters.items()},
        **{name: metric for name, (metric, _) in _gauges.items()},
    }


def app_samples() -> Samples:
    """Their numbers now. Called on the event loop."""
    found: Samples = {}
    for each in _counters.values():
        found.update(each.samples())
    for name, (_, function) in _gauges.items():
        try:
            found[name, ()] = [function()]
        except Exception:
            # A broken number of an app must not hide all others.
            logger.exception("the gauge %s failed", name)
    return found
