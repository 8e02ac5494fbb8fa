"""Threads for blocking producers, behind the pool's permits.

`concurrent.futures` runs the jobs; it never holds a waiting one, because a job is handed over only with
a permit in hand and there are as many threads as permits. What waits, waits in the ledger's order.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from .ledger import Holding, Ledger, PoolLimits, Ticket

SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which one busy thread of ours offers the interpreter to the event loop (CPython's default, 5
ms, lets two busy threads delay every stream by 8 ms in the median). Several threads share this time: the
loop may have to wait for each of them in turn."""

MIN_SWITCH_INTERVAL: Final = 0.0001
"""Seconds below which switching costs more than it gives."""


class _Courtesy:
    """The interpreter's switch interval, shorter the more threads of ours are busy: those of pools, and the
    writer's. It is one setting of the whole process, so it is kept in one place, and given back when no
    thread is busy."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = 0
        self._found = SWITCH_INTERVAL

    def __enter__(self) -> None:
        with self._lock:
            if not self._busy:
                self._found = sys.getswitchinterval()
            self._busy += 1
            self._set()

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._busy -= 1
            self._set()

    def _set(self) -> None:
        shared = max(SWITCH_INTERVAL / self._busy, MIN_SWITCH_INTERVAL) if self._busy else self._found
        # The interpreter cuts to whole microseconds: without the rest it would lose one each time.
        sys.setswitchinterval(min(shared, self._found) + 1e-7)


COURTESY: Final = _Courtesy()


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
