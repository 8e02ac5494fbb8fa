"""Task records, written behind: one thread per process, batched upserts, never on the way to a byte.

The event loop only notes what is to be written; the writer collects for `journal_flush_interval` and
writes everything in one transaction, at once when somebody waits for durability. While the database is
away the notes wait (the newest per task), bounded, and what had to be dropped is counted and logged.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, connection, transaction

from streaming.core.routing import Snapshot
from streaming.core.states import State
from streaming.runtime.task import Task

from .rows import row_values, task_row, write_refusals, write_tasks

logger = logging.getLogger(__name__)

MAX_PENDING: Final = 10_000
"""Records that may wait for a database that is away; beyond it the oldest are dropped and counted."""

RETRY_PAUSE: Final = 1.0
"""Seconds before a failed write is tried again."""


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


@dataclass(slots=True)
class _Note:
    """One record to be written, and who waits for it. `frames`: the text, until the writer gets to it."""

    values: dict[str, Any]
    frames: list[bytes] | None
    promises: list[Promise]

    def resolve(self, kept: bool) -> None:
        for promise in self.promises:
            promise.resolve(kept)


_Notes = OrderedDict[str, _Note]
_Refusals = Counter[tuple[datetime, str, str]]


class DatabaseRecorder:
    """See `ports.Recorder`. `interval`: seconds that records may trail behind."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._lock = threading.Condition()
        self._notes: _Notes = OrderedDict()
        self._refusals: _Refusals = Counter()
        self._flushes: list[Promise] = []
        self._thread: threading.Thread | None = None
        self._closing = self._urgent = self._writing = False
        self._loud_until = 0.0
        self._unlogged: Counter[str] = Counter()
        self.failed_writes = 0
        self.dropped = 0

    # On the loop

    def accepted(self, task: Task) -> Promise:
        """Note a new task."""
        return self._note(task, urgent=task.state is State.QUEUED)

    def started(self, task: Task) -> None:
        """Note that a waiting task runs."""
        self._note(task, urgent=False)

    def ended(self, task: Task) -> Promise:
        """Note the end; the text is put together in the writer's thread."""
        return self._note(task, urgent=True, frames=task.journal.read(0, task.journal.last_id))

    def refused(self, snapshot: Snapshot, reason: str) -> None:
        """Count a refusal, and log refusals at most once a second with their number."""
        minute = datetime.now(UTC).replace(second=0, microsecond=0)
        with self._lock:
            self._refusals[minute, snapshot.pool, reason] += 1
            self._wake_writer(urgent=False)
        self._unlogged[f"{snapshot.pool} {reason}"] += 1
        now = time.monotonic()
        if now >= self._loud_until:
            self._loud_until = now + 1.0
            for what, count in self._unlogged.items():
                logger.warning("refused %d: %s", count, what)
            self._unlogged.clear()

    def flush(self) -> Promise:
        """Durability of everything noted so far, at once."""
        promise = Promise(asyncio.get_running_loop())
        with self._lock:
            if not self._notes and not self._refusals and not self._writing:
                promise.resolve(True)
            else:
                self._flushes.append(promise)
                self._wake_writer(urgent=True)
        return promise

    @property
    def pending(self) -> int:
        """Records that are not durable yet."""
        return len(self._notes)

    def close(self, seconds: float) -> None:
        """Write what is left, for at most `seconds`; blocks."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    def _note(self, task: Task, *, urgent: bool, frames: list[bytes] | None = None) -> Promise:
        promise = Promise(asyncio.get_running_loop())
        values = row_values(task)
        with self._lock:
            older = self._notes.pop(task.id, None)
            waiting = [] if older is None else older.promises
            self._notes[task.id] = _Note(values, frames, [*waiting, promise])
            self._drop_beyond_bound()
            self._wake_writer(urgent=urgent)
        return promise

    def _drop_beyond_bound(self) -> None:
        while len(self._notes) > MAX_PENDING:
            _, oldest = self._notes.popitem(last=False)
            oldest.resolve(False)
            self.dropped += 1

    def _wake_writer(self, *, urgent: bool) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_for_ever, name="sluice-records", daemon=True)
            self._thread.start()
        if urgent:
            self._urgent = True
        self._lock.notify_all()

    # In the writer's thread

    def _write_for_ever(self) -> None:
        try:
            while self._wait_for_work():
                if not self._write_batch() and self._closing:
                    break
        finally:
            connection.close()

    def _wait_for_work(self) -> bool:
        """Whether there is work; False when closing and all is written."""
        with self._lock:
            # A flush without notes stands for those that are being written when it is asked for.
            self._writing = False
            self._lock.wait_for(lambda: self._notes or self._refusals or self._flushes or self._closing)
            self._lock.wait_for(lambda: self._urgent or self._closing, timeout=self._interval)
            self._urgent = False
            self._writing = bool(self._notes or self._refusals or self._flushes)
            return self._writing

    def _write_batch(self) -> bool:
        with self._lock:
            notes, self._notes = self._notes, OrderedDict()
            refusals, self._refusals = self._refusals, Counter()
            flushes, self._flushes = self._flushes, []
        try:
            unwritable = self._write(notes, refusals)
        except (DatabaseError, InterfaceError):
            self.failed_writes += 1
            logger.exception("could not write %d records; trying again", len(notes))
            self._put_back(notes, refusals, flushes)
            connection.close()
            if not self._closing:
                time.sleep(RETRY_PAUSE)
            return False
        for task_id, note in notes.items():
            note.resolve(task_id not in unwritable)
        for flush in flushes:
            flush.resolve(True)
        return True

    def _write(self, notes: _Notes, refusals: _Refusals) -> set[str]:
        """All in one transaction; one by one if some can never be written, whose ids are returned.

        Raises what may pass.
        """
        unwritable: set[str] = set()
        try:
            with transaction.atomic():
                write_tasks([task_row(task_id, note.values, note.frames) for task_id, note in notes.items()])
                write_refusals(refusals)
        except Exception as error:
            if _may_pass(error):
                raise
            unwritable = self._write_singly(notes)
            with transaction.atomic():
                write_refusals(refusals)
        return unwritable

    def _write_singly(self, notes: _Notes) -> set[str]:
        unwritable = set()
        for task_id, note in notes.items():
            try:
                with transaction.atomic():
                    write_tasks([task_row(task_id, note.values, note.frames)])
            except IntegrityError as error:
                # Nothing to look into: the owner was deleted while the task ran.
                first_line = str(error).partition("\n")[0]
                logger.warning("task %s: its record refers to what is gone; dropped: %s", task_id, first_line)
                unwritable.add(task_id)
            except Exception as error:
                if _may_pass(error):
                    raise
                logger.exception("task %s: no database takes its record; dropped", task_id)
                unwritable.add(task_id)
        self.dropped += len(unwritable)
        return unwritable

    def _put_back(self, notes: _Notes, refusals: _Refusals, flushes: list[Promise]) -> None:
        """Before what was noted meanwhile; of one task the newer note counts, for all who wait."""
        with self._lock:
            for task_id, newer in self._notes.items():
                older = notes.pop(task_id, None)
                if older is not None:
                    newer.promises[:0] = older.promises
                notes[task_id] = newer
            self._notes = notes
            self._refusals.update(refusals)
            self._flushes[:0] = flushes
            self._drop_beyond_bound()


def _may_pass(error: Exception) -> bool:
    """Whether it is the database's fault, so that trying again makes sense, and not the record's (a value
    that does not fit, an owner who was deleted meanwhile)."""
    if isinstance(error, IntegrityError | DataError):
        return False
    return isinstance(error, DatabaseError | InterfaceError)
