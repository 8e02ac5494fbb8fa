"""What rules look at. Synchronous; reads rollups and what processes tell with their beats, never tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final

from streaming.core.alerts import Kind, Reading, Rule
from streaming.core.errors import Interrupted
from streaming.core.liveness import PATIENCE
from streaming.core.rollup import Part, Rollup, figures, merged
from streaming.models import LostProcess, Process
from streaming.storage.rollups import MINUTE
from streaming.storage.statistics import parts_between

COUNTED: Final = frozenset({Kind.FIRST_CONTENT, Kind.ERROR_SHARE, Kind.REJECTED_SHARE})

QUEUE_FULL: Final = "queue_full"

Beats = dict[str, tuple[int, float]]
"""By process: its beat, and since when it is that one, in seconds since the epoch."""

NOTHING: Final = Reading(None)


@dataclass(frozen=True, slots=True)
class Living:
    """A process: `name` for people, `silent` seconds since its beat was seen to move, what it last told."""

    name: str
    silent: float
    statistics: Mapping[str, Any]


def readings(rules: Iterable[Rule], beats: Beats, now: float) -> tuple[dict[str, Reading], Beats]:
    """What each rule sees now, by name, but those that are reported; and the beats, for the next time."""
    asked = [rule for rule in rules if rule.kind is not Kind.REPORTED]
    counted = [rule for rule in asked if rule.kind in COUNTED]
    start = min((_start(rule, now) for rule in counted), default=None)
    parts = [] if start is None else list(parts_between(start, now))
    rows = list(Process.objects.order_by("started_at").values("id", "pid", "beat", "statistics"))
    seen = {row["id"]: _seen(beats.get(row["id"]), row["beat"], now) for row in rows}
    living = [
        Living(_name(row["id"], row["pid"]), now - seen[row["id"]][1], row["statistics"] or {})
        for row in rows
    ]
    found = {}
    for rule in asked:
        if rule.kind in COUNTED:
            found[rule.name] = counted_by(rule, parts, now)
        elif rule.kind is Kind.NO_HEARTBEAT:
            found[rule.name] = _longest(chain(_silences(living), _lost(rule, now)))
        else:
            told = (each.statistics for each in living if each.silent < PATIENCE)
            found[rule.name] = _longest(
                _waits(rule, told) if rule.kind is Kind.OLDEST_WAIT else _lags(living)
            )
    return found, seen


def counted_by(rule: Rule, parts: Iterable[Part], now: float) -> Reading:
    """What a rule about counted tasks sees in rollups, in whole minutes."""
    start = _start(rule, now)
    whole = merged(part.rollup for part in parts if part.start >= start and rule.pool in ("", part.pool))
    return _share_of(rule, whole)


def _share_of(rule: Rule, whole: Rollup) -> Reading:
    known = figures(whole, rule.window)
    match rule.kind:
        case Kind.FIRST_CONTENT:
            p95 = known.first_content.p95
            return Reading(None if p95 is None else p95 / 1000, known.first_content.count, rule.pool)
        case Kind.ERROR_SHARE:
            # A restart cuts streams, too, and is no fault; of a crash `no_heartbeat` tells.
            cut = whole.errors.get(Interrupted.code, 0)
            ended = known.ended - cut
            return Reading((known.failed - cut) / ended if ended else None, ended, rule.pool)
        case _:
            # Refusals for the caller's own limit are no sign of a busy server.
            refused = whole.refusals.get(QUEUE_FULL, 0)
            return Reading(refused / known.asked if known.asked else None, known.asked, rule.pool)


def _start(rule: Rule, now: float) -> float:
    return (now - rule.window) // MINUTE * MINUTE


def _seen(before: tuple[int, float] | None, beat: int, now: float) -> tuple[int, float]:
    return before if before is not None and before[0] == beat and before[1] <= now else (beat, now)


def _waits(rule: Rule, told: Iterable[Mapping[str, Any]]) -> Iterable[Reading]:
    for statistics in told:
        lines = (*statistics.get("pools", {}).items(), *statistics.get("shared", {}).items())
        for pool, numbers in lines:
            if rule.pool in ("", pool):
                yield Reading(numbers.get("oldest_wait_seconds"), about=pool)


def _lags(living: Iterable[Living]) -> Iterable[Reading]:
    return (
        Reading(each.statistics.get("loop_lag_seconds"), about=each.name)
        for each in living
        if each.silent < PATIENCE
    )


def _silences(living: Iterable[Living]) -> Iterable[Reading]:
    return (Reading(each.silent, about=each.name) for each in living)


def _lost(rule: Rule, now: float) -> Iterable[Reading]:
    since = datetime.fromtimestamp(now - rule.window, UTC)
    for process_id, pid, at in LostProcess.objects.filter(at__gt=since).values_list("id", "pid", "at"):
        yield Reading(now - at.timestamp(), about=_name(process_id, pid))


def _longest(found: Iterable[Reading]) -> Reading:
    return max((each for each in found if each.value is not None), key=_value, default=NOTHING)


def _value(reading: Reading) -> float:
    return reading.value or 0.0


def _name(process_id: str, pid: int) -> str:
    return f"{process_id[:8]} ({pid})"
