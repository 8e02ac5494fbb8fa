"""How often threads of ours let the event loop in while they compute."""

from __future__ import annotations

import sys
import threading
from typing import Final

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
