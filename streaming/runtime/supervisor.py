"""The owner of all tasks of a process: admits, starts, ends, sweeps and drains them.

No request owns anything here: a request opens a task, follows it, and may vanish at any moment.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Final

from streaming.core.errors import (
    CursorAhead,
    EventsPruned,
    GenerationError,
    Interrupted,
    ProducerFailed,
    QueueTimeout,
    RunTimeout,
    TaskNotFound,
    TooManyFollowers,
)
from streaming.core.events import Cancelled, Complete, Error, Finish, Status, Terminal, Timing, encode
from streaming.core.states import State

from .backlog import Backlogs
from .executor import WorkerPool
from .follower import Follower, FollowOptions
from .journals.base import LOST_IDS
from .journals.memory import MemoryJournal
from .ledger import Holding, PoolLimits, PoolRefused
from .limits import Counters, StreamLimits
from .ports import Commit, Messages, Recorder
from .pump import Pump
from .retention import Retention
from .task import CancelReason, Outcome, Task, TaskSpec
from .waiting import WaitingLines
from .wheel import TimerWheel

logger = logging.getLogger(__name__)

SWEEP_INTERVAL: Final = 0.25
"""Seconds between two looks at the active tasks' deadlines."""

CANCEL_PATIENCE: Final = 0.5
"""Seconds that a producer has to obey a cancel before its task ends without it (see STUCK_AFTER)."""

STUCK_AFTER: Final = 1.0
"""Seconds after the end of its task at which a producer that still holds its permit counts as stuck."""

ELSEWHERE_PATIENCE: Final = 2.5
"""Seconds after which another process that has told of its readers (each second) has none any more."""

COMMIT_PATIENCE: Final = 0.25
"""Seconds that a terminal event waits for the record to be durable."""

ROOM_PATIENCE: Final = 1.0
"""Seconds that a newcomer waits for the permit or place of its owner's unread task."""


class Supervisor:
    """See the module. Belongs to the running event loop; made inside it."""

    def __init__(
        self,
        pools: Mapping[str, PoolLimits],
        limits: StreamLimits,
        recorder: Recorder,
        messages: Messages,
        tidy_thread: Callable[[], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.counters = Counters()
        self.backlogs = Backlogs()
        self.wheel = TimerWheel(self.loop)
        self.pools = {name: WorkerPool(pool) for name, pool in pools.items()}
        self.followers: set[Follower] = set()
        self.tidy_thread = tidy_thread
        self.draining = False
        self._recorder = recorder
        self._messages = messages
        self._waiting = WaitingLines(self.pools)
        self._retention = Retention(limits, self.counters)
        self._active: dict[str, Task] = {}
        self._foreign: dict[str, Task] = {}
        self._lingering: set[Task] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._last_reader_left: asyncio.Future[None] | None = None
        self._sweeping = False

    # Opening and finding

    def open(self, spec: TaskSpec) -> Task:
        """Admit a task and start it, or let it wait. One synchronous step: nothing can leak between.

        Raises `PoolRefused`, and `KeyError` for a pool that the settings do not name.
        """
        pool = self.pools[spec.pool]
        task_id = secrets.token_hex(16)
        try:
            if spec.source is not None:
                ticket = pool.ledger.pass_by(spec.share_key)
            else:
                ticket = pool.ledger.admit(
                    spec.share_key, spec.priority, lambda: self._start(self._active[task_id])
                )
        except PoolRefused as refusal:
            self.counters.routes[refusal.decision.route.value] += 1
            self.counters.refusals[refusal.decision.reason.value] += 1
            self._recorder.refused(refusal.snapshot, refusal.decision.reason.value)
            raise
        now = time.monotonic()
        task = Task(
            id=task_id,
            spec=spec,
            journal=self._retention.new_journal(),
            ticket=ticket,
            created=now,
            created_at=datetime.now(UTC),
            ended=self.loop.create_future(),
        )
        self.counters.routes[task.route] += 1
        self._active[task_id] = task
        self._keep_sweeping()
        if spec.source is not None:
            self._read_by_copy(spec.source, task)
        if task.route == "direct":
            self._start(task)
        else:
            self._waiting.join(task)
            task.deadline = now + pool.limits.queue_timeout
        return task

    async def make_room(self, spec: TaskSpec) -> None:
        """Before `open`: an owner at its limit gives up a task that nobody reads, the oldest in its grace.

        Returns once its permit or place is back, after `ROOM_PATIENCE` seconds at the latest (a producer
        that does not obey keeps its permit). Does nothing, and does not suspend, for all others. Raises
        `KeyError` for a pool that the settings do not name.
        """
        ledger = self.pools[spec.pool].ledger
        until = time.monotonic() + ROOM_PATIENCE
        while ledger.at_limit(spec.share_key) and (left := until - time.monotonic()) > 0:
            unread = self._oldest_unread(spec)
            if unread is None:
                return
            back = self.loop.create_future()
            unread.ticket.on_release = partial(_resolve, back)
            self._stop(unread, CancelReason.DISCONNECT)
            await asyncio.wait([back], timeout=left)

    def _oldest_unread(self, spec: TaskSpec) -> Task | None:
        """The owner's first task in the pool whose grace runs."""
        return next(
            (
                task
                for task in self._active.values()
                if task.unattended_since is not None
                and task.ending is None
                and task.final is None
                and (task.spec.share_key, task.spec.pool) == (spec.share_key, spec.pool)
            ),
            None,
        )

    def record(self, task: Task) -> Commit:
        """Hand the admitted task, and from now on its events, to the recorder."""
        task.journal.subscribe(partial(self._recorder.appended, task))
        return self._recorder.accepted(task)

    def get(self, task_id: str) -> Task:
        """The task in memory, active or ended. Raises `TaskNotFound`."""
        task = self.find(task_id)
        if task is None:
            raise TaskNotFound(task_id)
        return task

    def runs(self, task: Task) -> bool:
        """Whether this process runs it, or lets it wait."""
        return self._active.get(task.id) is task

    def find(self, task_id: str) -> Task | None:
        """The task in memory, active or ended."""
        return self._active.get(task_id) or self._foreign.get(task_id) or self._retention.get(task_id)

    def new_journal(self) -> MemoryJournal:
        """An empty journal within the bound of this process' memory."""
        return self._retention.new_journal()

    def keep(self, task: Task) -> None:
        """Keep an ended task that was read from elsewhere, as long as one of our own."""
        self._foreign.pop(task.id, None)
        self._retention.keep(task)
        self._keep_sweeping()

    def show(self, task: Task) -> None:
        """Let readers follow a task that another process runs, or none yet."""
        self._foreign[task.id] = task
        self._keep_sweeping()

    def hide(self, task: Task) -> None:
        """Undo `show`: the task is nobody's here any more; readers are sent away, to come back."""
        if self._foreign.pop(task.id, None) is not None:
            self._send_readers_away(task)
            task.journal.trim(task.journal.last_id + 1)

    def leave_to_others(self, task: Task) -> None:
        """A waiting task that has no place here is anybody's. Its readers shall look for it again."""
        self._foreign.pop(task.id, None)
        self._recorder.given_up(task)
        self._send_readers_away(task)

    def active(self) -> list[str]:
        """The tasks that run or wait here. Called in any thread."""
        return list(self._active)

    def take_up(self, task: Task) -> bool:
        """Let a task wait or run here that another process had let wait; its grace begins anew. Readers that
        follow it already (`show`) stay. False if there is no room: nothing has happened then."""
        pool = self.pools[task.spec.pool]
        now = time.monotonic()
        self._foreign.pop(task.id, None)
        self._active[task.id] = task
        self._waiting.join(task)
        task.deadline = now + pool.limits.queue_timeout
        if not pool.ledger.readmit(
            task.ticket, task.spec.priority, now - task.created, partial(self._start, task)
        ):
            self._waiting.leave(task)
            del self._active[task.id]
            return False
        self.record(task)
        self._keep_sweeping()
        self.answered_unread(task)
        return True

    def forget(self, task: Task) -> None:
        """Drop an ended task and its events from memory."""
        self._retention.forget(task)
        self.backlogs.forget(task.id)

    # Reading

    def follow(self, task: Task, options: FollowOptions) -> Follower:
        """A new reader from `options.after` on.

        Raises `CursorAhead` for an id that no event has had, `EventsPruned` when the events of an ended
        task are gone, `TooManyFollowers`.
        """
        # Of a foreign task the newest events may still be on their way.
        ahead = LOST_IDS if task.id in self._foreign else 0
        if options.after > task.journal.last_id + ahead:
            raise CursorAhead(task.id)
        if task.state.terminal and task.journal.first_id > task.journal.last_id:
            raise EventsPruned(task.id)
        if len(task.followers) >= self.limits.max_followers:
            raise TooManyFollowers(task.id)
        self._attended(task)
        task.read = True
        if options.resumed:
            task.counts.resumes += 1
        follower = Follower(self, task, options)
        self.followers.add(follower)
        return follower

    def attend(self, task: Task) -> None:
        """Somebody waits for the task's end without reading it; `leave` must follow."""
        task.waiters += 1
        self._attended(task)
        task.read = True

    def leave(self, task: Task) -> None:
        """Undo `attend`."""
        task.waiters -= 1
        self._reader_gone(task)

    def followed_elsewhere(self, task_id: str) -> None:
        """Another process has a reader of the task, which keeps it as one of our own would."""
        task = self._active.get(task_id)
        if task is not None:
            task.followed_elsewhere_at = time.monotonic()
            self._attended(task)

    def answered_unread(self, task: Task) -> None:
        """Its caller has its id and has gone (a 202): a finite grace begins as if a reader had left.

        `cancel` (no grace at all) counts from the first reader on: otherwise such a task could never run.
        """
        if task.spec.grace > 0:
            self._if_unattended(task)

    def reader_left(self, follower: Follower) -> None:
        """A follower closed."""
        self.followers.discard(follower)
        if not self.followers and self._last_reader_left is not None and not self._last_reader_left.done():
            self._last_reader_left.set_result(None)
        self._reader_gone(follower.task)

    def place_of(self, task: Task) -> tuple[int | None, float | None]:
        """Position in the queue (from 1) and expected seconds until the permit; None when not waiting."""
        return self._waiting.place(task, time.monotonic())

    def status(self, task: Task, name: str, position: int | None, eta: float | None, language: str) -> Status:
        """The status event of this moment, its message in `language`."""
        return Status(
            status=name,
            message=_words(lambda: self._messages.status(task, name, position, eta, language)),
            task_id=task.id,
            route=task.route,
            reason=task.reason,
            position=position,
            eta_seconds=None if eta is None else round(eta, 1),
            elapsed_seconds=round(time.monotonic() - task.created, 3),
            timestamp=self.timestamp(),
        )

    def timestamp(self) -> str:
        """Now, RFC 3339 with offset."""
        return datetime.now(UTC).isoformat(timespec="milliseconds")

    # Ending

    def cancel(self, task: Task, reason: CancelReason) -> None:
        """Ask for the task's end; `task.ended` tells when it came. Idempotent."""
        self._stop(task, reason)

    def abandon(self, task_id: str, epoch: float = math.inf) -> None:
        """Another process has taken the task over, and tells its end: stop, and say nothing more of it here.

        Readers are sent away; they come back and find that end. `epoch`: the last one that was lost; a task
        that has come back to this process since is of a later one, and stays.
        """
        task = self._active.get(task_id)
        if task is None or task.epoch > epoch:
            return
        del self._active[task_id]
        self._waiting.leave(task)
        self._send_readers_away(task)
        if task.final is None:
            task.final = self._terminal_event(task, Interrupted(), task.timing(time.monotonic()))
        if task.pump is None:
            self.pool_of(task).ledger.release(task.ticket)
        else:
            task.pump.cancel()
        if not task.ended.done():
            task.ended.set_result(None)

    def retract(self, task: Task) -> None:
        """The admission is void: nobody was told of the task, and nothing of it was recorded."""
        self.counters.routes[task.route] -= 1
        self.abandon(task.id)

    async def end(self, task: Task, outcome: Outcome) -> None:
        """Decide the terminal event (the first caller wins), make it durable, send it."""
        if task.final is not None:
            return
        now = time.monotonic()
        task.finished = now
        task.finished_at = datetime.now(UTC)
        task.receipt = task.timing(now)
        task.final = self._terminal_event(task, outcome, task.receipt)
        try:
            encode(task.final)
        except Exception:
            logger.exception("task %s: its end cannot be told", task.id)
            task.final = self._terminal_event(task, ProducerFailed(), task.receipt)
        try:
            if not await self._recorder.ended(task).wait(COMMIT_PATIENCE):
                self.counters.late_commits += 1
        finally:
            if self.runs(task):
                self._publish_end(task)

    # The pump's host

    def pool_of(self, task: Task) -> WorkerPool:
        """The pool that the task runs in."""
        return self.pools[task.spec.pool]

    def permit_free(self, task: Task) -> None:
        """The producer is gone: its permit goes to the next in line."""
        self._lingering.discard(task)
        self.pool_of(task).ledger.release(task.ticket)

    # Going down

    async def drain(self, grace: float) -> None:
        """Refuse newcomers, give what runs `grace` seconds, then interrupt it. Of what waits, registered
        producers are left to another process, and their readers sent away to find them there.

        Returns when every other task has its terminal event and every reader had time to get it.
        """
        self.draining = True
        for pool in self.pools.values():
            pool.ledger.stop_granting()
        for task in [task for task in self._active.values() if task.state is State.QUEUED]:
            if task.can_go_on_elsewhere:
                self._give_up(task)
            else:
                self._stop(task, Interrupted())
        await self._all_ended(grace)
        for task in list(self._active.values()):
            self._stop(task, Interrupted())
        await self._all_ended(CANCEL_PATIENCE + SWEEP_INTERVAL + COMMIT_PATIENCE)
        for follower in list(self.followers):
            if not follower.task.state.terminal:
                follower.dismiss()
        await self._all_readers_left(COMMIT_PATIENCE)
        for pool in self.pools.values():
            pool.close()

    def close(self) -> None:
        """Let go of timers and threads."""
        self.wheel.close()
        for pool in self.pools.values():
            pool.close()

    # Being seen

    @property
    def lingering(self) -> int:
        """Producers that still hold their permit although their task has ended."""
        return len(self._lingering)

    def statistics(self) -> dict[str, object]:
        """Pools, routes and totals as JSON-able values."""
        pools = {}
        for name, pool in self.pools.items():
            numbers = pool.ledger.statistics()
            pools[name] = {
                "running": numbers.running,
                "waiting": numbers.waiting,
                "away": numbers.away,
                "max_workers": numbers.max_workers,
                "queue_size": numbers.queue_size,
                "oldest_wait_seconds": numbers.oldest_wait_seconds,
                "mean_service_seconds": numbers.mean_service_seconds,
                "waiting_by_class": {str(key): count for key, count in numbers.waiting_by_class.items()},
                "stuck": sum(task.stuck and task.spec.pool == name for task in self._lingering),
            }
        routes = self.counters.routes
        return {
            "pools": pools,
            "routes": {route: routes[route] for route in ("direct", "queued", "rejected")},
            "refusals": dict(self.counters.refusals),
            "tasks": {
                "active": len(self._active),
                "foreign": len(self._foreign),
                "in_memory": len(self._active) + len(self._foreign) + len(self._retention),
            },
            "ends": dict(self.counters.ends),
            "followers": len(self.followers),
            "journal_bytes": self._retention.journal_bytes,
            "status_messages": self.counters.status_messages,
            "slow_readers_closed": self.counters.slow_readers_closed,
            "late_commits": self.counters.late_commits,
            "evicted_journals": self.counters.evicted_journals,
            "trimmed_journals": self.counters.trimmed_journals,
            "draining": self.draining,
        }

    # Inside

    def _start(self, task: Task) -> None:
        now = time.monotonic()
        task.advance(State.RUNNING)
        task.started = now
        task.started_at = datetime.now(UTC)
        if task.spec.source is None:
            task.deadline = now + self.pool_of(task).limits.run_timeout
        ready = None
        has_waited = self._waiting.leave(task)
        if has_waited:
            # Known to run before its first event is seen: what waits is started anew after a crash.
            ready = partial(self._recorder.started(task).wait, COMMIT_PATIENCE)
        # A copy has the end and the chunks of its source.
        pump = Pump(self, task, self.limits.coalescer(joining=task.spec.source is None), ready)
        task.pump = self.loop.create_task(
            pump.run(), name=f"pump {task.id}", context=task.spec.context.copy()
        )
        task.pump.add_done_callback(lambda _: self._pump_is_over(task, pump))
        if has_waited:
            for follower in list(task.followers):
                follower.update(now)

    def _read_by_copy(self, source: Task, copy: Task) -> None:
        """As long as the copy runs, its source has a reader. After it, one that never had a reader of its own
        goes on as before."""
        source.waiters += 1
        self._attended(source)

        def ended(_: asyncio.Future[None]) -> None:
            source.waiters -= 1
            if source.read:
                self._if_unattended(source)

        copy.ended.add_done_callback(ended)

    def _stop(self, task: Task, outcome: Outcome) -> None:
        if task.ending is not None or task.final is not None:
            return
        task.ending = outcome
        if task.pump is None:
            self._waiting.leave(task)
            self.pool_of(task).ledger.release(task.ticket)
            self._spawn_end(task, outcome)
        else:
            task.pump.cancel()
            task.deadline = time.monotonic() + CANCEL_PATIENCE

    def _pump_is_over(self, task: Task, pump: Pump) -> None:
        """Also reached by a pump that was cancelled before its first step, and so could do nothing."""
        assert task.pump is not None
        fault = None if task.pump.cancelled() else task.pump.exception()
        if fault is not None:
            logger.error("task %s: the pump failed", task.id, exc_info=fault)
        if not pump.in_thread:
            self.permit_free(task)
        if task.final is None:
            outcome = Interrupted() if fault is None else ProducerFailed()
            self._spawn_end(task, task.ending if task.ending is not None else outcome)
        if self.find(task.id) is None:
            # It was abandoned.
            task.journal.trim(task.journal.last_id + 1)

    def _spawn_end(self, task: Task, outcome: Outcome) -> None:
        ending = self.loop.create_task(self.end(task, outcome), name=f"end {task.id}")
        self._background.add(ending)
        ending.add_done_callback(self._background.discard)

    def _terminal_event(self, task: Task, outcome: Outcome, receipt: Timing) -> Terminal:
        if isinstance(outcome, CancelReason):
            return Cancelled(reason=outcome.value)
        if isinstance(outcome, GenerationError):
            message = _words(lambda: self._messages.error(outcome.code, task.spec.language))
            return Error(code=outcome.code, message=message, retryable=outcome.retryable)
        assert isinstance(outcome, Finish)
        return Complete(
            task_id=task.id,
            finish_reason=outcome.finish_reason,
            content_length=task.counts.content_length,
            chunks=task.counts.chunks,
            usage=outcome.usage,
            model=outcome.model,
            cached=outcome.cached,
            timing=receipt,
            execution_count=outcome.execution_count,
            duration_ms=outcome.duration_ms,
        )

    def _publish_end(self, task: Task) -> None:
        assert task.final is not None
        task.advance(State(task.final.name))
        self.counters.ends[task.final.name] += 1
        self.counters.status_messages += task.counts.status_messages
        task.journal.append(task.final)
        self._active.pop(task.id, None)
        self._retention.keep(task)
        if task.ticket.holding is Holding.PERMIT:
            self._lingering.add(task)
        if not task.ended.done():
            task.ended.set_result(None)

    def _give_up(self, task: Task) -> None:
        del self._active[task.id]
        self._waiting.leave(task)
        self.pool_of(task).ledger.release(task.ticket)
        self.leave_to_others(task)

    def _send_readers_away(self, task: Task) -> None:
        for follower in list(task.followers):
            if isinstance(follower, Follower):
                follower.dismiss()

    def _reader_gone(self, task: Task) -> None:
        task.left_at = time.monotonic()
        self._if_unattended(task)

    def _if_unattended(self, task: Task, since: float | None = None) -> None:
        """Begin the grace of a task that nobody reads. `since`: when the last reader in another process left,
        None for now."""
        if task.attended or task.final is not None or task.ending is not None or not self.runs(task):
            return
        if task.spec.grace <= 0:
            self._stop(task, CancelReason.DISCONNECT)
        elif task.spec.grace < math.inf:
            task.unattended_since = max(task.left_at, time.monotonic() if since is None else since)
            self._waiting.step_aside(task)

    def _attended(self, task: Task) -> None:
        """Somebody reads or waits again."""
        task.unattended_since = None
        self._waiting.come_back(task)

    def _keep_sweeping(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self.wheel.at(time.monotonic() + SWEEP_INTERVAL, self._sweep)

    def _sweep(self) -> None:
        """Serve deadlines of active tasks; drop ended ones that are old or too many."""
        self._sweeping = False
        now = time.monotonic()
        for task in self._waiting.moved(now):
            for follower in list(task.followers):
                follower.update(now)
        for task in self._lingering:
            self._notice_stuck(task, now)
        for task in list(self._active.values()):
            self._notice_readers_elsewhere(task, now)
            self._serve_deadline(task, now)
        self._retention.relieve([*self._active.values(), *self._foreign.values()], now)
        if self._active or self._foreign or len(self._retention) or self._lingering:
            self._keep_sweeping()

    def _notice_readers_elsewhere(self, task: Task, now: float) -> None:
        last = task.followed_elsewhere_at
        if last is not None and now - last > ELSEWHERE_PATIENCE:
            task.followed_elsewhere_at = None
            self._if_unattended(task, since=last)

    def _serve_deadline(self, task: Task, now: float) -> None:
        if task.unattended_since is not None and now >= task.unattended_since + task.spec.grace:
            task.unattended_since = None
            self._stop(task, CancelReason.DISCONNECT)
        if now < task.deadline or task.final is not None:
            return
        if task.ending is not None:
            # Its producer ignored the cancel.
            task.deadline = math.inf
            self._spawn_end(task, task.ending)
        else:
            self._stop(task, QueueTimeout() if task.state is State.QUEUED else RunTimeout())

    def _notice_stuck(self, task: Task, now: float) -> None:
        """A producer that has not come back in time keeps its permit, and is shown."""
        if not task.stuck and task.finished is not None and now - task.finished >= STUCK_AFTER:
            task.stuck = True
            logger.warning("task %s: the producer is stuck and keeps its permit", task.id)

    async def _all_ended(self, seconds: float) -> None:
        if self._active:
            await asyncio.wait([task.ended for task in self._active.values()], timeout=seconds)

    async def _all_readers_left(self, seconds: float) -> None:
        if self.followers:
            self._last_reader_left = self.loop.create_future()
            await asyncio.wait([self._last_reader_left], timeout=seconds)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _words(say: Callable[[], str]) -> str:
    """A text for people. A broken translation must not keep a task from starting or ending."""
    try:
        return say()
    except Exception:
        logger.exception("no words for people")
        return ""
