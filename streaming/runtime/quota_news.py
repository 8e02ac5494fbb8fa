"""What a process says of an owner to the others that share its quotas, and what it hears of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from streaming.core.quota import Quota, Spending

LEASE: Final = 15.0
"""Seconds that a task counts after its process has said so."""


@dataclass(slots=True)
class News:
    """What a process has to say of an owner. `active`: by id, whether it waits, and for how many seconds it
    counts."""

    charges: dict[Quota, float] = field(default_factory=dict)
    active: dict[str, tuple[bool, float]] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)

    def add(self, quota: Quota, amount: float) -> None:
        """So much was used."""
        self.charges[quota] = self.charges.get(quota, 0.0) + amount

    def stays(self, task_id: str, *, waits: bool, seconds: float = LEASE) -> None:
        """The task runs or waits, and counts for so long."""
        self.active[task_id] = waits, seconds

    def leaves(self, task_id: str) -> None:
        """It counts no more."""
        self.active.pop(task_id, None)
        self.left.add(task_id)

    def say_again(self, unheard: News) -> None:
        """What was said before these was not heard."""
        for quota, amount in unheard.charges.items():
            self.add(quota, amount)
        for task_id, each in unheard.active.items():
            if task_id not in self.left:
                self.active.setdefault(task_id, each)
        self.left |= unheard.left


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
