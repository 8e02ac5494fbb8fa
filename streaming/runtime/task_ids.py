"""Names of tasks: 128 bits of chance, as 32 hex digits. Who knows an anonymous task's id may read it."""

from __future__ import annotations

import os
from typing import Final

_BYTES: Final = 16

_BATCH: Final = 256
"""Ids for which chance is asked of the kernel at once: a call gives the interpreter away to other threads,
and getting it back can take longer than all the rest of a start."""


class TaskIds:
    """Ids that nobody can guess. Not shared with a forked process: each one makes its own."""

    def __init__(self) -> None:
        self._chance = b""

    def new(self) -> str:
        """An id that was never given before."""
        if not self._chance:
            self._chance = os.urandom(_BYTES * _BATCH)
        task_id, self._chance = self._chance[:_BYTES], self._chance[_BYTES:]
        return task_id.hex()
