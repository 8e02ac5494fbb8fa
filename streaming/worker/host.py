"""The streams of a worker: one event loop in a thread of its own, its service, and its way down.

Celery has the main thread. What its threads are handed runs here, just as in a web process: asynchronous
producers on the loop, blocking ones in the threads of their pools.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from types import FrameType
from typing import Any, Final

from streaming import conf
from streaming.drain import LAST_RESORT
from streaming.service import close_service, service
from streaming.signals import starting, stopping

from .slots import SLOTS

logger = logging.getLogger(__name__)

START_PATIENCE: Final = 30.0
"""Seconds for the service to be made."""

RETURN_PATIENCE: Final = 0.5
"""Seconds that Celery's threads have to come back when all tasks have ended."""

SETTLED: Final = 0.1
"""Seconds for their messages to be acknowledged."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Host:
    """See the module. Its methods are called in the main thread, `run` in any."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event
        self._end_of_consuming: Callable[[], None] = lambda: None
        self._closing: asyncio.Task[int] | None = None
        self._handed: set[Future[None]] = set()
        self._signals = 0

    def start(self) -> None:
        """Start the loop, and wait until its service is there. Raises what making it raises."""
        made: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, args=(made,), name="streams", daemon=True)
        self._thread.start()
        made.result(START_PATIENCE)

    def run(self, pool: str, task_id: str) -> None:
        """Run the task on the loop, and come back when it is over here."""
        future = asyncio.run_coroutine_threadsafe(self._run(pool, task_id), self._loop)
        self._handed.add(future)
        try:
            future.result()
        except CancelledError:
            logger.info("task %s was left to others", task_id)
        finally:
            self._handed.discard(future)

    def announce(self, pools: Sequence[str]) -> None:
        """Say that tasks are taken."""
        slots = ", ".join(f"{pool} ({SLOTS.offered[pool]})" for pool in sorted(pools))
        sys.stdout.write(f"Sluice works for {slots} (pid {os.getpid()}).\n")
        sys.stdout.flush()

    def take_signals(self, end_of_consuming: Callable[[], None]) -> None:
        """From now on SIGTERM and SIGINT drain first, and Celery ends when that is done, by
        `end_of_consuming` (called on the loop). The second signal, or SIGQUIT, ends what runs at once."""
        self._end_of_consuming = end_of_consuming
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def finish(self) -> None:
        """Celery has ended: drain if that was not done, and end the loop."""
        if self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(RETURN_PATIENCE)
        sys.stdout.write("Stopped.\n")
        sys.stdout.flush()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        SLOTS.close()
        if self._signals == 1:
            self._loop.call_soon_threadsafe(self._spawn, self._drain)
        if self._signals == 2 or number == signal.SIGQUIT:
            self._loop.call_soon_threadsafe(self._spawn, self._hasten)

    # On the loop

    def _live(self, made: Future[None]) -> None:
        factory = None
        if importlib.util.find_spec("uvloop"):
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(self._main(made))

    async def _main(self, made: Future[None]) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._background: set[asyncio.Task[Any]] = set()
        try:
            service()
            await starting.asend(Host, http=False)
        except BaseException as error:
            made.set_exception(error)
            raise
        made.set_result(None)
        await self._over.wait()

    async def _run(self, pool: str, task_id: str) -> None:
        await service().run_handed(pool, task_id)

    def _spawn(self, function: Callable[[], Any]) -> None:
        task = self._loop.create_task(function())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _drain(self) -> None:
        logger.info("draining: tasks end first")
        try:
            await self._close()
        except Exception:
            logger.exception("the drain failed")
        if self._handed:
            returns = [asyncio.wrap_future(future) for future in self._handed]
            await asyncio.wait(returns, timeout=RETURN_PATIENCE)
        await asyncio.sleep(SETTLED)
        self._end_of_consuming()

    async def _hasten(self) -> None:
        await service().supervisor.drain(0)

    async def _close(self) -> int:
        """Once, whoever asks."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close_service())
        return await asyncio.shield(self._closing)

    async def _close_service(self) -> int:
        SLOTS.close()
        stuck = await close_service(conf.sse().drain_grace)
        await stopping.asend(Host)
        for future in list(self._handed):
            # What was given back to others has no end here.
            future.cancel()
        if stuck:
            logger.warning("%d blocking producers do not end; leaving without them", stuck)
            timer = threading.Timer(LAST_RESORT, os._exit, (0,))
            timer.daemon = True
            timer.start()
        return stuck


HOST: Final = Host()
"""This process's."""
