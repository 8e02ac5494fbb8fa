"""Why a task went its way, in parts that can be put into words of any language.

`routing.decide` answers with a route and a reason; here they and the snapshot they came from become the
sentence that an operator asks for: how many workers were busy, who stood before it, which limit was reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from .routing import Reason


class Fact(StrEnum):
    """What a clause says. Its numbers are named as the members of `routing.Snapshot`."""

    ALL_BUSY = "all_busy"
    """All workers were busy: `running`, `max_workers`."""
    SOME_FREE = "some_free"
    """Not all workers were busy: `running`, `max_workers`."""
    NOBODY_BEFORE = "nobody_before"
    """Nobody waited whom a worker could have served."""
    AHEAD = "ahead"
    """So many that waited were of the same or a higher class: `ahead`."""
    OTHERS_BEFORE = "others_before"
    """So many waited, of whatever class: `eligible`."""
    ALL_AWAY = "all_away"
    """Who waited was passed by, as its readers were away: `waiting`."""
    LONGEST_WAIT = "longest_wait"
    """How long the first of them had waited: `oldest_wait_seconds`."""
    EARLIER_FIRST = "earlier_first"
    """Tasks of the same series run one at a time, and these came before: `earlier`."""
    NO_WORKER = "no_worker"
    """It needs no worker."""
    COPIED = "copied"
    """The same work was there already."""
    LINE_FULL = "line_full"
    """All places of the line were taken: `waiting`, `queue_size`."""
    OWNER_FULL = "owner_full"
    """The caller had as many tasks as one may have: `owner_active`, `per_owner`."""
    GOING_DOWN = "going_down"
    """The server took no more tasks before its shutdown."""


class Clause(msgspec.Struct, frozen=True):
    """One part of the answer."""

    fact: Fact
    numbers: dict[str, float] = {}


_NUMBERS: Final[Mapping[Fact, tuple[str, ...]]] = {
    Fact.ALL_BUSY: ("running", "max_workers"),
    Fact.SOME_FREE: ("running", "max_workers"),
    Fact.AHEAD: ("ahead",),
    Fact.OTHERS_BEFORE: ("eligible",),
    Fact.ALL_AWAY: ("waiting",),
    Fact.LONGEST_WAIT: ("oldest_wait_seconds",),
    Fact.EARLIER_FIRST: ("earlier",),
    Fact.LINE_FULL: ("waiting", "queue_size"),
    Fact.OWNER_FULL: ("owner_active", "per_owner"),
}


def why(snapshot: Mapping[str, Any], reason: str) -> list[Clause]:
    """The answer, the decisive part first. `snapshot`: as it is kept with the task; what a record of another
    version lacks is left out. Empty for a reason that this version does not know."""
    known = {name: value for name, value in snapshot.items() if value is not None}
    return [
        Clause(fact, {name: known[name] for name in _NUMBERS.get(fact, ())})
        for fact in _facts(known, reason)
        if all(name in known for name in _NUMBERS.get(fact, ()))
    ]


def _facts(load: Mapping[str, Any], reason: str) -> list[Fact]:
    match reason:
        case Reason.WORKER_FREE:
            return [Fact.SOME_FREE, Fact.ALL_AWAY if load.get("waiting") else Fact.NOBODY_BEFORE]
        case Reason.CACHED:
            return [Fact.COPIED]
        case Reason.NO_WORKER_NEEDED:
            return [Fact.NO_WORKER]
        case Reason.EARLIER_ONE_ACTIVE:
            return [Fact.EARLIER_FIRST]
        case Reason.WORKERS_BUSY:
            return [Fact.ALL_BUSY, *_line(load)]
        case Reason.OTHERS_WAITING:
            return [*_line(load), Fact.SOME_FREE]
        case Reason.QUEUE_FULL:
            busy = load.get("running", 0) >= load.get("max_workers", 0)
            return [Fact.LINE_FULL, Fact.ALL_BUSY if busy else Fact.SOME_FREE]
        case Reason.OWNER_LIMIT:
            return [Fact.OWNER_FULL]
        case Reason.DRAINING:
            return [Fact.GOING_DOWN]
    return []


def _line(load: Mapping[str, Any]) -> list[Fact]:
    """Who waited already."""
    if not load.get("eligible"):
        return [Fact.ALL_AWAY if load.get("waiting") else Fact.NOBODY_BEFORE]
    before = Fact.OTHERS_BEFORE if load.get("ahead") is None else Fact.AHEAD
    return [before, Fact.LONGEST_WAIT]
