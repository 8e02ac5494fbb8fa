"""When an alert is raised, and when it is resolved.

A rule looks at one number. Above its threshold for `hold` seconds the alert is *raised*, once; calm for long
enough it is *resolved*, once. Between the two nothing is told, however the number moves:

    quiet → pending → firing ⇄ calming → quiet
              ↓          (raised on the way into firing,
            quiet         resolved on the way out of calming)

Two things keep a number that swings from becoming a swing of messages. It is calm only a good step below its
threshold (hysteresis). And each further raising within an hour doubles the calm that the next resolving
takes, so that an alert that comes and goes stays, after a few turns, until it is over for good.

What nobody can tell, because too little happened, is above no threshold.

Pure: the clock is an argument. Times in seconds since the epoch, so that a state outlives its process.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

RELEASE: Final = 0.9
"""Share of the threshold up to which the number is calm again."""

FLAPPING: Final = 3600.0
"""Seconds within which a further raising makes the next resolving harder; no calm that is asked for is
longer."""


class Kind(StrEnum):
    """What a rule looks at."""

    FIRST_CONTENT = "first_content"
    ERROR_SHARE = "error_share"
    REJECTED_SHARE = "rejected_share"
    OLDEST_WAIT = "oldest_wait"
    LOOP_LAG = "loop_lag"
    NO_HEARTBEAT = "no_heartbeat"
    REPORTED = "reported"


class Phase(StrEnum):
    """Where a rule stands. To the outside `firing` and `calming` are one: the alert is open."""

    QUIET = "quiet"
    PENDING = "pending"
    FIRING = "firing"
    CALMING = "calming"

    @property
    def open(self) -> bool:
        """Whether it has been raised and not resolved."""
        return self in (Phase.FIRING, Phase.CALMING)


class Change(StrEnum):
    """What is told."""

    RAISED = "raised"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Seconds: `window`, that are looked at; `hold`, for which the number must be above `threshold`
    before the alert is raised; `calm`, for which it must be below before it is resolved. `min_count`: how
    many tasks there must be to tell anything. `pool`: the one looked at, empty for all."""

    name: str
    kind: Kind
    threshold: float
    window: float = 300.0
    hold: float = 60.0
    calm: float = 120.0
    severity: str = "warning"
    min_count: int = 20
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a rule sees. `value`: None if there is none; `count`: of how many tasks, None if it is not about
    several; `about`: the pool or process that it is of."""

    value: float | None
    count: int | None = None
    about: str = ""

    def known(self, rule: Rule) -> bool:
        """Whether it tells anything."""
        return self.value is not None and (self.count is None or self.count >= rule.min_count)

    def above(self, rule: Rule) -> bool:
        """Whether it is a reason for an alert."""
        return self.value is not None and self.known(rule) and self.value > rule.threshold

    def calm(self, rule: Rule) -> bool:
        """Whether it is none by far."""
        return self.value is None or not self.known(rule) or self.value <= rule.threshold * RELEASE


class State(msgspec.Struct, frozen=True):
    """Where a rule stands, `since` when; `raisings`: the moments of those within the last `FLAPPING` seconds,
    oldest first."""

    phase: Phase = Phase.QUIET
    since: float = 0.0
    raisings: tuple[float, ...] = ()


QUIET: Final = State()


def step(rule: Rule, state: State, reading: Reading, now: float) -> tuple[State, Change | None]:
    """Where the rule stands after it has seen `reading`, and what is to be told.

    Looks may come at any distance. A clock that is set back lengthens a phase, never shortens it.
    """
    raisings = tuple(each for each in state.raisings if now - each < FLAPPING)
    since = min(state.since, now)
    match state.phase:
        case Phase.QUIET | Phase.PENDING if not reading.above(rule):
            return State(Phase.QUIET, since if state.phase is Phase.QUIET else now, raisings), None
        case Phase.QUIET if rule.hold > 0:
            return State(Phase.PENDING, now, raisings), None
        case Phase.PENDING if now - since < rule.hold:
            return State(Phase.PENDING, since, raisings), None
        case Phase.QUIET | Phase.PENDING:
            return State(Phase.FIRING, now, (*raisings, now)), Change.RAISED
        case _ if not reading.calm(rule):
            return State(Phase.FIRING, since if state.phase is Phase.FIRING else now, raisings), None
        case Phase.FIRING:
            return State(Phase.CALMING, now, raisings), None
        case _ if now - since < calm_needed(rule, raisings):
            return State(Phase.CALMING, since, raisings), None
    return State(Phase.QUIET, now, raisings), Change.RESOLVED


def calm_needed(rule: Rule, raisings: tuple[float, ...]) -> float:
    """Seconds of calm before the alert is resolved, after those raisings within the last hour."""
    doubled: float = rule.calm * 2.0 ** max(len(raisings) - 1, 0)
    return max(min(doubled, FLAPPING), rule.calm)


def reconciled(state: State, opened: float | None) -> State:
    """The state, where the record tells otherwise: `opened`, when the alert that is open was raised, None if
    none is."""
    if opened is None:
        return State(Phase.QUIET, state.since, state.raisings) if state.phase.open else state
    return state if state.phase.open else State(Phase.FIRING, opened, (*state.raisings, opened))
