"""An open-loop load: when streams shall start, and what came of them. Pure; times are given.

Open loop: when the next stream starts does not depend on how the others fare, as with real callers. And every
time is counted from the moment at which a stream was meant to start, not from when the load generator got to
it: otherwise a server that stops for a second is asked nothing in that second, and looks quick (coordinated
omission).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from .histogram import Histogram, histogram_of

PERCENTS: Final = (50, 90, 95, 99)

Outcome = Literal["complete", "failed", "refused", "unfinished"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. `rate`: streams a second, None to hold `streams` of them open at once, where each that ends
    is followed by another one. `streams`: with a rate, the most that are started, None for as many as fit.
    `duration`: seconds in which streams start. Raises `ValueError` when there is nothing to do."""

    duration: float
    rate: float | None = None
    streams: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.duration < math.inf:
            raise ValueError("the duration is more than 0 seconds")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError("the rate is more than 0 streams a second")
        if self.streams is not None and self.streams < 1:
            raise ValueError("at least one stream")
        if self.rate is None and self.streams is None:
            raise ValueError("a rate, or a number of streams")

    @property
    def total(self) -> int | None:
        """How many will be started; None where that depends on how long they take."""
        if self.rate is None:
            return None
        # At 10 a second for 2 s: 20, the last one at 1.9 s. A product like 19.999999999999996 is 20 as well.
        fit = max(1, math.ceil(round(self.rate * self.duration, 6)))
        return fit if self.streams is None else min(fit, self.streams)

    def starts(self) -> list[float]:
        """When those start that do not wait for others: seconds since the beginning."""
        if self.rate is None:
            return [0.0] * (self.streams or 0)
        return [number / self.rate for number in range(self.total or 0)]


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that is over. `intended`: seconds since the beginning at which it was to start; `start_late`:
    milliseconds by which the generator missed that. Milliseconds from `intended`: `first`, `total`. `gaps`:
    between pieces of text. `code`: of a failure or refusal. `exact`: whether the text was what it should be,
    None where that is not known. `route`: as the server said."""

    intended: float
    start_late: float = 0.0
    outcome: Outcome
    first: float | None = None
    total: float = 0.0
    gaps: list[float] = []
    code: str = ""
    exact: bool | None = None
    route: str = ""
    characters: int = 0
    events: int = 0
    bytes: int = 0


class Second(msgspec.Struct):
    """What happened in one second of the load; `open`: streams at its end."""

    started: int = 0
    complete: int = 0
    failed: int = 0
    refused: int = 0
    open: int = 0


class Tally:
    """Streams added up as they end."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.routes: Counter[str] = Counter()
        self.exact: Counter[str] = Counter()
        self.first = Histogram()
        self.gaps = Histogram()
        self.total = Histogram()
        self.start_late = Histogram()
        self.characters = self.events = self.bytes = 0
        self.started = 0
        self._seconds: dict[int, Second] = {}
        self._end = 0.0

    @property
    def open(self) -> int:
        """Streams that have started and not ended."""
        return self.started - self.outcomes.total()

    def begin(self, intended: float) -> None:
        """A stream was to start `intended` seconds after the beginning."""
        self.started += 1
        self._second(intended).started += 1

    def add(self, stream: Ended) -> None:
        """It has ended."""
        self.outcomes[stream.outcome] += 1
        if stream.code:
            self.codes[stream.code] += 1
        if stream.route:
            self.routes[stream.route] += 1
        if stream.exact is not None:
            self.exact["exact" if stream.exact else "wrong"] += 1
        elif stream.outcome == "complete":
            self.exact["not_compared"] += 1
        if stream.first is not None:
            self.first.add(stream.first)
        if stream.outcome == "complete":
            self.total.add(stream.total)
        self.gaps.merge(histogram_of(stream.gaps))
        self.start_late.add(stream.start_late)
        self.characters += stream.characters
        self.events += stream.events
        self.bytes += stream.bytes
        ended = stream.intended + stream.total / 1000
        self._end = max(self._end, ended)
        second = self._second(ended)
        match stream.outcome:
            case "complete":
                second.complete += 1
            case "refused":
                second.refused += 1
            case "failed" | "unfinished":
                second.failed += 1

    @property
    def is_exact(self) -> bool:
        """Whether streams came to their ends, all that had the time, and each is known to be as it should."""
        bad = self.outcomes["failed"] or self.outcomes["refused"]
        return self.exact["exact"] > 0 and not (bad or self.exact["wrong"] or self.exact["not_compared"])

    def seconds(self) -> list[Second]:
        """All seconds from the first on, without holes."""
        if not self._seconds:
            return []
        found = [self._seconds.get(number, Second()) for number in range(max(self._seconds) + 1)]
        open_now = 0
        for second in found:
            open_now += second.started - second.complete - second.failed - second.refused
            second.open = open_now
        return found

    def summary(self) -> dict[str, Any]:
        """The numbers as JSON values; times in milliseconds, rates a second."""
        lasted = max(self._end, 0.001)
        return {
            "seconds": round(lasted, 3),
            "started": self.started,
            "open": self.open,
            "outcomes": {
                name: self.outcomes[name] for name in ("complete", "failed", "refused", "unfinished")
            },
            "codes": dict(self.codes.most_common()),
            "routes": dict(self.routes),
            "exact": {name: self.exact[name] for name in ("exact", "wrong", "not_compared")},
            "all_exact": self.is_exact,
            "first_content_ms": percentiles(self.first),
            "gap_ms": percentiles(self.gaps),
            "total_ms": percentiles(self.total),
            "start_late_ms": percentiles(self.start_late),
            "streams_per_second": round(self.outcomes["complete"] / lasted, 3),
            "characters_per_second": round(self.characters / lasted, 1),
            "events_per_second": round(self.events / lasted, 1),
            "bytes_per_second": round(self.bytes / lasted, 1),
        }

    def _second(self, at: float) -> Second:
        return self._seconds.setdefault(max(0, int(at)), Second())


def percentiles(histogram: Histogram, percents: Iterable[int] = PERCENTS) -> dict[str, float | None]:
    """`p50` … and `max`, milliseconds; None without any."""
    found = {f"p{each}": histogram.percentile(each) for each in percents}
    return {name: _rounded(value) for name, value in {**found, "max": histogram.max}.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
