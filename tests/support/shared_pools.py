"""Shared pools without an event loop: each call is made at once, and may be lost on its way there or back.

Whoever looks at the pool's keys does not go through the code that wrote them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec
import redis

from streaming.core.errors import RedisAway
from streaming.runtime.ledger import PoolLimits
from streaming.runtime.redis.connection import Script
from streaming.runtime.redis.pools import SharedPools

START: Final = 1_800_000_000_000_000
"""µs: when the tests begin."""

Lost = Literal["", "call", "answer"]

R = TypeVar("R")

_numbers: Final = itertools.count()


def now(work: Coroutine[Any, Any, R]) -> R:
    """The result of what waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        result: R = done.value
        return result
    raise AssertionError("it waits")


class Direct:
    """A `SharedRedis` that answers before anything else happens. `lose`: what becomes of the next call."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.prefix = f"test{next(_numbers)}"
        self.away = False
        self.lose: Lost = ""

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        lose, self.lose = self.lose, ""
        if lose == "call":
            raise RedisAway("lost")
        try:
            answer = self.client.evalsha(script.sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            answer = self.client.eval(script.text, len(keys), *keys, *args)
        if lose == "answer":
            raise RedisAway("lost")
        return answer

    async def calls(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        return [await self.call(script, keys, args) for keys, args in calls]

    def understood(self, answer: Any) -> Any:
        return answer

    def require(self) -> None:
        if self.away:
            raise RedisAway("away")


class Time:
    """µs that pass when told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


def process(
    direct: Direct,
    time: Callable[[], int],
    name: str,
    limits: PoolLimits,
    *,
    max_running: int = 0,
    slots: Mapping[str, int] | None = None,
) -> SharedPools:
    """What one process has; it has said that it lives."""
    pools = SharedPools(
        direct,  # type: ignore[arg-type]
        name,
        {limits.name: limits},
        max_running=max_running,
        slots=slots,
        clock=time,
    )
    now(pools.beat())
    return pools


class Tickets:
    """What stands in the keys of a pool."""

    def __init__(self, direct: Direct, pool: str) -> None:
        client: Any = direct.client  # its annotations allow for decoded answers, too

        def key(name: str) -> str:
            return f"{direct.prefix}:q:{pool}:{name}"

        def records(name: str) -> dict[str, list[Any]]:
            found: dict[bytes, bytes] = client.hgetall(key(name))
            return {task_id.decode(): msgspec.msgpack.decode(packed) for task_id, packed in found.items()}

        packed: bytes | None = client.get(key("w"))
        self.line = {place[0]: place for place in msgspec.msgpack.decode(packed)} if packed else {}
        self.here = records("h")
        self.permits = records("r")
        self.counts = {field.decode(): int(number) for field, number in client.hgetall(key("c")).items()}
        self.tags = {field.decode(): int(tag) for field, tag in client.hgetall(key("t")).items()}
        waiting = [*self.line.values(), *self.permits.values()]
        self.attended = {ticket[0] for ticket in waiting if ticket[11]}

    @property
    def waiting(self) -> int:
        return len(self.line) + len(self.here)

    def counted(self) -> dict[str, int]:
        """What `counts` must be."""
        tickets = [*self.line.values(), *self.here.values(), *self.permits.values()]
        owners = Counter(f"o:{ticket[1]}" for ticket in tickets)
        return {**owners, **Counter(f"p:{ticket[12]}" for ticket in self.permits.values())}

    def of(self, process_id: str) -> int:
        """Permits of a process."""
        return sum(ticket[12] == process_id for ticket in self.permits.values())
