"""What owners use, counted once for all processes that share a Redis.

`quotas.lua` is one step: it tells what an owner used and what of it is active, and asks for one task more. A
task counts for a while only, and its process says again and again that it is still there; so what a process
leaves behind that is gone counts for no longer than that. Owners are known there by a digest, because
addresses are nobody's business.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from streaming.core.quota import MOST_DEBT, SLOTS, Quota, QuotaLimits, Spending
from streaming.runtime.quota_news import LEASE, Answered, Asked, News

from .connection import Script, SharedRedis

_SCRIPT: Final = Script.beside(__file__, "quotas.lua")

_KEYS: Final = ("u", "r", "w")
"""Of an owner: what was used, running tasks, waiting ones."""

PIECE: Final = 1_000
"""Tasks that one step tells of, at most: Redis does nothing else meanwhile."""


class _Step(msgspec.Struct):
    """What the script is told."""

    rates: dict[str, tuple[float, float]]
    counts: dict[str, int]
    charges: dict[str, float]
    left: list[str]
    active: list[tuple[str, bool, float]]
    ask: dict[str, Any] | None
    slots: int = SLOTS
    debt: float = MOST_DEBT
    expire: int = 3600


class SharedQuotas:
    """The steps. `longest_wait`: seconds that a task may wait at most."""

    def __init__(self, redis: SharedRedis, limits: QuotaLimits, longest_wait: float) -> None:
        self._redis = redis
        self._rates = {str(quota): (rate.quota, rate.window) for quota, rate in limits.rates.items()}
        self._counts = {str(quota): limit for quota, limit in limits.counts.items()}
        self._expire = math.ceil(max(LEASE, longest_wait)) + 60

    def require(self) -> None:
        """Raise `StorageUnavailable` while Redis is known to be away."""
        self._redis.require()

    async def ask(self, owner: str, news: News, asked: Asked, *, now: float | None = None) -> Answered:
        """Say the news, and ask. `now`: in tests. Raises `StorageUnavailable`."""
        self.require()
        keys = self._keys(owner)
        *before, last = news.pieces(PIECE)
        calls = [(keys, self._args(each, None, now)) for each in before]
        answers = await self._redis.calls(_SCRIPT, [*calls, (keys, self._args(last, asked, now))])
        return _understood([self._redis.understood(answer) for answer in answers][-1])

    async def tell(self, news: Sequence[tuple[str, News]]) -> None:
        """Say the news of several owners. Raises `StorageUnavailable`; then none counts as said."""
        self.require()
        told = [(owner, piece) for owner, each in news for piece in each.pieces(PIECE)]
        if told:
            calls = [(self._keys(owner), self._args(each, None, None)) for owner, each in told]
            for answer in await self._redis.calls(_SCRIPT, calls):
                self._redis.understood(answer)

    async def note_payer(self, task_id: str, payer: str, seconds: float) -> None:
        """Whose quota a task is charged to that any process may run. Raises `StorageUnavailable`."""
        key = self._redis.key("quota", "task", task_id)
        await self._redis.execute("SET", key, payer, "EX", math.ceil(seconds))

    async def payer_of(self, task_id: str) -> str:
        """What `note_payer` has noted; empty for nothing. Raises `StorageUnavailable`."""
        found = await self._redis.execute("GET", self._redis.key("quota", "task", task_id))
        return "" if found is None else str(found.decode())

    def _keys(self, owner: str) -> list[str]:
        return [self._redis.key("quota", owner, each) for each in _KEYS]

    def _args(self, news: News, asked: Asked | None, now: float | None) -> Iterable[str]:
        ask = None
        if asked is not None:
            quotas = [str(each) for each in asked.quotas]
            ask = {"id": asked.id, "waits": asked.waits, "quotas": quotas, "seconds": LEASE}
        step = _Step(
            rates=self._rates,
            counts=self._counts,
            charges={str(quota): amount for quota, amount in news.charges.items()},
            left=list(news.left),
            active=[(task_id, *each) for task_id, each in news.active.items()],
            ask=ask,
            expire=self._expire,
        )
        text = msgspec.json.encode(step).decode()
        return (text,) if now is None else (text, repr(now))


def _understood(answer: bytes) -> Answered:
    found = json.loads(answer)
    spent = {}
    for name, (until, used) in found["spent"].items():
        # An empty table of Lua is an object.
        spent[Quota(name)] = Spending({int(slot): amount for slot, amount in used or ()}, float(until))
    return Answered(
        admitted=found["admitted"],
        now=found["now"],
        in_use={Quota.STREAMS: found["streams"], Quota.PLACES: found["places"]},
        spent=spent,
    )
