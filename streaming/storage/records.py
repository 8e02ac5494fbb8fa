"""Records and events, written behind: one thread per process, in batches, never on the way to a byte.

The event loop only notes what is to be written; the writer collects for `journal_flush_interval` and
writes everything in one transaction, at once when somebody waits for durability. While the database is
away the notes wait, bounded, and what had to be dropped is counted and logged.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, Protocol

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, connection, transaction

from streaming.core import sse
from streaming.core.events import encode
from streaming.core.routing import Snapshot
from streaming.core.states import State
from streaming.runtime.switch_interval import COURTESY
from streaming.runtime.task import Task

from .notes import Batch, Note, Notes, Promise, settle_soon
from .rollups import Deltas, Tally
from .rows import NOBODY, row_values, stored_rows, write_notes, write_refusals

logger = logging.getLogger(__name__)

TICK: Final = 0.5
"""Seconds between two ticks of the housekeeper."""

RETRY_PAUSE: Final = 0.5
"""Seconds before a failed write is tried again."""

SOON: Final = 0.02
"""Seconds within which a new task is written: a process that is killed right after shall be forgotten by none
of its readers. Nobody waits for it, so what comes together is still written together."""

LONGEST: Final = 0.75
"""Seconds at most for which events are collected where writing them takes long: a crash must not cost more
than a second of text."""

WRITING: Final = 0.1
"""Share of the time that writing events may take before they are collected for longer than the interval."""

STALLED: Final = 3.0
"""Seconds after which the database ends a transaction of the writer's in which nothing comes: its process is
stopped, or cut off, and what it has locked holds up the writers of others, also those who would take over its
tasks. Less than what makes a process dead; who was only slow writes again. (PostgreSQL does not count the
time behind a pipeline, as rows are inserted by: who stops just there keeps its locks.)"""

AT_ONCE: Final = 128
"""Tasks whose new events are noted in one step of the loop, where nobody waits for it."""

PACE: Final = 0.003
"""Seconds at least between the beginnings of two transactions: what comes meanwhile shares the next one. Who
comes alone waits for nothing."""

_Refusals = Counter[tuple[datetime, str, str]]


class Housekeeper(Protocol):
    """What else is to be done in the writer's thread; see `cluster.processes.Registry`."""

    process_id: str

    def tick(self, now: float, *, able: bool) -> bool:
        """Called each `TICK` seconds, and at once after it has returned true. `now`: monotonic seconds;
        `able`: whether all writes since the last call succeeded. May raise what the database raises."""
        ...

    def leave(self) -> None:
        """The last call."""
        ...


class DatabaseRecorder:
    """See `ports.Recorder`. `interval`: seconds that records may trail behind. `housekeeper`: speaks for this
    process among those that share the database. `on_lost`: called in the writer's thread with the id of a
    task that another process has taken over, and its last epoch here; nothing more is written of it."""

    def __init__(
        self,
        interval: float,
        housekeeper: Housekeeper,
        on_lost: Callable[[str, int], object] = lambda task_id, epoch: None,
    ) -> None:
        self._interval = interval
        self._housekeeper = housekeeper
        self._on_lost = on_lost
        self._next_tick = 0.0
        self._able = True
        self._lock = threading.Condition()
        self._notes = Notes()
        self._refusals: _Refusals = Counter()
        self._tally = Tally()
        self._flushes: list[Promise] = []
        self._thread: threading.Thread | None = None
        self._closing = self._writing = False
        self._due = math.inf
        self._last_write = 0.0
        self._write_seconds = 0.0
        self._waiting_since: float | None = None
        self._trying_since: float | None = None
        self._loud_until = 0.0
        self._unlogged: Counter[str] = Counter()
        self._fresh: dict[str, tuple[Task, Promise]] = {}
        self._unread: dict[str, Task] = {}
        self._admissions: asyncio.TimerHandle | None = None
        self._collector: asyncio.Handle | None = None
        self._bounded: object = None
        self.failed_writes = 0
        self.dropped = 0
        self.dropped_events = 0

    # On the loop

    def accepted(self, task: Task, *, known: bool = False) -> Promise:
        """Note a new task; one that runs already in a moment, with what it has become by then, unless it is
        `known`: then its row is there, and others may have taken it over."""
        if known or task.state is State.QUEUED:
            return self._note(task, Note(task.epoch, values=self.row(task)))
        promise = Promise(asyncio.get_running_loop())
        self._fresh[task.id] = task, promise
        if self._admissions is None:
            self._admissions = asyncio.get_running_loop().call_later(SOON, self._collect_admissions)
        return promise

    def started(self, task: Task) -> Promise:
        """Note that a waiting task runs."""
        return self._note(task, Note(task.epoch, values=self.row(task)))

    def given_up(self, task: Task) -> Promise:
        """Note that a waiting task is anybody's, with what it has said."""
        self._unread.pop(task.id, None)
        values = self.row(task) | {"process": NOBODY}
        return self._note(task, Note(task.epoch, values=values, batches=[_new_events(task)]))

    def appended(self, task: Task) -> None:
        """There are new events; they are collected once per interval. (The last one came with `ended`.)"""
        if task.final is not None:
            return
        self._unread[task.id] = task
        if self._collector is None:
            self._collector = asyncio.get_running_loop().call_later(self._patience(), self._collect_in_steps)

    def ended(self, task: Task) -> Promise:
        """Note the end, with the terminal event as the next one of the journal; the text is put together in
        the writer's thread."""
        assert task.final is not None
        self._unread.pop(task.id, None)
        journal = task.journal
        batch = _new_events(task)
        batch.frames.append(sse.frame(journal.next_id, task.final.name, encode(task.final)))
        note = Note(task.epoch, values=self.row(task), text=journal.read(0, journal.last_id), batches=[batch])
        return self._note(task, note)

    def refused(self, snapshot: Snapshot, reason: str) -> None:
        """Count a refusal, and log refusals at most once a second with their number."""
        minute = datetime.now(UTC).replace(second=0, microsecond=0)
        with self._lock:
            self._refusals[minute, snapshot.pool, reason] += 1
            self._wake_writer(within=self._interval)
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
        self._collect()
        with self._lock:
            if not self._notes and not self._refusals and not self._writing:
                promise.settle(True)
            else:
                self._flushes.append(promise)
                self._wake_writer(within=0.0)
        return promise

    @property
    def pending(self) -> int:
        """Records that are not durable yet."""
        return len(self._notes) + len(self._fresh)

    @property
    def behind(self) -> float:
        """Seconds that what was noted first has waited to be written; 0 if nothing waits."""
        return _since(self._waiting_since)

    @property
    def stalled(self) -> float:
        """Seconds for which the writer's thread has tried to write, be it only that this process lives; 0 if
        it got through the last time. Tells of a database that takes nothing, also where nothing happens."""
        return _since(self._trying_since)

    def close(self, seconds: float) -> None:
        """Write what is left, for at most `seconds`; blocks."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    @property
    def process_id(self) -> str:
        """This process among those that share the database."""
        return self._housekeeper.process_id

    def start(self) -> None:
        """Show life from now on, not only from the first task on."""
        with self._lock:
            self._wake_writer(within=self._interval)

    def row(self, task: Task) -> dict[str, Any]:
        """The columns of the task's row, as this process would write it now."""
        return row_values(task) | {"process": self._housekeeper.process_id}

    def _note(self, task: Task, note: Note) -> Promise:
        """Have the note written at once; the task's admission is in it, if that was not written yet."""
        promise = Promise(asyncio.get_running_loop())
        note.promises.append(promise)
        admission = self._fresh.pop(task.id, None)
        if admission is not None:
            note.fresh = True
            note.promises.append(admission[1])
        with self._lock:
            self._notes.add(task.id, note)
            self._drop_beyond_bounds()
            self._wake_writer(within=0.0)
        return promise

    def _collect_admissions(self) -> None:
        """Note the tasks that were admitted since the last time."""
        if self._admissions is not None:
            self._admissions.cancel()
            self._admissions = None
        if not self._fresh:
            return
        fresh, self._fresh = self._fresh, {}
        with self._lock:
            for task, promise in fresh.values():
                note = Note(task.epoch, values=self.row(task), fresh=True, promises=[promise])
                self._notes.add(task.id, note)
            self._drop_beyond_bounds()
            self._wake_writer(within=0.0)

    def _collect(self) -> None:
        """Note the events that came since the last time. They have waited their interval: no further one.
        The rows that they belong to come first."""
        self._collect_admissions()
        if self._collector is not None:
            self._collector.cancel()
            self._collector = None
        if self._unread:
            self._note_events(len(self._unread), wake=True)

    def _collect_in_steps(self, left: int = 0) -> None:
        """`_collect`, with a turn for others in between; the writer begins when all is noted. `left`: how
        many tasks are to be noted yet, 0 at the first step."""
        self._collector = None
        if not left:
            self._collect_admissions()
            left = len(self._unread)
        self._note_events(min(left, AT_ONCE), wake=left <= AT_ONCE)
        loop = asyncio.get_running_loop()
        if left > AT_ONCE:
            self._collector = loop.call_soon(self._collect_in_steps, left - AT_ONCE)
        elif self._unread:
            # What came in between has not waited yet.
            self._collector = loop.call_later(self._patience(), self._collect_in_steps)

    def _note_events(self, count: int, *, wake: bool) -> None:
        """Note the new events of so many tasks."""
        with self._lock:
            for pk in list(islice(self._unread, count)):
                # Events of a task whose row is not noted yet wait for it.
                if pk not in self._fresh:
                    task = self._unread.pop(pk)
                    self._notes.add(pk, Note(task.epoch, batches=[_new_events(task)]))
            self._drop_beyond_bounds()
            if wake and self._notes:
                self._wake_writer(within=0.0)

    def _patience(self) -> float:
        """Seconds for which events are collected."""
        return max(self._interval, min(self._write_seconds / WRITING, LONGEST))

    def _drop_beyond_bounds(self) -> None:
        notes, events = self._notes.drop_beyond_bounds()
        self.dropped += notes
        self.dropped_events += events

    def _wake_writer(self, *, within: float) -> None:
        """Have written what there is in so many seconds at the latest."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_for_ever, name="sluice-records", daemon=True)
            self._thread.start()
        now = time.monotonic()
        if self._waiting_since is None and (self._notes or self._refusals):
            self._waiting_since = now
        # A moment that has passed is none: the writer may have woken up for nothing then, and sleeps.
        if now + within < self._due or self._due <= now:
            self._due = min(self._due, now + within)
            self._lock.notify_all()

    # In the writer's thread

    def _write_for_ever(self) -> None:
        try:
            while self._wait_for_work():
                if not self._write_batch() and self._closing:
                    return
            self._leave()
        finally:
            connection.close()

    def _wait_for_work(self) -> bool:
        """Whether there is work; False when closing and all is written. Ticks meanwhile."""
        while True:
            with self._lock:
                # A flush without notes stands for those that are being written when it is asked for.
                self._writing = False
                ready = self._lock.wait_for(
                    self._has_work, timeout=max(0.0, self._next_tick - time.monotonic())
                )
            if time.monotonic() >= self._next_tick and not self._closing:
                self._tick()
            if ready:
                return self._collect_for_a_moment()

    def _has_work(self) -> bool:
        return bool(self._notes or self._refusals or self._flushes or self._closing)

    def _tick(self) -> None:
        able, self._able = self._able, True
        more = False
        self._try()
        try:
            self._bound_transactions()
            more = self._housekeeper.tick(time.monotonic(), able=able)
            self._trying_since = None
        except (DatabaseError, InterfaceError) as error:
            self._able = False
            logger.warning("could not show life: %s", error)
            connection.close()
        self._next_tick = time.monotonic() + (0.0 if more else TICK)

    def _try(self) -> None:
        if self._trying_since is None:
            self._trying_since = time.monotonic()

    def _leave(self) -> None:
        try:
            self._housekeeper.leave()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("could not say good-bye: %s", error)

    def _collect_for_a_moment(self) -> bool:
        """Wait until something is due, for the interval at most; whether there is work."""
        end = time.monotonic() + self._interval
        with self._lock:
            while not self._closing and (left := self._next_write(end) - time.monotonic()) > 0:
                self._lock.wait(left)
            self._last_write = time.monotonic()
            self._due = math.inf
            self._writing = bool(self._notes or self._refusals or self._flushes)
            return self._writing

    def _next_write(self, end: float) -> float:
        return max(min(self._due, end), self._last_write + PACE)

    def _write_batch(self) -> bool:
        with self._lock:
            notes, self._notes = self._notes, Notes()
            refusals, self._refusals = self._refusals, Counter()
            flushes, self._flushes = self._flushes, []
            began = time.monotonic()
        self._try()
        try:
            self._bound_transactions()
            with COURTESY:
                unwritable = self._write(notes, refusals)
            self._trying_since = None
        except (DatabaseError, InterfaceError) as error:
            self.failed_writes += 1
            self._able = False
            logger.warning("could not write %d records; trying again: %s", len(notes), _first_line(error))
            self._put_back(notes, refusals, flushes)
            connection.close()
            if not self._closing:
                time.sleep(RETRY_PAUSE)
            return False
        kept = [
            promise
            for task_id, note in notes.items()
            if task_id not in unwritable
            for promise in note.promises
        ]
        self._write_seconds = time.monotonic() - self._last_write
        with self._lock:
            # What was noted meanwhile may have come at once.
            self._waiting_since = began if self._notes or self._refusals else None
        settle_soon([*kept, *flushes], kept=True)
        settle_soon([promise for task_id in unwritable for promise in notes[task_id].promises], kept=False)
        return True

    def _bound_transactions(self) -> None:
        """See `STALLED`; once for each connection of this thread. SQLite knows no such limit."""
        if connection.vendor != "postgresql" or (
            connection.connection is not None and connection.connection is self._bounded
        ):
            return
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %s, false)",
                [str(round(STALLED * 1000))],
            )
        self._bounded = connection.connection

    def _write(self, notes: Notes, refusals: _Refusals) -> set[str]:
        """All in one transaction; one by one if some can never be written, whose ids are returned.

        Raises what may pass.
        """
        unwritable: set[str] = set()
        try:
            with transaction.atomic():
                lost = self._write_ours(notes)
                write_refusals(refusals)
        except Exception as error:
            self._tally.forget()
            if _may_pass(error):
                raise
            lost, unwritable = self._write_singly(notes)
            with transaction.atomic():
                write_refusals(refusals)
        for task_id in lost:
            logger.warning("task %s: another process has taken it over", task_id)
            self._on_lost(task_id, notes[task_id].epoch)
        return unwritable | lost

    def _write_ours(self, notes: Mapping[str, Note]) -> set[str]:
        """Write and count all but what others have taken over, which is returned."""
        stored, me = stored_rows(notes), self._housekeeper.process_id
        lost = {pk for pk, (process, epoch, _) in stored.items() if (process, epoch) != (me, notes[pk].epoch)}
        ours = {task_id: note for task_id, note in notes.items() if task_id not in lost}
        write_notes(ours)
        deltas = Deltas()
        for task_id, note in ours.items():
            if note.values is not None:
                deltas.note(task_id, note.values, stored[task_id][2] if task_id in stored else None)
        self._tally.write(deltas)
        return lost

    def _write_singly(self, notes: Notes) -> tuple[set[str], set[str]]:
        """The tasks that others have taken over, and those that can never be written."""
        lost: set[str] = set()
        unwritable: set[str] = set()
        for task_id, note in notes.items():
            try:
                with transaction.atomic():
                    lost |= self._write_ours({task_id: note})
            except IntegrityError as error:
                self._tally.forget()
                # Nothing to look into: the owner was deleted while the task ran.
                words = _first_line(error)
                logger.warning("task %s: its record refers to what is gone; dropped: %s", task_id, words)
                unwritable.add(task_id)
            except DataError as error:
                self._tally.forget()
                # Without the lines that quote the value.
                words = _first_line(error)
                logger.error("task %s: no database takes its record; dropped: %s", task_id, words)
                unwritable.add(task_id)
            except Exception as error:
                self._tally.forget()
                if _may_pass(error):
                    raise
                logger.exception("task %s: no database takes its record; dropped", task_id)
                unwritable.add(task_id)
        self.dropped += len(unwritable)
        return lost, unwritable

    def _put_back(self, notes: Notes, refusals: _Refusals, flushes: list[Promise]) -> None:
        """Before what was noted meanwhile."""
        with self._lock:
            self._notes = self._notes.put_back(notes)
            self._refusals.update(refusals)
            self._flushes[:0] = flushes
            self._drop_beyond_bounds()


def _new_events(task: Task) -> Batch:
    """The events that the recorder has not seen; from now on it has."""
    journal = task.journal
    # What memory pressure took away before it could be noted is missing here, too: a gap.
    first_id = max(task.recorded_id + 1, journal.first_id)
    frames = journal.read(first_id - 1, journal.last_id)
    task.recorded_id = journal.last_id
    return Batch(first_id if frames else journal.next_id, frames)


def _since(moment: float | None) -> float:
    return 0.0 if moment is None else max(time.monotonic() - moment, 0.0)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _may_pass(error: Exception) -> bool:
    """Whether it is the database's fault, so that trying again makes sense, and not the record's (a value
    that does not fit, an owner who was deleted meanwhile)."""
    if isinstance(error, IntegrityError | DataError):
        return False
    return isinstance(error, DatabaseError | InterfaceError)
