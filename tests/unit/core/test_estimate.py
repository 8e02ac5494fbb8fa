"""How long a place in the queue is said to take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.estimate import ServiceTime, wait

from .test_sse import fast

seconds = st.floats(0, 1e6)


def observed(*durations: float) -> ServiceTime:
    service = ServiceTime()
    for each in durations:
        service.observe(each)
    return service


def test_nothing_observed_is_told_as_nothing():
    assert ServiceTime().observed is None


def test_before_any_observation_a_second_is_assumed():
    assert ServiceTime().expected() == 1.0


@pytest.mark.parametrize(("ages", "expected"), [([0.5], 1.0), ([40.0], 40.0), ([0.5, 3.0], 2.0)])
def test_before_any_observation_running_tasks_raise_it(ages, expected):
    assert ServiceTime().expected(ages) == expected


def test_the_first_observation_counts_in_full():
    assert observed(7.0).observed == 7.0


def test_young_running_tasks_change_nothing():
    assert observed(2.0).expected([0.0, 1.9]) == 2.0


def test_a_running_task_that_takes_longer_raises_the_expectation_by_its_share():
    assert observed(2.0).expected([0.0, 10.0]) == 6.0


@fast
@given(st.lists(seconds, min_size=1))
def test_the_average_lies_among_the_observations(durations):
    mean = observed(*durations).expected()
    assert mean == pytest.approx(min(max(mean, min(durations)), max(durations)))


def test_newer_observations_weigh_more():
    assert observed(5.0, 1.0, 10.0).expected() > observed(5.0, 10.0, 1.0).expected()


def test_ten_tasks_make_the_old_pace_nearly_forgotten():
    assert observed(100.0, *[1.0] * 10).expected() < 12


@fast
@given(seconds, st.integers(1, 100), st.integers(1, 50))
def test_a_place_takes_its_share_of_the_workers_pace(service, position, workers):
    assert wait(position, workers, service) == pytest.approx(position * service / workers)


@fast
@given(seconds, st.integers(1, 100), st.integers(1, 50))
def test_further_back_is_never_sooner_and_more_workers_never_later(service, position, workers):
    assert wait(position, workers, service) <= wait(position + 1, workers, service)
    assert wait(position, workers, service) >= wait(position, workers + 1, service)
