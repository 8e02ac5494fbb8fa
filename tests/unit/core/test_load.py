"""Schedules and sums of a load, without a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.load import Ended, Plan, Tally


def test_a_rate_gives_starts_that_do_not_wait_for_anybody():
    plan = Plan(rate=4, duration=2)
    assert plan.starts() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert plan.total == 8


@given(st.floats(0.01, 1000), st.floats(0.01, 60))
def test_all_starts_are_within_the_duration(rate, duration):
    starts = Plan(rate=rate, duration=duration).starts()
    assert starts[0] == 0.0
    assert starts == sorted(starts)
    assert starts[-1] <= duration * (1 + 1e-5) or len(starts) == 1


def test_a_number_bounds_a_rate_and_alone_holds_so_many_open():
    assert len(Plan(rate=10, duration=10, streams=7).starts()) == 7
    held = Plan(streams=7, duration=10)
    assert (held.starts(), held.total) == ([0.0] * 7, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"duration": 0, "rate": 1},
        {"duration": 1},
        {"duration": 1, "rate": 0},
        {"duration": 1, "rate": float("inf")},
        {"duration": float("nan"), "rate": 1},
        {"duration": 1, "streams": 0},
    ],
)
def test_a_plan_of_nothing_is_none(wrong):
    with pytest.raises(ValueError, match=r"more than 0|at least|a rate"):
        Plan(**wrong)


def tally_of(*streams: Ended) -> Tally:
    tally = Tally()
    for each in streams:
        tally.begin(each.intended)
        tally.add(each)
    return tally


def test_streams_are_added_up():
    tally = tally_of(
        Ended(intended=0, outcome="complete", first=10, total=900, gaps=[50, 60], exact=True, characters=30),
        Ended(intended=1, outcome="complete", first=30, total=1_500, gaps=[70], exact=True, route="queued"),
        Ended(intended=1, outcome="refused", total=5, code="queue_full"),
    )
    summary = tally.summary()
    assert summary["outcomes"] == {"complete": 2, "failed": 0, "refused": 1, "unfinished": 0}
    assert summary["codes"] == {"queue_full": 1}
    assert summary["routes"] == {"queued": 1}
    assert summary["exact"] == {"exact": 2, "wrong": 0, "not_compared": 0}
    assert summary["first_content_ms"]["max"] == 30
    assert summary["gap_ms"]["p50"] == pytest.approx(60, rel=0.1)
    assert summary["seconds"] == 2.5
    assert summary["streams_per_second"] == pytest.approx(2 / 2.5)


@pytest.mark.parametrize(
    ("last", "exact"),
    [
        (Ended(intended=0, outcome="complete", exact=True), True),
        (Ended(intended=0, outcome="complete", exact=None), False),
        (Ended(intended=0, outcome="unfinished"), True),
        (Ended(intended=0, outcome="complete", exact=False), False),
        (Ended(intended=0, outcome="failed", code="cut"), False),
        (Ended(intended=0, outcome="refused", code="queue_full"), False),
    ],
)
def test_one_that_is_not_exact_spoils_all(last, exact):
    good = Ended(intended=0, outcome="complete", exact=True)
    assert tally_of(good, last, good).is_exact is exact


@pytest.mark.parametrize(
    "streams", [[], [Ended(intended=0, outcome="unfinished")], [Ended(intended=0, outcome="complete")]]
)
def test_where_nothing_was_compared_nothing_is_exact(streams):
    assert not tally_of(*streams).is_exact


def test_what_could_not_be_compared_is_counted():
    tally = tally_of(
        Ended(intended=0, outcome="complete", exact=None, code="no_record"),
        Ended(intended=0, outcome="complete", exact=True),
        Ended(intended=0, outcome="failed", code="cut"),
    )
    assert tally.summary()["exact"] == {"exact": 1, "wrong": 0, "not_compared": 1}


def test_seconds_show_who_was_open():
    tally = Tally()
    for second in (0, 0, 2):
        tally.begin(second)
    tally.add(Ended(intended=0, outcome="complete", total=1_200))
    tally.add(Ended(intended=0, outcome="failed", total=3_100))
    assert tally.open == 1
    assert [each.open for each in tally.seconds()] == [2, 1, 2, 1]
    assert [each.started for each in tally.seconds()] == [2, 0, 1, 0]


def test_nothing_is_a_summary_as_well():
    assert Tally().seconds() == []
    assert Tally().summary()["first_content_ms"]["p50"] is None
