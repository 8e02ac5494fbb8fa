"""Threads for blocking producers, behind the pool's permits.

`concurrent.futures` runs the jobs; it never holds a waiting one, because a job is handed over only with
a permit in hand and there are as many threads as permits. What waits, waits in the ledger's order.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from .ledger import Holding, Ledger, PoolLimits, Ticket
from .switch_interval import COURTESY


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
        return self._threads.submit(_run, context, job)

    def close(self) -> None:
        """Let idle threads go; busy ones end with their job. Never waits."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


def _run(context: contextvars.Context, job: Callable[[], None]) -> None:
    with COURTESY:
        context.run(job)
