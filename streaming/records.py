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

import msgspec
from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, connection, transaction
from django.db.models import F

from streaming.core.events import Cancelled, Complete, Error
from streaming.core.routing import Snapshot
from streaming.core.states import State
from streaming.runtime.task import Task

from .models import Refusal, StreamTask
from .transcript import main_text

logger = logging.getLogger(__name__)

MAX_PENDING: Final = 10_000
"""Records that may wait for a database that is away; beyond it the oldest are dropped and counted."""

RETRY_PAUSE: Final = 1.0
"""Seconds before a failed write is tried again."""

BATCH: Final = 200
"""Rows in one statement: below every database's limit of parameters."""

_WRITTEN: Final = [
    field.name for field in StreamTask._meta.concrete_fields if field.name not in ("id", "purged_at")
]


@dataclass(slots=True)
class _Note:
    """One record to be written: plain values now, the text when the writer gets to it."""

    values: dict[str, Any]
    frames: list[bytes] | None = None


class Promise:
    """Durability of everything that was noted before it was made. See `ports.Commit`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: asyncio.Future[None] = loop.create_future()

    async def wait(self, seconds: float) -> bool:
        await asyncio.wait([self._done], timeout=seconds)
        return self._done.done()

    def keep(self) -> None:
        """Called in the writer's thread once it is true."""
        try:
            self._loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:
            # The loop is closed, so nobody waits any more.
            return

    def _resolve(self) -> None:
        if not self._done.done():
            self._done.set_result(None)


class DatabaseRecorder:
    """See `ports.Recorder`. `interval`: seconds that records may trail behind."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._lock = threading.Condition()
        self._notes: OrderedDict[str, _Note] = OrderedDict()
        self._refusals: Counter[tuple[datetime, str, str]] = Counter()
        self._promises: list[Promise] = []
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
                promise.keep()
            else:
                self._promises.append(promise)
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
        with self._lock:
            self._notes[task.id] = _Note(_values(task), frames)
            self._notes.move_to_end(task.id)
            if len(self._notes) > MAX_PENDING:
                self._notes.popitem(last=False)
                self.dropped += 1
            self._promises.append(promise)
            self._wake_writer(urgent=urgent)
        return promise

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
            # A promise without notes stands for those that are being written when it is made.
            self._writing = False
            self._lock.wait_for(lambda: self._notes or self._refusals or self._promises or self._closing)
            self._lock.wait_for(lambda: self._urgent or self._closing, timeout=self._interval)
            self._urgent = False
            self._writing = bool(self._notes or self._refusals or self._promises)
            return self._writing

    def _write_batch(self) -> bool:
        with self._lock:
            notes, self._notes = self._notes, OrderedDict()
            refusals, self._refusals = self._refusals, Counter()
            promises, self._promises = self._promises, []
        try:
            self._write(notes, refusals)
        except (DatabaseError, InterfaceError):
            self.failed_writes += 1
            logger.exception("could not write %d records; trying again", len(notes))
            self._put_back(notes, refusals, promises)
            connection.close()
            if not self._closing:
                time.sleep(RETRY_PAUSE)
            return False
        for promise in promises:
            promise.keep()
        return True

    def _write(self, notes: OrderedDict[str, _Note], refusals: Counter[tuple[datetime, str, str]]) -> None:
        """All in one transaction; one by one if some can never be written. Raises what may pass."""
        try:
            with transaction.atomic():
                _write_tasks([_row(task_id, note) for task_id, note in notes.items()])
                _write_refusals(refusals)
        except Exception as error:
            if _may_pass(error):
                raise
            self._write_singly(notes)
            with transaction.atomic():
                _write_refusals(refusals)

    def _write_singly(self, notes: OrderedDict[str, _Note]) -> None:
        for task_id, note in notes.items():
            try:
                with transaction.atomic():
                    _write_tasks([_row(task_id, note)])
            except Exception as error:
                if _may_pass(error):
                    raise
                self.dropped += 1
                logger.exception("task %s: no database takes its record; dropped", task_id)

    def _put_back(
        self,
        notes: OrderedDict[str, _Note],
        refusals: Counter[tuple[datetime, str, str]],
        promises: list[Promise],
    ) -> None:
        with self._lock:
            for task_id, note in notes.items():
                self._notes.setdefault(task_id, note)
            self._refusals.update(refusals)
            self._promises = promises + self._promises


def _may_pass(error: Exception) -> bool:
    """Whether it is the database's fault, so that trying again makes sense, and not the record's (a value
    that does not fit, an owner who was deleted meanwhile)."""
    if isinstance(error, IntegrityError | DataError):
        return False
    return isinstance(error, DatabaseError | InterfaceError)


def _write_tasks(rows: list[StreamTask]) -> None:
    StreamTask.objects.bulk_create(
        rows, batch_size=BATCH, update_conflicts=True, unique_fields=["id"], update_fields=_WRITTEN
    )


def _write_refusals(refusals: Counter[tuple[datetime, str, str]]) -> None:
    for (minute, pool, reason), count in refusals.items():
        row, _ = Refusal.objects.get_or_create(minute=minute, pool=pool, reason=reason)
        Refusal.objects.filter(pk=row.pk).update(count=F("count") + count)


def _row(task_id: str, note: _Note) -> StreamTask:
    row = StreamTask(id=task_id, **note.values)
    if note.frames is not None:
        # PostgreSQL cannot store NUL in text.
        row.text = main_text(note.frames).replace("\x00", "\ufffd")
    return row


def _values(task: Task) -> dict[str, Any]:
    spec, final, counts = task.spec, task.final, task.counts
    values: dict[str, Any] = {
        "owner_id": spec.owner,
        "end_user": spec.end_user,
        "kind": spec.kind,
        "pool": spec.pool,
        "priority": spec.priority,
        "state": task.state.value if final is None else final.name,
        "route": task.route,
        "reason": task.reason,
        "snapshot": msgspec.to_builtins(task.ticket.snapshot),
        "arguments": spec.arguments,
        "language": spec.language,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "last_event_id": task.journal.last_id,
        "chunks": counts.chunks,
        "content_length": counts.content_length,
        "status_messages": counts.status_messages,
        "resumes": counts.resumes,
    }
    timing = task.receipt
    if timing is not None:
        values["timing"] = msgspec.to_builtins(timing)
        values["queued_ms"] = timing.queued_ms
        values["first_content_ms"] = timing.first_content_ms
        values["total_ms"] = timing.total_ms
        # The terminal event itself comes right after this record.
        values["last_event_id"] += 1
    match final:
        case Complete():
            values |= {
                "finish_reason": final.finish_reason,
                "model": final.model or "",
                "usage": final.usage,
            }
        case Error():
            values |= {"error_code": final.code, "error_message": final.message}
        case Cancelled():
            values["cancel_reason"] = final.reason
    return values
