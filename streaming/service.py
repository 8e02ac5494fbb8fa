"""The façade that the views of any app call: open, follow, cancel, describe, statistics.

One service per event loop (a server process has one loop): it binds the runtime to Django's settings,
database and translations. Nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import threading
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import sync_to_async
from django.db import DatabaseError, InterfaceError, connections
from django.utils import timezone

from streaming.core.errors import (
    AccessRevoked,
    NotFinished,
    StorageUnavailable,
    TaskNotFound,
)
from streaming.core.framing import SSE
from streaming.core.states import State
from streaming.runtime.follower import Follower, FollowOptions, follow
from streaming.runtime.loop_guard import LoopGuard, stack_of
from streaming.runtime.loop_lag import LoopLag
from streaming.runtime.quotas import Quotas
from streaming.runtime.supervisor import COMMIT_PATIENCE, Supervisor
from streaming.runtime.task import CancelReason, Task, TaskSpec

from . import conf
from .access import Caller
from .alerts.watch import Watch
from .cluster.elsewhere import CANCEL_WAIT, Elsewhere
from .cluster.loop_side import LoopSide
from .cluster.neighbours import Prioritised, others_than
from .cluster.processes import Registry
from .cluster.replicas import Replicas
from .cluster.statistics import of_all
from .cluster.survivors import NO_SURVIVORS, Survivors
from .descriptions import describe, describe_row, text_of
from .idempotency import CallKey, KeyedTasks
from .messages import DjangoMessages
from .metrics.collecting import kind_label
from .metrics.scraping import Scraping
from .models import IdempotencyKey, Segment, StreamTask
from .opening import Opening
from .rechecks import Rechecks
from .rendering import RenderedTexts
from .retry import retry_spec
from .reuse import Reuse
from .storage.probe import Probe
from .storage.records import DatabaseRecorder
from .telemetry.observers import observers
from .threads import give_back_thread
from .watching import Watching
from .worker.slots import SLOTS

if TYPE_CHECKING:
    from .cluster.shared_queue import SharedQueue
    from .cluster.sharing import Sharing

_TASK_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)

RECORD_PATIENCE: Final = 3.0
"""Seconds that a 202 waits for its record to be durable before it is taken back."""

LIST_PATIENCE: Final = 1.0
"""Seconds that a list waits for what is to be written, and that may have waited for that already: it is read
as it is then. Who reads does not wait for a database that takes nothing."""

CLOSING_PATIENCE: Final = 5.0
"""Seconds for the last records when the process goes down, and for those of other processes to be seen."""

ALERTS_PATIENCE: Final = 0.5
"""Seconds that a look at alerts has for its end when the process goes down; what it leaves others do."""


class Service:
    """See the module. Made and used inside one running event loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._registry = registry = Registry(secrets.token_hex(16), _survivors())
        self.recorder = DatabaseRecorder(
            conf.sse().journal_flush_interval,
            registry,
            lambda task_id, epoch: loop.call_soon_threadsafe(self.supervisor.abandon, task_id, epoch),
        )
        self.sharing = _sharing(registry.process_id)
        self.supervisor = Supervisor(
            SLOTS.applied_to(conf.pools()),
            conf.stream_limits(),
            self.recorder if self.sharing is None else self.sharing.mirroring(self.recorder),
            DjangoMessages(),
            tidy_thread=connections.close_all,
            kind_of=kind_label,
            observers=observers(),
            place_elsewhere=self._place,
        )
        self.loop_lag = LoopLag(loop)
        self.loop_lag.start()
        thread = threading.get_ident()
        self.loop_guard = LoopGuard(
            conf.server().stall_limit,
            lambda: self.loop_lag.overdue,
            lambda: stack_of(thread),
            loop.is_closed,
        )
        self.loop_guard.start()
        schedule = conf.poll_schedule()
        feed = None if self.sharing is None else self.sharing.feed
        self._replicas = Replicas(self.supervisor, schedule, feed)
        self._queue: SharedQueue | None = None
        if self.sharing is not None:
            self._queue = self.sharing.queue(self.supervisor, self._replicas, registry)
        self._elsewhere = Elsewhere(
            self.supervisor, self.recorder, registry, self._replicas, schedule, self._queue
        )
        registry.speak_for(
            LoopSide(
                self.supervisor,
                self._replicas,
                self.statistics,
                lambda: self.loop_lag.recent,
                takes_up=self._queue is None,
            )
        )
        self._reuse = Reuse(self.supervisor, self._elsewhere.task)
        flights = None if self.sharing is None else self.sharing.flights
        limits = conf.quotas()
        shared = None if self.sharing is None else self.sharing.quotas(limits)
        self.quotas = Quotas(limits, self.supervisor, shared)
        if self.quotas.on:
            self.supervisor.on_start = self.quotas.started
        counted = self.quotas if self.quotas.on else None
        self._opening = Opening(self.supervisor, self._reuse, self._queue, flights, counted)
        self._keyed = KeyedTasks(self.supervisor, self.recorder, self._opening)
        self._rendered = RenderedTexts()
        self.watching = Watching(self.supervisor, Rechecks(conf.access().recheck_interval, loop))
        self.probe = Probe()
        self.scraping = Scraping(self, registry.process_id)
        self.alerts = Watch(conf.alerting().interval)
        self.alerts.start()

    # Opening

    async def open(self, spec: TaskSpec, caller: Caller, options: FollowOptions) -> Follower:
        """Admit a task and let `caller` follow it from its first event.

        A direct task waits for nothing; a queued one waits (briefly) until its record is durable, so that
        what a reader was promised is not forgotten. Raises `PoolRefused`.
        """
        task = await self._opening.open(spec)
        if self._opening.waits_for_anybody(task):
            await self._opening.settled(task, self.supervisor.record(task), attended=True)
            return self._followed(task, caller, options)
        follower = self._followed(task, caller, options)
        commit = self.supervisor.record(task)
        if task.state is State.QUEUED:
            try:
                await self._opening.settled(task, commit, attended=True)
            except BaseException:
                follower.close()
                raise
        return follower

    async def accept(self, spec: TaskSpec) -> Task:
        """Admit a task that nobody reads yet; durable on return.

        Raises `PoolRefused`, and `StorageUnavailable` when the database is away (nothing runs then).
        """
        task = await self._opening.open(spec)
        commit = self.supervisor.record(task)
        if self._opening.waits_for_anybody(task):
            await self._opening.settled(task, commit, attended=False)
            return task
        try:
            # The caller waits, so the writer shall not collect for its interval.
            self.recorder.flush()
            durable = await commit.wait(RECORD_PATIENCE)
        except BaseException:
            self.supervisor.cancel(task, CancelReason.DISCONNECT)
            raise
        if not durable:
            self.supervisor.cancel(task, CancelReason.ADMIN)
            raise StorageUnavailable(task.id)
        self.watching.works(task)
        self.supervisor.attendance.answered_unread(task)
        return task

    async def complete(self, spec: TaskSpec, caller: Caller) -> tuple[Task, str]:
        """Admit a task and wait for its end: the task, with its terminal event in `final`, and its text.

        Raises `PoolRefused`, and `AccessRevoked` when the caller may not have it any more. Who stops
        waiting counts as a reader who left.
        """
        task = await self._opening.open(spec)
        commit = self.supervisor.record(task)
        if self._opening.waits_for_anybody(task):
            await self._opening.settled(task, commit, attended=True)
        return task, await self._whole(task, caller)

    # Opening once for each key: raises what `KeyedTasks.claim` and `follow` raise

    async def open_once(
        self, call: CallKey, spec: TaskSpec, caller: Caller, options: FollowOptions
    ) -> tuple[str, Follower | None, bool]:
        """`open`, or what the key stands for from `options.after` on: the task's id, a reader (None when it
        has seen the end already), and whether the key stood for it. `options.resumed`: see `claim`."""
        claim = await self._keyed.claim(call, spec, resumed=options.resumed, awaited=True)
        if claim.task is not None:
            fresh = replace(options, after=0, resumed=False)
            return claim.task_id, self._followed(claim.task, caller, fresh), False
        again = replace(options, resumed=True)
        return claim.task_id, await self.follow(claim.task_id, caller, again), True

    async def complete_once(
        self, call: CallKey, spec: TaskSpec, caller: Caller, *, resumed: bool
    ) -> tuple[Task, str, bool]:
        """`complete`, or wait for the end of what the key stands for; last, whether it is that. `final` is
        None if the server goes down before the end."""
        claim = await self._keyed.claim(call, spec, resumed=resumed, awaited=True)
        if claim.task is not None:
            return claim.task, await self._whole(claim.task, caller), False
        follower = await self.follow(claim.task_id, caller, FollowOptions(framing=SSE, resumed=True))
        assert follower is not None
        task, text = follower.task, None
        give_back_thread()
        async with aclosing(follow(follower)) as events:
            async for _ in events:
                if follower.done:
                    # Not later: of a purged task nothing is left when its last reader has left.
                    text = await text_of(task)
        if follower.revoked:
            raise AccessRevoked(claim.task_id)
        if task.journal.closed:
            # Read to its end, which the record tells a moment later if another process ran it.
            await asyncio.wait([task.ended], timeout=CLOSING_PATIENCE)
        return task, await text_of(task) if text is None else text, True

    async def accept_once(
        self, call: CallKey, spec: TaskSpec, caller: Caller, *, resumed: bool
    ) -> tuple[Task | StreamTask, bool]:
        """`accept`, or what the key stands for; last, whether it is that."""
        claim = await self._keyed.claim(call, spec, resumed=resumed, awaited=False)
        if claim.task is not None:
            return claim.task, False
        return await self.find(claim.task_id, caller), True

    # Tasks by id

    async def find(self, task_id: str, caller: Caller) -> Task | StreamTask:
        """The task in memory, or its record. Raises `TaskNotFound` for absent and foreign ids alike: what is
        another's goes the way of what is not there, so that no clock tells them apart."""
        if _TASK_ID.fullmatch(task_id) is None:
            raise TaskNotFound(task_id)
        task = self.supervisor.tasks.find(task_id)
        if task is not None and not caller.may_read(task.spec.owner):
            task = None
        if task is not None and task.state.terminal and await self._elsewhere.was_purged(task_id):
            self.supervisor.tasks.forget(task)
            task = None
        return await self._elsewhere.row(task_id, caller) if task is None else task

    async def readable(self, task_id: str, caller: Caller) -> Task | StreamTask:
        """`find`, for who will be shown what the task said. Raises `TaskNotFound`, and `NotPermitted` without
        the right that tasks of its kind need."""
        found = await self.find(task_id, caller)
        await self.watching.require_right(_kind_of(found), caller)
        return found

    async def describe(self, task_id: str, caller: Caller) -> dict[str, Any]:
        """The task's public record. Raises `TaskNotFound`, `NotPermitted`."""
        return await describe(await self.readable(task_id, caller))

    async def rendered(self, task_id: str, caller: Caller) -> str | None:
        """The ended task's text as clean HTML; None if it is too long for that.

        Raises `TaskNotFound`, `NotPermitted`, and `NotFinished` while it may still grow.
        """
        found = await self.readable(task_id, caller)
        if not State(found.state).terminal:
            raise NotFinished(task_id)
        text = found.text if isinstance(found, StreamTask) else await text_of(found)
        return await self._rendered.html(task_id, text)

    async def follow(self, task_id: str, caller: Caller, options: FollowOptions) -> Follower | None:
        """A reader from `options.after` on; None when it has seen the terminal event already.

        Raises `TaskNotFound`, `NotPermitted`, `EventsPruned`, `CursorAhead`, `NotNow`.
        """
        found = await self.readable(task_id, caller)
        if isinstance(found, StreamTask):
            if State(found.state).terminal and options.after == found.last_event_id:
                return None
            found = await self._elsewhere.task(found)
        if found.state.terminal and options.after == found.journal.last_id:
            return None
        return self._followed(found, caller, options)

    def _followed(self, task: Task, caller: Caller, options: FollowOptions) -> Follower:
        follower = self.supervisor.follow(task, options)
        self.watching.reads(follower, caller)
        return follower

    async def cancel(self, task_id: str, caller: Caller) -> dict[str, Any] | None:
        """End a task now and return its record, or None to who may not read tasks of its kind any more; an
        ended task stays as it is. Raises `TaskNotFound`."""
        found = await self.find(task_id, caller)
        if isinstance(found, Task) and self.supervisor.tasks.runs(found):
            self.supervisor.cancel(found, CancelReason.CLIENT)
            await asyncio.wait([found.ended], timeout=CANCEL_WAIT)
        elif not State(found.state).terminal:
            await self._elsewhere.cancel([task_id], CancelReason.CLIENT)
            found = await self._elsewhere.row(task_id, caller)
        return await describe(found) if await self.watching.has_right(_kind_of(found), caller) else None

    async def cancel_for_operator(self, task_ids: Iterable[str]) -> set[str]:
        """End tasks, whoever owns them and whichever process runs them; the ids of those that this
        ended. On return the records show it (the wait for them is bounded)."""
        ids = set(task_ids)
        tasks = [task for task_id in ids if (task := self.supervisor.tasks.own(task_id)) is not None]
        for task in tasks:
            self.supervisor.cancel(task, CancelReason.ADMIN)
        active = StreamTask.objects.filter(pk__in=ids, finished_at=None).values_list("pk", flat=True)
        own = {task.id for task in tasks}
        others = {pk async for pk in active} - own
        if tasks:
            await asyncio.wait([task.ended for task in tasks], timeout=CANCEL_WAIT)
        if others:
            await self._elsewhere.cancel(others, CancelReason.ADMIN)
        await self.recorder.flush().wait(RECORD_PATIENCE)
        ended = StreamTask.objects.filter(pk__in=own | others, cancel_reason=CancelReason.ADMIN.value)
        return {pk async for pk in ended.values_list("pk", flat=True)}

    async def prioritise(self, task_ids: Iterable[str], priority: int) -> dict[str, Prioritised]:
        """Let waiting tasks go on waiting in another priority class, whichever process they wait in; what
        became of each. Durable on return (the wait for other processes is bounded)."""
        found: dict[str, Prioritised] = {}
        elsewhere: list[str] = []
        for task_id in set(task_ids):
            task = self.supervisor.tasks.own(task_id)
            if task is None:
                elsewhere.append(task_id)
            elif self.supervisor.prioritise(task, priority):
                found[task_id] = Prioritised.MOVED
            else:
                waits = task.state is State.QUEUED and task.ending is None
                found[task_id] = Prioritised.SAME if waits else Prioritised.TOO_LATE
        if found:
            await self.recorder.flush().wait(RECORD_PATIENCE)
        if elsewhere:
            found |= await self._elsewhere.prioritise(elsewhere, priority)
        return found

    async def retry(self, row: StreamTask) -> Task:
        """Start an ended task's work again, with an id of its own; durable on return.

        Raises `NotRetryable`, `PoolRefused`, and `StorageUnavailable` when the database is away.
        """
        return await self.accept(retry_spec(row))

    async def purge(self, task_id: str, caller: Caller) -> None:
        """Cancel if need be, then delete brief, text and events; the numbers stay. Newcomers are refused at
        once; who reads it now, here or in another process, still gets the rest and the end.

        Raises `TaskNotFound`, and `StorageUnavailable` when nothing could be deleted for certain.
        """
        await self.cancel(task_id, caller)
        if not await self.recorder.flush().wait(RECORD_PATIENCE):
            # A record that is still to be written would bring the text back.
            raise StorageUnavailable(task_id)
        await StreamTask.objects.filter(pk=task_id).aupdate(
            arguments=None, text="", error_message="", error_detail="", purged_at=timezone.now()
        )
        await IdempotencyKey.objects.filter(task_id=task_id).adelete()
        if self.sharing is not None:
            # What is written from memory must be so before memory has it no more.
            await self.sharing.writer.written(task_id, COMMIT_PATIENCE)
        self._forget(task_id)
        try:
            await self._elsewhere.let_readers_take(task_id)
        finally:
            # Also if the caller has hung up meanwhile.
            await Segment.objects.filter(task_id=task_id).adelete()
            if self.sharing is not None:
                await self.sharing.drop_events(task_id)
            # Who asked before the record said so may have loaded it again.
            self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        task = self.supervisor.tasks.find(task_id)
        if task is not None and task.state.terminal:
            self.supervisor.tasks.forget(task)
        self._rendered.forget(task_id)

    async def recent(self, caller: Caller, limit: int, before: str | None) -> dict[str, Any]:
        """The caller's own tasks, newest first: `items`, and `next` as the `before` of the next page."""
        if caller.account is None:
            return {"items": [], "next": None}
        patience = max(LIST_PATIENCE - self.recorder.behind, 0.0)
        await self.recorder.flush().wait(patience)
        rows = StreamTask.objects.filter(owner__pk=caller.account)
        if before is not None:
            mark = await rows.filter(pk=before).afirst()
            if mark is None:
                raise TaskNotFound(before)
            rows = rows.filter(created_at__lte=mark.created_at).exclude(
                created_at=mark.created_at, id__gte=mark.id
            )
        found = [row async for row in rows[: limit + 1]]
        kinds = {row.kind for row in found}
        readable = {kind for kind in kinds if await self.watching.has_right(kind, caller)}
        items = [describe_row(row) | ({} if row.kind in readable else {"text": ""}) for row in found[:limit]]
        return {"items": items, "next": items[-1]["id"] if len(found) > limit else None}

    # As one of several

    def start(self) -> None:
        """Take part from now on, and not only from the first task on."""
        self.recorder.start()
        if self.sharing is not None:
            self.sharing.start()

    async def run_handed(self, pool: str, task_id: str) -> None:
        """Run a task that was handed to this worker; see `SharedQueue.run_handed`."""
        assert self._queue is not None
        await self._queue.run_handed(pool, task_id)

    def _place(self, task: Task) -> tuple[int | None, float | None]:
        return (None, None) if self._queue is None else self._queue.place(task)

    # The whole

    async def statistics_of_all(self) -> dict[str, Any]:
        """Pools, routes and totals of all living processes together, and in `processes` of each. While the
        database is away they are those of this process."""
        own = self.statistics()
        me = {"id": self.recorder.process_id, "pid": os.getpid(), "statistics": own}
        try:
            others = await sync_to_async(others_than)(self.recorder.process_id)
        except (DatabaseError, InterfaceError):
            others = []
        told = [me, *(each for each in others if each["statistics"] is not None)]
        return {**of_all([each["statistics"] for each in told]), "processes": told}

    def statistics(self) -> dict[str, Any]:
        """Pools, routes and totals of this process."""
        return {
            **self.supervisor.statistics(),
            "loop_lag_seconds": round(self.loop_lag.recent, 3),
            "records": {
                "pending": self.recorder.pending,
                "failed_writes": self.recorder.failed_writes,
                "dropped": self.recorder.dropped,
                "dropped_events": self.recorder.dropped_events,
            },
            **({} if self.sharing is None else self.sharing.statistics()),
        }

    async def close(self, grace: float) -> int:
        """Drain: running tasks get `grace` seconds, everybody is told, records are written.

        Returns the number of producers that did not come back from their threads.
        """
        self.alerts.stop()
        self.watching.close()
        if self._queue is not None:
            await self._queue.go_down()
        await self.supervisor.drain(grace, others=lambda: not self._registry.alone)
        if self._queue is not None:
            await self._queue.close()
        await self._replicas.close()
        self.recorder.flush()
        await asyncio.to_thread(self.recorder.close, CLOSING_PATIENCE)
        await asyncio.to_thread(self.alerts.close, ALERTS_PATIENCE)
        await self.scraping.close()
        await self.quotas.close()
        if self.sharing is not None:
            await self.sharing.close()
        self.loop_guard.close()
        self.loop_lag.close()
        self.supervisor.close()
        return self.supervisor.lingering

    def forsake(self) -> None:
        """The loop has been closed without `close`, as a WSGI server's after each request: nothing of the
        service's may outlive it."""
        self.alerts.stop()
        self.loop_guard.close()
        self.watching.close()

    async def _whole(self, task: Task, caller: Caller) -> str:
        """The text of a task at its end. Raises `AccessRevoked`, and `StorageUnavailable` where nobody can
        say for too long."""
        give_back_thread()
        self.supervisor.attendance.attend(task)
        try:
            await self.watching.wait(task, caller)
            return await text_of(task)
        finally:
            self.supervisor.attendance.leave(task)


def _kind_of(found: Task | StreamTask) -> str:
    return found.kind if isinstance(found, StreamTask) else found.spec.kind


def _survivors() -> Survivors:
    """Where events of dead processes may be beside the database."""
    if not conf.redis_url():
        return NO_SURVIVORS
    from .cluster.redis_survivors import RedisSurvivors

    config = conf.cluster()
    return RedisSurvivors(
        conf.redis_url(),
        prefix=config.prefix,
        timeout=config.redis_timeout,
        lifetime=conf.sse().replay_ttl,
    )


def _sharing(process_id: str) -> Sharing | None:
    """What REDIS_URL names. Who needs no Redis needs its client neither."""
    if not conf.redis_url():
        return None
    from .cluster.sharing import Sharing

    return Sharing(conf.redis_url(), process_id, SLOTS.offered)


_services: dict[asyncio.AbstractEventLoop, Service] = {}
_lock = threading.Lock()


def service() -> Service:
    """The running loop's service, made at its first use."""
    loop = asyncio.get_running_loop()
    found = _services.get(loop)
    if found is None:
        with _lock:
            for closed in [each for each in _services if each.is_closed()]:
                _services.pop(closed).forsake()
            found = _services[loop] = Service()
    return found


async def begin(sender: Any, **kwargs: Any) -> None:
    """The process starts: what a dead one left behind gets its end now, and not at the first request."""
    service().start()


async def close_service(grace: float) -> int:
    """`Service.close` for the running loop's service; 0 if there is none."""
    found = _services.get(asyncio.get_running_loop())
    return 0 if found is None else await found.close(grace)
