"""A reader that acknowledges has at most so much in flight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.ack_window import LIMIT, AckWindow


def test_who_never_acknowledges_is_not_held():
    window = AckWindow()
    for event_id in range(1, 100):
        assert window.has_room(LIMIT)
        window.sent(event_id, LIMIT)
    assert window.unacknowledged == 0


def test_from_the_first_word_on_there_is_a_limit():
    window = AckWindow(after=7, limit=100)
    window.acknowledge(7)
    window.sent(8, 60)
    assert window.has_room(40)
    assert not window.has_room(41)
    window.sent(9, 40)
    window.acknowledge(8)
    assert window.unacknowledged == 40
    assert window.has_room(60)


def test_who_says_that_it_will_acknowledge_is_held_from_the_start():
    window = AckWindow(counting=True, limit=100)
    window.sent(1, 100)
    assert not window.has_room(1)
    window.acknowledge(1)
    assert window.has_room(100)


def test_one_event_may_be_larger_than_the_limit():
    window = AckWindow(limit=100)
    window.acknowledge(0)
    assert window.has_room(1_000)
    window.sent(1, 1_000)
    assert not window.has_room(1)
    window.acknowledge(1)
    assert window.has_room(1_000)


def test_what_was_not_sent_cannot_be_acknowledged():
    window = AckWindow(after=3)
    with pytest.raises(ValueError, match="not sent"):
        window.acknowledge(4)
    assert not window.counting


@given(
    sizes=st.lists(st.integers(1, 80), max_size=30),
    acks=st.lists(st.integers(0, 40), max_size=30),
)
def test_the_limit_holds_and_counts_what_is_in_flight(sizes, acks):
    window = AckWindow(limit=100)
    window.acknowledge(0)
    sent: dict[int, int] = {}
    acknowledged = 0
    for size in sizes:
        while not window.has_room(size):
            acknowledged = max(acknowledged, min(acks.pop() if acks else len(sent), len(sent)))
            window.acknowledge(acknowledged)
        sent[len(sent) + 1] = size
        window.sent(len(sent), size)
        in_flight = sum(each for event_id, each in sent.items() if event_id > acknowledged)
        assert window.unacknowledged == in_flight
        assert in_flight <= 100


@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 40)), max_size=60), st.integers(0, 5), st.booleans())
def test_whatever_is_acknowledged_in_whatever_order_counts_once_or_is_refused(steps, after, counting):
    window, last = AckWindow(after, counting, limit=100), after
    for sends, number in steps:
        if sends:
            last += 1
            window.sent(last, abs(number) + 1)
        elif number > last:
            before = (window.counting, window.unacknowledged)
            with pytest.raises(ValueError, match="not sent"):
                window.acknowledge(number)
            assert (window.counting, window.unacknowledged) == before
        else:
            window.acknowledge(number)
        assert window.unacknowledged >= 0
    window.acknowledge(last)
    assert window.unacknowledged == 0
    assert window.has_room(10**9)
