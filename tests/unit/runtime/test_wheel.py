"""One timer for everything, on a fake clock."""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.runtime.wheel import RESOLUTION, TimerWheel


class FakeTimer:
    def __init__(self, when, callback):
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


class FakeLoop:
    """A clock, and timers that fire when it is moved."""

    def __init__(self, now=100.0):
        self.now = now
        self.timers = []
        self.set_timers = 0

    def time(self):
        return self.now

    def call_later(self, delay, callback):
        assert delay >= 0
        self.set_timers += 1
        timer = FakeTimer(self.now + delay, callback)
        self.timers.append(timer)
        return timer

    @property
    def armed(self):
        return [timer for timer in self.timers if not timer.cancelled]

    def move_to(self, now):
        """Fire what is due until then, each timer at its time."""
        while due := [timer for timer in self.armed if timer.when <= now]:
            timer = min(due, key=lambda each: each.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.callback()
        self.now = max(self.now, now)


@pytest.fixture
def loop():
    return FakeLoop()


@pytest.fixture
def wheel(loop):
    return TimerWheel(loop, loop.time)


def test_runs_once_not_early_and_at_most_a_tick_late(loop, wheel):
    ran = []
    wheel.at(102.34, lambda: ran.append(loop.now))
    loop.move_to(102.33)
    assert ran == []
    loop.move_to(110)
    assert len(ran) == 1
    assert 102.34 <= ran[0] <= 102.34 + RESOLUTION + 1e-6


def test_callbacks_of_one_tick_share_one_timer(loop, wheel):
    ran = []
    for number in range(10_000):
        wheel.at(130.0 + number * 1e-7 + 0.01, lambda number=number: ran.append(number))
    assert len(loop.armed) == loop.set_timers == 1
    loop.move_to(131)
    assert ran == list(range(10_000))
    assert loop.armed == []


def test_an_earlier_callback_moves_the_timer(loop, wheel):
    ran = []
    wheel.at(150.0, lambda: ran.append("late"))
    wheel.at(110.0, lambda: ran.append("early"))
    assert len(loop.armed) == 1
    loop.move_to(111)
    assert ran == ["early"]
    loop.move_to(151)
    assert ran == ["early", "late"]


def test_order_of_due_times_after_a_long_hold_up(loop, wheel):
    """The loop was busy: everything that is due runs at once, in order."""
    ran = []
    for when in (103.0, 101.0, 102.0):
        wheel.at(when, lambda when=when: ran.append(when))
    (timer,) = loop.armed
    loop.timers.remove(timer)
    loop.now = 120.0
    timer.callback()
    assert ran == [101.0, 102.0, 103.0]


def test_a_callback_may_ask_again(loop, wheel):
    ran = []

    def again():
        ran.append(loop.now)
        if len(ran) < 5:
            wheel.at(loop.now + 1, again)

    wheel.at(101.0, again)
    loop.move_to(200)
    assert len(ran) == 5
    assert all(1 <= later - earlier <= 1 + RESOLUTION + 1e-6 for earlier, later in itertools.pairwise(ran))
    assert loop.armed == []


def test_a_callback_that_asks_for_at_once_gets_the_next_tick(loop, wheel):
    """Not the same run of the timer, which would never end."""
    ran = []

    def again():
        ran.append(loop.now)
        assert len(ran) < 1_000
        wheel.at(loop.now, again)

    wheel.at(104.0, again)
    loop.move_to(105.05)
    assert 10 <= len(ran) <= 12


def test_the_past_is_due_at_once(loop, wheel):
    ran = []
    wheel.at(5.0, lambda: ran.append(1))
    loop.move_to(loop.now)
    assert ran == [1]


def test_one_broken_callback_silences_nobody(loop, wheel, caplog):
    ran = []

    def broken():
        raise ValueError("broken")

    wheel.at(101.0, broken)
    wheel.at(101.0, lambda: ran.append("same tick"))
    wheel.at(102.0, lambda: ran.append("later"))
    loop.move_to(103)
    assert ran == ["same tick", "later"]
    assert "a timer callback failed" in caplog.text


def test_a_timer_that_fires_early_waits_on(loop, wheel):
    """uvloop rounds to milliseconds."""
    ran = []
    wheel.at(101.0, lambda: ran.append(1))
    (timer,) = loop.armed
    loop.timers.remove(timer)
    loop.now = timer.when - 0.0004
    timer.callback()
    assert ran == []
    loop.move_to(102)
    assert ran == [1]


def test_close_forgets_everything(loop, wheel):
    wheel.at(101.0, lambda: pytest.fail("closed"))
    wheel.close()
    assert loop.armed == []
    loop.move_to(110)
    wheel.close()


@settings(deadline=None, database=None, max_examples=300)
@given(st.integers(1, 10**8), st.integers(-2, 2))
def test_never_early_by_a_rounding_error(number, steps):
    """A reader's callback that comes too early is not asked again: it would stay deaf."""
    when = number * RESOLUTION
    for _ in range(abs(steps)):
        when = math.nextafter(when, math.inf if steps > 0 else -math.inf)
    loop: Any = FakeLoop(now=max(when - 1, 0.0))
    ran = []
    TimerWheel(loop, loop.time).at(when, lambda: ran.append(loop.now))
    while not ran:
        loop.move_to(math.nextafter(min(timer.when for timer in loop.armed), math.inf))
    assert when <= ran[0] <= when + RESOLUTION * 1.001


async def test_on_the_real_loop():
    wheel = TimerWheel(asyncio.get_running_loop())
    loop = asyncio.get_running_loop()
    ran = loop.create_future()
    wheel.at(loop.time() + 0.01, lambda: ran.set_result(None))
    async with asyncio.timeout(10):
        await ran
    wheel.close()
