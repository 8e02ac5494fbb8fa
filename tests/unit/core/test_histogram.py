"""Percentiles of histograms against the exact ones; merging in any order."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.histogram import BOUNDS, LONGEST, RELATIVE_ERROR, SHORTEST, Histogram, histogram_of

from .test_sse import fast

durations = st.one_of(
    st.floats(0, 10),
    st.floats(0, LONGEST),
    st.sampled_from(BOUNDS),
    st.sampled_from([math.nextafter(bound, math.inf) for bound in BOUNDS[:-1]]),
)
many = st.lists(durations, min_size=1, max_size=60)


def exact(values: list[float], percent: float) -> float:
    """By the nearest rank."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]


def merged(*histograms: Histogram) -> Histogram:
    made = Histogram()
    for each in histograms:
        made.merge(each)
    return made


@fast
@given(many, st.sampled_from([0, 1, 25, 50, 90, 95, 99, 100]))
def test_percentiles_are_within_the_promised_error(values: list[float], percent: float):
    found, true = histogram_of(values).percentile(percent), exact(values, percent)
    assert found is not None
    assert abs(found - true) <= max(true * RELATIVE_ERROR * (1 + 1e-9), SHORTEST)


def test_the_error_is_what_the_documentation_says():
    assert RELATIVE_ERROR < 0.07
    assert len(BOUNDS) < 150
    assert BOUNDS[-1] >= LONGEST > BOUNDS[-2]


@fast
@given(st.lists(many, min_size=3, max_size=3))
def test_merging_is_associative_and_commutative_and_loses_nothing(groups: list[list[float]]):
    one, two, three = map(histogram_of, groups)
    whole = histogram_of([value for group in groups for value in group])
    assert merged(merged(one, two), three) == whole
    assert merged(one, merged(two, three)) == whole
    assert merged(three, one, two) == whole
    assert one == histogram_of(groups[0]), "what is merged into another stays as it is"


@fast
@given(st.lists(durations))
def test_json_and_back_is_the_same(values: list[float]):
    made = histogram_of(values)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Histogram) == made


def test_a_million_durations_are_a_small_text():
    made = Histogram(
        n=dict.fromkeys(range(len(BOUNDS) + 1), 10**6), us=10**15, min=0.123456, max=3_599_999.123
    )
    assert len(msgspec.json.encode(made)) < 2000


def test_without_durations_there_is_nothing_to_tell():
    empty = Histogram()
    assert (empty.count, empty.mean, empty.percentile(50), empty.bars()) == (0, None, None, [])
    assert merged(empty, empty) == empty


def test_what_is_longer_than_an_hour_is_counted_and_its_longest_is_exact():
    made = histogram_of([10.0, LONGEST * 3, LONGEST * 5])
    assert made.count == 3
    assert made.percentile(100) == LONGEST * 5
    middle = made.percentile(50)
    assert middle is not None
    assert LONGEST <= middle <= LONGEST * 5
    assert made.bars()[-1] == (None, 2)


def test_a_clock_that_was_set_back_counts_as_no_time():
    assert histogram_of([-5.0]) == histogram_of([0.0])


def test_the_mean_and_the_share_beyond_a_limit():
    made = histogram_of([100.0, 200.0, 900.0])
    assert made.mean == pytest.approx(400.0)
    assert [made.over(limit) for limit in (50, 150, 500, 2000)] == [3, 2, 1, 0]


def test_bars_have_no_holes():
    made = histogram_of([1.0, 1.0, 1.5])
    bounds = [bound for bound, _ in made.bars()]
    assert [count for _, count in made.bars()] == [2, *([0] * (len(bounds) - 2)), 1]
    assert bounds == sorted(bound for bound in bounds if bound is not None)
