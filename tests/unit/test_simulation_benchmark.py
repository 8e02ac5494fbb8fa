"""The simulation of many processes: it loses nobody, waits are those of queueing theory, and its line is the
service's own."""

from __future__ import annotations

import json
import statistics
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import simulation
from benchmarks.simulation import (
    GREEDY,
    RESULTS,
    Free,
    Input,
    Line,
    Load,
    Plan,
    Simulation,
    Task,
    inputs,
    limits,
    needed,
)
from streaming.core.priority import FairQueue

STORED = json.loads((RESULTS / "simulation.json").read_text(encoding="utf-8"))

GIVEN = {
    name: Input(value, "", "")
    for name, value in {
        "pace": 50.0,
        "token": 20.0,
        "start": 1000.0,
        "service": 30.0,
        "capacity": 20_000.0,
        "events": 0.5,
        "wire": 20.0,
        "memory": 20.0,
        "process": 100_000.0,
        "segments": 1.0,
        "postgresql": 1000.0,
        "append": 10.0,
        "read": 10.0,
        "entry": 100.0,
        "redis": 0.5,
        "admission": 50.0,
    }.items()
}

SECONDS = 40.0


def task(owner: int, priority: int, arrived: float) -> Task:
    return Task(owner, priority, arrived, 1.0, 0)


# --- The line -----------------------------------------------------------------------------------------


STEP = st.tuples(
    st.integers(0, 12),
    st.sampled_from(["push", "push", "pop", "charge"]),
    st.integers(0, 3),
    st.integers(0, 2),
)


@given(st.lists(STEP, max_size=60))
def test_the_line_is_the_services_own(steps):
    fast, real = Line(5.0), FairQueue[Task](5.0)
    now = 0.0
    for passed, what, owner, priority in steps:
        now += passed / 2
        if what == "push":
            new = task(owner, priority, now)
            fast.push(new)
            real.push(new, owner, priority, now)
        elif what == "charge":
            fast.charge(task(owner, priority, now))
            real.charge(owner, priority)
        elif len(fast):
            assert fast.pop(now) is real.pop(now).payload
        assert len(fast) == len(real)
    assert [fast.pop(now) for _ in range(len(fast))] == [real.pop(now).payload for _ in range(len(real))]


def test_free_permits_are_taken_given_and_lost():
    free = Free({0: 1, 1: 2})
    free.take(0)
    assert 0 not in free
    assert 1 in free
    free.lose(1)
    assert not free
    free.give(1)
    assert not free, "who is dead has nothing to give"
    free.give(0)
    assert 0 in free


# --- The simulation -----------------------------------------------------------------------------------

CASES = {
    "room for all": (Plan(4, 5, 100, queue=50), Load(400, 4.0)),
    "too little": (Plan(4, 3, 100, queue=50), Load(400, 4.0)),
    "webs alone": (Plan(4, 0, 90, queue=50), Load(400, 4.0)),
    "a rush": (Plan(4, 5, 100, queue=500), Load(400, 4.0, per_owner=40, rush=1.0, rush_between=(20, 30))),
    "a death": (Plan(4, 5, 100, queue=500), Load(400, 4.0, lost=0.4, lost_at=20.0)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    plan, load = CASES[request.param]
    simulated = Simulation(plan, load, seed=3)
    return plan, load, simulated, simulated.run(SECONDS)


def test_everybody_is_refused_or_waits_or_runs_or_has_ended(case):
    plan, _, simulated, found = case
    states = {"refused": 0, "waiting": 0, "running": 0, "ended": 0}
    for each in found.tasks:
        assert each.granted is None or each.granted >= each.arrived
        state = (
            "refused"
            if each.refused
            else "ended"
            if each.ended
            else "running"
            if each.granted is not None
            else "waiting"
        )
        states[state] += 1
    assert states["ended"] > 1000
    assert states["waiting"] <= len(simulated._line)
    running = sum(map(len, simulated._running.values()))
    assert running == simulated._busy <= plan.permits * len(plan.runners)
    assert max(found.waiting) <= plan.queue + found.begun_anew
    if plan.workers:
        assert sum(simulated._open[: plan.webs]) == sum(simulated._open[plan.webs :]) == running


def test_nobody_waits_while_a_permit_is_free(case):
    _, _, simulated, _ = case
    assert not (simulated._free and len(simulated._line))


@pytest.mark.parametrize("case", ["room for all", "too little", "webs alone"], indirect=True)
def test_littles_law(case):
    """Those in the system on average are those who come each second, times the seconds that they stay."""
    *_, found = case
    middle = [each for each in found.tasks if each.ended and each.arrived < SECONDS / 2]
    rate = sum(not each.refused for each in found.tasks) / SECONDS
    stay = statistics.mean(each.ended - each.arrived for each in middle)
    # The longest of those who came have not ended yet when time is up.
    assert found.in_system / SECONDS == pytest.approx(rate * stay, rel=0.1)


def test_the_steady_state_is_one_from_the_beginning():
    found = Simulation(Plan(4, 10, 100), Load(500, 5.0), seed=1).run(SECONDS)
    assert statistics.mean(found.at_once[:15]) == pytest.approx(500, rel=0.1)
    assert statistics.mean(found.at_once[-15:]) == pytest.approx(500, rel=0.1)


def test_a_greedy_owner_is_refused_beyond_its_limit_and_costs_the_others_little():
    plan, load = CASES["a rush"]
    found = Simulation(plan, load, seed=3).run(SECONDS)
    greedy = [each for each in found.tasks if each.owner == GREEDY]
    others = [each for each in found.tasks if each.owner != GREEDY]
    assert {each.refused for each in greedy} == {"", "owner_limit"}
    assert sum(bool(each.refused) for each in greedy) > len(greedy) / 2
    assert not any(each.refused for each in others)


def test_what_a_dead_worker_ran_begins_anew():
    plan, load = CASES["a death"]
    found = Simulation(plan, load, seed=3).run(SECONDS)
    assert found.begun_anew > 100
    again = [each for each in found.tasks if each.attempt]
    assert again
    assert all(each.arrived == 20.0 for each in again)
    assert all(
        (each.granted or 0) + each.service == pytest.approx(each.ended) for each in again if each.ended
    )


def test_the_emptier_of_two_loads_webs_more_evenly():
    by_choice = {
        two: Simulation(Plan(20, 20, 30), Load(500, 5.0, two_choices=two), seed=2).run(SECONDS).busiest
        for two in (False, True)
    }
    assert statistics.mean(by_choice[True]) < statistics.mean(by_choice[False])


def test_the_same_seed_is_the_same_outcome():
    one, other, third = (
        [each.granted for each in Simulation(*CASES["a rush"], seed=seed).run(20.0).tasks]
        for seed in (5, 5, 6)
    )
    assert one == other != third


# --- Arithmetic ---------------------------------------------------------------------------------------


def test_limits():
    borne = limits(Plan(10, 5, 1000), GIVEN)
    assert borne == pytest.approx(
        {
            "web processor": 10 * 400,
            "worker processor": 5 * 400,
            "permits": 5000,
            # 25 events a second of 20 µs each, half of a core.
            "Redis, events": 1000,
            "Redis, line": 300_000,
            "PostgreSQL, events": 1000,
        }
    )
    assert limits(Plan(10, 5, 1000, redis=3, flush=10.0), GIVEN)["Redis, events"] == pytest.approx(3000)
    assert limits(Plan(10, 5, 1000, flush=10.0), GIVEN)["PostgreSQL, events"] == pytest.approx(10_000)
    assert set(limits(Plan(1, 0, 1000), GIVEN)) == {"web processor", "permits", "PostgreSQL, events"}


def test_what_is_needed_grows_with_the_streams():
    few, many = needed(1000, GIVEN), needed(100_000, GIVEN)
    assert many["web processes"] == 250
    assert all(many[name] >= few[name] for name in few if not name.endswith((", %", ", MiB")))


def test_each_input_has_its_source():
    found = inputs()
    assert set(found) == set(GIVEN)
    assert all(each.value >= 0 and each.unit and each.source for each in found.values())


# --- What is stored -----------------------------------------------------------------------------------


def test_the_stored_result_is_of_these_scenarios():
    plan = Plan(**STORED["plan"])
    assert list(STORED["scenarios"]) == list(simulation.scenarios(plan, 1000, 1.0, 10.0))
    assert STORED["streams"] == 100_000


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("simulation-growth.svg", set(STORED["growth"]["one of each"][0]["limits"]) - {"permits"}),
        (
            "simulation-line.svg",
            {name for name, each in STORED["scenarios"].items() if max(each["waiting"])},
        ),
    ],
)
def test_the_pictures_are_of_the_stored_result(name, shown):
    drawn = ElementTree.parse(RESULTS / name)  # noqa: S314 - our own
    words = {each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert shown
    assert shown <= words
