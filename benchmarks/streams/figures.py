"""The measurements of one run, as they are asked for: by scenario, load, peer and figure.

A ratio is formed within one repetition, where both peers ran in the same minute; its median over the
repetitions counts. What failed has no figures, and is never a number.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Load = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """What several repetitions gave: the median, the least and the most, and how many there were."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None of no values."""
        found = sorted(values)
        if not found:
            return None
        return cls(statistics.median(found), found[0], found[-1], len(found))


@dataclass(frozen=True)
class Measurement:
    """One peer once under one load. `failed`: why there are no figures."""

    scenario: str
    load: Load
    peer: str
    repetition: int
    figures: Mapping[str, Any]
    failed: str | None = None

    def figure(self, path: str) -> float | None:
        """The figure of that name; `late_ms.p99` is a percentile of `late_ms`. None where there is none."""
        found: Any = None if self.failed else self.figures
        for name in path.split("."):
            if isinstance(found, Mapping):
                found = found.get(name)
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


@dataclass(frozen=True)
class Results:
    """One run."""

    measurements: tuple[Measurement, ...]
    started: str = ""
    finished: str | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Results:
        """From the stored JSON. Raises `KeyError` and `TypeError` for what is not of its form."""
        return cls(
            tuple(
                Measurement(
                    each["scenario"],
                    each.get("load") or {},
                    each["peer"],
                    each["repetition"],
                    each.get("figures") or {},
                    each.get("failed"),
                )
                for each in raw["measurements"]
            ),
            raw.get("started") or "",
            raw.get("finished"),
            raw.get("machine") or {},
            raw.get("versions") or {},
            raw.get("method") or {},
        )

    def scenarios(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys(each.scenario for each in self.measurements))

    def loads(self, scenario: str) -> list[Load]:
        """The loads of a scenario, the smallest first."""
        found: list[Load] = []
        for each in self.measurements:
            if each.scenario == scenario and each.load not in found:
                found.append(each.load)
        return sorted(found, key=lambda load: [_order(value) for value in load.values()])

    def of(self, scenario: str, load: Load, peer: str | None = None) -> list[Measurement]:
        """The measurements whose load has at least these members."""
        return [
            each
            for each in self.measurements
            if each.scenario == scenario
            and (peer is None or each.peer == peer)
            and all(each.load.get(name) == value for name, value in load.items())
        ]

    def peers(self, scenario: str, load: Load) -> list[str]:
        """Who was measured there, or failed."""
        return list(dict.fromkeys(each.peer for each in self.of(scenario, load)))

    def values(self, scenario: str, load: Load, peer: str, path: str) -> dict[int, float]:
        """A figure by repetition; failed ones are missing."""
        found = {}
        for each in self.of(scenario, load, peer):
            value = each.figure(path)
            if value is not None:
                found[each.repetition] = value
        return found

    def spread(self, scenario: str, load: Load, peer: str, path: str) -> Spread | None:
        """A figure over the repetitions."""
        return Spread.of(self.values(scenario, load, peer, path).values())

    def ratio(self, scenario: str, load: Load, peer: str, path: str, base: str = "raw") -> Spread | None:
        """A peer's figure beside another peer's, within each repetition."""
        return paired(
            self.values(scenario, load, peer, path),
            self.values(scenario, load, base, path),
            lambda ours, theirs: ours / theirs,
        )

    def failures(self, scenario: str, load: Load, peer: str) -> list[Measurement]:
        """The repetitions that failed."""
        return [each for each in self.of(scenario, load, peer) if each.failed]


def paired(
    ours: Mapping[int, float], theirs: Mapping[int, float], combine: Callable[[float, float], float]
) -> Spread | None:
    """What `combine` makes of the two figures of each repetition that has both (and no zero to divide by)."""
    return Spread.of(combine(ours[each], theirs[each]) for each in ours if theirs.get(each))


def _order(value: Any) -> tuple[int, float, str]:
    if isinstance(value, bool):
        return (0, float(not value), "")
    return (1, float(value), "") if isinstance(value, int | float) else (2, 0.0, str(value))
