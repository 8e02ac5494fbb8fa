"""Who waits how long: the real ledger beside a first-in-first-out queue, with the same arrivals.

A simulation in virtual time: `streaming.runtime.ledger.Ledger` itself is driven by seeded random arrivals
and service times, and so is a plain queue with as many permits and places. Nothing sleeps; the figures
depend on the seeds, not on the machine.

    .venv/bin/python benchmarks/fairness.py [--seeds 5] [--hours 1] [--results benchmarks/results]

Waits are those of tasks that got a permit, in seconds; refused ones are counted beside them. Fairness is
the index of Jain, Chiu and Hawe ("A quantitative measure of fairness and discrimination for resource
allocation in shared computer systems", DEC-TR-301, 1984), worked out as `fairness` says.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import subprocess
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, Python looks in this folder only

from benchmarks.fairness_plot import plot  # noqa: E402
from streaming.core.errors import Refused  # noqa: E402
from streaming.runtime.ledger import Holding, Ledger, PoolLimits  # noqa: E402
from tests.support.simulation import NEVER, Arrival, Clock, Pool, Visit, simulate  # noqa: E402

RESULTS: Final = ROOT / "benchmarks" / "results"

CLASSES: Final = ("interactive", "normal", "batch")

SHIPPED: Final = PoolLimits(
    name="agent_pool",
    max_workers=5,
    queue_size=30,
    queue_timeout=300.0,
    run_timeout=300.0,
    per_owner=3,
    aging_seconds=30.0,
)
"""The pool's default settings. Time-outs are the supervisor's work and not simulated."""

SHORTEST: Final = 5.0
LONGEST: Final = 15.0
"""Seconds of service, evenly spread: 10 on average, so five workers serve one task each two seconds."""


BIN: Final = 5
"""Seconds that one step of the stored histograms covers."""


# --- Lines --------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Place:
    """A claim on the plain queue."""

    granted: Callable[[], None]
    holding: Holding


class Fifo:
    """What a bounded thread pool does: permits, then places in order of arrival, whoever asks."""

    def __init__(self, limits: PoolLimits) -> None:
        self._limits = limits
        self._running = 0
        self._queue: deque[Place] = deque()

    def admit(self, owner: str, priority: int, granted: Callable[[], None]) -> Place:
        """A permit or a place. Raises `Refused` when there is neither."""
        if self._running < self._limits.max_workers:
            self._running += 1
            return Place(granted, Holding.PERMIT)
        if len(self._queue) >= self._limits.queue_size:
            raise Refused("queue_full")
        place = Place(granted, Holding.PLACE)
        self._queue.append(place)
        return place

    def release(self, ticket: Place) -> None:
        """Give a permit back; the first in line gets it."""
        if not self._queue:
            self._running -= 1
            return
        first = self._queue.popleft()
        first.holding = Holding.PERMIT
        first.granted()

    def line(self) -> list[tuple[Place, float]]:
        """Empty: a plain queue tells nobody when."""
        return []


FIFO: Final = "FIFO"
SLUICE: Final = "Sluice"


def fifo(clock: Clock) -> Pool:
    """The plain queue with the default permits and places."""
    return Fifo(SHIPPED)


def sluice(**changes: Any) -> Callable[[Clock], Pool]:
    """The real ledger with the default settings, or changed ones."""
    return partial(Ledger, replace(SHIPPED, **changes))


def strict() -> Callable[[Clock], Pool]:
    """The real ledger where classes alone decide: no ageing, and no promise."""
    return sluice(aging_seconds=NEVER, longest_wait=math.inf)


# --- Scenarios ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Crowd:
    """`owners` that each send tasks of one class at random, `rate` tasks a second all together."""

    name: str
    owners: int
    priority: int
    rate: float


@dataclass(frozen=True)
class Scenario:
    """Who comes, and which lines they meet. `by`: what waits are shown by, "class" or "crowd"."""

    title: str
    by: str
    crowds: tuple[Crowd, ...]
    lines: dict[str, Callable[[Clock], Pool]]

    def group(self, crowd: Crowd) -> str:
        """The group in which a crowd's waits are shown."""
        return crowd.name if self.by == "crowd" else CLASSES[crowd.priority]


SCENARIOS: Final[dict[str, Scenario]] = {
    "flood": Scenario(
        "One owner asks for twice what there is, eight for half of it",
        "crowd",
        (Crowd("the flood", 1, 0, 1.0), Crowd("eight others", 8, 0, 0.25)),
        {FIFO: fifo, "Sluice, no limit per owner": sluice(per_owner=10_000), SLUICE: sluice()},
    ),
    "classes": Scenario(
        "Three classes, 20 % more than there is",
        "class",
        tuple(Crowd(name, 30, priority, 0.2) for priority, name in enumerate(CLASSES)),
        {FIFO: fifo, "Sluice, ageing 90 s": sluice(aging_seconds=90.0), SLUICE: sluice()},
    ),
    "owners": Scenario(
        "40 owners in one class, 20 % more than there is",
        "crowd",
        (Crowd("4 busy", 4, 0, 0.24), Crowd("12 steady", 12, 0, 0.24), Crowd("24 quiet", 24, 0, 0.12)),
        {FIFO: fifo, "Sluice, no limit per owner": sluice(per_owner=10_000), SLUICE: sluice()},
    ),
    "starvation": Scenario(
        "Interactive work alone asks for 50 % more than there is; a little batch work",
        "class",
        (Crowd("interactive", 40, 0, 0.75), Crowd("batch", 8, 2, 0.03)),
        {FIFO: fifo, "Sluice, nothing bounds waits": strict(), SLUICE: sluice()},
    ),
    "batch flood": Scenario(
        "Batch work asks for half more than there is; interactive work for half of it",
        "class",
        (Crowd("interactive", 20, 0, 0.25), Crowd("batch", 40, 2, 0.75)),
        {FIFO: fifo, "Sluice, nothing bounds waits": strict(), SLUICE: sluice()},
    ),
}


def arrivals_of(scenario: Scenario, seconds: float, seed: int) -> list[Arrival]:
    """Random arrivals (Poisson) of all crowds, in order; the same for the same seed."""
    dice = random.Random(seed)
    coming = []
    for crowd in scenario.crowds:
        at = dice.expovariate(crowd.rate)
        while at < seconds:
            owner = f"{crowd.name} #{dice.randrange(crowd.owners)}" if crowd.owners > 1 else crowd.name
            coming.append(Arrival(at, owner, crowd.priority, dice.uniform(SHORTEST, LONGEST)))
            at += dice.expovariate(crowd.rate)
    return sorted(coming, key=lambda each: each.at)


# --- Figures ------------------------------------------------------------------------------------------


def jain(shares: Sequence[float]) -> float:
    """The fairness index (Σx)² / (n Σx²): 1 when all are alike, 1/n when one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def max_min_shares(demands: dict[str, int], capacity: int) -> dict[str, float]:
    """The fair allocation: nobody gets more than they ask for, and what is left is split evenly."""
    shares: dict[str, float] = {}
    left = float(capacity)
    for number, owner in enumerate(sorted(demands, key=lambda each: demands[each])):
        shares[owner] = min(demands[owner], left / (len(demands) - number))
        left -= shares[owner]
    return shares


def fairness(visits: Iterable[Visit]) -> float:
    """Jain's index over what each owner got (tasks), as a part of its max-min fair share.

    The capacity that is shared out is what this line served, so the index judges how it was split.
    Owners of different classes are not meant to get the same: ask for one class at a time.
    """
    asked: Counter[str] = Counter()
    got: Counter[str] = Counter()
    for visit in visits:
        asked[visit.arrival.owner] += 1
        got[visit.arrival.owner] += visit.refused is None
    fair = max_min_shares(asked, got.total())
    return jain([got[owner] / fair[owner] for owner in asked if fair[owner]])


def summary(visits: Sequence[Visit]) -> dict[str, Any]:
    """Figures of one group. Waits in seconds; `eta_error_median`: told at arrival minus true."""
    waits = sorted(visit.wait for visit in visits if visit.refused is None)
    errors = [visit.promised - visit.wait for visit in visits if visit.promised is not None]
    return {
        "asked": len(visits),
        "served": len(waits),
        "refused": dict(Counter(visit.refused for visit in visits if visit.refused is not None)),
        "median": _quantile(waits, 0.5),
        "p95": _quantile(waits, 0.95),
        "max": _quantile(waits, 1.0),
        "eta_error_median": round(statistics.median(errors), 2) if errors else None,
    }


def _quantile(ordered: Sequence[float], part: float) -> float | None:
    """The value that `part` of the values do not exceed (nearest rank); None of nothing."""
    if not ordered:
        return None
    return round(ordered[math.ceil(part * len(ordered)) - 1], 2)


def grouped(visits: Iterable[Visit], group: Callable[[Visit], str]) -> dict[str, list[Visit]]:
    """The visits by group, the group of the first visit first."""
    groups: defaultdict[str, list[Visit]] = defaultdict(list)
    for visit in visits:
        groups[group(visit)].append(visit)
    return dict(groups)


def class_of(visit: Visit) -> str:
    """The name of the class that was asked for."""
    return CLASSES[visit.arrival.priority]


def owner_of(visit: Visit) -> str:
    """The owner."""
    return visit.arrival.owner


def crowd_of(visit: Visit) -> str:
    """The crowd to which the owner belongs."""
    return visit.arrival.owner.split(" #")[0]


# --- The run ------------------------------------------------------------------------------------------


def measure(scenario: Scenario, seconds: float, seeds: Sequence[int]) -> dict[str, Any]:
    """Figures of every line by class, crowd and owner; waits of all seeds together, fairness on average."""
    measured = {}
    for name, open_pool in scenario.lines.items():
        runs = [simulate(open_pool, arrivals_of(scenario, seconds, seed)) for seed in seeds]
        together = [visit for run in runs for visit in run]
        measured[name] = {
            "fairness": _fairness_by_class(runs),
            "by_class": _summaries(together, class_of),
            "by_crowd": _summaries(together, crowd_of),
            "by_owner": _summaries(together, owner_of) if scenario.by == "crowd" else {},
            "histogram_by_class": {
                each: _histogram(members) for each, members in grouped(together, class_of).items()
            },
        }
    return measured


def _fairness_by_class(runs: Iterable[Iterable[Visit]]) -> dict[str, float]:
    """The index within each class, on average over the seeds."""
    by_class: defaultdict[str, list[float]] = defaultdict(list)
    for visits in runs:
        for name, members in grouped(visits, class_of).items():
            by_class[name].append(fairness(members))
    return {name: round(statistics.mean(indexes), 3) for name, indexes in by_class.items()}


def _summaries(visits: list[Visit], group: Callable[[Visit], str]) -> dict[str, dict[str, Any]]:
    return {name: summary(members) for name, members in grouped(visits, group).items()}


def _histogram(visits: Iterable[Visit]) -> dict[str, int]:
    """Number of tasks by seconds of waiting, in steps of `BIN`."""
    counts = Counter(BIN * int(visit.wait / BIN) for visit in visits if visit.refused is None)
    return {str(second): counts[second] for second in sorted(counts)}


def run(scenarios: dict[str, Scenario], seconds: float, seeds: Sequence[int]) -> dict[str, Any]:
    """The whole result, as it is stored."""
    return {
        "what": "seconds that tasks waited for a permit, in a simulation in virtual time",
        "seeds": list(seeds),
        "simulated_seconds_each": seconds,
        "service_seconds": {"from": SHORTEST, "to": LONGEST, "distribution": "uniform"},
        "pool": asdict(SHIPPED),
        "versions": {"python": platform.python_version(), "commit": _commit()},
        "scenarios": {
            name: {
                "title": scenario.title,
                "by": scenario.by,
                "groups": list(dict.fromkeys(scenario.group(crowd) for crowd in scenario.crowds)),
                "crowds": [asdict(crowd) for crowd in scenario.crowds],
                "lines": measure(scenario, seconds, seeds),
            }
            for name, scenario in scenarios.items()
        },
    }


def _commit() -> str:
    """The version of the code; a copy without its history has none."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


# --- The table ----------------------------------------------------------------------------------------

WAITS: Final = ("median", "p95", "max")

HEAD: Final = (
    "| who | line | median | p95 | longest | refused | fairness |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def table(scenario: dict[str, Any]) -> str:
    """One scenario's figures as a Markdown table; waits in seconds, fairness within the class."""
    rows = [
        _row(group, line, measured[f"by_{scenario['by']}"][group], _index(measured["fairness"], group))
        for group in scenario["groups"]
        for line, measured in scenario["lines"].items()
    ]
    return "\n".join([HEAD, *rows])


def _index(by_class: dict[str, float], group: str) -> float:
    """A crowd's fairness is that of the one class in which all crowds are."""
    return by_class[group] if group in by_class else next(iter(by_class.values()))


def _row(group: str, line: str, figures: dict[str, Any], index: float) -> str:
    waits = " | ".join("-" if figures[key] is None else f"{figures[key]:,.0f}" for key in WAITS)
    refused = 1 - figures["served"] / figures["asked"]
    return f"| {group} | {line} | {waits} | {refused:.0%} | {index:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of runs, seeded 1, 2, …")
    parser.add_argument("--hours", type=float, default=1.0, help="simulated time of each run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON and the picture")
    arguments = parser.parse_args()
    result = run(SCENARIOS, 3600 * arguments.hours, range(1, arguments.seeds + 1))
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "fairness.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.results / "fairness.svg").write_text(plot(result))
    for scenario in result["scenarios"].values():
        print(f"{scenario['title']}\n\n{table(scenario)}\n")


if __name__ == "__main__":
    main()
