"""`Idempotency-Key`: the same call again is the same task.

The key and the task's record are one transaction, committed before the first byte of a keyed answer; until
then the task's producer is not called. So of two calls that race for a key, in one process or in two, one
runs, and the other leaves nothing behind. Nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final
from weakref import WeakValueDictionary

from django.db import DatabaseError, IntegrityError, InterfaceError, connection, transaction
from django.utils import timezone

from streaming.core.errors import KeyReused, StorageUnavailable
from streaming.core.events import Cancelled, Error
from streaming.core.states import State
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import CancelReason, Source, Task, TaskSpec

from . import conf
from .access import Caller
from .descriptions import RETRYABLE
from .digests import digest
from .models import IdempotencyKey, StreamTask
from .opening import Opening
from .storage.locks import hurry
from .storage.records import DatabaseRecorder
from .storage.rows import NOBODY, write_tasks
from .threads import borrowed_thread

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""Races for one key that a call loses to a record which is gone when it looks, before it gives up."""

FLUSH_PATIENCE: Final = 5.0
"""Seconds that a look waits for records that are still to be written."""


@dataclass(frozen=True, slots=True)
class CallKey:
    """A caller's key. `scope`: digest of who calls what; `fingerprint`: digest of what is asked for."""

    scope: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What a key stands for: a task that was started for it now (`task`), or an earlier one."""

    task_id: str
    task: Task | None = None


def call_key(key: str, caller: Caller, end_user: str, route: str, work: Any) -> CallKey:
    """`work` (JSON values) asked for at the path `route` under `key`. An account's end users share its keys;
    an anonymous caller's address and end user have their own."""
    who = ["address", caller.address, end_user] if caller.account is None else ["account", caller.account]
    return CallKey(scope=digest([*who, route]), key=key, fingerprint=digest(work))


class KeyedTasks:
    """Tasks by the keys of those who asked for them. Belongs to the event loop of its supervisor."""

    def __init__(self, supervisor: Supervisor, recorder: DatabaseRecorder, opening: Opening) -> None:
        self._supervisor = supervisor
        self._opening = opening
        self._recorder = recorder
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def claim(self, call: CallKey, spec: TaskSpec, *, resumed: bool, awaited: bool) -> Claim:
        """The task that `call` stands for, started now if there is none.

        An end after which the same call makes sense (see `may_start_again`) frees the key, unless `resumed`:
        the caller goes on with what it has. `awaited`: if the caller leaves meanwhile, a reader has left.
        Raises `KeyReused`, `PoolRefused`, `StorageUnavailable`, and what the database raises.
        """
        lock = self._locks.setdefault((call.scope, call.key), asyncio.Lock())
        async with lock, borrowed_thread():
            for _ in range(ATTEMPTS):
                known = await _find(call)
                if known is not None and not _expired(known):
                    if known.fingerprint != call.fingerprint:
                        raise KeyReused(known.task_id)
                    if resumed or not await self._is_free(known.task):
                        return Claim(known.task_id)
                task = await self._begin(call, spec, known, awaited=awaited)
                if task is not None:
                    return Claim(task.id, task)
        raise StorageUnavailable(call.key)

    async def _is_free(self, row: StreamTask) -> bool:
        task = self._supervisor.tasks.find(row.id)
        if task is not None:
            return may_start_again(task)
        if State(row.state).terminal or row.process != self._recorder.process_id:
            return _ended_for_now(row)
        # What runs here is in memory. Either its end is still to be written, or its commit was reported as
        # failed, and it never ran.
        await self._recorder.flush().wait(FLUSH_PATIENCE)
        newer = await StreamTask.objects.filter(pk=row.id).afirst()
        return newer is None or not State(newer.state).terminal or _ended_for_now(newer)

    async def _begin(
        self, call: CallKey, spec: TaskSpec, known: IdempotencyKey | None, *, awaited: bool
    ) -> Task | None:
        """The new task; None if the key went to another one. Goes on when the caller leaves, who may come
        back with the key; in a context of its own, as the request's thread is given back then."""
        starting = self._start(call, spec, known, awaited=awaited)
        begun = asyncio.create_task(starting, context=contextvars.Context())
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            if awaited:
                begun.add_done_callback(self._nobody_waits)
            raise

    async def _start(
        self, call: CallKey, spec: TaskSpec, known: IdempotencyKey | None, *, awaited: bool
    ) -> Task | None:
        committed = asyncio.Event()

        def gated(admitted: TaskSpec) -> TaskSpec:
            async def once_committed() -> Source:
                await committed.wait()
                opened = admitted.open_source()
                return await opened if inspect.isawaitable(opened) else opened

            return replace(admitted, open_source=once_committed)

        task = await self._opening.open(spec, gated)
        row = {"id": task.id, **self._recorder.row(task)}
        if self._opening.waits_for_anybody(task):
            row["process"] = NOBODY
        won = False
        try:
            won = await asyncio.to_thread(_write, row, call, known)
        except (DatabaseError, InterfaceError) as error:
            logger.warning("task %s: its key could not be written: %s", task.id, error)
            raise StorageUnavailable(task.id) from error
        finally:
            if not won:
                self._opening.retract(task)
        if not won:
            return None
        commit = self._supervisor.record(task, known=True)
        committed.set()
        if self._opening.waits_for_anybody(task):
            await self._opening.settled(task, commit, attended=awaited)
        return task

    def _nobody_waits(self, begun: asyncio.Task[Task | None]) -> None:
        task = None if begun.cancelled() or begun.exception() is not None else begun.result()
        if task is not None:
            self._supervisor.attendance.attend(task)
            self._supervisor.attendance.leave(task)


def may_start_again(task: Task) -> bool:
    """Whether its end is one after which the same call makes sense: a fault that may pass, or that nobody was
    there to read it."""
    match task.final if task.state.terminal else None:
        case Error(retryable=retryable):
            return retryable
        case Cancelled(reason=reason):
            return reason == CancelReason.DISCONNECT
    return False


def _ended_for_now(row: StreamTask) -> bool:
    """`may_start_again`, from the record."""
    return RETRYABLE.get(row.error_code, False) or row.cancel_reason == CancelReason.DISCONNECT


async def _find(call: CallKey) -> IdempotencyKey | None:
    columns = ("task__state", "task__error_code", "task__cancel_reason", "task__process")
    keys = IdempotencyKey.objects.select_related("task").only("fingerprint", "created_at", *columns)
    return await keys.filter(scope=call.scope, key=call.key).afirst()


def _expired(known: IdempotencyKey) -> bool:
    return known.created_at <= timezone.now() - timedelta(seconds=conf.sse().idempotency_ttl)


def _write(row: Mapping[str, Any], call: CallKey, known: IdempotencyKey | None) -> bool:
    """Record and key in one transaction; False, and neither, if another call was faster. `known`: what the
    key stands for no more. In a thread of the pool, whose connection is closed again."""
    hurry()
    written = False
    try:
        with transaction.atomic():
            write_tasks([row])
            _take(row["id"], call, known)
            written = True
    except (_Lost, IntegrityError):
        return False
    except (DatabaseError, InterfaceError):
        if written:
            # The commit may have come through and only its answer be lost.
            connection.close()
            with suppress(DatabaseError, InterfaceError):
                StreamTask.objects.filter(pk=row["id"]).delete()
        raise
    finally:
        connection.close()
    return True


class _Lost(Exception):
    """The key stands for something else by now."""


def _take(task_id: str, call: CallKey, known: IdempotencyKey | None) -> None:
    if known is None:
        IdempotencyKey.objects.create(
            scope=call.scope, key=call.key, fingerprint=call.fingerprint, task_id=task_id
        )
        return
    unchanged = IdempotencyKey.objects.filter(pk=known.pk, task_id=known.task_id)
    if not unchanged.update(task_id=task_id, fingerprint=call.fingerprint, created_at=timezone.now()):
        raise _Lost
