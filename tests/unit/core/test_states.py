"""The life of a task: which arrows the table has, and above all which it has not."""

from __future__ import annotations

from itertools import product

import pytest

from streaming.core import events
from streaming.core.states import TRANSITIONS, IllegalTransition, State, advance

ARROWS = {
    ("queued", "running"),
    ("queued", "error"),
    ("queued", "cancelled"),
    ("running", "queued"),
    ("running", "complete"),
    ("running", "error"),
    ("running", "cancelled"),
}
PAIRS = list(product(State, State))


def reachable(start: State) -> set[State]:
    found, new = set(), {start}
    while new:
        found |= new
        new = {target for state in new for target in TRANSITIONS[state]} - found
    return found


@pytest.mark.parametrize(("current", "target"), [pair for pair in PAIRS if pair in ARROWS])
def test_an_arrow_of_the_table_leads_to_its_target(current, target):
    assert advance(current, target) is target


@pytest.mark.parametrize(("current", "target"), [pair for pair in PAIRS if pair not in ARROWS])
def test_any_other_step_raises(current, target):
    with pytest.raises(IllegalTransition, match=f"{current} -> {target}"):
        advance(current, target)


def test_every_state_has_its_row():
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize("state", State)
def test_terminal_states_and_only_they_have_no_way_out(state):
    assert state.terminal == (state.value in {"complete", "error", "cancelled"})
    assert state.terminal == (reachable(state) == {state})


def test_every_state_is_reached_by_a_queued_task():
    assert reachable(State.QUEUED) == set(State)


def test_a_direct_task_reaches_every_end():
    assert reachable(State.RUNNING) == set(State)


@pytest.mark.parametrize("start", State)
def test_every_state_has_an_end_within_reach(start):
    assert any(state.terminal for state in reachable(start))


def test_terminal_states_are_named_as_the_terminal_events():
    assert {state.value for state in State if state.terminal} == {
        events.event_name(kind) for kind in events.ALL if kind.terminal
    }
