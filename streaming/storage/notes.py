"""What waits to be written to the database: the newest row of each task, and its events, in order."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

MAX_NOTES: Final = 10_000
"""Tasks that may wait for a database that is away; beyond it the oldest are dropped and counted."""

MAX_BYTES: Final = 67_108_864
"""Bytes of events that may wait; beyond it those of the tasks noted first are dropped and counted. Readers of
this process lose nothing by that."""


class Promise:
    """Durability of what was noted. See `ports.Commit`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._kept: asyncio.Future[bool] = loop.create_future()

    async def wait(self, seconds: float) -> bool:
        """Whether it was kept within `seconds`; False at once if it cannot be kept any more."""
        await asyncio.wait([self._kept], timeout=seconds)
        return self._kept.done() and self._kept.result()

    def resolve(self, kept: bool) -> None:
        """Called in any thread."""
        try:
            self._loop.call_soon_threadsafe(self._resolve, kept)
        except RuntimeError:
            # The loop is closed, so nobody waits any more.
            return

    def _resolve(self, kept: bool) -> None:
        if not self._kept.done():
            self._kept.set_result(kept)


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
    are new. `text`: all its frames, once it has
    ended, for its text. `batches`: events that are not written yet. `promises`: who waits for it."""

    epoch: int = 1
    values: dict[str, Any] | None = None
    text: list[bytes] | None = None
    batches: list[Batch] = field(default_factory=list)
    promises: list[Promise] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the events."""
        return sum(batch.size for batch in self.batches)

    def after(self, older: Note) -> Note:
        """`older` and this one as one: the newer row, the events of both. What an earlier epoch had to say
        counts no more."""
        if older.epoch != self.epoch:
            older.resolve(False)
            return self
        return Note(
            epoch=self.epoch,
            values=older.values if self.values is None else self.values,
            text=older.text if self.text is None else self.text,
            batches=older.batches + self.batches,
            promises=older.promises + self.promises,
        )

    def resolve(self, kept: bool) -> None:
        """Tell all who wait."""
        for promise in self.promises:
            promise.resolve(kept)


class Notes(OrderedDict[str, Note]):
    """Notes by task id, the task that was noted first in front. Not safe for threads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def add(self, task_id: str, note: Note) -> None:
        """Note more about a task."""
        self.size += note.size
        older = self.pop(task_id, None)
        self[task_id] = note if older is None else note.after(older)

    def put_back(self, older: Notes) -> Notes:
        """`older`, which could not be written, and these after them."""
        for task_id, note in self.items():
            older.add(task_id, note)
        return older

    def drop_beyond_bounds(self) -> tuple[int, int]:
        """Keep to MAX_NOTES and MAX_BYTES: how many notes and how many events were dropped."""
        notes = events = 0
        while len(self) > MAX_NOTES:
            _, oldest = self.popitem(last=False)
            self.size -= oldest.size
            oldest.resolve(False)
            notes += 1
        for note in self.values():
            if self.size <= MAX_BYTES:
                break
            self.size -= note.size
            events += sum(len(batch.frames) for batch in note.batches)
            note.batches = []
        return notes, events
