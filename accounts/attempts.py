"""How many passwords are checked at once, and how many wrong ones somebody may try.

A check costs a third of a second of a processor, on purpose, and asks for no credential: unbounded, it is
the cheapest way to keep everybody else waiting. Memory of one process; no Django here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final

AT_ONCE: Final = 2
"""Passwords that are checked at once."""

IN_LINE: Final = 4
"""Checks that wait for their turn; each holds a thread meanwhile."""

PATIENCE: Final = 5.0
"""Seconds that a check waits at most."""

TRIES: Final = 10
"""Wrong passwords of one address, and for one user name, in `WINDOW`."""

WINDOW: Final = 60.0
"""Seconds."""

MAX_KNOWN: Final = 10_000
"""Addresses and names that are remembered; beyond it those that failed longest ago are forgotten."""


class Busy(Exception):
    """So many passwords are being checked that this one has no place."""


class Checks:
    """Places for password checks. For all threads."""

    def __init__(self, at_once: int = AT_ONCE, in_line: int = IN_LINE, patience: float = PATIENCE) -> None:
        self._checking = threading.BoundedSemaphore(at_once)
        self._here = threading.BoundedSemaphore(at_once + in_line)
        self._patience = patience

    @contextmanager
    def place(self) -> Iterator[None]:
        """Blocks until it is one's turn. Raises `Busy` when the line is full, or does not move."""
        if not self._here.acquire(blocking=False):
            raise Busy
        try:
            if not self._checking.acquire(timeout=self._patience):
                raise Busy
            try:
                yield
            finally:
                self._checking.release()
        finally:
            self._here.release()


class Failures:
    """Token buckets: `tries` at once, and as many again in `window` seconds. For all threads.

    `clock`: seconds, monotonic.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        tries: int = TRIES,
        window: float = WINDOW,
        max_known: int = MAX_KNOWN,
    ) -> None:
        self._clock = clock
        self._tries = tries
        self._rate = tries / window
        self._max_known = max_known
        self._lock = threading.Lock()
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """Tries that are left, and when that was so; who failed last is last."""

    def __len__(self) -> int:
        return len(self._left)

    def wait(self, *keys: Hashable) -> float:
        """Seconds until each of `keys` may try again; 0: now."""
        with self._lock:
            now = self._clock()
            return max((max(0.0, (1 - self._now_left(key, now)) / self._rate) for key in keys), default=0.0)

    def note(self, *keys: Hashable) -> None:
        """Each of `keys` has failed once more."""
        with self._lock:
            now = self._clock()
            for key in keys:
                self._left[key] = (max(0.0, self._now_left(key, now) - 1), now)
                self._left.move_to_end(key)
            while len(self._left) > self._max_known:
                self._left.popitem(last=False)

    def clear(self) -> None:
        """Forget everybody."""
        with self._lock:
            self._left.clear()

    def _now_left(self, key: Hashable, now: float) -> float:
        left, since = self._left.get(key, (float(self._tries), now))
        return min(self._tries, left + (now - since) * self._rate)
