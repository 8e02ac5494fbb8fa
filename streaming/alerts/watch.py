"""A server's look at alerts: a thread of its own, because the event loop may be what is wrong."""

from __future__ import annotations

import logging
import threading
from typing import Final

from django.db import DatabaseError, InterfaceError, connection

from streaming.runtime.switch_interval import COURTESY

from .notices import deliver
from .rounds import evaluate

logger = logging.getLogger(__name__)

SOON: Final = 2.0
"""Seconds after which a new process looks for the first time: by then it knows of those that died."""


class Watch:
    """Looks every `interval` seconds, if no other process has; 0: never."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._loud = True

    def start(self) -> None:
        """Begin."""
        if self._interval > 0 and self._thread is None:
            self._thread = threading.Thread(target=self._look_for_ever, name="sluice-alerts", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Begin no further look."""
        self._stop.set()

    def close(self, seconds: float) -> None:
        """Look no more. Blocks while a look goes on, for at most `seconds`."""
        self.stop()
        if self._thread is not None:
            self._thread.join(seconds)

    def _look_for_ever(self) -> None:
        pause = min(self._interval, SOON)
        while not self._stop.wait(pause):
            pause = self._interval
            self._look()

    def _look(self) -> None:
        try:
            with COURTESY:
                mine = evaluate(self._interval)
            if mine:
                deliver()
            self._loud = True
        except (DatabaseError, InterfaceError) as error:
            # Once: it stays so for a while, and others say it, too.
            if self._loud:
                logger.warning("alerts cannot be looked at: %s", error)
            self._loud = False
        except Exception:
            logger.exception("alerts could not be looked at")
        finally:
            connection.close()
