"""Raised once, resolved once: the machine that decides, with a clock of the test's own."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.alerts import (
    FLAPPING,
    QUIET,
    RELEASE,
    Change,
    Kind,
    Phase,
    Reading,
    Rule,
    State,
    calm_needed,
    reconciled,
    step,
)

from .test_sse import fast

RULE = Rule("late", Kind.FIRST_CONTENT, threshold=5.0, hold=60, calm=120, min_count=20)

HIGH, LOW, BETWEEN = Reading(6.0, 100), Reading(1.0, 100), Reading(4.8, 100)


def run(rule: Rule, *looks: tuple[float, Reading], state: State = QUIET) -> list[tuple[float, Change]]:
    """What is told, and when."""
    told = []
    for now, reading in looks:
        state, change = step(rule, state, reading, now)
        if change is not None:
            told.append((now, change))
    return told


def test_an_alert_is_raised_when_the_number_has_been_too_high_for_long_enough():
    looks = [(float(now), HIGH) for now in range(0, 300, 15)]
    assert run(RULE, *looks) == [(60.0, Change.RAISED)]


def test_a_short_peak_is_no_alert():
    assert run(RULE, (0, HIGH), (45, HIGH), (50, LOW), (55, HIGH), (110, HIGH), (114, HIGH)) == []


def test_without_hold_it_is_raised_at_once():
    assert run(dataclasses.replace(RULE, hold=0), (0, HIGH)) == [(0, Change.RAISED)]


def test_it_is_resolved_when_the_number_has_been_low_for_long_enough():
    looks = [(0.0, HIGH), (60.0, HIGH), (75.0, LOW), (150.0, LOW), (194.0, LOW), (195.0, LOW), (400.0, LOW)]
    assert run(RULE, *looks) == [(60, Change.RAISED), (195, Change.RESOLVED)]


def test_just_below_the_threshold_is_neither():
    """It neither raises nor resolves, and interrupts the calm."""
    assert run(RULE, *((float(now), BETWEEN) for now in range(0, 600, 15))) == []
    looks = [
        (0.0, HIGH),
        (60.0, HIGH),
        (70.0, LOW),
        (180.0, BETWEEN),
        (200.0, LOW),
        (310.0, LOW),
        (320.0, LOW),
    ]
    assert run(RULE, *looks) == [(60, Change.RAISED), (320, Change.RESOLVED)]


@pytest.mark.parametrize("few", [Reading(99.0, 19), Reading(None, 0), Reading(None)])
def test_what_nobody_can_tell_is_no_alert(few: Reading):
    assert run(RULE, *((float(now), few) for now in range(0, 600, 15))) == []


def test_an_alert_about_which_nobody_can_tell_any_more_is_resolved():
    silence = Reading(None, 0)
    looks = [(0.0, HIGH), (60.0, HIGH), (75.0, silence), (195.0, silence)]
    assert run(RULE, *looks)[-1] == (195, Change.RESOLVED)


def test_a_number_that_comes_and_goes_is_told_of_ever_more_seldom():
    """Three quarters of an hour up and down: without damping that were a raising each time."""
    rule = dataclasses.replace(RULE, hold=0, calm=30)
    swings = [(float(now), HIGH if (now // 60) % 2 else LOW) for now in range(0, 2700, 10)]
    told = run(rule, *swings)
    raised = [now for now, change in told if change is Change.RAISED]
    assert len(raised) == 2, "the calm of a minute is enough once"
    assert [change for _, change in run(rule, *swings, (10_000, LOW), (14_000, LOW))][-1] is Change.RESOLVED


@pytest.mark.parametrize(
    ("raisings", "seconds"), [(0, 120), (1, 120), (2, 240), (3, 480), (6, FLAPPING), (40, FLAPPING)]
)
def test_the_calm_doubles_with_each_raising_within_an_hour(raisings: int, seconds: float):
    assert calm_needed(RULE, tuple(float(each) for each in range(raisings))) == seconds


def test_a_calm_that_is_asked_for_is_never_shortened():
    assert calm_needed(dataclasses.replace(RULE, calm=2 * FLAPPING), (1.0, 2.0)) == 2 * FLAPPING


def test_a_clock_that_is_set_back_shortens_nothing():
    assert run(RULE, (1000, HIGH), (10, HIGH), (69, HIGH), (70, HIGH)) == [(70, Change.RAISED)]


def test_the_record_wins():
    assert reconciled(QUIET, 5.0).phase is Phase.FIRING
    assert reconciled(State(Phase.FIRING, 5.0, (5.0,)), None) == State(Phase.QUIET, 5.0, (5.0,))
    for phase in Phase:
        state = State(phase, 5.0)
        assert reconciled(state, 5.0 if phase.open else None) == state


# Whatever happens

readings = st.builds(
    Reading,
    st.none() | st.floats(0, 10, allow_nan=False),
    st.none() | st.integers(0, 40),
)
rules = st.builds(
    Rule,
    st.just("rule"),
    st.sampled_from(Kind),
    threshold=st.floats(0, 9),
    hold=st.sampled_from([0.0, 5.0, 60.0]),
    calm=st.sampled_from([1.0, 30.0, 120.0]),
    min_count=st.integers(1, 30),
)
# Clocks jump, too.
looks = st.lists(st.tuples(st.floats(-30, 600), readings), max_size=60)


def _times(steps: list[tuple[float, Reading]]) -> list[tuple[float, Reading]]:
    now, made = 1_000_000.0, []
    for passed, reading in steps:
        now += passed
        made.append((now, reading))
    return made


@fast
@given(rules, looks)
def test_no_two_raisings_without_a_resolving_between(rule: Rule, steps: list[tuple[float, Reading]]):
    told = [change for _, change in run(rule, *_times(steps))]
    assert told == [Change.RAISED, Change.RESOLVED] * (len(told) // 2) + [Change.RAISED] * (len(told) % 2)


@fast
@given(rules, looks)
def test_a_raising_has_its_reason_and_a_resolving_has_none(rule: Rule, steps: list[tuple[float, Reading]]):
    state = QUIET
    for now, reading in _times(steps):
        before = state
        state, change = step(rule, state, reading, now)
        assert state.phase.open == (before.phase.open if change is None else change is Change.RAISED)
        if change is Change.RAISED:
            assert reading.known(rule)
            assert reading.value is not None
            assert reading.value > rule.threshold
            assert before.phase is Phase.PENDING or rule.hold == 0
        if change is Change.RESOLVED:
            assert not reading.known(rule) or (reading.value or 0.0) <= rule.threshold * RELEASE
            assert before.phase is Phase.CALMING


@fast
@given(rules, st.lists(st.tuples(st.floats(0, 600), readings), max_size=60))
def test_messages_within_an_hour_are_bounded(rule: Rule, steps: list[tuple[float, Reading]]):
    """Of those within an hour all but the last were resolved, each after twice the calm of the last."""
    raised = [now for now, change in run(rule, *_times(steps)) if change is Change.RAISED]
    for start in raised:
        within = [now for now in raised if start <= now < start + FLAPPING]
        assert sum(rule.calm * 2**number for number in range(len(within) - 1)) <= FLAPPING


@fast
@given(rules, looks)
def test_looks_that_are_told_twice_change_nothing(rule: Rule, steps: list[tuple[float, Reading]]):
    """Two processes that both look at the same moment, one after the other."""
    state = QUIET
    for now, reading in _times(steps):
        state, _ = step(rule, state, reading, now)
        if state.phase is not Phase.QUIET or not reading.above(rule):
            again, change = step(rule, state, reading, now)
            assert change is None
            assert again.phase.open == state.phase.open
