"""When a follower hears of its task: on news at once, of its position each second, otherwise seldom."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.throttle import POSITION_INTERVAL, StatusThrottle

from .test_sse import fast

STEP = 1 / 64
Told = tuple[float, str, str, int | None]

times = st.integers(0, 20 * 64).map(lambda step: step * STEP)
positions = st.dictionaries(times, st.integers(1, 30), max_size=30)


class World:
    """A task whose standing changes at known times, and a follower who asks at times of its choice."""

    def __init__(self, interval: float, changes: dict[float, tuple[str, str, int | None]]) -> None:
        self.throttle = StatusThrottle(interval)
        self.changes = sorted(changes.items())
        self.told: list[Told] = []

    def standing(self, now: float) -> tuple[str, str, int | None]:
        return [standing for at, standing in self.changes if at <= now][-1]

    def ask(self, now: float) -> None:
        standing = self.standing(now)
        if self.throttle.wants(*standing, now):
            self.told.append((now, *standing))

    def densely(self, until: float) -> list[Told]:
        for step in range(int(until / STEP) + 1):
            self.ask(step * STEP)
        return self.told

    def when_due(self, until: float) -> list[Told]:
        """As the follower does: on each change, and when the throttle says so."""
        pending = [at for at, _ in self.changes]
        now = 0.0
        while now <= until:
            while pending and pending[0] <= now:
                pending.pop(0)
            self.ask(now)
            following = [at for at in (self.throttle.due, *pending[:1]) if at is not None]
            if not following:
                break
            assert min(following) > now, "a due time that has passed would make the follower spin"
            now = min(following)
        return self.told


def queued(at: dict[float, int]) -> dict[float, tuple[str, str, int | None]]:
    return {time: ("queued", "queued", position) for time, position in ({0.0: 31} | at).items()}


@pytest.mark.parametrize("how", ["densely", "when_due"])
def test_ten_silent_seconds_give_two_or_three_messages(how):
    world = World(5.0, {0.0: ("running", "direct", None)})
    assert 2 <= len(getattr(world, how)(10.0)) <= 3


def test_dense_asking_tells_no_more_than_asking_when_due():
    dense = World(5.0, queued({0.5: 4, 3.0: 2})).densely(20.0)
    assert dense == World(5.0, queued({0.5: 4, 3.0: 2})).when_due(20.0)


def test_the_first_message_leaves_at_once():
    throttle = StatusThrottle(5.0)
    assert throttle.due == 0.0
    assert throttle.wants("queued", "queued", 3, 1234.5)


def test_the_same_again_is_not_wanted():
    throttle = StatusThrottle(5.0)
    throttle.wants("queued", "queued", 3, 0.0)
    assert not throttle.wants("queued", "queued", 3, 0.0)


@pytest.mark.parametrize(
    ("state", "route", "position"), [("running", "queued", None), ("queued", "direct", 3)]
)
def test_a_change_of_state_or_route_is_told_at_once(state, route, position):
    throttle = StatusThrottle(5.0)
    throttle.wants("queued", "queued", 3, 0.0)
    assert throttle.wants(state, route, position, 0.0)


def test_a_change_is_told_while_content_flows():
    throttle = StatusThrottle(5.0)
    throttle.wants("running", "queued", None, 0.0)
    throttle.content_flowed(1.0)
    assert throttle.wants("cancelled", "queued", None, 1.0)


def test_a_new_state_takes_the_pending_position_along():
    throttle = StatusThrottle(0.0)
    throttle.wants("queued", "queued", 3, 0.0)
    assert not throttle.wants("queued", "queued", 2, 0.5)
    assert throttle.wants("running", "queued", None, 0.6)
    assert throttle.due is None


@fast
@given(positions, st.sampled_from([0.0, 0.5, 5.0]), st.booleans())
def test_messages_about_the_position_are_at_least_a_second_apart(at, interval, dense):
    world = World(interval, queued(at))
    told = world.densely(30.0) if dense else world.when_due(30.0)
    news = [(later[0] - earlier[0]) for earlier, later in pairwise(told) if later[3] != earlier[3]]
    assert all(gap >= POSITION_INTERVAL for gap in news)


@fast
@given(positions, st.sampled_from([0.0, 0.5, 5.0]), st.booleans())
def test_the_latest_position_is_told_within_a_second(at, interval, dense):
    world = World(interval, queued(at))
    last_change = world.changes[-1][0]
    told = world.densely(30.0) if dense else world.when_due(30.0)
    final = world.standing(30.0)[2]
    assert [each[3] for each in told if each[0] <= last_change + POSITION_INTERVAL][-1] == final


def test_a_position_that_came_back_is_no_news():
    throttle = StatusThrottle(0.0)
    throttle.wants("queued", "queued", 3, 0.0)
    throttle.wants("queued", "queued", 4, 0.2)
    assert not throttle.wants("queued", "queued", 3, 0.4)
    assert throttle.due is None
    assert not throttle.wants("queued", "queued", 3, 2.0)


def test_a_position_that_changed_long_after_the_last_message_is_told_at_once():
    throttle = StatusThrottle(5.0)
    throttle.wants("queued", "queued", 3, 0.0)
    assert throttle.wants("queued", "queued", 2, 2.0)


@fast
@given(st.lists(st.integers(1, 4 * 64), min_size=1, max_size=20))
def test_nothing_is_told_while_content_flows(gaps):
    """Content comes after less than the interval each time; the follower asks at every step of the clock."""
    throttle = StatusThrottle(5.0)
    throttle.wants("running", "direct", None, 0.0)
    step = 0
    for gap in gaps:
        assert not any(throttle.wants("running", "direct", None, (step + i) * STEP) for i in range(gap + 1))
        step += gap
        throttle.content_flowed(step * STEP)


def test_silence_is_counted_from_the_last_content():
    throttle = StatusThrottle(5.0)
    throttle.wants("running", "direct", None, 0.0)
    throttle.content_flowed(3.0)
    assert throttle.due == 8.0
    assert not throttle.wants("running", "direct", None, 7.5)
    assert throttle.wants("running", "direct", None, 8.0)


def test_without_interval_only_changes_are_told():
    changes = {0.0: ("queued", "queued", 1), 3.0: ("running", "queued", None)}
    assert [at for at, *_ in World(0.0, changes).densely(60.0)] == [0.0, 3.0]


def test_without_interval_and_change_there_is_no_due_time():
    throttle = StatusThrottle(0.0)
    throttle.wants("running", "direct", None, 0.0)
    assert throttle.due is None
