"""How long a place in the queue will take, from what was observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

WEIGHT: Final = 0.2
"""Share of the newest observation in the moving average: about the last ten tasks count."""

_UNKNOWN: Final = 1.0
"""Seconds assumed while nothing has been observed."""

_LONGEST_GUESS: Final = 10.0
"""Seconds up to which running tasks raise what is assumed while nothing has been observed."""

_STILL_TO_COME: Final = 0.25
"""Part of a service that a task which takes longer than expected is taken to need still."""


class ServiceTime:
    """Exponential moving average of the seconds that a task holds its permit."""

    __slots__ = ("_mean",)

    def __init__(self) -> None:
        self._mean: float | None = None

    def observe(self, seconds: float) -> None:
        """Count one finished task."""
        self._mean = seconds if self._mean is None else self._mean + WEIGHT * (seconds - self._mean)

    @property
    def observed(self) -> float | None:
        """The average in seconds, None before the first observation."""
        return self._mean

    def expected(self, running_ages: Sequence[float] = ()) -> float:
        """Seconds of service to expect: the average. Before there is one, what the tasks that run show
        (`running_ages`: how long each has held its permit), a second at least and ten at most: a task that
        hangs must not let the estimate grow for as long as it hangs."""
        if self._mean is not None:
            return self._mean
        shown = max(running_ages, default=_UNKNOWN)
        return min(max(shown, _UNKNOWN), _LONGEST_GUESS)


def waits(count: int, workers: int, service: float, running_ages: Sequence[float]) -> list[float]:
    """Expected seconds until a permit for the first `count` in line, in order.

    Each task that runs is expected to hold its permit for `service` seconds in all, one that has held it
    longer for a quarter of that more; whoever gets a permit then holds it as long. `workers` > 0.
    """
    left = sorted(max(service - age, service * _STILL_TO_COME) for age in running_ages)
    free = [0.0] * (workers - len(left))
    turns = (free + left)[:workers]
    return [turns[place % workers] + place // workers * service for place in range(count)]
