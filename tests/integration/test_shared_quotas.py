"""Quotas over all processes, on a real Redis, beside the law of `core/quota.py` as the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.core.quota import RATES, Quota, QuotaLimits, Spending
from streaming.runtime.quota_news import LEASE, Answered, Asked, News
from streaming.runtime.redis import quotas
from streaming.runtime.redis.quotas import SharedQuotas
from tests.support.redis import RedisServer
from tests.support.shared_pools import Direct, now

pytestmark = pytest.mark.server

LIMITS = QuotaLimits(
    streams=3, places=2, tokens_per_minute=10, bytes_per_minute=100, kernel_seconds_per_hour=20
)
START = 1_800_000_000.0

histories = st.lists(
    st.tuples(st.floats(0, 50), st.sampled_from(RATES), st.integers(-30, 60)), min_size=1, max_size=30
)
"""Seconds since the one before; what was used, or was charged too much, of which quota."""


class Named(Direct):
    """One that names keys, too."""

    def key(self, *parts: str) -> str:
        return ":".join((self.prefix, *parts))


@pytest.fixture(scope="module")
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url(), socket_timeout=10) as made:
        yield made


class Owner:
    """One owner of a Redis of its own, at times that the test says."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = Named(client)
        self.shared = SharedQuotas(self.redis, LIMITS, 300)  # type: ignore[arg-type]
        self.time = START

    def ask(self, name: str, *quotas: Quota, waits: bool = False, news: News | None = None) -> Answered:
        asked = Asked(name, waits, quotas or tuple(Quota))
        return now(self.shared.ask("somebody", news or News(), asked, now=self.time))


def same(told: Any, expected: Any) -> bool:
    return bool(told == pytest.approx(expected, abs=1e-3))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(histories)
def test_all_processes_charge_as_one_does(client: redis.Redis, history: list[tuple[float, Quota, int]]):
    owner, model = Owner(client), {quota: Spending() for quota in RATES}
    for number, (pause, quota, amount) in enumerate(history):
        owner.time += pause
        news = News()
        news.add(quota, amount)
        rate = LIMITS.rates[quota]
        model[quota].charge(rate, amount, owner.time)
        answer = owner.ask(str(number), *RATES, news=news)
        standings = [model[each].standing(each, LIMITS.rates[each], owner.time) for each in RATES]
        told = [answer.spent[each].standing(each, LIMITS.rates[each], answer.now) for each in RATES]
        for one, other in zip(told, standings, strict=True):
            assert same(one.retry_after, other.retry_after)
            assert same(one.whole_after, other.whole_after)
            assert abs(one.remaining - other.remaining) <= 1, "a rounding of the last digit"
        if all(not each.retry_after or each.retry_after > 1e-3 for each in standings):
            assert answer.admitted == (not any(each.spent for each in standings))


def test_streams_and_places_are_taken_in_the_step_that_asks(client: redis.Redis):
    owner = Owner(client)
    answers = [owner.ask(name, waits=name != "a") for name in "abcd"]
    assert [each.admitted for each in answers] == [True, True, True, False]
    assert [each.in_use[Quota.STREAMS] for each in answers] == [0, 1, 2, 3]
    news = News()
    news.leaves("a")
    assert not owner.ask("e", waits=True, news=news).admitted, "two places are taken"
    assert owner.ask("f", Quota.STREAMS).admitted


def test_what_a_dead_process_leaves_behind_counts_no_longer_than_its_lease(client: redis.Redis):
    owner = Owner(client)
    for name in "abc":
        owner.ask(name)
    owner.time += LEASE - 1
    assert not owner.ask("d").admitted
    news = News()
    news.stays("a", waits=False)
    assert not owner.ask("d", news=news).admitted
    owner.time += 2
    answer = owner.ask("d")
    assert (answer.admitted, answer.in_use[Quota.STREAMS]) == (True, 1), "only the one that was renewed"


def test_a_leap_of_the_clock_shuts_nobody_out_for_longer_than_a_debt(client: redis.Redis):
    owner = Owner(client)
    owner.time += 1e6
    owner.ask("from the future")
    news = News()
    news.add(Quota.TOKENS, 1e9)
    assert not owner.ask("a", news=news).admitted
    owner.time -= 1e6
    assert not owner.ask("a").admitted
    owner.time += 181
    answer = owner.ask("a")
    assert (answer.admitted, answer.in_use[Quota.STREAMS]) == (True, 0)


def test_news_that_was_not_heard_is_said_again(client: redis.Redis):
    first, later = News(), News()
    first.add(Quota.TOKENS, 4)
    first.stays("a", waits=True)
    first.stays("b", waits=True)
    first.leaves("c")
    later.add(Quota.TOKENS, 3)
    later.stays("a", waits=False)
    later.leaves("b")
    later.say_again(first)
    assert later.charges == {Quota.TOKENS: 7}
    assert later.active == {"a": (False, LEASE)}
    assert list(later.left) == ["c", "b"], "the oldest first"


def test_long_news_are_told_in_several_steps_before_the_question(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(quotas, "PIECE", 10)
    owner = Owner(client)
    for name in "abc":
        owner.ask(name)
    news = News()
    news.add(Quota.TOKENS, 4)
    for number in range(33):
        news.leaves(str(number))
    for name in "abc":
        news.leaves(name)
    answer = owner.ask("d", news=news)
    assert (answer.admitted, answer.in_use[Quota.STREAMS]) == (True, 0)
    assert sum(answer.spent[Quota.TOKENS].used.values()) == 4, "charged once"
