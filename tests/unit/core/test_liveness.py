"""A process is dead when its beat stood still while its observer could write, by the observer's clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streaming.core.liveness import PATIENCE, Observer


def look(observer: Observer, beats: dict[str, int], *times: float, able: bool = True) -> set[str]:
    """Look at the same beats at several times; what the last look says."""
    dead: set[str] = set()
    for now in times:
        dead = observer.look(beats, now, able=able)
    return dead


def test_nobody_is_dead_at_first_sight():
    assert look(Observer(), {"a": 7}, 1000.0) == set()


def test_a_beat_that_stands_still_for_the_patience_is_a_death():
    observer = Observer()
    assert look(observer, {"a": 7}, *range(5)) == set()
    assert look(observer, {"a": 7}, 5) == {"a"}


def test_a_beat_that_moves_is_life():
    observer = Observer()
    for second in range(100):
        assert look(observer, {"a": second}, second) == set()


def test_any_other_beat_is_life_also_a_smaller_one():
    observer = Observer()
    look(observer, {"a": 7}, 0, 1, 2, 3, 4)
    assert look(observer, {"a": 1}, 5) == set()


def test_time_in_which_the_observer_could_not_write_proves_nothing():
    observer = Observer()
    look(observer, {"a": 7}, 0)
    assert look(observer, {"a": 7}, *range(1, 60), able=False) == set()
    assert look(observer, {"a": 7}, *range(60, 64)) == set()
    assert look(observer, {"a": 7}, 65) == {"a"}


def test_a_pause_of_the_observer_itself_proves_nothing():
    """A laptop that slept, a loop that was held up: all beats seem to have stood still."""
    observer = Observer()
    look(observer, {"a": 7}, 0, 1)
    assert look(observer, {"a": 7}, 3600) == set()
    assert look(observer, {"a": 8}, 3601) == set()


def test_who_is_gone_from_the_table_is_forgotten():
    observer = Observer()
    look(observer, {"a": 7}, 0, 1, 2, 3, 4)
    look(observer, {}, 5)
    assert look(observer, {"a": 7}, 6) == set()


def test_each_is_judged_for_itself():
    observer = Observer()
    for second in range(5):
        look(observer, {"a": 7, "b": second}, second)
    assert look(observer, {"a": 7, "b": 5}, 5) == {"a"}


@given(st.lists(st.tuples(st.floats(0.1, 2.0), st.booleans(), st.booleans()), max_size=80))
def test_nobody_dies_whose_beat_moved_within_the_patience(steps: list[tuple[float, bool, bool]]):
    observer, now, beat, moved = Observer(), 0.0, 0, 0.0
    for pause, moves, able in steps:
        now += pause
        if moves:
            beat, moved = beat + 1, now
        dead = observer.look({"a": beat}, now, able=able)
        if now - moved < PATIENCE:
            assert dead == set()


@given(st.floats(0.1, 2.0))
def test_a_dead_process_is_found_within_two_looks_after_the_patience(pause: float):
    observer, now = Observer(), 0.0
    while now <= PATIENCE + 2 * pause:
        dead = observer.look({"a": 1}, now, able=True)
        now += pause
    assert dead == {"a"}
