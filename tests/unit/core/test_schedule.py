"""The adaptive schedule for what only polling can see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.schedule import PollSchedule

from .test_sse import fast

DEFAULT = PollSchedule(base=0.1, steps=[(1, 0.5), (5, 1), (None, 2)])


@pytest.mark.parametrize(
    ("age", "pause"), [(0, 0.05), (0.999, 0.05), (1, 0.1), (4.999, 0.1), (5, 0.2), (86_400, 0.2)]
)
def test_the_default_looks_often_at_young_things(age, pause):
    assert DEFAULT.pause(age) == pytest.approx(pause)


def test_one_open_step_is_a_constant_pause():
    assert PollSchedule(base=2.0, steps=[(None, 3)]).pause(0) == 6.0


def test_steps_may_be_lists_as_settings_write_them():
    assert PollSchedule(base=1.0, steps=[[1, 0.5], [None, 2]]).pause(0.5) == 0.5  # type: ignore[list-item]


@fast
@given(
    st.lists(st.floats(0.001, 1e6), max_size=5, unique=True).map(sorted),
    st.lists(st.floats(0.001, 100), min_size=6, max_size=6),
    st.floats(0, 1e7),
)
def test_every_age_has_the_pause_of_its_step(ages, factors, age):
    schedule = PollSchedule(base=1.0, steps=list(zip([*ages, None], factors, strict=False)))
    assert schedule.pause(age) == factors[sum(limit <= age for limit in ages)]


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([], "the last step"),
        ([(1, 1)], "the last step"),
        ([(None, 1), (None, 2)], "the last step"),
        ([(None, 1), (1, 2)], "the last step"),
        ([(5, 1), (1, 1), (None, 2)], "rise"),
        ([(1, 1), (1, 2), (None, 2)], "rise"),
        ([(1, 0), (None, 2)], "positive"),
        ([(1, 1), (None, -1)], "positive"),
    ],
)
def test_a_schedule_that_has_no_answer_or_two_is_refused(steps, why):
    with pytest.raises(ValueError, match=why):
        PollSchedule(base=0.1, steps=steps)


@pytest.mark.parametrize("base", [0, -0.1])
def test_a_pause_that_would_spin_is_refused(base):
    with pytest.raises(ValueError, match="positive"):
        PollSchedule(base=base, steps=[(None, 1)])
