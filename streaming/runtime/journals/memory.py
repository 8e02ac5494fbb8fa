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
        "_first_id",
        "_frames",
        "_hole",
        "_restart_id",
        "_size",
        "_store",
        "_subscribers",
        "closed",
        "limit",
    )

    def __init__(self, store: MemoryJournals, limit: int) -> None:
        self._store = store
        self.limit = limit
        self._frames: list[bytes] = []
        self._first_id = 1
        # Ids that were skipped before the last frame.
        self._hole = 0
        self._restart_id = 0
        self._size = 0
        self._subscribers: list[Callable[[], None]] = []
        self.closed = False

    @property
    def last_id(self) -> int:
        return self._first_id + len(self._frames) - 1 + self._hole

    @property
    def dense_id(self) -> int:
        return self.last_id - self._hole - 1 if self._hole else self.last_id

    @property
    def first_id(self) -> int:
        return self._first_id

    @property
    def restart_id(self) -> int:
        return self._restart_id

    @property
    def size(self) -> int:
        return self._size

    def append(self, event: Event) -> int:
        event_id = self.last_id + 1
        frame = sse.frame(event_id, event.name, encode(event))
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

        The hole that a crash leaves is kept as such; behind any other only what follows it is kept (readers
        see the gap). The limit is the writer's affair.
        """
        if not frames:
            return
        if first_id >= self.last_id + LOST_IDS:
            self._hole = first_id - self.last_id - 1
        elif first_id > self.last_id + 1:
            self.clear()
            self._first_id = first_id
        for frame in frames[max(self.last_id + 1 - first_id, 0) :]:
            self._frames.append(frame)
            self._account(len(frame) + _FRAME_OVERHEAD)
            if _RESTART in frame:
                self._restart_id = self.last_id
        if self._frames:
            self.closed = sse.name(self._frames[-1]) in TERMINAL_NAMES
        self._wake()

    def read(self, after: int, limit: int) -> list[bytes]:
        start = max(after + 1 - self._first_id, 0)
        if after >= self.dense_id and after < self.last_id:
            start = len(self._frames) - 1
        return self._frames[start : start + limit]

    def trim(self, first_id: int) -> None:
        last_id = self.last_id
        everything = first_id > last_id
        # The end behind a hole stays until everything goes, and the hole with it.
        most = len(self._frames) - (1 if self._hole and not everything else 0)
        count = min(max(first_id - self._first_id, 0), most)
        if count:
            self._account(-sum(len(frame) + _FRAME_OVERHEAD for frame in self._frames[:count]))
            del self._frames[:count]
            self._first_id += count
        if everything:
            self._first_id, self._hole = last_id + 1, 0

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
        if not always and self._size + cost > self.limit:
            raise JournalFull
        self._frames.append(frame)
        self._account(cost)
        self.closed = closes
        if restarts:
            self._restart_id = self.last_id
        self._wake()

    def _wake(self) -> None:
        # A copy: a reader may leave while it is being woken.
        for wake in tuple(self._subscribers):
            wake()

    def _account(self, change: int) -> None:
        self._size += change
        self._store.size += change
