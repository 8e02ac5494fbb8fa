"""A pool in virtual time: arrivals and departures are events, so an hour takes a second and is exact.

The pool is the real `Ledger`, or anything with the same three methods.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from streaming.core.errors import Refused
from streaming.runtime.ledger import Holding

NEVER: Final = 1e9
"""Seconds after which a task ages where ageing is to play no part."""


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Claim(Protocol):
    """What a pool hands out for a task."""

    @property
    def holding(self) -> Holding:
        """A permit, a place or nothing."""
        ...


class Pool(Protocol):
    """The part of `Ledger` that is simulated."""

    def admit(self, owner: str, priority: int, granted: Callable[[], None]) -> Any:
        """A `Claim`; raises `Refused`."""
        ...

    def release(self, ticket: Any) -> None:
        """Give the claim back."""
        ...

    def line(self) -> Sequence[tuple[Any, float]]:
        """The waiting claims in order with the expected seconds; empty where nobody can say."""
        ...


@dataclass(frozen=True, slots=True)
class Arrival:
    """A task that will come `at` seconds after the start and hold its permit for `service` seconds."""

    at: float
    owner: str
    priority: int
    service: float


@dataclass(slots=True)
class Visit:
    """What became of an arrival. `refused`: the reason; `promised`: seconds of waiting that it was told
    at arrival; `granted`: when it got its permit, in seconds after the start."""

    arrival: Arrival
    refused: str | None = None
    promised: float | None = None
    granted: float | None = None

    @property
    def wait(self) -> float:
        """Seconds from arrival to permit. Only for those who got one."""
        assert self.granted is not None
        return self.granted - self.arrival.at


def simulate(open_pool: Callable[[Clock], Pool], arrivals: Iterable[Arrival]) -> list[Visit]:
    """Let everybody come, be served and go; the visits in order of the arrivals."""
    return _Simulation(open_pool).run(arrivals)


class _Simulation:
    def __init__(self, open_pool: Callable[[Clock], Pool]) -> None:
        self._clock = Clock()
        self._pool = open_pool(self._clock)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0

    def run(self, arrivals: Iterable[Arrival]) -> list[Visit]:
        visits = [Visit(arrival) for arrival in arrivals]
        for visit in visits:
            self._at(visit.arrival.at, partial(self._arrive, visit))
        while self._events:
            self._clock.now, _, happen = heapq.heappop(self._events)
            happen()
        return visits

    def _at(self, moment: float, happen: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (moment, self._sequence, happen))

    def _arrive(self, visit: Visit) -> None:
        claims: list[Claim] = []
        try:
            claim: Claim = self._pool.admit(
                visit.arrival.owner, visit.arrival.priority, lambda: self._start(visit, claims[0])
            )
        except Refused as refusal:
            visit.refused = str(refusal)
            return
        claims.append(claim)
        if claim.holding is Holding.PERMIT:
            self._start(visit, claim)
        else:
            visit.promised = next((eta for each, eta in self._pool.line() if each is claim), None)

    def _start(self, visit: Visit, claim: Claim) -> None:
        visit.granted = self._clock.now
        self._at(self._clock.now + visit.arrival.service, partial(self._pool.release, claim))
