"""Durations counted in buckets of fixed logarithmic bounds: small, added in any order, merged without loss.

All histograms have the same bounds, so those of processes, minutes and pools add up bucket by bucket, and a
percentile of the sum is as good as one of a single histogram. What is stored of a million durations is at
most some hundred counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import msgspec

GROWTH: Final = 1.15
"""Each bound is so many times the one before."""

RELATIVE_ERROR: Final = (GROWTH - 1) / (GROWTH + 1)
"""How far a percentile may be from the exact one, as a share of it: 7 %."""

SHORTEST: Final = 0.1
"""Milliseconds; what is shorter is told apart no more (a percentile down there is off by this at most)."""

LONGEST: Final = 3_600_000.0
"""Milliseconds: an hour. What is longer is told apart no more; percentiles up there lie between it and the
longest one."""


def _bounds() -> tuple[float, ...]:
    bounds = [SHORTEST]
    while bounds[-1] < LONGEST:
        bounds.append(bounds[-1] * GROWTH)
    return tuple(bounds)


BOUNDS: Final = _bounds()
"""Milliseconds: the upper bound of each bucket, which belongs to it; one more bucket has no bound."""


class Histogram(msgspec.Struct, omit_defaults=True):
    """Durations in milliseconds. Its JSON is what msgspec makes of the fields: `n`, counts by number of the
    bucket, those that are not 0; `us`, the sum in whole microseconds; `min`, `max`, exact."""

    n: dict[int, int] = {}
    us: int = 0
    min: float | None = None
    max: float | None = None

    def add(self, milliseconds: float) -> None:
        """Count one duration; what a clock that was set back makes negative counts as 0."""
        milliseconds = max(milliseconds, 0.0)
        bucket = bisect_left(BOUNDS, milliseconds)
        self.n[bucket] = self.n.get(bucket, 0) + 1
        self.us += round(milliseconds * 1000)
        if self.min is None or milliseconds < self.min:
            self.min = milliseconds
        if self.max is None or milliseconds > self.max:
            self.max = milliseconds

    def merge(self, other: Histogram) -> None:
        """Count everything that `other` has counted, too."""
        for bucket, count in other.n.items():
            self.n[bucket] = self.n.get(bucket, 0) + count
        self.us += other.us
        if other.min is not None and (self.min is None or other.min < self.min):
            self.min = other.min
        if other.max is not None and (self.max is None or other.max > self.max):
            self.max = other.max

    @property
    def count(self) -> int:
        """How many durations."""
        return sum(self.n.values())

    @property
    def mean(self) -> float | None:
        """Milliseconds; None without any."""
        count = self.count
        return self.us / 1000 / count if count else None

    def percentile(self, percent: float) -> float | None:
        """Milliseconds that `percent` (0 to 100) of the durations do not exceed, by the nearest rank, within
        `RELATIVE_ERROR`; None without any."""
        count = self.count
        if not count or self.min is None or self.max is None:
            return None
        rank = max(count * percent / 100, 1)
        if rank >= count:
            return self.max
        passed = 0
        for bucket in sorted(self.n):
            passed += self.n[bucket]
            if passed >= rank:
                return min(max(_middle(bucket), self.min), self.max)
        return self.max

    def over(self, milliseconds: float) -> int:
        """How many took longer, to the bucket: those in the same one as the limit count as not longer."""
        limit = bisect_left(BOUNDS, milliseconds)
        return sum(count for bucket, count in self.n.items() if bucket > limit)

    def bars(self) -> list[tuple[float | None, int]]:
        """Upper bounds in milliseconds (None: without bound) with their counts, from the first bucket with
        any to the last, empty ones in between too: for drawing."""
        if not self.n:
            return []
        return [
            (BOUNDS[bucket] if bucket < len(BOUNDS) else None, self.n.get(bucket, 0))
            for bucket in range(min(self.n), max(self.n) + 1)
        ]


def histogram_of(durations: Iterable[float]) -> Histogram:
    """Of so many milliseconds each."""
    made = Histogram()
    for each in durations:
        made.add(each)
    return made


def _middle(bucket: int) -> float:
    """What stands for the bucket: as far from both its bounds, as a share of what it is taken for."""
    if bucket == 0:
        return SHORTEST / 2
    return BOUNDS[bucket - 1] * 2 * GROWTH / (GROWTH + 1)
