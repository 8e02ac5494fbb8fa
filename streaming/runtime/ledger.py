"""The one place that counts a pool's permits, for direct and queued tasks alike.

Deciding and taking are one synchronous step on the loop's thread, so no burst can exceed `max_workers`
or `queue_size`. A permit that comes back goes to the best waiting task at once: whoever waits, waits
here in order and nowhere else.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum, auto

from streaming.core.errors import Refused
from streaming.core.estimate import ServiceTime, wait
from streaming.core.priority import FairQueue, Place
from streaming.core.routing import Decision, Reason, Route, Snapshot, decide


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """A pool's size. Counts of tasks; time-outs and `aging_seconds` in seconds."""

    name: str
    max_workers: int
    queue_size: int
    queue_timeout: float
    run_timeout: float
    per_owner: int
    aging_seconds: float


class Holding(Enum):
    """What a ticket holds."""

    PLACE = auto()
    PERMIT = auto()
    NOTHING = auto()


class Ticket:
    """A task's claim on a pool: a permit or a place in the queue. `granted` is called once when a waiting
    ticket gets its permit."""

    __slots__ = ("_granted", "_place", "_since", "decision", "holding", "owner", "snapshot")

    def __init__(self, owner: Hashable, decision: Decision, snapshot: Snapshot, now: float) -> None:
        self.owner = owner
        self.decision = decision
        self.snapshot = snapshot
        self.holding = Holding.PERMIT
        self._granted: Callable[[], None] | None = None
        self._place: Place[Ticket] | None = None
        self._since = now

    def withdraw(self) -> None:
        """It claims nothing: the decision of a task that ran elsewhere, or needs no worker."""
        self.holding = Holding.NOTHING


class PoolRefused(Refused):
    """Nothing was taken. `retry_after`: seconds after which a try makes sense, from the real queue."""

    def __init__(self, decision: Decision, snapshot: Snapshot, retry_after: float) -> None:
        super().__init__(decision.reason.value)
        self.decision = decision
        self.snapshot = snapshot
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A pool at one moment. Counts of tasks; seconds."""

    running: int
    waiting: int
    max_workers: int
    queue_size: int
    oldest_wait_seconds: float
    mean_service_seconds: float | None
    waiting_by_class: dict[int, int]


class Ledger:
    """Permits and places of one pool. Belongs to one thread."""

    def __init__(self, limits: PoolLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._queue: FairQueue[Ticket] = FairQueue(limits.aging_seconds)
        self._running: set[Ticket] = set()
        self._per_owner: Counter[Hashable] = Counter()
        self._service = ServiceTime()
        self._draining = False

    @property
    def running(self) -> int:
        """Permits that are out."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Places that are taken."""
        return len(self._queue)

    def admit(self, owner: Hashable, priority: int, granted: Callable[[], None]) -> Ticket:
        """Decide and take in one step.

        The ticket holds a permit (direct) or a place; in the latter case `granted` is called when the
        permit comes. Raises `PoolRefused` when neither is to be had.
        """
        snapshot = self._snapshot(owner)
        decision = decide(snapshot)
        if decision.route is Route.REJECTED:
            raise PoolRefused(decision, snapshot, self._retry_after(decision))
        now = self._clock()
        ticket = Ticket(owner, decision, snapshot, now)
        self._per_owner[owner] += 1
        if decision.route is Route.DIRECT:
            self._queue.charge(owner, priority)
            self._running.add(ticket)
        else:
            ticket.holding = Holding.PLACE
            ticket._granted = granted
            ticket._place = self._queue.push(ticket, owner, priority, now)
        return ticket

    def pass_by(self, owner: Hashable) -> Ticket:
        """A ticket that claims nothing, for a task that needs no worker: it is not counted, and no limit of
        the pool or of its owner refuses it. Raises `PoolRefused` while the process goes down."""
        snapshot = self._snapshot(owner)
        if self._draining:
            decision = decide(snapshot)
            raise PoolRefused(decision, snapshot, self._retry_after(decision))
        ticket = Ticket(owner, Decision(Route.DIRECT, Reason.CACHED), snapshot, self._clock())
        ticket.withdraw()
        return ticket

    def release(self, ticket: Ticket) -> None:
        """Give back whatever the ticket holds; a freed permit goes on at once. Idempotent."""
        held, ticket.holding = ticket.holding, Holding.NOTHING
        if held is Holding.NOTHING:
            return
        self._per_owner[ticket.owner] -= 1
        if not self._per_owner[ticket.owner]:
            del self._per_owner[ticket.owner]
        if held is Holding.PLACE:
            assert ticket._place is not None
            self._queue.remove(ticket._place)
        else:
            self._running.discard(ticket)
            self._service.observe(self._clock() - ticket._since)
            self._grant()

    def stop_granting(self) -> None:
        """Refuse newcomers and let nobody pass any more: the process is going down."""
        self._draining = True

    def line(self) -> list[tuple[Ticket, float]]:
        """The waiting tickets in order, each with the expected seconds until its permit."""
        places = self._queue.ordered(self._clock())
        service, workers = self._expected_service(), self.limits.max_workers
        return [(place.payload, wait(index, workers, service)) for index, place in enumerate(places, 1)]

    def statistics(self) -> PoolStatistics:
        """The pool now."""
        return PoolStatistics(
            running=self.running,
            waiting=self.waiting,
            max_workers=self.limits.max_workers,
            queue_size=self.limits.queue_size,
            oldest_wait_seconds=round(self._queue.oldest_wait(self._clock()), 3),
            mean_service_seconds=self._service.observed,
            waiting_by_class=self._queue.waiting_by_class(),
        )

    def _grant(self) -> None:
        while len(self._queue) and self.running < self.limits.max_workers and not self._draining:
            now = self._clock()
            ticket = self._queue.pop(now).payload
            ticket.holding = Holding.PERMIT
            ticket._since = now
            self._running.add(ticket)
            assert ticket._granted is not None
            ticket._granted()

    def _retry_after(self, decision: Decision) -> float:
        service = self._expected_service()
        if decision.reason is Reason.OWNER_LIMIT:
            return service
        return wait(self.waiting + 1, self.limits.max_workers, service)

    def _expected_service(self) -> float:
        now = self._clock()
        return self._service.expected([now - ticket._since for ticket in self._running])

    def _snapshot(self, owner: Hashable) -> Snapshot:
        return Snapshot(
            pool=self.limits.name,
            running=self.running,
            waiting=self.waiting,
            max_workers=self.limits.max_workers,
            queue_size=self.limits.queue_size,
            owner_active=self._per_owner[owner],
            per_owner=self.limits.per_owner,
            oldest_wait_seconds=round(self._queue.oldest_wait(self._clock()), 3),
            draining=self._draining,
        )
