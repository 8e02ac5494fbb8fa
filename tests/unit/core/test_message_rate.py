"""A socket takes so many messages a second, warns once, and closes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streaming.core.message_rate import BURST, RATE, TOLERANCE, MessageRate, Verdict


def test_a_burst_is_fine_then_one_warning_then_the_end():
    rate = MessageRate(0.0)
    verdicts = [rate.spend(0.0) for _ in range(BURST + TOLERANCE + 1)]
    assert verdicts[:BURST] == [Verdict.FINE] * BURST
    assert verdicts[BURST] is Verdict.WARN
    assert verdicts[BURST + 1 : -1] == [Verdict.FINE] * (TOLERANCE - 1)
    assert verdicts[-1] is Verdict.CLOSE


def test_the_rate_may_be_kept_for_ever():
    rate = MessageRate(0.0)
    assert {rate.spend(n / RATE) for n in range(5_000)} == {Verdict.FINE}


def test_who_rested_is_warned_again():
    rate = MessageRate(0.0)
    for _ in range(BURST):
        rate.spend(0.0)
    assert rate.spend(0.0) is Verdict.WARN
    assert rate.spend(0.0) is Verdict.FINE
    later = [rate.spend(60.0) for _ in range(BURST + 1)]
    assert later.count(Verdict.WARN) == 1


@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.02]) | st.floats(0, 5), min_size=1, max_size=600))
def test_nobody_says_more_than_the_rate_and_what_is_tolerated_allow(pauses):
    rate, now = MessageRate(0.0), 0.0
    times: list[float] = []
    for pause in pauses:
        now += pause
        if rate.spend(now) is Verdict.CLOSE:
            break
        times.append(now)
        assert len(times) <= BURST + TOLERANCE + RATE * now + 1e-6


@given(st.lists(st.floats(1 / RATE, 1), max_size=200))
def test_nobody_who_keeps_to_the_rate_is_warned(pauses):
    rate, now = MessageRate(0.0), 0.0
    for pause in pauses:
        now += pause
        assert rate.spend(now) is Verdict.FINE
