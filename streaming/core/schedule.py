"""How often to look where only looking can see a change.

Young things change soon, so they are looked at often; old ones seldom. Within one process nothing
polls (appends wake followers); this schedule is for a journal that another process writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PollSchedule:
    """`steps` are (until age in seconds or None, factor); the pause is factor × `base` seconds.

    The steps must be in order of age and the last one must be open (None); raises `ValueError`
    otherwise.
    """

    base: float
    steps: Sequence[tuple[float | None, float]]

    def __post_init__(self) -> None:
        ages = [age for age, _ in self.steps]
        if not ages or ages[-1] is not None or None in ages[:-1]:
            raise ValueError("the last step, and only the last, must have no age limit")
        closed = [age for age in ages if age is not None]
        if closed != sorted(set(closed)):
            raise ValueError("the ages must rise")
        if self.base <= 0 or any(factor <= 0 for _, factor in self.steps):
            raise ValueError("base and factors must be positive")

    def pause(self, age: float) -> float:
        """Seconds to wait before the next look at something `age` seconds old."""
        for until, factor in self.steps:
            if until is None or age < until:
                return factor * self.base
        raise AssertionError("unreachable: the last step is open")
