"""Work that nobody waits for, such as writing log lines: one thread of the process, in batches.

Who hands something over pays for a queue's `put` and nothing else; the thread lets what comes within a
moment come together. The queue is bounded, and what finds it full is dropped and counted.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, Final

CAPACITY: Final = 20_000
"""Pieces of work that may wait: some megabytes of log lines."""

PAUSE: Final = 0.05
"""Seconds for which a batch is collected."""

EXIT_PATIENCE: Final = 2.0
"""Seconds that the end of the process waits for what was handed over."""

Work = Callable[[Any], object]


class Background:
    """See the module. `pause` in seconds."""

    def __init__(self, capacity: int = CAPACITY, pause: float = PAUSE) -> None:
        self._capacity = capacity
        self._pause = pause
        self._after_batch: list[Callable[[int], object]] = []
        self.dropped = 0
        self._begin()

    def _begin(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Work | None, Any]] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def put(self, work: Work, argument: Any) -> None:
        """Have `work(argument)` done soon, in another thread. From any thread, never waits, never raises."""
        if self._queue.qsize() >= self._capacity:
            self.dropped += 1
            return
        self._queue.put((work, argument))
        if self._thread is None:
            self._start()

    def after_batch(self, function: Callable[[int], object]) -> None:
        """Have `function` called after each batch, with the number of pieces that were dropped since the
        last call."""
        self._after_batch.append(function)

    @property
    def here(self) -> bool:
        """Whether the caller runs in this thread."""
        return threading.current_thread() is self._thread

    def flush(self, seconds: float = EXIT_PATIENCE) -> bool:
        """Whether all that was handed over is done within `seconds`; blocks."""
        if self._thread is None or self.here:
            return True
        done = threading.Event()
        self._queue.put((None, done))
        self._hurry.set()
        return done.wait(seconds)

    def forget_thread(self) -> None:
        """After a fork: the child has no such thread, and what waited is the parent's to do."""
        self._begin()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="sluice-background", daemon=True)
                self._thread = thread
                try:
                    thread.start()
                except RuntimeError:
                    # The interpreter is going down and starts no threads any more.
                    self._thread = threading.current_thread()
                    self._do_batch(self._queue.get())
                    self._thread = None

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            self._hurry.wait(self._pause)
            self._hurry.clear()
            self._do_batch(first)

    def _do_batch(self, item: tuple[Work | None, Any]) -> None:
        waiters: list[threading.Event] = []
        while True:
            work, argument = item
            if work is None:
                waiters.append(argument)
            else:
                _try(work, argument)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
        dropped, self.dropped = self.dropped, 0
        for function in self._after_batch:
            _try(function, dropped)
        for waiter in waiters:
            waiter.set()


def _try(work: Work, argument: Any) -> None:
    try:
        work(argument)
    except Exception:
        # Nothing may end the thread; and its own faults cannot go through it.
        if logging.raiseExceptions and sys.stderr is not None:
            traceback.print_exc()


BACKGROUND: Final = Background()
"""Of this process."""

atexit.register(BACKGROUND.flush)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=BACKGROUND.forget_thread)
