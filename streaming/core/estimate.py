"""How long a place in the queue will take, from what was observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_WEIGHT: Final = 0.2
"""Share of the newest observation in the moving average: about the last ten tasks count."""

_UNKNOWN: Final = 1.0
"""Seconds assumed while nothing has been observed."""


class ServiceTime:
    """Exponential moving average of the seconds that a task holds its permit."""

    __slots__ = ("_mean",)

    def __init__(self) -> None:
        self._mean: float | None = None

    def observe(self, seconds: float) -> None:
        """Count one finished task."""
        self._mean = seconds if self._mean is None else self._mean + _WEIGHT * (seconds - self._mean)

    @property
    def observed(self) -> float | None:
        """The average in seconds, None before the first observation."""
        return self._mean

    def expected(self, running_ages: Sequence[float] = ()) -> float:
        """Seconds of service to expect. `running_ages`: how long each running task has held its permit;
        one that holds it longer than the average shows that times have changed, before it ends."""
        known = _UNKNOWN if self._mean is None else self._mean
        if not running_ages:
            return known
        return sum(max(age, known) for age in running_ages) / len(running_ages)


def wait(position: int, workers: int, service: float) -> float:
    """Expected seconds until the task at `position` (from 1) gets one of `workers` permits.

    With all permits busy they free at a rate of workers / `service` seconds (a closed queue seen from its
    head), so the n-th in line waits n of these steps.
    """
    return position * service / workers
