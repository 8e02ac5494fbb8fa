"""The one place that counts a pool's permits, for direct and queued tasks alike.

Deciding and taking are one synchronous step on the loop's thread, so no burst can exceed `max_workers`
or `queue_size`. A permit that comes back goes to the best waiting task at once: whoever waits, waits
here in order and nowhere else. Only who is away (`step_aside`) waits while a permit is free, and who is of
a *series*: its tasks run one at a time, in order of arrival.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import msgspec

from streaming.core.errors import Refused
from streaming.core.estimate import ServiceTime, waits
from streaming.core.priority import FairQueue, Place, Promise
from streaming.core.routing import Decision, Reason, Route, Snapshot, decide

LONGEST_WAIT: Final = 10.0
"""Service times that nobody shall wait longer than."""

HASTE: Final = 2.5
"""Service times before that at which arrival begins to decide: a permit comes back only when a service is
over, and the average of recent services moves by a tenth by chance."""

FULL_LINE_AND: Final = 1.5
"""Service times beyond those of a full line before which arrival does not decide: in a line that is too
long for the promise classes still count for something."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """A pool's size. Counts of tasks; time-outs and `aging_seconds` in seconds. `longest_wait`: service
    times (docs/fairness.md tells when it can be kept), infinity: only ageing bounds a wait."""

    name: str
    max_workers: int
    queue_size: int
    queue_timeout: float
    run_timeout: float
    per_owner: int
    aging_seconds: float
    longest_wait: float = LONGEST_WAIT


class Holding(Enum):
    """What a ticket holds."""

    PLACE = auto()
    PERMIT = auto()
    NOTHING = auto()


class Ticket:
    """A task's claim on a pool: a permit or a place in the queue. `granted` is called once when a waiting
    ticket gets its permit."""

    __slots__ = (
        "_granted",
        "_on_release",
        "_place",
        "_since",
        "decision",
        "holding",
        "owner",
        "series",
        "snapshot",
    )

    def __init__(
        self,
        owner: Hashable,
        decision: Decision,
        snapshot: Snapshot,
        now: float,
        series: Hashable | None = None,
    ) -> None:
        self.owner = owner
        self.series = series
        self.decision = decision
        self.snapshot = snapshot
        self.holding = Holding.PERMIT
        self._on_release: tuple[Callable[[], None], ...] = ()
        self._granted: Callable[[], None] | None = None
        self._place: Place[Ticket] | None = None
        self._since = now

    def withdraw(self) -> None:
        """It claims nothing: the decision of a task that ran elsewhere, or needs no worker."""
        self.holding = Holding.NOTHING

    def when_released(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the ticket holds nothing any more; at once if it does not."""
        if self.holding is Holding.NOTHING:
            callback()
        else:
            self._on_release += (callback,)


class PoolRefused(Refused):
    """Nothing was taken. `retry_after`: seconds after which a try makes sense, from the real queue."""

    def __init__(self, decision: Decision, snapshot: Snapshot, retry_after: float) -> None:
        super().__init__(decision.reason.value)
        self.decision = decision
        self.snapshot = snapshot
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A pool at one moment. Counts of tasks; seconds. `away`: those of the waiting whose readers are."""

    running: int
    waiting: int
    away: int
    max_workers: int
    queue_size: int
    oldest_wait_seconds: float
    mean_service_seconds: float | None
    waiting_by_class: dict[int, int]
    oldest_wait_by_class: dict[int, float]


class Ledger:
    """Permits and places of one pool. Belongs to one thread."""

    def __init__(self, limits: PoolLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._queue: FairQueue[Ticket] = FairQueue(limits.aging_seconds)
        self._running: set[Ticket] = set()
        self._per_owner: Counter[Hashable] = Counter()
        self._series: dict[Hashable, deque[Ticket]] = {}
        self._service = ServiceTime()
        self._draining = False
        self.others_wait = False
        """Whether tasks wait for this pool in the line that all processes share. Then every other permit is
        for that line, as far as tasks wait here, too (`hold_for_others`)."""
        self._turn_of_others = False

    @property
    def running(self) -> int:
        """Permits that are out."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Places that are taken."""
        return len(self._queue)

    def admit(
        self,
        owner: Hashable,
        priority: int,
        granted: Callable[[], None],
        series: Hashable | None = None,
    ) -> Ticket:
        """Decide and take in one step.

        The ticket holds a permit (direct) or a place; in the latter case `granted` is called when the
        permit comes: for a task of a `series` not before the earlier ones are over. Raises `PoolRefused`
        when neither is to be had.
        """
        snapshot = self._snapshot(owner, series)
        decision = decide(snapshot)
        if decision.route is Route.REJECTED:
            raise PoolRefused(decision, snapshot, self._retry_after(decision))
        if decision.route is Route.QUEUED:
            snapshot = msgspec.structs.replace(snapshot, ahead=self._queue.ahead_of(priority))
        now = self._clock()
        ticket = Ticket(owner, decision, snapshot, now, series)
        self._per_owner[owner] += 1
        if series is not None:
            self._series.setdefault(series, deque()).append(ticket)
        if decision.route is Route.DIRECT:
            self._queue.charge(owner, priority)
            self._running.add(ticket)
        else:
            ticket.holding = Holding.PLACE
            ticket._granted = granted
            ticket._place = self._queue.push(ticket, owner, priority, now, held=snapshot.earlier > 0)
        return ticket

    def readmit(self, former: Ticket, priority: int, waited: float, granted: Callable[[], None]) -> bool:
        """Take in a task that another process had admitted, with that decision, whatever its owner's number
        of tasks; it has waited for `waited` seconds. The ticket `former`, which holds nothing, then holds a
        permit or a place. False if there is neither.
        """
        snapshot = msgspec.structs.replace(self._snapshot(former.owner), owner_active=0)
        route = decide(snapshot).route
        if route is Route.REJECTED:
            return False
        now = self._clock()
        former._granted = granted
        self._per_owner[former.owner] += 1
        former.holding = Holding.PLACE
        former._place = self._queue.push(former, former.owner, priority, now - waited)
        if route is Route.DIRECT:
            self._grant()
        return True

    def room(self) -> int:
        """How many tasks could be taken in now, to run or to wait."""
        if self._draining:
            return 0
        return max(self.limits.max_workers - self.running, 0) + max(self.limits.queue_size - self.waiting, 0)

    def pass_by(self, owner: Hashable, reason: Reason) -> Ticket:
        """A ticket that claims nothing, for a task that needs no worker: it is not counted, and no limit of
        the pool or of its owner refuses it. Raises `PoolRefused` while the process goes down."""
        snapshot = self._snapshot(owner)
        if self._draining:
            decision = decide(snapshot)
            raise PoolRefused(decision, snapshot, self._retry_after(decision))
        ticket = Ticket(owner, Decision(Route.DIRECT, reason), snapshot, self._clock())
        ticket.withdraw()
        return ticket

    def hold(self, owner: Hashable, priority: int = 0) -> Ticket | None:
        """A permit for a task that all processes together admit: here it only counts whether one is free that
        nobody waits for. None if there is none."""
        snapshot = msgspec.structs.replace(self._snapshot(owner), owner_active=0)
        decision = decide(snapshot)
        if decision.route is not Route.DIRECT:
            return None
        self._queue.charge(owner, priority)
        return self._out(owner, decision, snapshot)

    def hold_for_others(self, owner: Hashable) -> Ticket | None:
        """A permit for who waits in the line of all processes. None if none is free, or if it is the turn of
        those that wait here."""
        if self._draining or self.running >= self.limits.max_workers:
            return None
        if self._queue.eligible and not self._turn_of_others:
            return None
        self._turn_of_others = False
        return self._out(owner, Decision(Route.DIRECT, Reason.WORKER_FREE), self._snapshot(owner))

    def _out(self, owner: Hashable, decision: Decision, snapshot: Snapshot) -> Ticket:
        ticket = Ticket(owner, decision, snapshot, self._clock())
        self._per_owner[owner] += 1
        self._running.add(ticket)
        return ticket

    def runs_at_once(self, series: Hashable | None = None) -> bool:
        """Whether a newcomer, of that series, would get a permit at once, if its owner may have one more."""
        snapshot = msgspec.structs.replace(self._snapshot(None, series), owner_active=0)
        return decide(snapshot).route is Route.DIRECT

    def look(self, owner: Hashable) -> tuple[Snapshot, float]:
        """The pool as `owner` finds it, and the seconds after which a permit may come back."""
        return self._snapshot(owner), self._service.expected(self._ages())

    def release(self, ticket: Ticket, *, used: bool = True) -> None:
        """Give back whatever the ticket holds; a freed permit goes on at once. Idempotent. `used`: whether
        anything was done with a permit, so that its time says something of others."""
        held, ticket.holding = ticket.holding, Holding.NOTHING
        if held is Holding.NOTHING:
            return
        self._per_owner[ticket.owner] -= 1
        if not self._per_owner[ticket.owner]:
            del self._per_owner[ticket.owner]
        follower = self._next_of_series(ticket)
        if held is Holding.PLACE:
            assert ticket._place is not None
            self._queue.remove(ticket._place)
        else:
            self._running.discard(ticket)
            if used:
                self._service.observe(self._clock() - ticket._since)
        if follower is not None:
            assert follower._place is not None
            self._queue.let_go(follower._place)
        if held is Holding.PERMIT or follower is not None:
            self._grant()
        for callback in ticket._on_release:
            callback()

    def step_aside(self, ticket: Ticket) -> None:
        """Let others pass a ticket that waits; its place and its order key stay. Otherwise nothing."""
        if ticket.holding is Holding.PLACE:
            assert ticket._place is not None
            self._queue.step_aside(ticket._place)

    def come_back(self, ticket: Ticket) -> None:
        """Undo `step_aside`: a permit that is free goes to it at once."""
        if ticket.holding is Holding.PLACE:
            assert ticket._place is not None
            self._queue.come_back(ticket._place)
            self._grant()

    def prioritise(self, ticket: Ticket, priority: int) -> bool:
        """Let a ticket wait in another priority class. False if it does not wait, or is of that class."""
        if ticket.holding is not Holding.PLACE:
            return False
        assert ticket._place is not None
        # Nobody gets a permit by this: who can be served waits only while none is free.
        return self._queue.move(ticket._place, priority)

    def at_limit(self, owner: Hashable) -> bool:
        """Whether a newcomer of `owner` would be refused for the owner's own number of tasks."""
        return not self._draining and self._per_owner[owner] >= self.limits.per_owner

    def stop_granting(self) -> None:
        """Refuse newcomers and let nobody pass any more: the process is going down."""
        self._draining = True

    def line(self) -> list[tuple[Ticket, float]]:
        """The waiting tickets but for those that are away, in order, each with the expected seconds until its
        permit; infinity for those that wait for earlier ones of their series."""
        places = self._queue.ordered(self._clock(), self._promise())
        etas = self._waits(len(places))
        line = [(place.payload, eta) for place, eta in zip(places, etas, strict=True)]
        # They come when the earlier ones are over, so not before those that stand here.
        return [*line, *((place.payload, math.inf) for place in self._queue.held())]

    def statistics(self) -> PoolStatistics:
        """The pool now."""
        return PoolStatistics(
            running=self.running,
            waiting=self.waiting,
            away=self._queue.away,
            max_workers=self.limits.max_workers,
            queue_size=self.limits.queue_size,
            oldest_wait_seconds=round(self._queue.oldest_wait(self._clock()), 3) if self._queue else 0.0,
            mean_service_seconds=self._service.observed,
            waiting_by_class=self._queue.waiting_by_class(),
            oldest_wait_by_class={
                priority: round(seconds, 3)
                for priority, seconds in self._queue.oldest_wait_by_class(self._clock()).items()
            },
        )

    def _grant(self) -> None:
        while self._queue.eligible and self.running < self.limits.max_workers and not self._draining:
            if self.others_wait and self._turn_of_others:
                return
            self._turn_of_others = self.others_wait
            now = self._clock()
            ticket = self._queue.pop(now, self._promise()).payload
            ticket.holding = Holding.PERMIT
            ticket._since = now
            self._running.add(ticket)
            assert ticket._granted is not None
            ticket._granted()

    def _retry_after(self, decision: Decision) -> float:
        if decision.reason is Reason.QUEUE_FULL:
            return self._waits(self._queue.eligible + 1)[-1]
        return self._service.expected(self._ages())

    def _waits(self, count: int) -> list[float]:
        """Expected seconds until a permit for the first `count` in line."""
        ages = self._ages()
        return waits(count, self.limits.max_workers, self._service.expected(ages), ages)

    def _ages(self) -> list[float]:
        """How long each permit that is out has been out, in seconds."""
        now = self._clock()
        return [now - ticket._since for ticket in self._running]

    def _promise(self) -> Promise | None:
        """What nobody's wait shall exceed, in seconds of the services seen lately."""
        service, limits = self._service.observed, self.limits
        if not service or math.isinf(limits.longest_wait):
            return None
        full_line = limits.queue_size / limits.max_workers
        longest = max(limits.longest_wait - HASTE, full_line + FULL_LINE_AND)
        return Promise(longest * service, service / limits.max_workers)

    def _next_of_series(self, ticket: Ticket) -> Ticket | None:
        """Take `ticket` out of its series; who may go on because of that."""
        if ticket.series is None:
            return None
        series = self._series[ticket.series]
        was_first = series[0] is ticket
        series.remove(ticket)
        if not series:
            del self._series[ticket.series]
            return None
        return series[0] if was_first else None

    def _snapshot(self, owner: Hashable, series: Hashable | None = None) -> Snapshot:
        return Snapshot(
            pool=self.limits.name,
            running=self.running,
            waiting=self.waiting,
            max_workers=self.limits.max_workers,
            queue_size=self.limits.queue_size,
            owner_active=self._per_owner[owner],
            per_owner=self.limits.per_owner,
            oldest_wait_seconds=round(self._queue.oldest_wait(self._clock()), 3) if self._queue else 0.0,
            draining=self._draining,
            eligible=self._queue.eligible,
            earlier=0 if series is None else len(self._series.get(series, ())),
        )
