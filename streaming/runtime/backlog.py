"""What readers who are behind get: big steps, compacted, made once for all who stand at the same place."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from typing import Final

from streaming.core.compaction import compact
from streaming.core.framing import Framing

from .journals.base import Journal

STEP: Final = 1024
"""Events in one step; compacting so many takes a millisecond."""

STEP_BYTES: Final = 131_072
"""Bytes of the journal in one step, unless a single event is larger."""

KEPT_BYTES: Final = 4_194_304
"""Bytes of compacted steps that a process keeps for the next reader who needs them."""

# What an entry costs beside its bytes: the key, its parts and their places (CPython, 64 bit).
_ENTRY_OVERHEAD: Final = 400

_Key = tuple[str, int, int, int, str]


class Backlogs:
    """Compacted steps of all tasks, the latest used ones kept, at most `max_bytes` of them."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._steps: OrderedDict[_Key, bytes] = OrderedDict()
        self.size = 0

    def step(
        self, task_id: str, journal: Journal, after: int, framing: Framing, sent_at: float | None
    ) -> tuple[int, bytes]:
        """How many events behind the id `after` go in this step, and their bytes.

        No bytes at all where everything in the step is void. What tells its time of sending (`sent_at`,
        seconds since the epoch) is not shared.
        """
        frames = _bounded(journal.read(after, STEP))
        key = (task_id, after, len(frames), journal.restart_id, framing.content_type)
        found = self._steps.get(key) if sent_at is None else None
        if found is not None:
            self._steps.move_to_end(key)
            return len(frames), found
        made = framing.durable(compact(frames, journal.restart_id), sent_at)
        if sent_at is None:
            self._keep(key, made)
        return len(frames), made

    def forget(self, task_id: str) -> None:
        """Drop a task's steps."""
        for key in [key for key in self._steps if key[0] == task_id]:
            self.size -= len(self._steps.pop(key)) + _ENTRY_OVERHEAD

    def _keep(self, key: _Key, step: bytes) -> None:
        self._steps[key] = step
        self.size += len(step) + _ENTRY_OVERHEAD
        while self.size > self._max_bytes:
            _, oldest = self._steps.popitem(last=False)
            self.size -= len(oldest) + _ENTRY_OVERHEAD


def _bounded(frames: list[bytes]) -> list[bytes]:
    sizes = list(accumulate(map(len, frames)))
    if not sizes or sizes[-1] <= STEP_BYTES:
        return frames
    return frames[: max(bisect_right(sizes, STEP_BYTES), 1)]
