"""The permits and the waiting line of each pool, counted once for all processes.

What `runtime/ledger.py` is in one process, `pools.lua` is for all that share a Redis: deciding and taking are
one step, and no burst exceeds a limit, wherever it comes from. The order of the line is that of
`core/priority.FairQueue`, the decisions are those of `core/routing.decide`.

A *ticket* is a task's claim: a place in the shared line, a place in the line of its own process
(`admit_here`), or a permit of a process. A place is *held* until its row is committed (`let_go`); one that
got a permit from the line is *handed* over until it begins. Whatever the step, a crash after it leaves
nothing behind for long:

- A ticket knows its process. When the process' lease (5 s) is over, `sweep` frees its tickets.
- What was handed over and has not begun after 10 s, or whose process died before, is back where it stood.
- A held place that nobody lets go vanishes after 10 s.
- `sweep` counts everything anew each second; the numbers it leaves are those of the tickets.
- After Redis has lost its memory, `restate` and `put_back` say again what there is, any number of times.

Every operation may be repeated: a task id counts once. What a call that was never answered took is given
back, and what could not be said is said later, by `beat`.

The service time that is observed runs from when the permit was given, as in the ledger. `capacity`: what all
living processes can run at once, the permits of those that are no workers and the slots of those that are,
and not more than `max_running`. All times are seconds, those of day in seconds since 1970 by the clock of
Redis.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import msgspec

from streaming.core.estimate import WEIGHT, ServiceTime, waits
from streaming.core.routing import Decision, Reason, Route, Snapshot
from streaming.runtime.ledger import FULL_LINE_AND, HASTE, PoolLimits, PoolStatistics

from .connection import Script, SharedRedis

_SCRIPT: Final = Script.beside(__file__, "pools.lua")

_KEYS: Final = ("m", "w", "h", "r", "c", "t", "g")
"""Of a pool: what is small (`meta`), the shared line, those who wait in their own process, those with a
permit, counts, last tags, releases that came before their admission."""

_RESTATED_AT_ONCE: Final = 200
_DISPATCHED_AT_ONCE: Final = 32
_OWED: Final = 10_000
"""Most of what could not be said that is remembered; the oldest is forgotten first."""
_SETTLED_AT_ONCE: Final = 200
"""Most of it that one `beat` says."""

_BY_PERMIT: Final = (Reason.WORKER_FREE, Reason.WORKERS_BUSY, Reason.OTHERS_WAITING)

_MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A task that wants a permit. `owner`: a digest of whose share it uses; `priority` 0 is the highest
    class; `grace` and `queue_timeout`: seconds, or infinity."""

    task_id: str
    owner: str
    priority: int
    grace: float
    queue_timeout: float


@dataclass(frozen=True, slots=True)
class Stated:
    """A ticket as its process knows it. `running`: it holds a permit, since `age` seconds; else it has waited
    so long in the process' own line."""

    pool: str
    entry: Entry
    running: bool
    age: float


@dataclass(frozen=True, slots=True)
class Line:
    """Those who wait in the shared line and can be served, the next first; and what an estimate is made
    from."""

    task_ids: tuple[str, ...]
    running_ages: tuple[float, ...]
    mean_service: float | None
    capacity: int

    def places(self) -> dict[str, tuple[int, float]]:
        """Position, from 1, and expected seconds until the permit, of each."""
        etas = _waits(len(self.task_ids), self.capacity, self.mean_service, self.running_ages)
        return {task_id: (at + 1, etas[at]) for at, task_id in enumerate(self.task_ids)}


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found: (pool, task id) each, and ids of processes.

    `left`: waiting ones whose grace is over, and `late`: over whose time-out; both stay where they are, and
    are found again, until the caller has ended and removed them. `dead`: processes whose tickets were freed.
    `unclaimed`: handed ones that are back in line. `stale_held`: places that were never let go, and are gone.
    """

    left: list[tuple[str, str]] = field(default_factory=list)
    late: list[tuple[str, str]] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    unclaimed: list[tuple[str, str]] = field(default_factory=list)
    stale_held: list[tuple[str, str]] = field(default_factory=list)


class _Pool(msgspec.Struct):
    """What the script must know about a pool, and who asks. µs where the script compares with its clock."""

    name: str
    process: str
    max_workers: int
    queue_size: int
    per_owner: int
    aging: float
    longest_wait: float
    haste: float
    full_line_and: float
    weight: float
    max_running: int


class _Admitted(msgspec.Struct, array_like=True):
    """The script's answer to `admit`. `mean_service` and all times in µs, -1 for none."""

    route: Route
    reason: Reason
    running: int
    waiting: int
    capacity: int
    running_here: int
    owner_active: int
    oldest_wait: float
    eligible: int
    ahead: int
    mean_service: float
    running_ages: list[float]


class _Line(msgspec.Struct, array_like=True):
    task_ids: tuple[str, ...]
    running_ages: list[float]
    mean_service: float
    capacity: int


class _Swept(msgspec.Struct, array_like=True):
    left: list[str]
    late: list[str]
    dead: list[str]
    unclaimed: list[str]
    stale_held: list[str]


class _Statistics(msgspec.Struct, array_like=True):
    """`classes`: priority, number that waits, longest wait of those that can be served (-1: none can)."""

    running: int
    waiting: int
    away: int
    capacity: int
    oldest_wait: float
    mean_service: float
    classes: list[tuple[int, int, float]]


A = TypeVar("A")

Answer = tuple[Decision, Snapshot, float]
"""The decision, what it was made from, and seconds after which a try makes sense (0 if nothing was
refused)."""


class SharedPools:
    """See the module. Belongs to one event loop. `beat` must have been called before anything else, and then
    each second.

    `limits`: by pool; `max_workers` is this process' own number of permits, the other limits hold for all
    processes together. `max_running`: most tasks of a pool that run or are handed over, 0 for no such limit.
    `slots`: what this process offers as a worker, by pool; one that offers none has the permits of its
    limits. `clock`: µs, for tests; else Redis' own clock counts.

    Every method raises `RedisAway`; what it was to do has then happened or not, and may be repeated. A
    release, a begin and an admission that nobody heard of need not: `beat` sees to them.
    """

    def __init__(
        self,
        redis: SharedRedis,
        process_id: str,
        limits: Mapping[str, PoolLimits],
        *,
        max_running: int,
        slots: Mapping[str, int] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._redis = redis
        self._process = process_id
        self._limits = dict(limits)
        self._slots = dict(slots or {})
        self._worker = bool(slots)
        self._clock = clock
        prefix = redis.prefix
        self._leases = f"{prefix}:processes"
        self._lease = f"{prefix}:p:{process_id}"
        self._keys = {
            name: (self._leases, *(f"{prefix}:q:{name}:{key}" for key in _KEYS)) for name in self._limits
        }
        self._known_pools = {
            name: msgspec.msgpack.encode(self._describe(pool, max_running))
            for name, pool in self._limits.items()
        }
        self._owed: dict[tuple[str, str], Literal["begin", "release"]] = {}

    # The life of a ticket

    async def admit(self, pool: str, entry: Entry, *, permit: bool) -> Answer:
        """Decide, and take what was decided, in one step.

        `permit`: this process has a free one for it.
        Direct: it runs here. Queued: its place is held until `let_go`. Rejected: nothing was taken.
        """
        return await self._admit(pool, entry, permit=permit, here=False)

    async def admit_here(self, pool: str, entry: Entry, *, state: Literal["running", "waiting"]) -> Answer:
        """The same for a task that only this process can run; it waits in the process' own line, without a
        place in the shared one. `state`: what it would be as far as this process is concerned. Queued
        although it was to run, it may run when `begin` says so."""
        return await self._admit(pool, entry, permit=state == "running", here=True)

    async def let_go(self, pool: str, task_id: str, *, attended: bool) -> bool:
        """Its row is committed: it can be served. `attended`: it has a reader. False if it has no place."""
        return await self._call(pool, "let_go", (task_id, attended), bool)

    async def dispatch(self, pool: str) -> list[str]:
        """The next ones, out of line, as many as workers have free slots: they are handed over."""
        found: list[str] = []
        while True:
            more = await self._call(pool, "dispatch", (), list[str])
            found += more
            if len(more) < _DISPATCHED_AT_ONCE:
                return found

    async def pull(self, pool: str) -> str | None:
        """The next one, out of line, for a free permit of this process: it is handed to this process. None if
        there is none, or none besides those for which workers have free slots."""
        return self._pulled(pool, await self._call(pool, "pull", (), str))

    async def begin(self, pool: str, task_id: str) -> bool:
        """This process has the task and runs it, whoever it was handed to. False if it has no ticket, or only
        a place in this process' own line while `max_running` run."""
        self._owed.pop((pool, task_id), None)
        try:
            return await self._call(pool, "begin", (task_id,), bool)
        except BaseException:
            self._owe(pool, task_id, "begin")
            raise

    async def release(self, pool: str, task_id: str) -> bool:
        """It has ended, or was given up: nothing of it is left, but if another process runs it. False if
        there was nothing to free."""
        self._owed.pop((pool, task_id), None)
        try:
            return await self._call(pool, "release", (task_id, False), bool)
        except BaseException:
            self._owe(pool, task_id, "release")
            raise

    async def put_back(
        self, pool: str, entry: Entry, arrived: float, *, attended: bool = True, former: str = ""
    ) -> bool:
        """It waits, since `arrived` (time of day): again, after an attempt that this process, or `former`,
        made; or as its row says, after Redis has lost it. No limit refuses it. One that waits stays where it
        is. False if another living process runs it, or it is being handed over."""
        self._owed.pop((pool, entry.task_id), None)
        arguments = (*_parts(entry), _micros(arrived), attended, former)
        return await self._call(pool, "put_back", arguments, bool)

    async def remove(self, pool: str, task_id: str) -> bool:
        """Take a task out of the shared line; False if it does not wait there (any more)."""
        return await self._call(pool, "remove", (task_id,), bool)

    async def attend(self, pool: str, task_ids: Iterable[str]) -> None:
        """They have readers here. Not told for 2.5 seconds, a task is away, if its grace is finite."""
        told = list(task_ids)
        if told:
            await self._call(pool, "attend", (told,), bool)

    async def move(self, pool: str, task_id: str, priority: int) -> bool:
        """Let it wait in another class. False if it does not wait in the shared line, or is of that class."""
        return await self._call(pool, "move", (task_id, priority), bool)

    # What there is

    async def line(self, pool: str) -> Line:
        """The shared line now."""
        found = await self._call(pool, "line", (), _Line)
        ages = tuple(age / _MICRO for age in found.running_ages)
        return Line(found.task_ids, ages, _seconds(found.mean_service), found.capacity)

    async def statistics(self) -> dict[str, PoolStatistics]:
        """Each pool now, over all processes; `max_workers` is the capacity."""
        return {name: await self._statistics(pool) for name, pool in self._limits.items()}

    # What keeps it true

    async def beat(self) -> bool:
        """Say that this process lives, for 5 s, and what it offers; then what is owed. False if Redis did not
        know that it lived: its tickets may be gone, and it should `restate` them."""
        offer = {name: self._offer(pool) for name, pool in self._limits.items()}
        lease = json.dumps({"slots": self._slots})
        alive = await self._ask((self._leases, self._lease), self._any_pool(), "beat", (lease, offer), bool)
        await self._settle()
        return alive

    def offer(self, slots: Mapping[str, int]) -> None:
        """What this process offers as a worker from the next `beat` on; a worker that goes down offers
        nothing."""
        self._slots = dict(slots)

    async def leave(self) -> None:
        """This process lives no more. Tickets that it has left are freed by the next sweep."""
        await self._ask((self._leases, self._lease), self._any_pool(), "leave", (), bool)

    async def sweep(self) -> Swept:
        """Free what is nobody's, and say what is to be ended. One process a second does it; the others find
        nothing."""
        swept = Swept()
        for pool in self._limits:
            found = await self._call(pool, "sweep", (), _Swept)
            swept.dead.update(found.dead)
            for name in ("left", "late", "unclaimed", "stale_held"):
                getattr(swept, name).extend((pool, task_id) for task_id in getattr(found, name))
        return swept

    async def restate(self, tickets: Iterable[Stated]) -> None:
        """The tickets of this process, as it knows them: those that are missing are there afterwards. No
        limit refuses them. To be said when `beat` asks for it, and from time to time."""
        by_pool: dict[str, list[Any]] = {}
        for ticket in tickets:
            parts = (*_parts(ticket.entry), ticket.running, _micros(ticket.age))
            by_pool.setdefault(ticket.pool, []).append(parts)
        for pool, stated in by_pool.items():
            for start in range(0, len(stated), _RESTATED_AT_ONCE):
                await self._call(pool, "restate", (stated[start : start + _RESTATED_AT_ONCE],), bool)

    # Inside

    async def _admit(self, pool: str, entry: Entry, *, permit: bool, here: bool) -> Answer:
        reachable = not self._redis.away
        try:
            arguments = (*_parts(entry), permit, here)
            found = await self._call(pool, "admit", arguments, _Admitted)
        except BaseException:
            if reachable:
                # It may have been done, and the caller goes away without it.
                self._owe(pool, entry.task_id, "release")
            raise
        return self._answer(self._limits[pool], found)

    def _answer(self, limits: PoolLimits, found: _Admitted) -> Answer:
        decision = Decision(found.route, found.reason)
        running, places = found.running, found.capacity
        busy = found.reason is Reason.WORKERS_BUSY
        if found.reason in _BY_PERMIT and busy is not (running >= places):
            # What decided was whether this process has a permit: its own numbers explain it.
            places = max(limits.max_workers, 1)
            running = places if busy else min(found.running_here, places - 1)
        snapshot = Snapshot(
            pool=limits.name,
            running=running,
            waiting=found.waiting,
            max_workers=places,
            queue_size=limits.queue_size,
            owner_active=found.owner_active,
            per_owner=limits.per_owner,
            oldest_wait_seconds=round(found.oldest_wait / _MICRO, 3),
            eligible=found.eligible,
            ahead=found.ahead if found.route is Route.QUEUED else None,
        )
        if found.route is not Route.REJECTED:
            return decision, snapshot, 0.0
        mean, ages = _seconds(found.mean_service), [age / _MICRO for age in found.running_ages]
        before = found.eligible + 1 if found.reason is Reason.QUEUE_FULL else 0
        wait = _waits(before, found.capacity, mean, ages)[-1] if before else _expected(mean, ages)
        return decision, snapshot, wait

    def _pulled(self, pool: str, task_id: str) -> str | None:
        self._owed.pop((pool, task_id), None)
        return task_id or None

    async def _statistics(self, limits: PoolLimits) -> PoolStatistics:
        found = await self._call(limits.name, "statistics", (), _Statistics)
        return PoolStatistics(
            running=found.running,
            waiting=found.waiting,
            away=found.away,
            max_workers=found.capacity,
            queue_size=limits.queue_size,
            oldest_wait_seconds=round(found.oldest_wait / _MICRO, 3),
            mean_service_seconds=_seconds(found.mean_service),
            waiting_by_class={priority: number for priority, number, _ in found.classes},
            oldest_wait_by_class={
                priority: round(wait / _MICRO, 3) for priority, _, wait in found.classes if wait >= 0
            },
        )

    def _owe(self, pool: str, task_id: str, operation: Literal["begin", "release"]) -> None:
        if len(self._owed) >= _OWED:
            del self._owed[next(iter(self._owed))]
        self._owed[pool, task_id] = operation

    async def _settle(self) -> None:
        for key in list(self._owed)[:_SETTLED_AT_ONCE]:
            operation = self._owed.get(key)
            if operation is None:
                continue
            pool, task_id = key
            await self._call(pool, operation, (task_id, True), bool)
            if self._owed.get(key) == operation:
                del self._owed[key]

    def _describe(self, limits: PoolLimits, max_running: int) -> _Pool:
        return _Pool(
            name=limits.name,
            process=self._process,
            max_workers=self._offer(limits)[0],
            queue_size=limits.queue_size,
            per_owner=limits.per_owner,
            aging=limits.aging_seconds * _MICRO,
            longest_wait=limits.longest_wait,
            haste=HASTE,
            full_line_and=FULL_LINE_AND,
            weight=WEIGHT,
            max_running=max_running,
        )

    def _offer(self, limits: PoolLimits) -> tuple[int, int]:
        """Permits, slots."""
        return (0, self._slots.get(limits.name, 0)) if self._worker else (limits.max_workers, 0)

    def _any_pool(self) -> bytes:
        return next(iter(self._known_pools.values()))

    async def _call(self, pool: str, operation: str, arguments: Sequence[Any], kind: type[A]) -> A:
        return await self._ask(self._keys[pool], self._known_pools[pool], operation, arguments, kind)

    async def _ask(
        self, keys: Sequence[str], pool: bytes, operation: str, arguments: Sequence[Any], kind: type[A]
    ) -> A:
        words: list[str | bytes] = [operation, pool, msgspec.msgpack.encode(arguments)]
        if self._clock is not None:
            words.append(str(self._clock()))
        return msgspec.msgpack.decode(await self._redis.call(_SCRIPT, keys, words), type=kind)


def _parts(entry: Entry) -> tuple[str, str, int, float, float]:
    return (
        entry.task_id,
        entry.owner,
        entry.priority,
        _micros(entry.grace),
        _micros(entry.queue_timeout),
    )


def _micros(seconds: float) -> float:
    return seconds if math.isinf(seconds) else round(seconds * _MICRO)


def _seconds(micros: float) -> float | None:
    return None if micros < 0 else micros / _MICRO


def _expected(mean: float | None, ages: Sequence[float]) -> float:
    service = ServiceTime()
    if mean is not None:
        service.observe(mean)
    return service.expected(ages)


def _waits(count: int, workers: int, mean: float | None, ages: Sequence[float]) -> list[float]:
    return waits(count, workers, _expected(mean, ages), ages)
