"""What a process holds, over time: whether it grows, and what is left when everybody has gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from statistics import median
from typing import Final

MEGABYTE: Final = 1_048_576

TEN_MINUTES: Final = 600.0

PAIRS_APART: Final = 10
"""Samples at least between the two of a pair: neighbours tell of the moment and not of the trend."""


@dataclass(frozen=True, slots=True)
class Level:
    """A process at one moment. `at`: seconds; `memory`: resident bytes; else counts. `tasks`: those that run
    or wait; `readers`: of all tasks; `lag`: the longest that its event loop was late of late, in seconds."""

    at: float
    memory: int
    threads: int
    files: int
    connections: int
    tasks: int
    readers: int
    lag: float


@dataclass(frozen=True, slots=True)
class Allowed:
    """How much may be left of a load: more than before it. `memory`: bytes in ten minutes; else counts."""

    memory: float = 1.0 * MEGABYTE
    threads: int = 2
    files: int = 3
    connections: int = 0
    tasks: int = 0
    readers: int = 0


def slope(levels: Sequence[Level]) -> float:
    """Bytes of memory that are gained in ten minutes: the median of the slopes of all pairs of samples (Theil
    and Sen's estimator), which single peaks do not move. 0.0 of too few samples."""
    pairs = (
        (after.memory - before.memory) / (after.at - before.at)
        for (number, before), (other, after) in combinations(enumerate(levels), 2)
        if other - number >= PAIRS_APART and after.at > before.at
    )
    slopes = list(pairs)
    return median(slopes) * TEN_MINUTES if slopes else 0.0


def left_behind(before: Level, after: Level, allowed: Allowed) -> list[str]:
    """What there is more of, at rest, than before the load and than is allowed; in words."""
    found: list[str] = []
    for name in (each.name for each in fields(allowed) if each.name != "memory"):
        was, now = getattr(before, name), getattr(after, name)
        if now - was > getattr(allowed, name):
            found.append(f"{name}: {was} before the load, {now} after it")
    return found


def grown(levels: Sequence[Level], allowed: Allowed) -> list[str]:
    """That memory rises under a steady load, in words."""
    rise = slope(levels)
    if rise <= allowed.memory:
        return []
    return [f"memory: {rise / MEGABYTE:+.1f} MB in ten minutes, {allowed.memory / MEGABYTE:.1f} are allowed"]
