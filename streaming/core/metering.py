"""Metrics as plain data: what each is, its numbers in one process, and those of several processes as one.

A number of a counter only ever rises as long as its process lives. So that it never falls for who looks from
outside either, the numbers of processes that are gone are added for ever, and all of them are whole (see
`distribution`); a gauge is of those that live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import msgspec

OTHER: Final = "other"
"""The label of everything that is not among the values that a label may have."""


class Kind(Enum):
    """What a number means."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(Enum):
    """What several processes' numbers of a gauge are together."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `name`: as it is exposed, with the unit, and `_total` for a counter. `labels`: names.
    `bounds`: of a histogram. `merge`: of a gauge. Counters of seconds are kept in microseconds."""

    name: str
    help: str
    kind: Kind = Kind.COUNTER
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = field(default=(), repr=False)
    merge: Merge = Merge.SUM

    @property
    def size(self) -> int:
        """How many numbers a sample of it has: one, or a histogram's sum and counts."""
        return len(self.bounds) + 2 if self.kind is Kind.HISTOGRAM else 1


Key = tuple[str, tuple[str, ...]]
"""A metric's name, and the values of its labels in their order."""

Samples = dict[Key, Sequence[float]]
"""The numbers of a process."""


def merged(
    metrics: Mapping[str, Metric], living: Sequence[Samples], departed: Iterable[Samples] = ()
) -> Samples:
    """The numbers of processes as those of one. What `metrics` do not know (an older or newer version of
    the program wrote it) is left out."""
    together: Samples = {}
    for samples in living:
        _add(together, metrics, samples)
    for samples in departed:
        _add(together, metrics, lasting(metrics, samples))
    return together


def lasting(metrics: Mapping[str, Metric], samples: Samples) -> Samples:
    """What stays of a process that is gone: all but its gauges."""
    return {
        key: values
        for key, values in samples.items()
        if (metric := metrics.get(key[0])) is not None and metric.kind is not Kind.GAUGE
    }


_MERGES: Final[dict[Merge, Callable[[float, float], float]]] = {
    Merge.SUM: lambda one, other: one + other,
    Merge.MAX: max,
    Merge.MIN: min,
}


def _add(together: Samples, metrics: Mapping[str, Metric], samples: Samples) -> None:
    for key, values in samples.items():
        metric = metrics.get(key[0])
        if metric is None or len(values) != metric.size or len(key[1]) != len(metric.labels):
            continue
        before = together.get(key)
        merge = _MERGES[metric.merge]
        together[key] = (
            values
            if before is None
            else [merge(one, other) for one, other in zip(before, values, strict=True)]
        )


def encoded(samples: Samples) -> bytes:
    """As JSON."""
    return msgspec.json.encode([(name, labels, values) for (name, labels), values in samples.items()])


def decoded(text: bytes) -> Samples:
    """What `encoded` made. Raises `msgspec.DecodeError`."""
    rows = msgspec.json.decode(text, type=list[tuple[str, tuple[str, ...], list[int | float]]])
    return {(name, labels): values for name, labels, values in rows}
