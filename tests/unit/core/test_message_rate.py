"""A socket takes so many messages a second, warns once, and closes."""

from __future__ import annotations

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
