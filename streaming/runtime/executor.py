"""Threads for blocking producers, behind the pool's permits.

`concurrent.futures` runs the jobs; it never holds a waiting one, because a job is handed over only with
a permit in hand and there are as many threads as permits. What waits, waits in the ledger's order.
"""

from __future__ import annotations

import contextvars
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from .ledger import Holding, Ledger, PoolLimits, Ticket

SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which a pool thread offers the interpreter to the event loop (CPython's default, 5 ms,
lets two busy threads delay every stream by 8 ms in the median)."""


class WorkerPool:
    """One pool: its ledger, and threads that are started as blocking producers come."""

    def __init__(self, limits: PoolLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.ledger = Ledger(limits, clock)
        self._threads: ThreadPoolExecutor | None = None

    def run(self, ticket: Ticket, context: contextvars.Context, job: Callable[[], None]) -> Future[None]:
        """Run `job` in a thread of this pool, inside `context`. The ticket must hold a permit."""
        if ticket.holding is not Holding.PERMIT:
            raise RuntimeError("a blocking producer needs a permit before it gets a thread")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(
                self.limits.max_workers, thread_name_prefix=f"sluice-{self.limits.name}"
            )
            if sys.getswitchinterval() > SWITCH_INTERVAL:
                sys.setswitchinterval(SWITCH_INTERVAL)
        return self._threads.submit(context.run, job)

    def close(self) -> None:
        """Let idle threads go; busy ones end with their job. Never waits."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None
