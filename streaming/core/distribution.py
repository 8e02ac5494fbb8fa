"""How often something took how long: counts by upper bounds, and the sum (a histogram as Prometheus has it).

The sum is in whole microseconds: sums of floats depend on their order, and one that falls by its last bit is
taken for a counter that has begun anew.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

MICROSECONDS: Final = 1_000_000
"""In a second."""


class Distribution:
    """Counts of times up to each of `bounds` (seconds, rising, each included), and of those beyond the last
    one. `total`: microseconds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += microseconds(seconds)

    def add(self, other: Distribution) -> None:
        """Count all that `other`, of the same bounds, has counted."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def copy(self) -> Distribution:
        """Another one with the same counts."""
        made = Distribution(self.bounds)
        made.counts = self.counts.copy()
        made.total = self.total
        return made

    @property
    def values(self) -> list[int]:
        """The sum, and the count of each bound and of those beyond: what `metering` adds up."""
        return [self.total, *self.counts]


def microseconds(seconds: float) -> int:
    """Rounded."""
    return round(seconds * MICROSECONDS)
