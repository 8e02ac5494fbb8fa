"""What waits to be written to the database: the newest row of each task, and its events, in order."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

MAX_NOTES: Final = 10_000
"""Tasks that may wait for a database that is away; beyond it the oldest are dropped and counted."""

MAX_BYTES: Final = 67_108_864
"""Bytes of events that may wait; beyond it those of the tasks noted first are dropped and counted. Readers of
this process lose nothing by that."""


class Promise:
    """Durability of what was noted. See `ports.Commit`. Belongs to one event loop."""

    __slots__ = ("_kept", "_waiters", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._kept: bool | None = None
        self._waiters: list[asyncio.Future[None]] = []

    async def wait(self, seconds: float) -> bool:
        """Whether it was kept within `seconds`; False at once if it cannot be kept any more."""
        if self._kept is None:
            waiter = self.loop.create_future()
            self._waiters.append(waiter)
            timer = self.loop.call_later(seconds, _wake, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
        return self._kept is True

    def settle(self, kept: bool) -> None:
        """It was kept, or cannot be any more. Called on its loop; what comes second counts no more."""
        if self._kept is None:
            self._kept = kept
            for waiter in self._waiters:
                _wake(waiter)
            self._waiters.clear()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def settle_soon(promises: Sequence[Promise], *, kept: bool) -> None:
    """Settle promises of one loop, from any thread: one visit to the loop for all of them."""
    if not promises:
        return
    # The loop may be closed, and then nobody waits any more.
    with suppress(RuntimeError):
        promises[0].loop.call_soon_threadsafe(_settle, promises, kept)


def _settle(promises: Sequence[Promise], kept: bool) -> None:
    for promise in promises:
        promise.settle(kept)


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one task that follow each other: the first one's id, and their frames."""

    first_id: int
    frames: list[bytes]

    @property
    def last_id(self) -> int:
        """The last one's id."""
        return self.first_id + len(self.frames) - 1

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.frames))


@dataclass(slots=True)
class Note:
    """About one task. `epoch`: the one under which it is written. `values`: its row, None where only events
    are new. `fresh`: nobody but this process can know of it yet. `text`: all its frames, once it has ended,
    for its text. `batches`: events that are not written yet. `promises`: who waits for it."""

    epoch: int = 1
    values: dict[str, Any] | None = None
    fresh: bool = False
    text: list[bytes] | None = None
    batches: list[Batch] = field(default_factory=list)
    promises: list[Promise] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the events."""
        return sum(batch.size for batch in self.batches)

    def after(self, older: Note) -> Note:
        """`older` and this one as one: the newer row, the events of both. What an earlier epoch had to say
        counts no more, also where it is said late."""
        if older.epoch != self.epoch:
            late, kept = (older, self) if older.epoch < self.epoch else (self, older)
            late.break_promises()
            return kept
        return Note(
            epoch=self.epoch,
            values=older.values if self.values is None else self.values,
            fresh=older.fresh,
            text=older.text if self.text is None else self.text,
            batches=older.batches + self.batches,
            promises=older.promises + self.promises,
        )

    def break_promises(self) -> None:
        """It will not be written: tell all who wait. Called in any thread."""
        settle_soon(self.promises, kept=False)


class Notes(OrderedDict[str, Note]):
    """Notes by task id, the task that was noted first in front. Not safe for threads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def add(self, task_id: str, note: Note) -> None:
        """Note more about a task."""
        older = self.pop(task_id, None)
        kept = note if older is None else note.after(older)
        self.size += kept.size - (0 if older is None else older.size)
        self[task_id] = kept

    def put_back(self, older: Notes) -> Notes:
        """`older`, which could not be written (or were, and nobody said so), and these after them."""
        for note in older.values():
            note.fresh = False
        for task_id, note in self.items():
            older.add(task_id, note)
        return older

    def drop_beyond_bounds(self) -> tuple[int, int]:
        """Keep to MAX_NOTES and MAX_BYTES: how many notes and how many events were dropped."""
        notes = events = 0
        while len(self) > MAX_NOTES:
            _, oldest = self.popitem(last=False)
            self.size -= oldest.size
            oldest.break_promises()
            notes += 1
        for note in self.values():
            if self.size <= MAX_BYTES:
                break
            self.size -= note.size
            events += sum(len(batch.frames) for batch in note.batches)
            note.batches = []
        return notes, events
