"""What owners use over all pools of this process, or of all that share a Redis, and who may start more.

A task is charged while it runs, once a second: parts of text as tokens, bytes of events, seconds of a
kernel; at its end the provider's own count corrects the tokens. It is never stopped for it: what was let in
goes on to its end, because half an answer is worth nothing and is paid for all the same; what it costs beyond
the quota is a debt (see `core/quota.py`). A copy of another task's text costs bytes and no tokens. What needs
no worker (an interrupt, a status) is neither charged nor refused, so who has spent a quota can still stop
what uses it.

Without Redis a process knows what it runs itself, to the moment. With Redis each start asks all processes in
one step, which also says what this one has used since the last; what it could not say is said later.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Final

from streaming.core.errors import StorageUnavailable
from streaming.core.events import Complete
from streaming.core.quota import (
    RATES,
    Quota,
    QuotaLimits,
    Spending,
    Standing,
    counted,
    exhausted,
    tokens_of,
)
from streaming.core.routing import Decision, Reason, Route, Snapshot
from streaming.core.states import State

from .ledger import PoolRefused
from .quota_news import Asked, News, Shared, forget_oldest
from .supervisor import Supervisor
from .task import Task, TaskSpec

ROUND: Final = 1.0
"""Seconds between two looks at what running tasks have used."""

TASKS_A_SECOND: Final = 5_000
"""Tasks that are looked at in a second, at most: with more of them rounds are farther apart."""

RENEWAL: Final = 5.0
"""Seconds after which it is said again that a task is still there."""

FORGET_EVERY: Final = 60.0
"""Seconds between two looks for owners who have used nothing for long."""

OWNERS_A_CALL: Final = 100
"""Owners of whom others are told in one go."""

MARGIN: Final = 60.0
"""Seconds for which whose quota a task is charged to is known beyond the longest that it may wait."""


class QuotaSpent(PoolRefused):
    """A quota of the owner is spent; nothing was taken. `spent`: that quota; `standings`: all that count."""

    def __init__(
        self,
        decision: Decision,
        snapshot: Snapshot,
        retry_after: float,
        spent: Standing,
        standings: tuple[Standing, ...],
    ) -> None:
        super().__init__(decision, snapshot, retry_after)
        self.spent = spent
        self.standings = standings


@dataclass(slots=True)
class Hold:
    """A task that was let in and is not open yet. `standings`: of its owner, this task included."""

    id: str
    payer: str
    waits: bool
    standings: tuple[Standing, ...]


@dataclass(slots=True)
class _Metered:
    """What a task was charged so far. `renewed`: when it was last said that it is there."""

    parts: int = 0
    written: int = 0
    seconds: float = 0.0
    renewed: float = -math.inf
    waits: bool = False


@dataclass(slots=True)
class _Account:
    """One owner in this process."""

    spent: dict[Quota, Spending] = field(default_factory=dict)
    tasks: dict[Task, _Metered] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)


class Quotas:
    """See the module. Belongs to the event loop of its supervisor. `shared`: None where the process counts
    for itself. `clock`: that of tasks, in seconds. `charged`: units so far, by quota."""

    def __init__(
        self,
        limits: QuotaLimits,
        supervisor: Supervisor,
        shared: Shared | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rates, self._counts = limits.rates, limits.counts
        self.on = limits.set
        self.charged: dict[Quota, float] = dict.fromkeys(RATES, 0.0)
        self._supervisor = supervisor
        self._shared = shared
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._news: dict[str, News] = {}
        self._name, self._ids = secrets.token_hex(8), count(1)
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None
        self._entering: dict[str, Hold] = {}
        self._learning: set[asyncio.Task[None]] = set()
        self._forgot_at = -math.inf
        self._closed = False

    # Letting in

    async def admit(self, spec: TaskSpec, *, copied: bool) -> Hold | None:
        """Let the task in, if its owner's quotas allow; None for one that none counts. `keep` or `drop` must
        follow. `copied`: it takes its text from another task.

        Raises `QuotaSpent`, `StorageUnavailable` while Redis is away, and `KeyError` for a pool that the
        settings do not name.
        """
        if not self._counts_for(spec):
            return None
        waits = not copied and not self._supervisor.pools[spec.pool].ledger.runs_at_once(spec.series)
        hold = Hold(f"{self._name}-{next(self._ids)}", spec.payer, waits, ())
        shown = _that_count(spec, copied=copied)
        quotas = shown if waits else shown - {Quota.PLACES}
        if self._shared is None:
            found = self._standings_here(spec.payer)
        else:
            try:
                found = await self._standings_of_all(self._shared, hold, quotas)
            except StorageUnavailable:
                if copied:
                    # Who needs no permit is served while Redis is away; what it costs is told later.
                    return None
                raise
        spent = exhausted({quota: each for quota, each in found.items() if quota in quotas})
        standings = tuple(each for quota, each in found.items() if quota in shown)
        if spent is not None:
            raise self._refusal(spec, spent, standings)
        hold.standings = tuple(_with_one_more(each, waits=waits) for each in standings)
        self._account(spec.payer).holds[hold.id] = hold
        return hold

    def keep(self, hold: Hold, task: Task) -> None:
        """The task is open. If it waits for any process, `settle` or `withdraw` must follow."""
        task.standings = hold.standings
        if task.id in self._supervisor.tasks.foreign:
            self._account(hold.payer).holds.pop(hold.id, None)
            self._entering[task.id] = hold
            return
        self.drop(hold)
        self.track(task)

    def drop(self, hold: Hold) -> None:
        """The task was not opened, or counts as itself from now on."""
        self._account(hold.payer).holds.pop(hold.id, None)
        if self._shared is not None:
            self._news_of(hold.payer).leaves(hold.id)
            self._go_on()

    def started(self, task: Task) -> None:
        """The task starts in this process, whichever has let it in."""
        if task.spec.payer:
            self.track(task)
        elif self._shared is not None and self.on and task.spec.owner is None and task.spec.needs_worker:
            learning = asyncio.create_task(self._learn_payer(task, self._shared), name="quotas: payer")
            self._learning.add(learning)
            learning.add_done_callback(self._learning.discard)

    async def _learn_payer(self, task: Task, shared: Shared) -> None:
        """Of an anonymous caller's task, which another process let in; its record has no address."""
        try:
            payer = await shared.payer_of(task.id)
        except StorageUnavailable:
            return
        if payer and not task.ended.done():
            task.spec = replace(task.spec, payer=payer)
            self.track(task)

    def track(self, task: Task) -> None:
        """The task runs or waits here: it counts, and is charged, until it ends."""
        if not self._counts_for(task.spec):
            return
        tasks = self._account(task.spec.payer).tasks
        if task not in tasks:
            tasks[task] = _Metered()
            task.ended.add_done_callback(lambda _: self._ended(task))
            self._go_on()

    async def settle(self, task: Task) -> None:
        """Before others may run a task that waits for any process: say that it waits, which it does as long
        as it may, or until who runs it says more; and whom to charge, where its record does not say. Said
        later it would overtake what they say. Raises nothing."""
        hold = self._entering.pop(task.id, None)
        if hold is None or self._shared is None:
            return
        wait = self._supervisor.pools[task.spec.pool].limits.queue_timeout
        news = News()
        news.leaves(hold.id)
        news.stays(task.id, waits=True, seconds=wait)
        task.ended.add_done_callback(partial(self._gone, hold.payer, task.id))
        with suppress(StorageUnavailable):
            # Else it is not counted while it waits, and charged to nobody if its caller is anonymous.
            await self._shared.tell([(hold.payer, news)])
            if task.spec.owner is None:
                await self._shared.note_payer(task.id, hold.payer, wait + MARGIN)

    def withdraw(self, task: Task) -> None:
        """The task that waits for any process was not accepted in the end."""
        hold = self._entering.pop(task.id, None)
        if hold is not None:
            self.drop(hold)
        self._gone(task.spec.payer, task.id)

    async def close(self) -> None:
        """Say what is left to be said."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._telling is not None:
            await asyncio.wait([self._telling])
        await self._tell()

    # Standings

    def _counts_for(self, spec: TaskSpec) -> bool:
        return self.on and bool(spec.payer) and spec.needs_worker and spec.kept

    def _standings_here(self, payer: str) -> dict[Quota, Standing]:
        account = self._account(payer)
        self._look(payer, account)
        waiting = sum(task.state is State.QUEUED for task in account.tasks)
        in_use = {
            Quota.STREAMS: len(account.tasks) + len(account.holds),
            Quota.PLACES: waiting + sum(hold.waits for hold in account.holds.values()),
        }
        return self._standings(in_use, account.spent, self._clock())

    async def _standings_of_all(
        self, shared: Shared, hold: Hold, quotas: Collection[Quota]
    ) -> dict[Quota, Standing]:
        # Before anything is noted: who is refused by one that is away leaves nothing behind.
        shared.require()
        payer = hold.payer
        self._look(payer, self._account(payer))
        news = self._news.pop(payer, None) or News()
        try:
            answer = await shared.ask(payer, news, Asked(hold.id, hold.waits, sorted(quotas)))
        except BaseException:
            self._news_of(payer).say_again(news)
            # It may have been heard.
            self._news_of(payer).leaves(hold.id)
            self._go_on()
            raise
        return self._standings(answer.in_use, answer.spent, answer.now)

    def _standings(
        self, in_use: Mapping[Quota, int], spent: Mapping[Quota, Spending], now: float
    ) -> dict[Quota, Standing]:
        found = {quota: counted(quota, limit, in_use[quota]) for quota, limit in self._counts.items()}
        for quota, rate in self._rates.items():
            found[quota] = (spent.get(quota) or Spending()).standing(quota, rate, now)
        return found

    def _refusal(self, spec: TaskSpec, spent: Standing, standings: tuple[Standing, ...]) -> QuotaSpent:
        decision = Decision(Route.REJECTED, Reason(f"quota_{spent.quota.value}"))
        snapshot, service = self._supervisor.pools[spec.pool].ledger.look(spec.share_key)
        retry_after = service if spent.retry_after is None else spent.retry_after
        refusal = QuotaSpent(decision, snapshot, retry_after, spent, standings)
        self._supervisor.count_refusal(refusal)
        return refusal

    # Charging

    def _look(self, payer: str, account: _Account) -> None:
        """What the owner's tasks have used since the last look."""
        now = self._clock()
        for task, metered in account.tasks.items():
            self._meter(payer, account, task, metered)
            if self._shared is not None:
                waits = task.state is State.QUEUED
                if waits is not metered.waits or now - metered.renewed >= RENEWAL:
                    metered.waits, metered.renewed = waits, now
                    self._news_of(payer).stays(task.id, waits=waits)

    def _meter(self, payer: str, account: _Account, task: Task, metered: _Metered) -> None:
        if task.pump is None or task.started is None:
            return
        if task.spec.uses_kernel:
            seconds = (task.finished or self._clock()) - task.started
            self._charge(payer, account, Quota.KERNEL_SECONDS, seconds - metered.seconds)
            metered.seconds = seconds
        elif task.spec.source is None:
            self._charge(payer, account, Quota.TOKENS, task.counts.parts - metered.parts)
            metered.parts = task.counts.parts
        written = task.journal.written
        self._charge(payer, account, Quota.BYTES, written - metered.written)
        metered.written = written

    def _charge(self, payer: str, account: _Account, quota: Quota, amount: float) -> None:
        rate = self._rates.get(quota)
        if rate is None or not amount:
            return
        self.charged[quota] += max(amount, 0.0)
        if self._shared is None:
            account.spent.setdefault(quota, Spending()).charge(rate, amount, self._clock())
        else:
            self._news_of(payer).add(quota, amount)

    def _ended(self, task: Task) -> None:
        payer = task.spec.payer
        account = self._account(payer)
        metered = account.tasks.pop(task, None)
        if metered is None:
            return
        self._meter(payer, account, task, metered)
        told = tokens_of(task.final.usage) if isinstance(task.final, Complete) else None
        if told is not None and task.spec.source is None and not task.spec.uses_kernel:
            self._charge(payer, account, Quota.TOKENS, told - metered.parts)
        if self._shared is not None:
            self._news_of(payer).leaves(task.id)
        self._go_on()

    def _gone(self, payer: str, task_id: str, _: object = None) -> None:
        if self._shared is not None and payer and not self._closed:
            self._news_of(payer).leaves(task_id)
            self._go_on()

    # Rounds

    def _go_on(self) -> None:
        if self._timer is None and not self._closed:
            tasks = sum(len(account.tasks) for account in self._accounts.values())
            pause = max(ROUND, tasks / TASKS_A_SECOND)
            self._timer = asyncio.get_running_loop().call_later(pause, self._round)

    def _round(self) -> None:
        self._timer = None
        for payer, account in self._accounts.items():
            self._look(payer, account)
        self._forget()
        if self._shared is not None and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell(), name="quotas")
        if self._news or any(account.tasks for account in self._accounts.values()):
            self._go_on()

    async def _tell(self) -> None:
        if self._shared is None or not self._news:
            return
        payers = list(self._news)
        for at in range(0, len(payers), OWNERS_A_CALL):
            news: list[tuple[str, News]] = []
            try:
                self._shared.require()
                # Some have been told of meanwhile, with a question of theirs.
                some = (payer for payer in payers[at : at + OWNERS_A_CALL] if payer in self._news)
                news.extend((payer, self._news.pop(payer)) for payer in some)
                await self._shared.tell(news)
            except StorageUnavailable:
                for payer, each in news:
                    self._news_of(payer).say_again(each)
                forget_oldest(self._news)
                return

    def _forget(self) -> None:
        now = self._clock()
        if now - self._forgot_at < FORGET_EVERY:
            return
        self._forgot_at = now
        for payer, account in list(self._accounts.items()):
            rates = ((self._rates[quota], spending) for quota, spending in account.spent.items())
            idle = all(spending.idle(rate, now) for rate, spending in rates)
            if idle and not account.tasks and not account.holds:
                del self._accounts[payer]

    def _account(self, payer: str) -> _Account:
        return self._accounts.setdefault(payer, _Account())

    def _news_of(self, payer: str) -> News:
        return self._news.setdefault(payer, News())


def _that_count(spec: TaskSpec, *, copied: bool) -> frozenset[Quota]:
    """What a task is counted and charged for."""
    quotas = {Quota.STREAMS, Quota.BYTES}
    if not copied:
        quotas |= {Quota.PLACES, Quota.KERNEL_SECONDS if spec.uses_kernel else Quota.TOKENS}
    return frozenset(quotas)


def _with_one_more(standing: Standing, *, waits: bool) -> Standing:
    takes = standing.quota is Quota.STREAMS or (standing.quota is Quota.PLACES and waits)
    if not takes:
        return standing
    return counted(standing.quota, standing.limit, standing.limit - standing.remaining + 1)
