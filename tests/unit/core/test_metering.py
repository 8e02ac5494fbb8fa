"""Numbers of several processes as one: nothing that counts ever falls, whoever dies."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streaming.core.distribution import Distribution
from streaming.core.metering import (
    Kind,
    Merge,
    Metric,
    Samples,
    decoded,
    encoded,
    lasting,
    merged,
)

METRICS = {
    metric.name: metric
    for metric in (
        Metric("calls_total", "", labels=("pool",)),
        Metric("running", "", Kind.GAUGE),
        Metric("oldest_seconds", "", Kind.GAUGE, merge=Merge.MAX),
        Metric("start_seconds", "", Kind.GAUGE, merge=Merge.MIN),
        Metric("wait_seconds", "", Kind.HISTOGRAM, bounds=(1.0, 2.0)),
    )
}

ONE: Samples = {
    ("calls_total", ("a",)): [3],
    ("running", ()): [2],
    ("oldest_seconds", ()): [7.5],
    ("start_seconds", ()): [100.0],
    ("wait_seconds", ()): [5_000_000, 1, 0, 2],
}
OTHER: Samples = {
    ("calls_total", ("a",)): [4],
    ("calls_total", ("b",)): [1],
    ("running", ()): [1],
    ("oldest_seconds", ()): [0.5],
    ("start_seconds", ()): [200.0],
    ("wait_seconds", ()): [1_000_000, 1, 1, 0],
}


def test_the_living_are_one():
    assert merged(METRICS, [ONE, OTHER]) == {
        ("calls_total", ("a",)): [7],
        ("calls_total", ("b",)): [1],
        ("running", ()): [3],
        ("oldest_seconds", ()): [7.5],
        ("start_seconds", ()): [100.0],
        ("wait_seconds", ()): [6_000_000, 2, 1, 2],
    }


def test_of_the_dead_only_what_was_counted_stays():
    together = merged(METRICS, [ONE], [OTHER])
    assert together["running", ()] == ONE["running", ()]
    assert together["calls_total", ("a",)] == [7]
    assert together["wait_seconds", ()] == [6_000_000, 2, 1, 2]
    assert merged(METRICS, [ONE], [lasting(METRICS, OTHER)]) == together


def test_what_another_version_wrote_is_left_out():
    foreign: Samples = {
        ("gone_total", ()): [1],
        ("calls_total", ("a", "b")): [1],
        ("wait_seconds", ()): [1, 2, 3, 4, 5, 6],
    }
    assert merged(METRICS, [ONE, foreign], [foreign]) == merged(METRICS, [ONE])


def test_what_is_written_is_read():
    assert decoded(encoded(ONE)) == ONE


TIMES = st.lists(st.floats(0, 10_000), max_size=20)


@given(TIMES, TIMES, TIMES)
def test_sums_do_not_depend_on_their_order(one: list[float], other: list[float], third: list[float]):
    """What falls by its last bit is taken for a counter that began anew."""
    made: list[Samples] = []
    for times in (one, other, third):
        each = Distribution((1.0, 2.0))
        for seconds in times:
            each.observe(seconds)
        made.append({("wait_seconds", ()): each.values})
    a, b, c = made
    assert (
        merged(METRICS, [merged(METRICS, [a, b]), c])
        == merged(METRICS, [c], [b, a])
        == merged(METRICS, [merged(METRICS, [c, a])], [b])
    )


@given(TIMES)
def test_a_distribution_counts_each_time_once(times: list[float]):
    made = Distribution((0.5, 5.0))
    for seconds in times:
        made.observe(seconds)
    assert made.counts == [
        sum(seconds <= 0.5 for seconds in times),
        sum(0.5 < seconds <= 5.0 for seconds in times),
        sum(seconds > 5.0 for seconds in times),
    ]
    assert made.total == sum(round(seconds * 1_000_000) for seconds in times)
    twice = made.copy()
    twice.add(made)
    assert twice.values == [2 * value for value in made.values]
