"""How long a place in the queue will take, from what was observed."""

from __future__ import annotations

from typing import Final

_WEIGHT: Final = 0.2
"""Share of the newest observation in the moving average: about the last ten tasks count."""

_UNKNOWN: Final = 1.0
"""Seconds assumed while nothing has been observed; running tasks raise it by their age."""


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

    def mean(self, oldest_running: float = 0.0) -> float:
        """Expected seconds of service; `oldest_running` is the least it can be before any observation."""
        return max(_UNKNOWN, oldest_running) if self._mean is None else self._mean

    def wait(self, position: int, workers: int, oldest_running: float = 0.0) -> float:
        """Expected seconds until the task at `position` (from 1) gets one of `workers` permits.

        With all permits busy they free at a rate of workers / mean service time (a closed queue seen
        from its head), so the n-th in line waits n of these steps.
        """
        return position * self.mean(oldest_running) / workers
