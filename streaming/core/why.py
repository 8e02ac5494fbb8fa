"""Why a task went its way and where its time went, in parts that can be put into words of any language.

`routing.decide` answers with a route and a reason; here they and the snapshot they came from become the
sentence that an operator asks for: how many workers were busy, who stood before it, which limit was reached.
That explains a wait and nothing else; what took a task longest is told from its own receipt (`course`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from .errors import Interrupted, QueueTimeout
from .routing import QUOTAS, Reason, Route


class Fact(StrEnum):
    """What a clause says. Its numbers are named as the members of `routing.Snapshot`."""

    ALL_BUSY = "all_busy"
    """All workers were busy: `running`, `max_workers`."""
    SOME_FREE = "some_free"
    """Not all workers were busy: `running`, `max_workers`."""
    ALL_FREE = "all_free"
    """No worker was busy."""
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
    QUOTA_SPENT = "quota_spent"
    """The caller had spent a quota."""
    GOING_DOWN = "going_down"
    """The server took no more tasks before its shutdown."""

    NO_WAIT = "no_wait"
    """It did not wait for a worker."""
    WAITED = "waited"
    """It waited so long for a worker: `milliseconds`."""
    FIRST_WORDS = "first_words"
    """So long after it had a worker came the first words: `milliseconds`."""
    NO_WORDS = "no_words"
    """So long it had a worker, and no words came: `milliseconds`."""
    INTERRUPTED = "interrupted"
    """Its process ended `milliseconds` after it had begun."""
    WRITING = "writing"
    """So long it wrote, from its first words on: `milliseconds`."""
    READER_LEFT = "reader_left"
    """It never got a worker: its reader left after about `left`, and it ended `grace` later; milliseconds."""
    CANCELLED = "cancelled"
    """It never got a worker: it was cancelled after `milliseconds`."""
    TIMED_OUT = "timed_out"
    """It never got a worker within the time that one may wait: `milliseconds`."""
    NEVER_STARTED = "never_started"
    """It never got a worker, and ended after `milliseconds`."""


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
            return [_free(load), Fact.ALL_AWAY if load.get("waiting") else Fact.NOBODY_BEFORE]
        case Reason.CACHED:
            return [Fact.COPIED]
        case Reason.NO_WORKER_NEEDED:
            return [Fact.NO_WORKER]
        case Reason.EARLIER_ONE_ACTIVE:
            return [Fact.EARLIER_FIRST]
        case Reason.WORKERS_BUSY:
            return [Fact.ALL_BUSY, *_line(load)]
        case Reason.OTHERS_WAITING:
            return [*_line(load), _free(load)]
        case Reason.QUEUE_FULL:
            busy = load.get("running", 0) >= load.get("max_workers", 0)
            return [Fact.LINE_FULL, Fact.ALL_BUSY if busy else _free(load)]
        case Reason.OWNER_LIMIT:
            return [Fact.OWNER_FULL]
        case Reason.DRAINING:
            return [Fact.GOING_DOWN]
        case _ if reason in QUOTAS:
            return [Fact.QUOTA_SPENT]
    return []


def _free(load: Mapping[str, Any]) -> Fact:
    return Fact.ALL_FREE if load.get("running") == 0 else Fact.SOME_FREE


def _line(load: Mapping[str, Any]) -> list[Fact]:
    """Who waited already."""
    if not load.get("eligible"):
        return [Fact.ALL_AWAY if load.get("waiting") else Fact.NOBODY_BEFORE]
    before = Fact.OTHERS_BEFORE if load.get("ahead") is None else Fact.AHEAD
    return [before, Fact.LONGEST_WAIT]


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """How a task went that has ended, as its row says. Milliseconds since it was accepted, but for `grace`:
    how long it outlived its last reader, None for ever. `started`: whether it got a worker, or needed none.
    `cancelled_by`, `code`: as in `rollup.End`."""

    route: str
    started: bool
    queued: float
    first_content: float | None
    total: float
    cancelled_by: str = ""
    code: str = ""
    grace: float | None = None


def course(of: Course) -> list[Clause]:
    """Where the time went: the largest part first, and whether it waited at all."""
    if not of.started and of.route == Route.QUEUED:
        return [_in_vain(of)]
    waited = min(of.queued, of.total) if of.route == Route.QUEUED else 0.0
    first = of.total if of.first_content is None else min(max(of.first_content, waited), of.total)
    wait = Clause(Fact.WAITED, {"milliseconds": waited}) if of.route == Route.QUEUED else Clause(Fact.NO_WAIT)
    silence = Fact.FIRST_WORDS
    if of.first_content is None:
        # When the first words came is written with the end, which a process that is killed does not write.
        silence = Fact.INTERRUPTED if of.code == Interrupted.code else Fact.NO_WORDS
    parts = {Fact.WAITED: waited, silence: first - waited, Fact.WRITING: of.total - first}
    longest = max(parts, key=parts.__getitem__)
    if longest is Fact.WAITED:
        return [wait]
    rest = Clause(longest, {"milliseconds": parts[longest]})
    return [wait, rest] if wait.fact is Fact.NO_WAIT else [rest, wait]


def _in_vain(of: Course) -> Clause:
    if of.cancelled_by == "disconnect" and of.grace is not None:
        return Clause(Fact.READER_LEFT, {"left": max(of.total - of.grace, 0.0), "grace": of.grace})
    if of.cancelled_by:
        return Clause(Fact.CANCELLED, {"milliseconds": of.total})
    timed_out = of.code == QueueTimeout.code
    return Clause(Fact.TIMED_OUT if timed_out else Fact.NEVER_STARTED, {"milliseconds": of.total})
