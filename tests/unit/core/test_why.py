"""The answer to "why was this queued?" names what the router saw, and never more than the record says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.routing import Reason, Route, Snapshot, decide
from streaming.core.why import Fact, why

from .test_routing import snapshots
from .test_sse import fast

LOAD = {
    "pool": "agent_pool",
    "running": 5,
    "waiting": 4,
    "max_workers": 5,
    "queue_size": 30,
    "owner_active": 1,
    "per_owner": 3,
    "oldest_wait_seconds": 12.5,
    "eligible": 4,
    "ahead": 3,
}


def facts(reason: str, **changes: Any) -> list[Fact]:
    return [clause.fact for clause in why(LOAD | changes, reason)]


def test_why_was_this_queued():
    found = why(LOAD, "workers_busy")
    assert [(clause.fact, clause.numbers) for clause in found] == [
        (Fact.ALL_BUSY, {"running": 5, "max_workers": 5}),
        (Fact.AHEAD, {"ahead": 3}),
        (Fact.LONGEST_WAIT, {"oldest_wait_seconds": 12.5}),
    ]


def test_a_free_worker_and_a_line_are_told_apart():
    assert facts("others_waiting", running=2) == [Fact.AHEAD, Fact.LONGEST_WAIT, Fact.SOME_FREE]
    assert facts("worker_free", running=2, waiting=0, eligible=0) == [Fact.SOME_FREE, Fact.NOBODY_BEFORE]
    assert facts("worker_free", running=2, eligible=0) == [Fact.SOME_FREE, Fact.ALL_AWAY]
    assert facts("workers_busy", waiting=0, eligible=0, ahead=0) == [Fact.ALL_BUSY, Fact.NOBODY_BEFORE]


@pytest.mark.parametrize(
    ("reason", "first"),
    [
        ("queue_full", Fact.LINE_FULL),
        ("owner_limit", Fact.OWNER_FULL),
        ("draining", Fact.GOING_DOWN),
        ("cached", Fact.COPIED),
        ("no_worker_needed", Fact.NO_WORKER),
    ],
)
def test_each_other_reason_has_its_own_words(reason: str, first: Fact):
    assert facts(reason)[0] is first


def test_a_series_is_told_by_what_came_before():
    assert why(LOAD | {"earlier": 2}, "earlier_one_active")[0].numbers == {"earlier": 2}


def test_records_of_another_version_are_explained_as_far_as_they_go():
    old = {name: value for name, value in LOAD.items() if name not in ("ahead", "oldest_wait_seconds")}
    assert [clause.fact for clause in why(old, "workers_busy")] == [Fact.ALL_BUSY, Fact.OTHERS_BEFORE]
    assert why({}, "workers_busy") == [clause for clause in why({}, "workers_busy") if not clause.numbers]
    assert why(LOAD, "of_a_later_version") == []


@pytest.mark.parametrize("reason", list(Reason))
def test_no_reason_goes_unexplained(reason: Reason):
    assert why(LOAD | {"earlier": 1}, reason)


@fast
@given(snapshots, st.integers(0, 5))
def test_the_answer_agrees_with_the_decision(load: Snapshot, ahead: int):
    decision = decide(load)
    kept = msgspec.structs.replace(load, ahead=min(ahead, load.eligible))
    found = {clause.fact for clause in why(msgspec.to_builtins(kept), decision.reason)}
    assert found
    if decision.route is Route.DIRECT:
        assert Fact.SOME_FREE in found
    if Fact.ALL_BUSY in found:
        assert load.running >= load.max_workers
    if Fact.SOME_FREE in found:
        assert load.running < load.max_workers
