"""The answer to "why was this queued?" names what the router saw, and never more than the record says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.routing import Reason, Route, Snapshot, decide
from streaming.core.why import Clause, Course, Fact, course, why

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


def test_nobody_is_not_only_few():
    assert facts("worker_free", running=0, waiting=0) == [Fact.ALL_FREE, Fact.NOBODY_BEFORE]


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


# --- Where the time went ------------------------------------------------------------------------------

RAN: dict[str, Any] = {"route": "direct", "started": True, "queued": 0.4, "first_content": 400, "total": 2000}
QUEUED = {"route": "queued", "queued": 900}


def told(**changes: Any) -> list[Clause]:
    return course(Course(**RAN | changes))


def test_a_direct_task_is_slow_for_another_reason_than_the_queue():
    assert told(first_content=12_000, total=12_300) == [
        Clause(Fact.NO_WAIT),
        Clause(Fact.FIRST_WORDS, {"milliseconds": 12_000}),
    ]
    assert told(total=50_400) == [Clause(Fact.NO_WAIT), Clause(Fact.WRITING, {"milliseconds": 50_000})]
    assert told(first_content=None) == [Clause(Fact.NO_WAIT), Clause(Fact.NO_WORDS, {"milliseconds": 2000})]


def test_what_waited_longest_is_told_by_its_wait_and_other_things_come_before_a_shorter_one():
    assert told(**QUEUED, first_content=1000, total=1500) == [Clause(Fact.WAITED, {"milliseconds": 900})]
    assert told(**QUEUED, first_content=12_900, total=13_000) == [
        Clause(Fact.FIRST_WORDS, {"milliseconds": 12_000}),
        Clause(Fact.WAITED, {"milliseconds": 900}),
    ]


@pytest.mark.parametrize(
    ("how", "answer"),
    [
        (
            {"cancelled_by": "disconnect", "grace": 30_000},
            Clause(Fact.READER_LEFT, {"left": 6500, "grace": 30_000}),
        ),
        ({"cancelled_by": "client", "grace": 30_000}, Clause(Fact.CANCELLED, {"milliseconds": 36_500})),
        ({"cancelled_by": "disconnect"}, Clause(Fact.CANCELLED, {"milliseconds": 36_500})),
        ({"code": "queue_timeout"}, Clause(Fact.TIMED_OUT, {"milliseconds": 36_500})),
        ({"code": "interrupted"}, Clause(Fact.NEVER_STARTED, {"milliseconds": 36_500})),
    ],
)
def test_what_never_got_a_worker_did_not_wait_for_one_all_the_time(how: dict[str, Any], answer: Clause):
    ended = {"started": False, "queued": 36_500, "first_content": None, "total": 36_500}
    assert told(**QUEUED | ended, **how) == [answer]


def test_of_what_a_killed_process_ran_nobody_knows_whether_it_spoke():
    assert told(first_content=None, code="interrupted")[1].fact is Fact.INTERRUPTED


milliseconds = st.floats(0, 1e7)


@fast
@given(
    st.sampled_from(["direct", "queued"]), milliseconds, st.none() | milliseconds, milliseconds, st.booleans()
)
def test_no_part_is_longer_than_the_whole(
    route: str, queued: float, first: float | None, total: float, started: bool
):
    """Whatever clocks and crashes have left in a row."""
    found = told(route=route, queued=queued, first_content=first, total=total, started=started)
    assert 1 <= len(found) <= 2
    parts = [number for clause in found for number in clause.numbers.values()]
    assert all(0 <= part <= total for part in parts)
    assert sum(parts) <= total * 1.000001
