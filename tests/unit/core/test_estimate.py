"""How long a place in the queue is said to take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.estimate import ServiceTime, waits

from .test_sse import fast

seconds = st.floats(0, 1e6)

ROUNDING = 1e-9


def observed(*durations: float) -> ServiceTime:
    service = ServiceTime()
    for each in durations:
        service.observe(each)
    return service


def test_nothing_observed_is_told_as_nothing():
    assert ServiceTime().observed is None


def test_before_any_observation_a_second_is_assumed():
    assert ServiceTime().expected() == 1.0


@pytest.mark.parametrize(
    ("ages", "expected"), [([0.5], 1.0), ([0.5, 3.0], 3.0), ([40.0], 10.0), ([3600.0, 0.5], 10.0)]
)
def test_before_any_observation_running_tasks_raise_it_up_to_a_bound(ages, expected):
    """A task that hangs must not let the estimate grow for as long as it hangs."""
    assert ServiceTime().expected(ages) == expected


def test_the_first_observation_counts_in_full():
    assert observed(7.0).observed == 7.0


@pytest.mark.parametrize("ages", [[], [0.0, 1.9], [0.0, 3600.0]])
def test_once_observed_running_tasks_change_nothing(ages):
    assert observed(2.0).expected(ages) == 2.0


@fast
@given(st.lists(seconds, min_size=1))
def test_the_average_lies_among_the_observations(durations):
    mean = observed(*durations).expected()
    assert mean == pytest.approx(min(max(mean, min(durations)), max(durations)))


def test_newer_observations_weigh_more():
    assert observed(5.0, 1.0, 10.0).expected() > observed(5.0, 10.0, 1.0).expected()


def test_ten_tasks_make_the_old_pace_nearly_forgotten():
    assert observed(100.0, *[1.0] * 10).expected() < 12


services = st.floats(0.1, 1e4)
ages = st.lists(st.floats(0, 1e5), max_size=6)


def test_permits_come_back_as_services_end_and_then_one_service_later():
    assert waits(5, 2, 8.0, [2.0, 5.0]) == [3.0, 6.0, 11.0, 14.0, 19.0]


def test_what_takes_longer_than_expected_is_taken_to_need_a_quarter_more():
    assert waits(2, 1, 8.0, [500.0]) == [2.0, 10.0]


def test_a_free_permit_is_there_at_once():
    assert waits(3, 2, 8.0, [2.0]) == [0.0, 6.0, 8.0]


@fast
@given(services, ages, st.integers(1, 40))
def test_further_back_is_never_sooner(service, running, count):
    etas = waits(count, max(1, len(running)), service, running)
    assert len(etas) == count
    assert etas == sorted(etas)
    assert etas[0] >= 0


@fast
@given(services, ages, st.integers(1, 40))
def test_nobody_is_told_more_than_a_service_for_each_round_of_the_workers(service, running, count):
    workers = max(1, len(running))
    for place, eta in enumerate(waits(count, workers, service, running)):
        assert eta <= (place // workers + 1) * service * (1 + ROUNDING)


@fast
@given(services, ages, st.floats(0, 100), st.integers(1, 40))
def test_while_nothing_happens_what_is_told_never_grows(service, running, later, count):
    workers = max(1, len(running))
    before = waits(count, workers, service, running)
    after = waits(count, workers, service, [age + later for age in running])
    assert all(new <= old * (1 + ROUNDING) for new, old in zip(after, before, strict=True))
