"""How long a place in the queue is said to take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.estimate import ServiceTime

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
    assert ServiceTime().mean() == 1.0


@pytest.mark.parametrize(("age", "mean"), [(0.5, 1.0), (40.0, 40.0)])
def test_before_any_observation_the_running_task_raises_it(age, mean):
    assert ServiceTime().mean(oldest_running=age) == mean


def test_the_first_observation_counts_in_full():
    assert observed(7.0).observed == 7.0


def test_an_observation_of_zero_counts_too():
    assert observed(0.0).mean(oldest_running=9.0) == 0.0


def test_observations_beat_the_running_task():
    assert observed(2.0).mean(oldest_running=100.0) == 2.0


@fast
@given(st.lists(seconds, min_size=1))
def test_the_mean_lies_among_the_observations(durations):
    mean = observed(*durations).mean()
    assert mean == pytest.approx(min(max(mean, min(durations)), max(durations)))


def test_newer_observations_weigh_more():
    assert observed(5.0, 1.0, 10.0).mean() > observed(5.0, 10.0, 1.0).mean()


def test_ten_tasks_make_the_old_pace_nearly_forgotten():
    assert observed(100.0, *[1.0] * 10).mean() < 12


@fast
@given(seconds, st.integers(1, 100), st.integers(1, 50))
def test_a_place_takes_its_share_of_the_workers_pace(mean, position, workers):
    assert observed(mean).wait(position, workers) == pytest.approx(position * mean / workers)


@fast
@given(seconds, st.integers(1, 100), st.integers(1, 50))
def test_further_back_is_never_sooner_and_more_workers_never_later(mean, position, workers):
    service = observed(mean)
    assert service.wait(position, workers) <= service.wait(position + 1, workers)
    assert service.wait(position, workers) >= service.wait(position, workers + 1)
