"""Going down in good order: on SIGTERM or SIGINT streams end first, then the server.

Servers close or abandon open streams without a word, each in its own way. So the signal is taken before
the server sees it: newcomers are refused, running tasks get `drain_grace` seconds, every reader gets
the end of its stream, records are written; only then the server's own handler is called.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from types import FrameType
from typing import Any, Final

from . import conf
from .signals import stopping

logger = logging.getLogger(__name__)

LAST_RESORT: Final = 0.7
"""Seconds after which a process ends although a blocking producer does not (Python would wait for it): less
than the one that it has beyond `drain_grace`."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Drain:
    """The process's way down. `install` is called with every request and acts at the first one, because
    servers set their signal handlers after they load the application."""

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[int] | None = None
        self._signals = 0

    def install(self) -> None:
        """Take the signals; only in the main thread, where Python allows it."""
        if self._loop is not None or threading.current_thread() is not threading.main_thread():
            return
        self._loop = asyncio.get_running_loop()
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)

    async def finish(self) -> int:
        """Drain now, or wait for the drain that runs; returns how many blocking producers do not end."""
        if self._task is None:
            self._task = asyncio.ensure_future(_close())
        return await asyncio.shield(self._task)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            if number == signal.SIGINT:
                # Somebody at a terminal is in a hurry. Servers have not seen the first one and would wait.
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        assert self._loop is not None
        if self._loop.is_closed() or not self._loop.is_running():
            self._hand_on(number, frame)
            return
        self._loop.call_soon_threadsafe(self._start, number)

    def _start(self, number: int) -> None:
        self._handing_on = asyncio.ensure_future(self._drain_and_hand_on(number))

    async def _drain_and_hand_on(self, number: int) -> None:
        logger.info("draining: streams end first")
        stuck = 0
        try:
            stuck = await self.finish()
        except Exception:
            logger.exception("the drain failed")
        if stuck:
            logger.warning("%d blocking producers do not end; leaving without them", stuck)
            timer = threading.Timer(LAST_RESORT, os._exit, (0,))
            timer.daemon = True
            timer.start()
        self._hand_on(number, None)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous.get(number, signal.SIG_DFL)
        server: Any = getattr(previous, "__self__", None)
        if hasattr(server, "should_exit"):
            # uvicorn's switch for programs. Its handler would raise the signal again at the end, and a
            # process that went down in order would seem to have been killed.
            server.should_exit = True
        elif callable(previous):
            previous(number, frame)
        elif previous is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


async def _close() -> int:
    """End the streams, then let go of what served them."""
    # Not before Django is set up: the service needs its models.
    from .service import close_service

    stuck = await close_service(conf.sse().drain_grace)
    await stopping.asend(Drain)
    return stuck


DRAIN: Final = Drain()
