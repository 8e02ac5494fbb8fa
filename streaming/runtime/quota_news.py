"""What a process says of an owner to the others that share its quotas, and what it hears of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol

from streaming.core.quota import Quota, Spending

LEASE: Final = 15.0
"""Seconds that a task counts after its process has said so."""

MOST_LEFT: Final = 10_000
"""Tasks that count no more, of all owners, of which it is remembered that nobody could be told."""

MOST_OWNERS: Final = 10_000
"""Owners whose news are kept while nobody can be told."""


@dataclass(slots=True)
class News:
    """What a process has to say of an owner. `active`: by id, whether it waits, and for how many seconds it
    counts. `left`: what counts no more, the oldest first."""

    charges: dict[Quota, float] = field(default_factory=dict)
    active: dict[str, tuple[bool, float]] = field(default_factory=dict)
    left: dict[str, None] = field(default_factory=dict)

    def add(self, quota: Quota, amount: float) -> None:
        """So much was used."""
        self.charges[quota] = self.charges.get(quota, 0.0) + amount

    def stays(self, task_id: str, *, waits: bool, seconds: float = LEASE) -> None:
        """The task runs or waits, and counts for so long."""
        self.active[task_id] = waits, seconds

    def leaves(self, task_id: str) -> None:
        """It counts no more."""
        self.active.pop(task_id, None)
        self.left[task_id] = None

    def say_again(self, unheard: News) -> None:
        """What was said before these was not heard."""
        for quota, amount in unheard.charges.items():
            self.add(quota, amount)
        for task_id, each in unheard.active.items():
            if task_id not in self.left:
                self.active.setdefault(task_id, each)
        self.left = unheard.left | self.left

    def pieces(self, most: int) -> list[News]:
        """The same news, in this order, with at most so many tasks each; what was used is in the first."""
        if len(self.left) + len(self.active) <= most:
            return [self]
        left, active = list(self.left), list(self.active.items())
        found = [News(left=dict.fromkeys(left[at : at + most])) for at in range(0, len(left), most)]
        found += [News(active=dict(active[at : at + most])) for at in range(0, len(active), most)]
        found[0].charges = self.charges
        return found


def forget_oldest(news: dict[str, News]) -> None:
    """Of what nobody could be told, by owner, keep no more than `MOST_OWNERS` and `MOST_LEFT`. What is
    forgotten of tasks ends by itself, with the time for which they were said to count; what owners used who
    are forgotten is charged to nobody."""
    for owner in list(islice(news, max(len(news) - MOST_OWNERS, 0))):
        del news[owner]
    if sum(len(each.left) for each in news.values()) <= MOST_LEFT:
        return
    # The same for each: else one of them might have all others forgotten.
    share = max(MOST_LEFT // len(news), 1)
    for each in news.values():
        for task_id in list(islice(each.left, max(len(each.left) - share, 0))):
            del each.left[task_id]


@dataclass(frozen=True, slots=True)
class Asked:
    """A task that wants to be let in under an `id`; `waits`: it is to wait. `quotas`: those that count."""

    id: str
    waits: bool
    quotas: Collection[Quota]


@dataclass(frozen=True, slots=True)
class Answered:
    """`now`: by the clock of all. `in_use`: of streams and places, before this task."""

    admitted: bool
    now: float
    in_use: Mapping[Quota, int]
    spent: Mapping[Quota, Spending]


class Shared(Protocol):
    """Where the processes count together. Everything raises `StorageUnavailable` while it is away."""

    def require(self) -> None:
        """Raise `StorageUnavailable` while it is known to be away: nothing would be said, then."""
        ...

    async def ask(self, owner: str, news: News, asked: Asked) -> Answered:
        """Say the news, and ask, in one step."""
        ...

    async def tell(self, news: Sequence[tuple[str, News]]) -> None:
        """Say the news of several owners."""
        ...

    async def note_payer(self, task_id: str, payer: str, seconds: float) -> None:
        """Whose quota a task is charged to that any process may run."""
        ...

    async def payer_of(self, task_id: str) -> str:
        """What `note_payer` has noted; empty for nothing."""
        ...
