"""The journal of one process: frames in a list, readers woken by each append."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streaming.core import sse
from streaming.core.events import TERMINAL_NAMES, Event, Restart, Truncated, encode

from .base import LOST_IDS, JournalClosed, JournalFull

# What a bytes object and its place in the list cost beside the payload (CPython, 64 bit).
_FRAME_OVERHEAD: Final = 41

# No data line holds a line end, so this is in no other frame.
_RESTART: Final = b"\nevent: restart\n"


class MemoryJournals:
    """All journals of a process and what they hold together. `max_bytes` bounds each one of them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.size = 0

    def create(self) -> MemoryJournal:
        """An empty journal that counts towards `size` until it is dropped."""
        return MemoryJournal(self, self._max_bytes)


class MemoryJournal:
    """See `base.Journal`."""

    __slots__ = (
        "_beside",
        "_frames",
        "_skipped",
        "_store",
        "_subscribers",
        "anew_id",
        "closed",
        "dense_id",
        "first_id",
        "last_id",
        "limit",
        "restart_id",
        "size",
    )

    def __init__(self, store: MemoryJournals, limit: int) -> None:
        self._store = store
        self.limit = limit
        self._frames: list[bytes] = []
        self._subscribers: list[Callable[[], None]] = []
        self.first_id = 1
        # The same but for the hole of a crash, which is before the last frame.
        self.dense_id = self.last_id = 0
        self.restart_id = self.anew_id = 0
        self._skipped = 0
        # Bytes that were written here and are gone, less those that are here and were written elsewhere.
        self._beside = 0
        self.size = 0
        self.closed = False

    @property
    def next_id(self) -> int:
        return self.last_id + 1 + self._skipped

    @property
    def written(self) -> int:
        return self.size - _FRAME_OVERHEAD * len(self._frames) + self._beside

    def skip(self, ids: int) -> None:
        self._skipped = ids - 1

    def append(self, event: Event) -> int:
        event_id = self.next_id
        frame = sse.frame(event_id, event.name, encode(event))
        if self._skipped:
            self.adopt(event_id, [frame])
            return event_id
        restarts = isinstance(event, Restart)
        always = event.terminal or isinstance(event, Truncated)
        self._add(frame, always=always, closes=event.terminal, restarts=restarts)
        return event_id

    def append_content(self, delta: str, channel: str | None) -> int:
        event_id = self.last_id + 1
        self._add(sse.content_frame(event_id, delta, channel), always=False, closes=False)
        return event_id

    def adopt(self, first_id: int, frames: list[bytes]) -> None:
        """Take over frames that were written elsewhere, the first of which has the id `first_id`.

        The hole that a crash leaves before the end is kept as such. Behind any other only what follows it is
        kept: readers see the gap, unless it is a `restart` that follows a crash. The limit is the writer's
        affair.
        """
        if not frames:
            return
        crashed = first_id >= self.last_id + LOST_IDS
        after_hole = crashed and sse.name(frames[0]) in TERMINAL_NAMES
        if after_hole:
            self.last_id = first_id - 1
        elif first_id > self.last_id + 1:
            self.clear()
            self.first_id = first_id
            self.last_id = self.dense_id = first_id - 1
            if crashed and _RESTART in frames[0]:
                self.anew_id = first_id
        self._skipped = 0
        for frame in frames[max(self.last_id + 1 - first_id, 0) :]:
            self._frames.append(frame)
            self._account(len(frame) + _FRAME_OVERHEAD)
            self._beside -= len(frame)
            self.last_id += 1
            if not after_hole:
                self.dense_id = self.last_id
            if _RESTART in frame:
                self.restart_id = self.last_id
        if self._frames:
            self.closed = sse.name(self._frames[-1]) in TERMINAL_NAMES
        self._wake()

    def read(self, after: int, limit: int) -> list[bytes]:
        start = max(after + 1 - self.first_id, 0)
        if self.dense_id <= after < self.last_id:
            start = len(self._frames) - 1
        return self._frames[start : start + limit]

    def trim(self, first_id: int) -> None:
        everything = first_id > self.last_id
        # The end behind a hole stays until everything goes, and the hole with it.
        stays = self.dense_id < self.last_id and not everything
        count = min(max(first_id - self.first_id, 0), len(self._frames) - stays)
        if count:
            gone = sum(map(len, self._frames[:count]))
            self._account(-gone - _FRAME_OVERHEAD * count)
            self._beside += gone
            del self._frames[:count]
            self.first_id += count
        if everything:
            self.first_id, self.dense_id = self.last_id + 1, self.last_id

    def clear(self) -> None:
        self.trim(self.last_id + 1)

    def subscribe(self, wake: Callable[[], None]) -> None:
        self._subscribers.append(wake)

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        if wake in self._subscribers:
            self._subscribers.remove(wake)

    def _add(self, frame: bytes, *, always: bool, closes: bool, restarts: bool = False) -> None:
        if self.closed:
            raise JournalClosed
        cost = len(frame) + _FRAME_OVERHEAD
        if not always and self.size + cost > self.limit:
            raise JournalFull
        self._frames.append(frame)
        self.last_id = self.dense_id = self.last_id + 1
        self.size += cost
        self._store.size += cost
        self.closed = closes
        if restarts:
            self.restart_id = self.last_id
        self._wake()

    def _wake(self) -> None:
        # A copy: a reader may leave while it is being woken.
        for wake in tuple(self._subscribers):
            wake()

    def _account(self, change: int) -> None:
        self.size += change
        self._store.size += change
