"""What this process offers to run for others, by pool, and how much of it is in use.

A web process offers nothing. Threads of Celery and its loop use this, and the event loop of the streams.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from streaming.runtime.ledger import PoolLimits


class Slots:
    """See the module. A *slot* is one task that runs at a worker."""

    def __init__(self) -> None:
        self._offered: dict[str, int] = {}
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.closed = False

    @property
    def offered(self) -> Mapping[str, int]:
        """Slots by pool; pools that are not offered are not in it."""
        return MappingProxyType(self._offered)

    @property
    def sum(self) -> int:
        """Of all pools."""
        return sum(self._offered.values())

    def offer(self, slots: Mapping[str, int]) -> None:
        """Replace what is offered; to be called before the service of the process is made."""
        self._offered = dict(slots)

    def applied_to(self, limits: Mapping[str, PoolLimits]) -> dict[str, PoolLimits]:
        """`limits` of pools, with as many workers of each as slots are offered."""
        return {
            name: replace(pool, max_workers=self._offered.get(name, pool.max_workers))
            for name, pool in limits.items()
        }

    def take(self, pool: str) -> None:
        """A message for the pool has come."""
        with self._lock:
            self._taken[pool] += 1

    def give_back(self, pool: str) -> None:
        """What `take` has taken."""
        with self._lock:
            self._taken[pool] -= 1

    def has_room(self, pool: str) -> bool:
        """Whether another message for the pool shall come here."""
        return not self.closed and self._taken[pool] < self._offered.get(pool, 0)

    def close(self) -> None:
        """The process goes down: no message shall come any more."""
        self.closed = True


SLOTS: Final = Slots()
"""This process's."""
