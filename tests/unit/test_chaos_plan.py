"""The plan of a round of `make chaos`: the same from the same seed, and of a size that a round can have."""

from __future__ import annotations

from itertools import chain

import pytest

from tests.chaos.faults import TABLE, kinds
from tests.chaos.plan import Mode, Plan, Scale, draw

SCALE = Scale(clients=40, seconds=6.0, faults=3, herd=200)


def plans(mode: Mode, seed: int, count: int = 50) -> list[Plan]:
    return [draw(mode, seed, number, kinds(mode), 2, SCALE) for number in range(1, count + 1)]


def test_a_round_is_repeatable_by_seed_and_number():
    assert plans("cluster", 1) == plans("cluster", 1)
    assert plans("cluster", 1)[7] == draw("cluster", 1, 8, kinds("cluster"), 2, SCALE)
    assert plans("cluster", 1) != plans("cluster", 2)


@pytest.mark.parametrize("mode", ["embedded", "processes", "cluster"])
def test_fifty_rounds_meet_every_fault_of_the_mode_and_no_other(mode: Mode):
    met = {strike.kind for plan in plans(mode, 3) for strike in plan.strikes}
    assert met == {name for name, fault in TABLE.items() if mode in fault.modes}


def test_every_fault_says_what_it_does_and_for_which_rows():
    for fault in TABLE.values():
        assert fault.harm.__doc__
        assert all(row.startswith("R") for row in fault.rows.split())


def test_calls_are_of_all_kinds_and_short_enough():
    clients = list(chain.from_iterable(plan.clients for plan in plans("processes", 4)))
    assert {client.way for client in clients} == {"stream", "socket", "later"}
    assert {client.line for client in clients} == {"clean", "cut", "slow", "sliced"}
    assert all(client.call.seconds <= SCALE.longest for client in clients)
    assert all(client.call.key for client in clients if client.twin)
    for wanted in ("by_model", "leaves", "key", "fails_after", "cancelled_at"):
        assert any(getattr(client.call, wanted) for client in clients), wanted


def test_names_of_calls_are_of_one_round_alone():
    names = [client.call.name for plan in plans("processes", 5) for client in plan.clients]
    assert len(set(names)) == len(names)
