"""What a round does: drawn from its seed, before anything starts, so that it can be repeated. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from .checker import Call

Mode = Literal["embedded", "processes", "cluster"]
"""One process on SQLite; two on one PostgreSQL; webs and workers with Redis, too."""

LINES: Final = ("clean", "clean", "cut", "slow", "sliced")
"""What the network between a client and the webs is like; `cut` breaks every connection after some bytes."""

WAYS: Final = ("stream", "stream", "stream", "socket", "later")
"""How a call is made: an event stream, a WebSocket, or a 202 that is followed."""


@dataclass(frozen=True)
class Scale:
    """How large rounds are. `seconds`: in which calls begin and things are done to processes."""

    clients: int = 40
    seconds: float = 6.0
    faults: int = 3
    herd: int = 200

    @property
    def longest(self) -> float:
        """Seconds that a producer takes at most."""
        return self.seconds * 0.7


@dataclass(frozen=True)
class Client:
    """One client: what it asks for, when, how, and how it behaves."""

    call: Call
    at: float
    way: str
    line: str
    web: int
    """Where it begins; after each cut it goes to the next one."""
    blocking: bool = False
    priority: str | None = None
    followers: tuple[float, ...] = ()
    """Seconds after its start at which others begin to follow its task, from the first event on."""
    twin: bool = False
    """Whether somebody else makes the same call, with the same key, at the same moment elsewhere."""
    leaves_at: float | None = None


@dataclass(frozen=True)
class Strike:
    """A fault, its moment, and the chance it draws its particulars from."""

    at: float
    kind: str
    seed: str


@dataclass(frozen=True)
class Plan:
    """One round. `herd`: readers of one slow task, who come back at once when lines are cut; `idle`: sockets
    on which nothing happens."""

    mode: Mode
    seed: int
    number: int
    seconds: float
    clients: tuple[Client, ...]
    strikes: tuple[Strike, ...]
    herd: int
    idle: int

    def describe(self) -> str:
        """In one line."""
        strikes = ", ".join(f"{strike.at:.1f} s {strike.kind}" for strike in self.strikes)
        return f"{len(self.clients)} calls, herd of {self.herd}; {strikes}"


def draw(
    mode: Mode, seed: int, number: int, kinds: Sequence[tuple[str, int]], webs: int, scale: Scale
) -> Plan:
    """The plan of round `number`. `kinds`: the names of faults and how often each shall come, relatively."""
    name = f"{seed} {number}"
    dice = random.Random(name)
    names, weights = [kind for kind, _ in kinds], [weight for _, weight in kinds]
    strikes = sorted(
        (
            Strike(round(dice.uniform(0.1, 0.8) * scale.seconds, 2), kind, f"{name} {index}")
            for index, kind in enumerate(dice.choices(names, weights, k=dice.randint(1, scale.faults)))
        ),
        key=lambda strike: strike.at,
    )
    herd = dice.choice([0, 0, scale.herd // 4, scale.herd])
    clients = tuple(_client(dice, number, index, webs, scale) for index in range(scale.clients))
    return Plan(mode, seed, number, scale.seconds, clients, tuple(strikes), herd, idle=2)


def _client(dice: random.Random, number: int, index: int, webs: int, scale: Scale) -> Client:
    name = f"{number}-{index}"
    way = dice.choice(WAYS)
    interval = dice.choice([0.01, 0.02, 0.05])
    tokens = max(2, int(dice.uniform(0.1, scale.longest) / interval))
    by_model = dice.random() < 0.3
    key = way != "socket" and dice.random() < 0.5
    leaves = dice.random() < 0.08
    fails = by_model and dice.random() < 0.15
    cancelled = not leaves and dice.random() < 0.1
    call = Call(
        name,
        tokens,
        interval,
        tag=f"{name}." if by_model else "",
        key=key,
        durable=key or way == "later",
        by_model=by_model,
        fails_after=dice.randrange(1, tokens) if fails else None,
        cancelled_at=dice.uniform(0.0, tokens * interval) if cancelled else None,
        leaves=leaves,
    )
    return Client(
        call,
        at=dice.uniform(0.0, scale.seconds * 0.9),
        way=way,
        line=dice.choice(LINES),
        web=dice.randrange(webs),
        blocking=not by_model and dice.random() < 0.3,
        priority=dice.choice([None, None, "interactive", "batch"]),
        followers=tuple(dice.uniform(0, scale.longest) for _ in range(dice.choice([0, 0, 0, 1, 3]))),
        twin=key and not leaves and way == "stream" and dice.random() < 0.3,
        leaves_at=dice.uniform(0.05, tokens * interval) if leaves else None,
    )
