"""The façade that the views of any app call: open, follow, cancel, describe, statistics.

One service per event loop (a server process has one loop): it binds the runtime to Django's settings,
database and translations. Nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import threading
import time
from collections.abc import Iterable
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db import connections
from django.utils import timezone

from streaming.core.errors import (
    EndPending,
    EventsPruned,
    NotFinished,
    StorageUnavailable,
    TaskNotFound,
)
from streaming.core.events import Cancelled
from streaming.core.states import State
from streaming.runtime.follower import Follower, FollowOptions
from streaming.runtime.supervisor import COMMIT_PATIENCE, Supervisor
from streaming.runtime.task import CancelReason, Task, TaskSpec

from . import conf
from .access import Caller
from .descriptions import describe, describe_row, text_of
from .messages import DjangoMessages
from .models import Segment, StreamTask
from .processes import Registry
from .records import DatabaseRecorder
from .rendering import RenderedTexts
from .retry import retry_spec
from .stored import stored_events, stored_task

_TASK_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)

RECORD_PATIENCE: Final = 5.0
"""Seconds that a 202 waits for its record to be durable before it is taken back."""

CANCEL_WAIT: Final = 2.0
"""Seconds that a cancel call waits for the terminal event, which comes within one."""

TAKEOVER_PATIENCE: Final = 2.0
"""Seconds that a reader of a task that runs nowhere here waits for its end."""


class Service:
    """See the module. Made and used inside one running event loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.recorder = DatabaseRecorder(
            conf.sse().journal_flush_interval,
            Registry(secrets.token_hex(16)),
            lambda task_id: loop.call_soon_threadsafe(self.supervisor.abandon, task_id),
        )
        self.supervisor = Supervisor(
            conf.pools(),
            conf.stream_limits(),
            self.recorder,
            DjangoMessages(),
            tidy_thread=connections.close_all,
        )
        self._rendered = RenderedTexts()
        self._loading: dict[str, asyncio.Task[Task]] = {}

    # Opening

    async def open(self, spec: TaskSpec, options: FollowOptions) -> Follower:
        """Admit a task and follow it from its first event.

        A direct task waits for nothing; a queued one waits (briefly) until its record is durable, so that
        what a reader was promised is not forgotten. Raises `PoolRefused`.
        """
        task = self.supervisor.open(spec)
        follower = self.supervisor.follow(task, options)
        commit = self.supervisor.record(task)
        if task.state is State.QUEUED:
            try:
                await commit.wait(COMMIT_PATIENCE)
            except BaseException:
                follower.close()
                raise
        return follower

    async def accept(self, spec: TaskSpec) -> Task:
        """Admit a task that nobody reads yet; durable on return.

        Raises `PoolRefused`, and `StorageUnavailable` when the database is away (nothing runs then).
        """
        task = self.supervisor.open(spec)
        try:
            commit = self.supervisor.record(task)
            # The caller waits, so the writer shall not collect for its interval.
            self.recorder.flush()
            durable = await commit.wait(RECORD_PATIENCE)
        except BaseException:
            self.supervisor.cancel(task, CancelReason.DISCONNECT)
            raise
        if not durable:
            self.supervisor.cancel(task, CancelReason.ADMIN)
            raise StorageUnavailable(task.id)
        return task

    async def complete(self, spec: TaskSpec) -> tuple[Task, str]:
        """Admit a task and wait for its end: the task, with its terminal event in `final`, and its text.

        Raises `PoolRefused`. Who stops waiting counts as a reader who left.
        """
        task = self.supervisor.open(spec)
        self.supervisor.attend(task)
        try:
            self.supervisor.record(task)
            await asyncio.shield(task.ended)
        finally:
            self.supervisor.leave(task)
        return task, await text_of(task)

    # Tasks by id

    async def find(self, task_id: str, caller: Caller) -> Task | StreamTask:
        """The task in memory, or its record. Raises `TaskNotFound` for absent and foreign ids alike."""
        if _TASK_ID.fullmatch(task_id) is None:
            raise TaskNotFound(task_id)
        found: Task | StreamTask
        try:
            found = self.supervisor.get(task_id)
            owner = found.spec.owner
        except TaskNotFound:
            found = await self._record(task_id)
            owner = None if found.owner_id is None else str(found.owner_id)
        if not caller.may_read(owner):
            raise TaskNotFound(task_id)
        return found

    async def describe(self, task_id: str, caller: Caller) -> dict[str, Any]:
        """The task's public record. Raises `TaskNotFound`."""
        return await describe(await self.find(task_id, caller))

    async def rendered(self, task_id: str, caller: Caller) -> str | None:
        """The ended task's text as clean HTML; None if it is too long for that.

        Raises `TaskNotFound`, and `NotFinished` while it may still grow.
        """
        found = await self.find(task_id, caller)
        if not State(found.state).terminal:
            raise NotFinished(task_id)
        text = found.text if isinstance(found, StreamTask) else await text_of(found)
        return await self._rendered.html(task_id, text)

    async def follow(self, task_id: str, caller: Caller, options: FollowOptions) -> Follower | None:
        """A reader from `options.after` on; None when it has seen the terminal event already.

        Raises `TaskNotFound`, `EventsPruned`, `CursorAhead`, `TooManyFollowers`, `EndPending`.
        """
        found = await self.find(task_id, caller)
        if isinstance(found, StreamTask):
            if State(found.state).terminal and options.after == found.last_event_id:
                return None
            found = await self._load(found)
        if found.state.terminal and options.after == found.journal.last_id:
            return None
        return self.supervisor.follow(found, options)

    async def cancel(self, task_id: str, caller: Caller) -> dict[str, Any]:
        """End a task now and return its record; an ended task stays as it is. Raises `TaskNotFound`."""
        found = await self.find(task_id, caller)
        if isinstance(found, Task) and not found.state.terminal:
            self.supervisor.cancel(found, CancelReason.CLIENT)
            await asyncio.wait([found.ended], timeout=CANCEL_WAIT)
        return await describe(found)

    async def cancel_for_operator(self, task_ids: Iterable[str]) -> set[str]:
        """End tasks, whoever owns them; the ids of those that this ended. Ids that are not active in this
        process are passed over. On return the records show it (the wait for them is bounded)."""
        tasks = [task for task_id in task_ids if (task := self._active(task_id)) is not None]
        for task in tasks:
            self.supervisor.cancel(task, CancelReason.ADMIN)
        if tasks:
            await asyncio.wait([task.ended for task in tasks], timeout=CANCEL_WAIT)
        await self.recorder.flush().wait(RECORD_PATIENCE)
        by_operator = Cancelled(reason=CancelReason.ADMIN.value)
        return {task.id for task in tasks if task.final == by_operator}

    async def retry(self, row: StreamTask) -> Task:
        """Start an ended task's work again, with an id of its own; durable on return.

        Raises `NotRetryable`, `PoolRefused`, and `StorageUnavailable` when the database is away.
        """
        return await self.accept(retry_spec(row))

    async def purge(self, task_id: str, caller: Caller) -> None:
        """Cancel if need be, then delete brief, text and events; the numbers stay.

        Raises `TaskNotFound`, and `StorageUnavailable` when nothing could be deleted for certain.
        """
        await self.cancel(task_id, caller)
        if not await self.recorder.flush().wait(RECORD_PATIENCE):
            # A record that is still to be written would bring the text back.
            raise StorageUnavailable(task_id)
        found = await self.find(task_id, caller)
        if isinstance(found, Task):
            self.supervisor.forget(found)
        self._rendered.forget(task_id)
        await Segment.objects.filter(task_id=task_id).adelete()
        await StreamTask.objects.filter(pk=task_id).aupdate(
            arguments=None, text="", error_message="", purged_at=timezone.now()
        )

    async def recent(self, caller: Caller, limit: int, before: str | None) -> dict[str, Any]:
        """The caller's own tasks, newest first: `items`, and `next` as the `before` of the next page."""
        if caller.account is None:
            return {"items": [], "next": None}
        await self.recorder.flush().wait(RECORD_PATIENCE)
        rows = StreamTask.objects.filter(owner__pk=caller.account)
        if before is not None:
            mark = await rows.filter(pk=before).afirst()
            if mark is None:
                raise TaskNotFound(before)
            rows = rows.filter(created_at__lte=mark.created_at).exclude(
                created_at=mark.created_at, id__gte=mark.id
            )
        found = [row async for row in rows[: limit + 1]]
        items = [describe_row(row) for row in found[:limit]]
        return {"items": items, "next": items[-1]["id"] if len(found) > limit else None}

    # The whole

    def statistics(self) -> dict[str, Any]:
        """Pools, routes and totals of this process."""
        return {
            **self.supervisor.statistics(),
            "records": {
                "pending": self.recorder.pending,
                "failed_writes": self.recorder.failed_writes,
                "dropped": self.recorder.dropped,
                "dropped_events": self.recorder.dropped_events,
            },
        }

    async def close(self, grace: float) -> int:
        """Drain: running tasks get `grace` seconds, everybody is told, records are written.

        Returns the number of producers that did not come back from their threads.
        """
        await self.supervisor.drain(grace)
        await asyncio.to_thread(self.recorder.close, RECORD_PATIENCE)
        self.supervisor.close()
        return self.supervisor.lingering

    def _active(self, task_id: str) -> Task | None:
        try:
            task = self.supervisor.get(task_id)
        except TaskNotFound:
            return None
        return None if task.state.terminal else task

    async def _load(self, row: StreamTask) -> Task:
        """The ended task behind `row`, read from the database once for all who ask.

        Raises `EventsPruned`, `EndPending`."""
        loading = self._loading.get(row.id)
        if loading is None:
            loading = self._loading[row.id] = asyncio.create_task(self._load_once(row))
            loading.add_done_callback(lambda _: self._loading.pop(row.id, None))
        return await asyncio.shield(loading)

    async def _load_once(self, row: StreamTask) -> Task:
        row = await self._once_ended(row)
        segments = await sync_to_async(lambda: list(stored_events(row.id)))()
        journal = self.supervisor.new_journal()
        for first_id, frames in segments:
            journal.adopt(first_id, frames)
        if not journal.closed:
            journal.trim(journal.last_id + 1)
            raise EventsPruned(row.id)
        ended = asyncio.get_running_loop().create_future()
        ended.set_result(None)
        task = stored_task(row, journal, ended)
        self.supervisor.keep(task)
        return task

    async def _once_ended(self, row: StreamTask) -> StreamTask:
        """The row with its end, which whoever takes over from a dead process writes within a moment.

        Raises `EndPending` when that takes longer: a crash with many tasks, or a process that is not dead.
        """
        began, schedule = time.monotonic(), conf.poll_schedule()
        while not State(row.state).terminal:
            waited = time.monotonic() - began
            if waited > TAKEOVER_PATIENCE:
                raise EndPending(row.id)
            await asyncio.sleep(schedule.pause(waited))
            row = await self._record(row.id)
        return row

    async def _record(self, task_id: str) -> StreamTask:
        row = await StreamTask.objects.filter(pk=task_id).afirst()
        if row is None:
            raise TaskNotFound(task_id)
        if not State(row.state).terminal:
            # It runs elsewhere, or its process is dead: look, also where no server said that it starts.
            self.recorder.start()
        return row


_services: dict[asyncio.AbstractEventLoop, Service] = {}
_lock = threading.Lock()


def service() -> Service:
    """The running loop's service, made at its first use."""
    loop = asyncio.get_running_loop()
    found = _services.get(loop)
    if found is None:
        with _lock:
            for closed in [each for each in _services if each.is_closed()]:
                del _services[closed]
            found = _services[loop] = Service()
    return found


async def begin(sender: Any, **kwargs: Any) -> None:
    """The process starts: what a dead one left behind gets its end now, and not at the first request."""
    service().recorder.start()


async def close_service(grace: float) -> int:
    """`Service.close` for the running loop's service; 0 if there is none."""
    found = _services.get(asyncio.get_running_loop())
    return 0 if found is None else await found.close(grace)
