"""The numbers of this moment as a stream of our own: for the statistics page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from streaming import conf
from streaming.core.events import Result
from streaming.scopes import Scope
from streaming.service import service

INTERVAL: Final = 1.0
"""Seconds between two looks; what has not changed is not sent again."""

LASTS: Final = 60.0
"""Seconds after which a stream ends, and its reader comes again: whether they may is then looked at anew."""

KIND: Final = "admin.statistics"
"""Reading tasks of this kind takes the right to see the statistics page."""

OPTIONS: Final[dict[str, Any]] = {
    "kind": KIND,
    "needs_worker": False,
    "on_disconnect": "cancel",
    "kept": False,
    "scopes": (Scope.OPERATE,),
}
"""Of the stream: it needs no worker, ends with its reader, and is neither recorded nor counted."""


async def parts() -> AsyncIterator[Result]:
    """What `pools_and_totals` says, each time that it says something else."""
    told = None
    until = time.monotonic() + LASTS
    while time.monotonic() < until:
        numbers = pools_and_totals(await _LOOK.now())
        if numbers != told:
            told = numbers
            yield Result(data=numbers)
        await asyncio.sleep(INTERVAL)


def pools_and_totals(statistics: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of the numbers of all processes. `counted` changes whenever something has been
    counted that charts are made of."""
    counted = [statistics.get(name, {}) for name in ("routes", "ends")]
    return {
        "pools": {name: _pool(numbers) for name, numbers in statistics.get("pools", {}).items()},
        "followers": statistics.get("followers", 0),
        "processes": len(statistics.get("processes", ())),
        "counted": sum(sum(each.values()) for each in counted),
    }


def _pool(numbers: dict[str, Any]) -> dict[str, Any]:
    oldest = numbers.get("oldest_wait_by_class", {})
    return {
        **{name: numbers[name] for name in ("running", "waiting", "away", "max_workers", "queue_size")},
        "stuck": numbers["stuck"],
        "oldest_ms": numbers["oldest_wait_seconds"] * 1000,
        # By name: a class that two names mean is shown under both.
        "classes": {
            name: oldest[str(number)] * 1000 if str(number) in oldest else None
            for name, number in conf.priorities().items()
        },
    }


class _Look:
    """One look at the numbers for all who watch at the same time."""

    def __init__(self) -> None:
        self._at = float("-inf")
        self._looking: asyncio.Task[dict[str, Any]] | None = None

    async def now(self) -> dict[str, Any]:
        """The numbers, at most `INTERVAL` old."""
        now = time.monotonic()
        if self._looking is None or now - self._at >= INTERVAL * 0.9 or self._is_of_another_loop():
            self._at = now
            self._looking = asyncio.create_task(service().statistics_of_all())
        # Who leaves does not take it away from the others.
        return await asyncio.shield(self._looking)

    def _is_of_another_loop(self) -> bool:
        assert self._looking is not None
        return self._looking.get_loop() is not asyncio.get_running_loop()


_LOOK: Final = _Look()
