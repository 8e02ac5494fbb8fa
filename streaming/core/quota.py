"""What an owner may use in a time, and what happens to who has used more.

The law of a *rate* (tokens a minute): whoever asks is let in while what was used in the last window is
less than the quota, and while it is paid: each use takes as long to be paid as the quota would have taken for
it, and a window's worth may be owed (GCRA). What is let in runs to its end, whatever it uses. So no window of
that length, wherever it begins, has more than the quota and what those used beyond it that were let in before
it was spent; and who goes beyond it pays for that by waiting, so in the long run the quota holds, too. GCRA,
or a token bucket, alone would allow twice the quota in a window: a full bucket, and what flows in meanwhile.

Use is kept by slots of the window, a sixtieth each, so an owner costs at most some dozens of numbers; a slot
counts until all of it is out of the window. The same law is in `runtime/redis/quotas.lua`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

SLOTS: Final = 60
"""Slots of a window."""

MOST_DEBT: Final = 3.0
"""Windows that a debt may take to be paid; what goes beyond is forgiven."""

MINUTE: Final = 60.0
HOUR: Final = 3600.0


class Quota(StrEnum):
    """What is limited, by the name that headers and problems have for it."""

    STREAMS = "streams"
    PLACES = "places"
    TOKENS = "tokens"
    BYTES = "bytes"
    KERNEL_SECONDS = "kernel_seconds"


RATES: Final = (Quota.TOKENS, Quota.BYTES, Quota.KERNEL_SECONDS)


class QuotaLimits(msgspec.Struct, frozen=True):
    """The quotas of each owner; 0: none. `streams`: tasks at once over all pools, running and waiting;
    `places`: of these, waiting ones."""

    streams: int = 0
    places: int = 0
    tokens_per_minute: int = 0
    bytes_per_minute: int = 0
    kernel_seconds_per_hour: int = 0

    @property
    def set(self) -> bool:
        """Whether there is any."""
        return any(msgspec.structs.astuple(self))

    @property
    def rates(self) -> dict[Quota, Rate]:
        """The rates that are set."""
        known = {
            Quota.TOKENS: Rate(self.tokens_per_minute, MINUTE),
            Quota.BYTES: Rate(self.bytes_per_minute, MINUTE),
            Quota.KERNEL_SECONDS: Rate(self.kernel_seconds_per_hour, HOUR),
        }
        return {quota: rate for quota, rate in known.items() if rate.quota}

    @property
    def counts(self) -> dict[Quota, int]:
        """The limits of what may be at once that are set."""
        known = {Quota.STREAMS: self.streams, Quota.PLACES: self.places}
        return {quota: limit for quota, limit in known.items() if limit}


class Rate(msgspec.Struct, frozen=True):
    """`quota` units in each window of so many seconds."""

    quota: float
    window: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How an owner stands with one quota. `limit`, `remaining`: units, the latter never negative.

    `retry_after`: seconds until somebody is let in again, 0 if that is now, None if nobody knows;
    `whole_after`: until the whole quota is there again; both, and `window`, are None where things are counted
    and not measured in time.
    """

    quota: Quota
    limit: int
    remaining: int
    retry_after: float | None = None
    whole_after: float | None = None
    window: float | None = None

    @property
    def spent(self) -> bool:
        """Whether nobody is let in now."""
        return self.remaining <= 0


@dataclass(slots=True)
class Spending:
    """What one owner used of one rate. `used`: units by number of slot (of the clock's time); `paid`: when
    all of it is paid. Times are seconds of one clock, which may stand still but not go back."""

    used: dict[int, float] = field(default_factory=dict)
    paid: float = 0.0

    def charge(self, rate: Rate, amount: float, now: float) -> None:
        """So much was used, up to now. A negative amount was charged too much before: there is less to pay,
        and less of the latest use."""
        self._forget(rate, now)
        if amount <= 0:
            self._give_back(rate, -amount, now)
            return
        slot = _slot(rate, now)
        self.used[slot] = self.used.get(slot, 0.0) + amount
        paid = max(self.paid, now) + amount * rate.window / rate.quota
        self.paid = min(paid, now + (1 + MOST_DEBT) * rate.window)

    def standing(self, quota: Quota, rate: Rate, now: float) -> Standing:
        """How the owner stands now; changes nothing that counts."""
        self._forget(rate, now)
        owed = max(self.paid - now, 0.0) * rate.quota / rate.window
        left = rate.quota - max(owed, sum(self.used.values()))
        retry_after = 0.0 if left > 0 else max(self.paid - rate.window, self._free_at(rate), now) - now
        whole = max([self.paid, *(_gone(rate, slot) for slot in self.used)])
        return Standing(
            quota,
            limit=int(rate.quota),
            remaining=max(math.ceil(left), 0),
            retry_after=retry_after,
            whole_after=whole - now if whole > now else rate.window,
            window=rate.window,
        )

    def idle(self, rate: Rate, now: float) -> bool:
        """Whether it is as if nothing had been used."""
        self._forget(rate, now)
        return not self.used and self.paid <= now

    def _free_at(self, rate: Rate) -> float:
        """When enough is out of the window."""
        left, free = rate.quota - sum(self.used.values()), -math.inf
        for slot in sorted(self.used):
            if left > 0:
                break
            left += self.used[slot]
            free = _gone(rate, slot)
        return free

    def _give_back(self, rate: Rate, amount: float, now: float) -> None:
        self.paid = max(self.paid - amount * rate.window / rate.quota, min(self.paid, now))
        for slot in sorted(self.used, reverse=True):
            taken = min(amount, self.used[slot])
            amount -= taken
            self.used[slot] -= taken
            if self.used[slot] <= 0:
                del self.used[slot]

    def _forget(self, rate: Rate, now: float) -> None:
        oldest = _slot(rate, now) - SLOTS
        for slot in [slot for slot in self.used if slot < oldest]:
            del self.used[slot]


def _slot(rate: Rate, now: float) -> int:
    return math.floor(now * SLOTS / rate.window)


def _gone(rate: Rate, slot: int) -> float:
    """When the slot is out of the window."""
    return (slot + 1 + SLOTS) * rate.window / SLOTS


def counted(quota: Quota, limit: int, number: int) -> Standing:
    """How an owner stands who has so many of what may be `limit` at once."""
    return Standing(quota, limit, max(limit - number, 0))


def exhausted(standings: Mapping[Quota, Standing]) -> Standing | None:
    """Of those that let nobody in, the one that does so for longest; None if all let in."""
    spent = [each for each in standings.values() if each.spent]
    return max(spent, key=lambda each: each.retry_after or 0.0, default=None)


MOST_TOLD: Final = 10**9
"""Tokens that a provider's `usage` may tell; more is none."""


def tokens_of(usage: Mapping[str, object] | None) -> int | None:
    """The tokens that a provider says were used, prompt and answer together; None if it does not say."""
    if usage is None:
        return None
    total = _count(usage.get("total_tokens"))
    if total is not None:
        return total
    pairs = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
    for names in pairs:
        told = [number for name in names if (number := _count(usage.get(name))) is not None]
        if told:
            return sum(told)
    return None


def _count(value: object) -> int | None:
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOLD
    return int(value) if sound else None  # type: ignore[call-overload]
