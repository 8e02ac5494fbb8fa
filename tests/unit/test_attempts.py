"""The bounds of password checks: who is let in, who waits, who is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event, Lock

import pytest

from accounts.attempts import TRIES, WINDOW, Busy, Checks, Failures


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_so_many_failures_are_free_and_then_one_waits():
    clock = Clock()
    failures = Failures(clock)
    for _ in range(TRIES):
        assert failures.wait("alice") == 0
        failures.note("alice")
    assert failures.wait("alice") == pytest.approx(WINDOW / TRIES)
    assert failures.wait("bob") == 0
    assert failures.wait("bob", "alice") == pytest.approx(WINDOW / TRIES), "either of them is enough"
    clock.now += WINDOW / TRIES / 2
    assert failures.wait("alice") == pytest.approx(WINDOW / TRIES / 2)


def test_tries_come_back_one_by_one_and_no_more_than_there_were():
    clock = Clock()
    failures = Failures(clock, tries=3, window=30)
    for _ in range(5):
        failures.note("alice")
    clock.now += 10.001
    assert failures.wait("alice") == 0
    failures.note("alice")
    assert failures.wait("alice") > 9
    clock.now += 100_000
    for _ in range(3):
        assert failures.wait("alice") == 0
        failures.note("alice")
    assert failures.wait("alice") > 9


def test_no_flood_of_names_fills_the_memory():
    clock = Clock()
    failures = Failures(clock, tries=1, max_known=100)
    failures.note("here")
    for number in range(1000):
        failures.note(number)
        failures.note("here")
    assert len(failures) == 100
    assert failures.wait("here") > 0, "who goes on failing is not forgotten"
    assert failures.wait(999) > 0
    assert failures.wait(0) == 0


def test_asking_remembers_nobody():
    failures = Failures(Clock())
    failures.wait("alice", "bob")
    assert len(failures) == 0


def test_a_few_are_checked_at_once_a_few_wait_and_the_others_are_refused():
    checks = Checks(at_once=2, in_line=2, patience=60)
    go, entered, lock = Event(), Event(), Lock()
    inside = most = 0

    def check() -> None:
        nonlocal inside, most
        with checks.place():
            with lock:
                inside += 1
                most = max(most, inside)
                if inside == 2:
                    entered.set()
            assert go.wait(60)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(10) as threads:
        calls = [threads.submit(check) for _ in range(10)]
        try:
            assert entered.wait(60)
            # Four have a place; the other six were refused at once, or will be.
            refused = [call for call in calls if isinstance(_error(call), Busy)]
        finally:
            go.set()
    assert most == 2
    errors = [call.exception() for call in calls]
    assert len(refused) <= sum(isinstance(error, Busy) for error in errors) <= 6
    with checks.place():
        pass


def _error(call: object) -> object:
    with suppress(Exception):
        return call.exception(1)  # type: ignore[attr-defined]
    return None


def test_a_line_that_does_not_move_is_left():
    checks = Checks(at_once=1, in_line=1, patience=0)
    with checks.place(), pytest.raises(Busy), checks.place():
        pass
    with checks.place():
        pass


def test_a_full_line_refuses_and_a_check_that_fails_gives_its_place_back():
    checks = Checks(at_once=1, in_line=0, patience=60)
    with checks.place(), pytest.raises(Busy), checks.place():
        pass
    with pytest.raises(ZeroDivisionError), checks.place():
        raise ZeroDivisionError
    with checks.place():
        pass
