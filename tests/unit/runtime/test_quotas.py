"""What owners are charged, and when nobody of theirs is let in, on a loop whose time jumps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from streaming.core.errors import RedisAway, StorageUnavailable
from streaming.core.events import Finish
from streaming.core.quota import Quota, QuotaLimits, Spending, Standing
from streaming.runtime import quota_news
from streaming.runtime.quota_news import Answered, Asked, News
from streaming.runtime.quotas import Quotas, QuotaSpent
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import CancelReason, Task, TaskSpec

from .fakes import ended, house, now, pool_limits, spec, virtual_time


@asynccontextmanager
async def metered(shared: Any = None, pool: Any = None, **limits: int) -> AsyncIterator[House]:
    async with house(pool=pool or pool_limits(max_workers=2, per_owner=50)) as supervisor:
        quotas = Quotas(QuotaLimits(**limits), supervisor, shared, clock=now)
        supervisor.on_start = quotas.started
        made = House(supervisor, quotas)
        try:
            yield made
        finally:
            for task in list(supervisor.tasks.active.values()):
                supervisor.cancel(task, CancelReason.ADMIN)
                await ended(task)
            await quotas.close()


@dataclass
class House:
    supervisor: Supervisor
    quotas: Quotas

    async def open(self, source: Callable[[], Any], payer: str = "a", **changes: Any) -> Task:
        asked = replace(spec(source), payer=payer, **changes)
        hold = await self.quotas.admit(asked, copied=False)
        task = self.supervisor.open(asked)
        self.supervisor.record(task)
        if hold is not None:
            self.quotas.keep(hold, task)
        return task

    async def left(self, quota: Quota, payer: str = "a", **changes: Any) -> Standing:
        """How the owner stands, as a task would that asks now."""
        asked: TaskSpec = replace(spec(parts(0)), payer=payer, **changes)
        try:
            hold = await self.quotas.admit(asked, copied=False)
        except QuotaSpent as refusal:
            return next(each for each in refusal.standings if each.quota is quota)
        assert hold is not None
        self.quotas.drop(hold)
        return next(each for each in hold.standings if each.quota is quota)


def parts(number: int, *, every: float = 0.0, usage: dict[str, Any] | None = None) -> Callable[[], Any]:
    async def source() -> AsyncIterator[Any]:
        for _ in range(number):
            await asyncio.sleep(every)
            yield "word "
        if usage is not None:
            yield Finish(usage=usage)

    return source


@virtual_time
async def test_tokens_are_charged_while_a_task_runs_and_it_goes_on_when_they_are_spent():
    async with metered(tokens_per_minute=10) as here:
        task = await here.open(parts(30, every=1.0))
        await asyncio.sleep(5.5)
        assert (await here.left(Quota.TOKENS)).remaining == 5
        await asyncio.sleep(10)
        with pytest.raises(QuotaSpent) as refusal:
            await here.open(parts(1))
        assert refusal.value.spent.quota is Quota.TOKENS
        assert refusal.value.decision.reason.value == "quota_tokens"
        assert here.supervisor.statistics()["refusals"] == {"quota_tokens": 1}
        await ended(task)
        assert task.final is not None
        assert task.final.name == "complete"
        assert task.counts.parts == 30
        assert (await here.left(Quota.TOKENS, "b")).remaining == 10, "others have their own"
        again = await here.left(Quota.TOKENS)
        assert again.retry_after is not None
        await asyncio.sleep(again.retry_after + 0.01)
        await ended(await here.open(parts(1)))


@virtual_time
@pytest.mark.parametrize(("told", "remaining"), [({"total_tokens": 50}, 50), ({"total_tokens": 3}, 97)])
async def test_the_providers_count_is_the_last_word(told: dict[str, Any], remaining: int):
    async with metered(tokens_per_minute=100) as here:
        await ended(await here.open(parts(10, usage=told)))
        await asyncio.sleep(0)
        assert (await here.left(Quota.TOKENS)).remaining == remaining


@virtual_time
async def test_who_uses_a_kernel_is_charged_seconds_and_bytes_and_no_tokens():
    async with metered(tokens_per_minute=5, kernel_seconds_per_hour=20, bytes_per_minute=100_000) as here:
        task = await here.open(parts(8, every=1.0), uses_kernel=True)
        await ended(task)
        await asyncio.sleep(0)
        assert (await here.left(Quota.TOKENS)).remaining == 5
        left = await here.left(Quota.KERNEL_SECONDS, uses_kernel=True)
        # The loop's time jumps, the clock of tasks that are not virtual may differ by a moment.
        assert left.remaining in (12, 13)
        assert (await here.left(Quota.BYTES)).remaining == 100_000 - task.journal.written


@virtual_time
async def test_bytes_that_were_trimmed_away_while_they_were_written_are_charged_too():
    async with metered(bytes_per_minute=100_000) as here:
        task = await here.open(parts(20, every=1.0))
        for _ in range(6):
            await asyncio.sleep(3)
            task.journal.trim(task.journal.last_id)
        await ended(task)
        await asyncio.sleep(0)
        assert task.journal.first_id > 15
        assert (await here.left(Quota.BYTES)).remaining == 100_000 - task.journal.written
        assert task.journal.written > 20 * len("id: 1\nevent: content\n")


@virtual_time
async def test_streams_are_given_back_at_the_end_however_it_comes():
    async with metered(streams=2) as here:
        first, second = [await here.open(parts(1000, every=1.0)) for _ in range(2)]
        with pytest.raises(QuotaSpent) as refusal:
            await here.open(parts(1))
        assert refusal.value.retry_after > 0
        here.supervisor.cancel(first, CancelReason.CLIENT)
        await ended(first)
        await asyncio.sleep(0)
        third = await here.open(parts(1))
        assert third.standings == (Standing(Quota.STREAMS, 2, 0),)
        await ended(third)
        here.supervisor.abandon(second.id)
        await asyncio.sleep(0)
        assert (await here.left(Quota.STREAMS)).remaining == 1


@virtual_time
async def test_places_refuse_who_would_wait_and_nobody_else():
    async with metered(places=1) as here:
        busy = [await here.open(parts(1000, every=1.0)) for _ in range(2)]
        waiting = await here.open(parts(1))
        with pytest.raises(QuotaSpent):
            await here.open(parts(1))
        here.supervisor.cancel(busy[0], CancelReason.CLIENT)
        await ended(waiting)
        await asyncio.sleep(0)
        direct = await here.open(parts(1))
        assert direct.route == "direct"
        await ended(direct)


@virtual_time
async def test_what_needs_no_worker_and_what_nobody_pays_for_is_let_in():
    async with metered(streams=1) as here:
        await here.open(parts(1000, every=1.0))
        for changes in ({"needs_worker": False}, {"payer": ""}, {"kept": False}):
            asked = replace(spec(parts(1)), **{"payer": "a"} | changes)
            assert await here.quotas.admit(asked, copied=False) is None


@virtual_time
async def test_owners_who_have_used_nothing_for_long_are_forgotten():
    async with metered(tokens_per_minute=10) as here:
        for number in range(50):
            await ended(await here.open(parts(1), payer=str(number)))
        await asyncio.sleep(300)
        await here.open(parts(1000, every=1.0))
        await asyncio.sleep(130)
        assert list(here.quotas._accounts) == ["a"]


# --- With others --------------------------------------------------------------------------------------


@dataclass
class Others:
    """What all count together, for a test to look at. `away`: and known to be; `deaf`: nobody knows yet."""

    heard: list[News] = field(default_factory=list)
    away: bool = False
    deaf: bool = False
    tokens: float = 0.0
    calls: int = 0

    async def ask(self, owner: str, news: News, asked: Asked) -> Answered:
        await self.tell([(owner, news)])
        spending = Spending()
        spending.charge(QuotaLimits(tokens_per_minute=10).rates[Quota.TOKENS], self.tokens, now())
        in_use = {Quota.STREAMS: 0, Quota.PLACES: 0}
        return Answered(True, now(), in_use, {Quota.TOKENS: spending})

    def require(self) -> None:
        if self.away:
            raise RedisAway("away")

    async def tell(self, news: Sequence[tuple[str, News]]) -> None:
        self.calls += 1
        self.require()
        if self.deaf:
            raise RedisAway("too slow")
        for _, each in news:
            self.heard.append(each)
            self.tokens += each.charges.get(Quota.TOKENS, 0)

    async def note_payer(self, task_id: str, payer: str, seconds: float) -> None:
        return

    async def payer_of(self, task_id: str) -> str:
        return "a"


@virtual_time
async def test_what_could_not_be_said_while_the_others_were_away_is_said_later():
    others = Others()
    async with metered(others, tokens_per_minute=10) as here:
        task = await here.open(parts(6, every=1.0))
        others.away = True
        await ended(task)
        with pytest.raises(StorageUnavailable):
            await here.open(parts(1))
        copied = replace(spec(parts(1)), payer="a")
        assert await here.quotas.admit(copied, copied=True) is None, "who needs no permit is served"
        others.away = False
        await asyncio.sleep(3)
        assert others.tokens == 6
        assert any(task.id in news.left for news in others.heard)
        assert (await here.left(Quota.TOKENS)).remaining == 4


@virtual_time
async def test_who_is_refused_while_the_others_are_known_to_be_away_leaves_nothing_behind():
    others = Others(away=True)
    async with metered(others, tokens_per_minute=10) as here:
        for number in range(100):
            with pytest.raises(StorageUnavailable):
                await here.open(parts(1), payer=str(number % 7))
        assert others.calls == 0, "nobody was asked"
        others.away = False
        await asyncio.sleep(3)
        assert (await here.left(Quota.TOKENS)).remaining == 10
        assert not any(news.left for news in others.heard)


@virtual_time
async def test_of_what_could_not_be_said_a_bounded_number_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quota_news, "MOST_LEFT", 40)
    monkeypatch.setattr(quota_news, "MOST_OWNERS", 4)
    others = Others(deaf=True)
    async with metered(others, tokens_per_minute=10) as here:
        for number in range(50):
            for payer in ("often", "often", "often", f"once {number // 10}"):
                with pytest.raises(StorageUnavailable):
                    await here.open(parts(1), payer=payer)
        await asyncio.sleep(3)
        others.deaf = False
        await asyncio.sleep(3)
        said = [len(news.left) for news in others.heard]
        assert len(said) <= 4
        assert 20 <= sum(said) <= 40


@virtual_time
async def test_many_owners_are_told_of_in_several_goes():
    others = Others(deaf=True)
    async with metered(others, tokens_per_minute=10) as here:
        for number in range(250):
            with pytest.raises(StorageUnavailable):
                await here.open(parts(1), payer=str(number))
        await asyncio.sleep(3)
        others.deaf, others.calls = False, 0
        await asyncio.sleep(3)
        assert len(others.heard) == 250
        assert others.calls == 3


def test_long_news_are_said_in_pieces_that_say_the_same():
    news = News()
    news.add(Quota.TOKENS, 4)
    for number in range(25):
        news.leaves(f"left {number}")
        news.stays(f"there {number}", waits=False)
    pieces = news.pieces(10)
    assert all(len(each.left) + len(each.active) <= 10 for each in pieces)
    assert [each.charges for each in pieces] == [{Quota.TOKENS: 4}] + [{}] * (len(pieces) - 1)
    assert [task_id for each in pieces for task_id in each.left] == list(news.left)
    assert [task_id for each in pieces for task_id in each.active] == list(news.active)
    assert News().pieces(10) == [News()]


@virtual_time
async def test_it_is_said_again_that_a_task_is_there():
    others = Others()
    async with metered(others, tokens_per_minute=1000) as here:
        task = await here.open(parts(20, every=1.0))
        await asyncio.sleep(18)
        said = [news for news in others.heard if task.id in news.active]
        assert 3 <= len(said) <= 6


@virtual_time
async def test_a_task_of_nobody_known_is_charged_to_whom_the_others_name():
    others = Others()
    async with metered(others, tokens_per_minute=1000) as here:
        await ended(await here.open(parts(5, every=1.0), payer=""))
        await asyncio.sleep(2)
        assert others.tokens == 5
