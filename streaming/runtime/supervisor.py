"""The owner of all tasks of a process: admits, starts, ends, sweeps and drains them.

No request owns anything here: a request opens a task, follows it, and may vanish at any moment.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    StreamError,
    TooManyFollowers,
)
from streaming.core.events import Error, Restart, Status, encode
from streaming.core.routing import Reason
from streaming.core.states import State

from .announcements import Announcements, timestamp
from .attendance import Attendance
from .backlog import Backlogs
from .executor import WorkerPool
from .follower import Follower, FollowOptions
from .journals.base import lost_ids
from .ledger import Holding, PoolLimits, PoolRefused, Ticket
from .limits import Counters, StreamLimits
from .measures import Measures
from .ports import Commit, Messages, Nowhere, Observer, Recorder
from .pump import Pump
from .room import make_room
from .statistics import statistics
from .table import TaskTable
from .task import CancelReason, Outcome, Task, TaskSpec
from .task_ids import TaskIds
from .waiting import WaitingLines
from .wheel import FINE, TimerWheel

logger = logging.getLogger(__name__)

SWEEP_INTERVAL: Final = 0.25
"""Seconds between two looks at the active tasks' deadlines."""

CANCEL_PATIENCE: Final = 0.5
"""Seconds that a producer has to obey a cancel before its task ends without it (see STUCK_AFTER)."""

STUCK_AFTER: Final = 1.0
"""Seconds after the end of its task at which a producer that still holds its permit counts as stuck."""

COMMIT_PATIENCE: Final = 0.25
"""Seconds that a terminal event waits for the record to be durable."""

PROCESS_LOST: Final = "process_lost"
"""The reason of the `restart` of a task whose process is gone."""


@dataclass(frozen=True, slots=True)
class Admission:
    """All processes together have admitted a task. `ticket`: a permit of this process; or one that claims
    nothing, for a task that waits for any process; None where its own process decides which way it goes."""

    task_id: str
    ticket: Ticket | None


class Supervisor:
    """See the module. Belongs to the running event loop; made inside it. `kind_of`: as what tasks of a kind
    are counted (see `Measures`). `place_elsewhere`: `place_of` for a task that waits for any process."""

    def __init__(
        self,
        pools: Mapping[str, PoolLimits],
        limits: StreamLimits,
        recorder: Recorder,
        messages: Messages,
        tidy_thread: Callable[[], None],
        kind_of: Callable[[str], str] = lambda kind: kind,
        observers: Sequence[Observer] = (),
        place_elsewhere: Callable[[Task], tuple[int | None, float | None]] = lambda task: (None, None),
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.counters = Counters()
        self.measures = Measures(kind_of)
        self.backlogs = Backlogs()
        self.wheel = TimerWheel(self.loop)
        self.flushes = TimerWheel(self.loop, resolution=FINE)
        self.pools = {name: WorkerPool(pool) for name, pool in pools.items()}
        self.followers: set[Follower] = set()
        self.tidy_thread = tidy_thread
        self.draining = self._left = False
        self._recorder = recorder
        self._observers = observers
        self._place_elsewhere = place_elsewhere
        self._announcements = Announcements(messages)
        self._waiting = WaitingLines(self.pools)
        self._ids = TaskIds()
        self.tasks = TaskTable(limits, self.counters, self.backlogs, stirred=self._keep_sweeping)
        self.attendance = Attendance(self.tasks, self._waiting, self.cancel)
        self.on_start: Callable[[Task], None] = _nothing
        """Called with each task when it starts here."""
        self._lingering: set[Task] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._last_reader_left: asyncio.Future[None] | None = None
        self._sweeping = False

    # Admitting

    def new_id(self) -> str:
        """The id of a task that is still to be admitted."""
        return self._ids.new()

    def open(self, spec: TaskSpec, admission: Admission | None = None) -> Task:
        """Admit a task and start it, or let it wait. One synchronous step: nothing can leak between.

        `admission`: what all processes together have decided of it; without a ticket, that its own process
        decides the rest. Raises `PoolRefused`, and `KeyError` for a pool that the settings do not name.
        """
        task_id = self.new_id() if admission is None else admission.task_id
        ticket = None if admission is None else admission.ticket
        if ticket is None:
            try:
                ticket = self._ticket(spec, task_id)
            except PoolRefused as refusal:
                self.count_refusal(refusal)
                raise
        now = time.monotonic()
        task = Task(
            id=task_id,
            spec=spec,
            journal=self.tasks.new_journal(),
            ticket=ticket,
            created=now,
            created_at=datetime.now(UTC),
            ended=self.loop.create_future(),
        )
        if spec.kept:
            self.counters.routes[task.route] += 1
            self.measures.decisions[spec.pool, task.route, task.reason] += 1
        if ticket.holding is Holding.NOTHING and task.route == "queued":
            # It waits for any process.
            self.tasks.show(task)
            return task
        self.tasks.admit(task)
        if spec.source is not None:
            self.attendance.read_by_copy(spec.source, task)
        if task.route == "direct":
            self._start(task)
        else:
            self._waiting.join(task)
            task.deadline = now + self.pool_of(task).limits.queue_timeout
        return task

    def _ticket(self, spec: TaskSpec, task_id: str) -> Ticket:
        ledger = self.pools[spec.pool].ledger
        if spec.source is not None:
            return ledger.pass_by(spec.share_key, Reason.CACHED)
        if not spec.needs_worker:
            return ledger.pass_by(spec.share_key, Reason.NO_WORKER_NEEDED)
        return ledger.admit(
            spec.share_key,
            spec.priority,
            lambda: self._start(self.tasks.active[task_id]),
            spec.series,
        )

    def count_refusal(self, refusal: PoolRefused) -> None:
        """A task was not admitted, here or by all processes together."""
        route, reason = refusal.decision.route.value, refusal.decision.reason.value
        self.counters.routes[route] += 1
        self.counters.refusals[reason] += 1
        self.measures.decisions[refusal.snapshot.pool, route, reason] += 1
        self._recorder.refused(refusal.snapshot, reason)

    async def make_room(self, spec: TaskSpec) -> None:
        """Before `open`; see `room.make_room`. Raises `KeyError` for a pool that the settings do not name."""
        if not spec.needs_worker:
            return
        await make_room(spec, self.pools[spec.pool].ledger, self.tasks.active, self.cancel)

    def record(self, task: Task, *, known: bool = False) -> Commit:
        """Hand the admitted task to the observers, and it and from now on its events to the recorder: the
        admission stands (see `retract`). `known`: its row is there."""
        if not task.spec.kept:
            return Nowhere()
        for observer in self._observers:
            observer.decided(task)
        if task.id in self.tasks.foreign:
            return Nowhere() if known else self._recorder.given_up(task)
        return self._record(task, known=known)

    def _record(self, task: Task, *, known: bool) -> Commit:
        task.recorded = True
        task.journal.subscribe(partial(self._recorder.appended, task))
        return self._recorder.accepted(task, known=known)

    def take_up(self, task: Task, permit: Ticket | None = None) -> bool:
        """Let a task wait or run here that another process had let wait; its grace begins anew. Readers that
        follow it already (`show`) stay. `permit`: of this process' ledger, for it to run at once. False if
        there is no room: nothing has happened then."""
        pool = self.pools[task.spec.pool]
        now = time.monotonic()
        if permit is not None:
            permit.decision, permit.snapshot = task.ticket.decision, task.ticket.snapshot
            task.ticket = permit
        self.tasks.admit(task)
        self._waiting.join(task)
        task.deadline = now + pool.limits.queue_timeout
        if permit is None and not pool.ledger.readmit(
            task.ticket, task.spec.priority, now - task.created, partial(self._start, task)
        ):
            self._waiting.leave(task)
            del self.tasks.active[task.id]
            return False
        self._record(task, known=True)
        if permit is not None:
            self._start(task)
        self.attendance.answered_unread(task)
        return True

    def leave_to_others(self, task: Task) -> None:
        """A waiting task that has no place here is anybody's. Its readers shall look for it again."""
        self.tasks.foreign.pop(task.id, None)
        self._recorder.given_up(task)
        task.send_readers_away()

    # Reading

    def follow(self, task: Task, options: FollowOptions) -> Follower:
        """A new reader from `options.after` on.

        Raises `CursorAhead` for an id that no event has had, `EventsPruned` when the events of an ended
        task are gone, if only for newcomers, `TooManyFollowers`.
        """
        # Of a foreign task the newest events may still be on their way.
        ahead = lost_ids(task.attempts + 1) if task.id in self.tasks.foreign else 0
        if options.after >= task.journal.next_id + ahead:
            raise CursorAhead(task.id)
        if task.state.terminal and (
            task.journal.first_id > task.journal.last_id or self.tasks.ended.is_leaving(task)
        ):
            raise EventsPruned(task.id)
        if len(task.followers) >= self.limits.max_followers:
            raise TooManyFollowers(task.id)
        self.attendance.begun(task)
        if options.resumed:
            task.counts.resumes += 1
            self.measures.resumes += 1
        follower = Follower(self, task, options)
        self.followers.add(follower)
        if self._left and not task.state.terminal:
            # Its end is told elsewhere.
            follower.dismiss()
        return follower

    def reader_left(self, follower: Follower) -> None:
        """A follower closed."""
        self.followers.discard(follower)
        if follower.task.spec.kept:
            self.measures.reader_left(follower)
        self._forget_unkept(follower.task)
        if not self.followers and self._last_reader_left is not None and not self._last_reader_left.done():
            self._last_reader_left.set_result(None)
        self.attendance.over(follower.task)

    def place_of(self, task: Task) -> tuple[int | None, float | None]:
        """Position in the queue (from 1) and expected seconds until the permit; None when not waiting."""
        if task.id in self.tasks.foreign:
            return self._place_elsewhere(task)
        return self._waiting.place(task, time.monotonic())

    def status(self, task: Task, name: str, position: int | None, eta: float | None, language: str) -> Status:
        """The status event of this moment, its message in `language`."""
        elapsed = time.monotonic() - task.created
        return self._announcements.status(task, name, position, eta, language, elapsed)

    def failure(self, error: StreamError, language: str) -> Error:
        """The `error` event for what ends a reader and no task."""
        return self._announcements.failure(error, language)

    def timestamp(self) -> str:
        """Now, RFC 3339 with offset."""
        return timestamp()

    # Ending

    def cancel(self, task: Task, reason: CancelReason) -> None:
        """Ask for the task's end; `task.ended` tells when it came. Idempotent."""
        self._stop(task, reason)

    def prioritise(self, task: Task, priority: int) -> bool:
        """Let a waiting task go on waiting in another priority class; see `FairQueue.move`. False if it does
        not wait, or is of that class."""
        if not self._waiting.prioritise(task, priority):
            return False
        task.spec = replace(task.spec, priority=priority)
        if task.spec.kept:
            self._recorder.accepted(task, known=True)
        return True

    def abandon(self, task_id: str, epoch: float = math.inf) -> None:
        """Another process has taken the task over, and tells its end: stop, and say nothing more of it here.

        Readers are sent away; they come back and find that end. `epoch`: the last one that was lost; a task
        that has come back to this process since is of a later one, and stays.
        """
        task = self.tasks.own(task_id)
        if task is None or task.epoch > epoch:
            return
        del self.tasks.active[task_id]
        self.measures.left(task)
        self._waiting.leave(task)
        task.send_readers_away()
        if task.pump is None:
            self.pool_of(task).ledger.release(task.ticket)
        self._silence(task)

    def tell_lost(self, task: Task) -> None:
        """This process has told the end of a task of a process that is gone: count it, and tell who looks
        on."""
        assert task.final is not None
        self.counters.ends[task.final.name] += 1
        self.measures.ended(task)
        for observer in self._observers:
            observer.ended(task)

    def retract(self, task: Task) -> None:
        """The admission is void: no reader and no observer was told of the task, and nothing was recorded."""
        self.counters.routes[task.route] -= 1
        self.tasks.hide(task)
        self.abandon(task.id)

    async def end(self, task: Task, outcome: Outcome) -> None:
        """Decide the terminal event (the first caller wins), make it durable, send it."""
        if task.final is not None:
            return
        now = time.monotonic()
        task.finished = now
        task.finished_at = datetime.now(UTC)
        task.receipt = task.timing(now)
        task.final = self._announcements.end(task, outcome, task.receipt)
        if isinstance(outcome, GenerationError):
            task.error_detail = outcome.detail
        try:
            encode(task.final)
        except Exception:
            logger.exception("task %s: its end cannot be told", task.id)
            task.final = self._announcements.end(task, ProducerFailed(), task.receipt)
        try:
            if task.spec.kept and not await self._recorder.ended(task).wait(COMMIT_PATIENCE):
                self.counters.late_commits += 1
        finally:
            if self.tasks.runs(task):
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

    async def drain(self, grace: float, others: Callable[[], bool] = lambda: False) -> None:
        """Refuse newcomers, give what runs `grace` seconds, then interrupt it. Of what waits, registered
        producers are left to another process, and their readers sent away to find them there; so is of what
        runs still what may begin anew. `others`: whether other processes live.

        Returns when every other task has its terminal event and every reader had time to get it.
        """
        self.draining = True
        for pool in self.pools.values():
            pool.ledger.stop_granting()
        for task in [task for task in self.tasks.active.values() if task.state is State.QUEUED]:
            if task.can_go_on_elsewhere:
                self._give_up(task)
            else:
                self._stop(task, Interrupted())
        await self._all_ended(grace)
        for task in list(self.tasks.active.values()):
            if self._may_begin_anew(task, others=others()):
                self._give_back(task)
            else:
                self._stop(task, Interrupted())
        await self._all_ended(CANCEL_PATIENCE + SWEEP_INTERVAL + COMMIT_PATIENCE)
        self._left = True
        for follower in list(self.followers):
            if not follower.task.state.terminal:
                follower.dismiss()
        await self._all_readers_left(COMMIT_PATIENCE)
        for pool in self.pools.values():
            pool.close()

    def close(self) -> None:
        """Let go of timers and threads."""
        self.wheel.close()
        self.flushes.close()
        for pool in self.pools.values():
            pool.close()

    # Being seen

    def stuck_in(self, pool: str) -> int:
        """Producers that hold a permit of the pool long after their task has ended."""
        return sum(task.stuck and task.spec.pool == pool for task in self._lingering)

    @property
    def lingering(self) -> int:
        """Producers that still hold their permit although their task has ended."""
        return len(self._lingering)

    def statistics(self) -> dict[str, object]:
        """Pools, routes and totals as JSON-able values."""
        return statistics(
            self.pools,
            self.tasks,
            self.counters,
            lingering=self._lingering,
            followers=sum(follower.task.spec.kept for follower in self.followers),
            draining=self.draining,
        )

    # Inside

    def _start(self, task: Task) -> None:
        now = time.monotonic()
        task.advance(State.RUNNING)
        task.attempts += 1
        task.started = now
        task.started_at = datetime.now(UTC)
        if task.spec.source is None:
            task.deadline = now + self.pool_of(task).limits.run_timeout
        ready: Callable[[], Awaitable[object]] | None = None
        has_waited = self._waiting.leave(task)
        if has_waited:
            self.measures.waited(task, now - task.created)
            if task.begins_anew:
                ready = partial(self._begin_anew, task, self._recorder.started(task))
            elif task.recorded:
                # Known to run before its first event is seen: what waits is started anew after a crash.
                ready = partial(self._recorder.started(task).wait, COMMIT_PATIENCE)
            # Otherwise it is told as it is then, or never.
        # A copy has the end and the chunks of its source.
        spec = task.spec
        coalescer = self.limits.coalescer(joining=spec.source is None, eager=spec.eager)
        pump = Pump(self, task, coalescer, ready)
        task.pump = self.loop.create_task(
            pump.run(), name=f"pump {task.id}", context=task.spec.context.copy()
        )
        task.pump.add_done_callback(lambda _: self._pump_is_over(task, pump))
        self.on_start(task)
        if has_waited:
            task.update_readers(now)

    async def _begin_anew(self, task: Task, started: Commit) -> None:
        """Make what was before void. Not before the attempt is known: the next one, should this process be
        killed, too, takes other ids than this one. Raises `Interrupted` if it cannot be known."""
        if not await started.wait(self.pool_of(task).limits.run_timeout):
            raise Interrupted
        task.append(Restart(attempt=task.attempts, reason=PROCESS_LOST))
        for observer in self._observers:
            observer.began_anew(task)

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
        if not task.state.terminal and self.tasks.find(task.id) is None:
            # It was abandoned. What has ended may be read still, although it is forgotten.
            task.journal.clear()

    def _spawn_end(self, task: Task, outcome: Outcome) -> None:
        ending = self.loop.create_task(self.end(task, outcome), name=f"end {task.id}")
        self._background.add(ending)
        ending.add_done_callback(self._background.discard)

    def _publish_end(self, task: Task) -> None:
        assert task.final is not None
        task.advance(State(task.final.name))
        if task.spec.kept:
            self.counters.ends[task.final.name] += 1
            self.counters.status_messages += task.counts.status_messages
            self.measures.ended(task)
            self.measures.left(task)
        task.journal.append(task.final)
        self.tasks.keep(task)
        if task.ticket.holding is Holding.PERMIT:
            self._lingering.add(task)
        if not task.ended.done():
            task.ended.set_result(None)
        if task.spec.kept:
            for observer in self._observers:
                observer.ended(task)
        self._forget_unkept(task)

    def _forget_unkept(self, task: Task) -> None:
        """Whoever reads it now is the last one."""
        if not task.spec.kept and task.state.terminal and not task.followers:
            self.tasks.forget(task)

    def _may_begin_anew(self, task: Task, *, others: bool) -> bool:
        """Whether another process may do what has begun here: as often as the settings allow, and only if
        nobody has seen any of it, unless they say otherwise. (Then somebody must be there to do it soon.)"""
        if not task.can_begin_anew_elsewhere or task.ending is not None or task.final is not None:
            return False
        if task.attempts >= self.limits.max_attempts:
            return False
        journal = task.journal
        return self.limits.restarts or (others and journal.last_id == journal.restart_id)

    def _give_back(self, task: Task) -> None:
        """What runs waits for another process."""
        task.advance(State.QUEUED)
        task.started = task.started_at = None
        self._give_up(task)
        self._silence(task)

    def _silence(self, task: Task) -> None:
        """It is no more ours: its producer is stopped, and nothing that it still says counts."""
        if task.final is None:
            task.final = self._announcements.end(task, Interrupted(), task.timing(time.monotonic()))
        if task.pump is not None:
            task.pump.cancel()
        if not task.ended.done():
            task.ended.set_result(None)

    def _give_up(self, task: Task) -> None:
        del self.tasks.active[task.id]
        self.measures.left(task)
        self._waiting.leave(task)
        self.pool_of(task).ledger.release(task.ticket)
        self.leave_to_others(task)

    def _keep_sweeping(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self.wheel.at(time.monotonic() + SWEEP_INTERVAL, self._sweep)

    def _sweep(self) -> None:
        """Serve deadlines of active tasks; drop ended ones that are old or too many."""
        self._sweeping = False
        now = time.monotonic()
        for task in self._waiting.moved(now):
            task.update_readers(now)
        for task in self._lingering:
            self._notice_stuck(task, now)
        for task in list(self.tasks.active.values()):
            self.attendance.sweep(task, now)
            self._serve_deadline(task, now)
        self.tasks.relieve(now)
        if self.tasks or self._lingering:
            self._keep_sweeping()

    def _serve_deadline(self, task: Task, now: float) -> None:
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
        if self.tasks.active:
            await asyncio.wait([task.ended for task in self.tasks.active.values()], timeout=seconds)

    async def _all_readers_left(self, seconds: float) -> None:
        if self.followers:
            self._last_reader_left = self.loop.create_future()
            await asyncio.wait([self._last_reader_left], timeout=seconds)


def _nothing(task: Task) -> None:
    """Nobody asked."""
