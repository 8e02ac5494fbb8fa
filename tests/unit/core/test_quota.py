"""The law of quotas, over any history."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.quota import (
    HOUR,
    MOST_DEBT,
    Quota,
    QuotaLimits,
    Rate,
    Spending,
    Standing,
    counted,
    exhausted,
    tokens_of,
)

from .test_sse import fast

TEN = Rate(10, 60)

histories = st.lists(
    st.tuples(st.floats(0, 40), st.integers(1, 25)),
    min_size=1,
    max_size=40,
)
"""Calls: seconds since the one before, and what each uses if it is let in."""

starts = st.floats(0, 1e9)


def at(spending: Spending, now: float, rate: Rate = TEN) -> Standing:
    return spending.standing(Quota.TOKENS, rate, now)


def let_in(history: list[tuple[float, int]], start: float) -> list[tuple[float, int]]:
    """When which calls are let in, and what they use; each is charged at once."""
    spending, now, found = Spending(), start, []
    for pause, amount in history:
        now += pause
        if not at(spending, now).spent:
            spending.charge(TEN, amount, now)
            found.append((now, amount))
    return found


@fast
@given(histories, starts)
def test_no_window_has_more_than_the_quota_and_one_overrun(history: list[tuple[float, int]], start: float):
    found = let_in(history, start)
    for first in range(len(found)):
        window = [amount for now, amount in found[first:] if now - found[first][0] <= TEN.window]
        assert sum(window[:-1]) < TEN.quota


@fast
@given(histories, starts)
def test_in_the_long_run_the_quota_holds_although_each_call_may_overrun(
    history: list[tuple[float, int]], start: float
):
    found = let_in(history, start)
    for first, (began, _) in enumerate(found):
        used = 0.0
        for now, amount in found[first:]:
            # Who is let in owes nothing: what was used before is paid by the time since, and one window.
            assert used <= TEN.quota * ((now - began) / TEN.window + 1) + 1e-3
            used += amount


@fast
@given(histories, starts)
def test_who_comes_after_the_time_that_was_told_is_let_in_and_not_before(
    history: list[tuple[float, int]], start: float
):
    spending, now = Spending(), start
    for pause, amount in history:
        now += pause
        told = at(spending, now)
        assert told.remaining >= 0
        assert told.retry_after is not None
        assert told.whole_after is not None
        assert 0 <= told.retry_after <= (MOST_DEBT + 1 + 1 / 60) * TEN.window + 1e-3
        if told.spent:
            assert at(spending, now + told.retry_after * 0.99 - 1e-3).spent or told.retry_after < 1e-2
            now += told.retry_after + 1e-3
            assert not at(spending, now).spent
        spending.charge(TEN, amount, now)
        whole = at(spending, now).whole_after
        assert whole is not None
        later = now + whole + 1e-3
        copy = Spending(dict(spending.used), spending.paid)
        assert at(copy, later).remaining == TEN.quota, "the whole quota is there when it was told"
        assert copy.idle(TEN, later)


@fast
@given(st.lists(st.integers(1, 30), max_size=8), starts)
def test_what_was_charged_too_much_is_given_back(amounts: list[int], start: float):
    spending = Spending()
    for amount in amounts:
        spending.charge(TEN, amount, start)
    spending.charge(TEN, -sum(amounts), start)
    assert not spending.used
    assert at(spending, start).remaining == 10


def test_a_debt_is_bounded():
    spending = Spending()
    spending.charge(TEN, 1e12, 0)
    retry_after = at(spending, 0).retry_after
    assert retry_after == MOST_DEBT * TEN.window
    assert not at(spending, retry_after + 0.01).spent


def test_a_debt_is_paid_at_the_rate_of_the_quota():
    spending = Spending()
    spending.charge(TEN, 30, 0)
    assert at(spending, 0).retry_after == pytest.approx(120)
    assert at(spending, 100).retry_after == pytest.approx(20)
    assert at(spending, 100).remaining == 0
    assert at(spending, 120.1).remaining == 1
    assert at(spending, 150).remaining == 5
    assert at(spending, 180).remaining == 10


def test_what_is_out_of_the_window_can_be_used_again():
    spending = Spending()
    remaining = []
    for second in (0, 20, 40):
        spending.charge(TEN, 3, second)
        remaining.append(at(spending, second).remaining)
    assert remaining == [7, 4, 1]
    assert at(spending, 60.5).remaining == 1, "not before all of its slot is out"
    assert at(spending, 61).remaining == 4
    assert at(spending, 101).remaining == 10


def test_a_fresh_owner_has_all_of_it():
    assert at(Spending(), 5) == Standing(Quota.TOKENS, 10, 10, 0.0, 60.0, 60.0)


@fast
@given(histories)
def test_an_owner_costs_few_numbers(history: list[tuple[float, int]]):
    spending, now = Spending(), 0.0
    for pause, amount in history * 10:
        now += pause
        spending.charge(TEN, amount, now)
    assert len(spending.used) <= 62


def test_limits_that_are_not_set_are_none():
    assert not QuotaLimits().set
    limits = QuotaLimits(streams=2, kernel_seconds_per_hour=30)
    assert limits.set
    assert limits.counts == {Quota.STREAMS: 2}
    assert limits.rates == {Quota.KERNEL_SECONDS: Rate(30, HOUR)}


def test_the_quota_that_lets_nobody_in_for_longest_is_the_one_that_is_told():
    tokens = Standing(Quota.TOKENS, 10, 0, 5.0, 60.0, 60.0)
    kernel = Standing(Quota.KERNEL_SECONDS, 10, 0, 900.0, 3600.0, 3600.0)
    streams = counted(Quota.STREAMS, 3, 5)
    assert streams.remaining == 0
    assert exhausted({each.quota: each for each in (streams, tokens, kernel)}) is kernel
    assert exhausted({Quota.STREAMS: streams}) is streams
    assert exhausted({Quota.STREAMS: counted(Quota.STREAMS, 3, 2)}) is None


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}, 12),
        ({"prompt_tokens": 7, "completion_tokens": 5}, 12),
        ({"input_tokens": 7, "output_tokens": 5}, 12),
        ({"completion_tokens": 5}, 5),
        ({"total_tokens": -1}, None),
        ({"total_tokens": 10**12}, None),
        ({"total_tokens": True}, None),
        ({"total_tokens": "12"}, None),
        ({"total_tokens": math.inf}, None),
        ({}, None),
        (None, None),
    ],
)
def test_tokens_are_those_that_a_provider_tells(usage: dict[str, Any] | None, tokens: int | None):
    assert tokens_of(usage) == tokens


def test_the_clock_may_stand_still():
    spending = Spending()
    seen = []
    for _ in range(5):
        spending.charge(TEN, 4, 100)
        seen.append(at(spending, 100).retry_after)
    assert all(a <= b for a, b in pairwise(seen) if a is not None and b is not None)
