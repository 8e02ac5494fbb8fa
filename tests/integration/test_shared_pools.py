"""One line and one count over all processes, on a real Redis, beside `Ledger` and `FairQueue` as the model.

Time is what the tests say it is, in µs: the model gets the same numbers, so that it comes to the same results
to the last bit.
"""

from __future__ import annotations

import asyncio
import bisect
import dataclasses
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from streaming.core.errors import RedisAway
from streaming.core.estimate import ServiceTime
from streaming.core.priority import FairQueue, Place
from streaming.core.routing import Decision, Reason, Route, Snapshot, decide
from streaming.runtime.ledger import Holding, Ledger, PoolLimits, PoolRefused, Ticket
from streaming.runtime.redis.connection import SharedRedis
from streaming.runtime.redis.pools import Entry, SharedPools, Stated
from tests.support.redis import RedisServer
from tests.support.shared_pools import Direct, Lost, Tickets, Time, now, process

POOL = "agent"
SECOND = 1_000_000
PATIENCE = 2.5 * SECOND

PERMITS = 2
SLOTS = 2
LIMITS = PoolLimits(
    name=POOL,
    max_workers=PERMITS,
    queue_size=6,
    queue_timeout=60.0,
    run_timeout=100.0,
    per_owner=5,
    aging_seconds=8.0,
)
UNHURRIED = dataclasses.replace(LIMITS, aging_seconds=60.0, longest_wait=math.inf)
"""Where classes and turns decide, as long as nobody has waited for a minute."""
OWNERS = "abc"


@pytest.fixture(scope="module")
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    url = redis_server.url()
    with redis.Redis.from_url(url, socket_timeout=10) as made:
        yield made


def entry(
    task_id: str, owner: str = "a", priority: int = 1, *, grace: float = 30.0, timeout: float = 1e6
) -> Entry:
    return Entry(task_id, owner, priority, grace, timeout)


def names(pools: SharedPools) -> list[str]:
    return list(now(pools.line(POOL)).task_ids)


# --- One process: the same as its ledger --------------------------------------------------------------


STEPS = st.one_of(
    *[st.tuples(st.just("admit"), st.sampled_from(OWNERS), st.integers(0, 2))] * 4,
    *[st.tuples(st.just("finish"), st.integers(0, 9), st.just(0))] * 2,
    st.tuples(st.just("withdraw"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("leave"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("return"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("move"), st.integers(0, 9), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.integers(1, 40), st.just(0)),
)


@dataclass(eq=False)
class Beside:
    """A ledger and the shared pools of one process, through the same."""

    direct: Direct
    limits: PoolLimits

    def __post_init__(self) -> None:
        self.time = Time()
        micros = dataclasses.replace(self.limits, aging_seconds=self.limits.aging_seconds * SECOND)
        self.ledger = Ledger(micros, self.time)
        self.pools = process(self.direct, self.time, "one", self.limits)
        self.tickets: dict[str, Ticket] = {}
        self.left: dict[str, int] = {}
        self.granted: list[str] = []
        self._number = 0

    def held(self, holding: Holding) -> list[str]:
        return [task_id for task_id, ticket in self.tickets.items() if ticket.holding is holding]

    def admit(self, owner: str, priority: int) -> None:
        self._number += 1
        task_id = f"t{self._number:03}"
        free = self.ledger.running < LIMITS.max_workers
        told, snapshot, _ = now(self.pools.admit(POOL, entry(task_id, owner, priority), permit=free))
        try:
            ticket = self.ledger.admit(owner, priority, lambda: self.granted.append(task_id))
        except PoolRefused as error:
            refused = error
        else:
            self.admitted(task_id, ticket, told, snapshot)
            return
        # How many wait, and for how long, is seen at a glance that may be a quarter of a second old.
        expected = msgspec.structs.replace(
            refused.snapshot, eligible=snapshot.eligible, oldest_wait_seconds=snapshot.oldest_wait_seconds
        )
        assert (told, snapshot) == (refused.decision, expected)

    def admitted(self, task_id: str, ticket: Ticket, told: Decision, snapshot: Snapshot) -> None:
        assert (told, snapshot) == (ticket.decision, self.seconds(ticket.snapshot))
        self.tickets[task_id] = ticket
        if told.route is Route.QUEUED:
            now(self.pools.let_go(POOL, task_id, attended=True))

    def seconds(self, snapshot: Snapshot) -> Snapshot:
        """As it is told in seconds."""
        waited = round(snapshot.oldest_wait_seconds / SECOND, 3)
        return msgspec.structs.replace(snapshot, oldest_wait_seconds=waited)

    def finish(self, task_id: str) -> None:
        now(self.pools.release(POOL, task_id))
        self.ledger.release(self.tickets.pop(task_id))

    def move(self, task_id: str, priority: int) -> None:
        moved = self.ledger.prioritise(self.tickets[task_id], priority)
        assert now(self.pools.move(POOL, task_id, priority)) is moved

    def wait(self, seconds: int) -> None:
        self.time.now += seconds * SECOND // 4
        now(self.pools.beat())
        for task_id, since in self.left.items():
            if self.time.now - since > PATIENCE:
                self.ledger.step_aside(self.tickets[task_id])

    def leave(self, task_id: str) -> None:
        self.left.setdefault(task_id, self.time.now)

    def come_back(self, task_id: str) -> None:
        if self.left.pop(task_id, None) is not None:
            now(self.pools.attend(POOL, [task_id]))
            self.ledger.come_back(self.tickets[task_id])

    def compare(self) -> None:
        now(self.pools.attend(POOL, [each for each in self.held(Holding.PLACE) if each not in self.left]))
        while (task_id := now(self.pools.pull(POOL))) is not None:
            assert task_id == self.granted.pop(0)
            now(self.pools.begin(POOL, task_id))
            self.left.pop(task_id, None)
        assert self.granted == []
        line = now(self.pools.line(POOL))
        known = {id(ticket): task_id for task_id, ticket in self.tickets.items()}
        expected = self.ledger.line()
        assert list(line.task_ids) == [known[id(ticket)] for ticket, _ in expected]
        if line.mean_service is not None:
            etas = [eta for _, eta in line.places().values()]
            assert etas == pytest.approx([eta / SECOND for _, eta in expected])
        stood, mine = self.ledger.statistics(), now(self.pools.statistics())[POOL]
        assert (mine.running, mine.waiting, mine.away) == (stood.running, stood.waiting, stood.away)
        assert mine.waiting_by_class == stood.waiting_by_class
        assert mine.max_workers == stood.max_workers
        assert mine.oldest_wait_by_class == {
            priority: round(wait / SECOND, 3) for priority, wait in stood.oldest_wait_by_class.items()
        }


def follow(both: Beside, step: str, one: int | str, other: int) -> None:
    running, waiting = both.held(Holding.PERMIT), both.held(Holding.PLACE)
    if step == "admit":
        both.admit(str(one), other)
        return
    number = int(one)
    if step == "wait":
        both.wait(number)
    elif step == "finish":
        if running:
            both.finish(running[number % len(running)])
    elif waiting:
        task_id = waiting[number % len(waiting)]
        if step == "withdraw":
            both.left.pop(task_id, None)
            both.finish(task_id)
        elif step == "leave":
            both.leave(task_id)
        elif step == "return":
            both.come_back(task_id)
        else:
            both.move(task_id, other)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([LIMITS, UNHURRIED]), st.lists(STEPS, min_size=40, max_size=80))
def test_one_process_decides_grants_and_tells_what_its_ledger_would(client, limits, steps):
    both = Beside(Direct(client), limits)
    for step, one, other in steps:
        follow(both, step, one, other)
        both.compare()


@pytest.mark.parametrize("limits", [LIMITS, UNHURRIED], ids=["promise", "turns"])
def test_the_same_while_the_line_is_long(client, limits):
    """More comes than can be served: classes, turns, ageing and the promise all have something to decide."""
    chance = random.Random(8)
    both = Beside(Direct(client), dataclasses.replace(limits, queue_size=12, per_owner=9))
    for _ in range(300):
        step = chance.choices(
            ["admit", "finish", "wait", "withdraw", "leave", "return", "move"], [9, 3, 5, 1, 1, 2, 1]
        )
        one = chance.choice(OWNERS) if step == ["admit"] else chance.randrange(1, 8)
        follow(both, step[0], one, chance.randrange(3))
        both.compare()


# --- Several processes, which crash and repeat themselves ---------------------------------------------


class Queue(FairQueue[str]):
    """The model of the line: places are in order of when they came, also those that come back."""

    def push(self, payload: str, owner: Any, priority: int, now: float, *, held: bool = False) -> Place[str]:
        place = super().push(payload, owner, priority, now, held=held)
        place.sequence = (now, place.sequence)  # type: ignore[assignment]
        return place

    def put_back(self, payload: str, owner: str, priority: int, arrived: float) -> Place[str]:
        """One that has waited since `arrived`: its turn is before those of its owner that came later."""
        self._sequence += 1
        virtual = self._virtual_time.get(priority, 0)
        place = Place(payload, owner, priority, arrived, virtual, 0, self._sequence)
        place.sequence = (arrived, self._sequence)  # type: ignore[assignment]
        self._insert(place)
        self._take_turn(place)
        return place

    def restore(self, place: Place[str]) -> None:
        """One that was served and never began stands where it stood."""
        self._insert(place)

    def take(self, place: Place[str]) -> None:
        """One is served, whoever is next."""
        self._places.remove(place)
        self._eligible -= place.eligible
        self._away -= place.away
        self._serve(place.priority, place.tag)
        place.held = place.away = False

    def places(self) -> list[Place[str]]:
        return list(self._places)

    def _insert(self, place: Place[str]) -> None:
        bisect.insort(self._places, place, key=lambda each: each.sequence)
        self._eligible += 1


@dataclass
class Permit:
    place: Place[str]
    process: str
    since: int
    begun: bool


@dataclass
class Here:
    owner: str
    priority: int
    process: str


WEBS = ("web1", "web2")
WORKERS = ("worker1", "worker2")
EVERYBODY = (*WEBS, *WORKERS)

process_names = st.sampled_from(EVERYBODY)
web_names = st.sampled_from(WEBS)
owners = st.sampled_from(OWNERS)
classes = st.integers(0, 2)
which = st.integers(0, 30)
twice = st.booleans()
lost = st.sampled_from(["", "", "", "call", "answer"])


class Cluster(RuleBasedStateMachine):
    """Two web processes and two workers; beside them, in plain lists, what there must be."""

    client: redis.Redis
    max_running = 0
    limits = LIMITS

    def __init__(self) -> None:
        super().__init__()
        self.direct = Direct(self.client)
        self.time = Time()
        self.queue = Queue(self.limits.aging_seconds * SECOND)
        self.ledger = Ledger(self.limits)  # for its promise
        self.places: dict[str, Place[str]] = {}
        self.permits: dict[str, Permit] = {}
        self.here: dict[str, Here] = {}
        self.entries: dict[str, Entry] = {}
        self.told: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.lost: dict[str, str] = {}
        self.service = ServiceTime()
        self.leases: dict[str, int] = {}
        self.crashed: set[str] = set()
        self.swept = 0
        self.number = 0
        self.pools = {
            name: process(
                self.direct,
                self.time,
                name,
                self.limits,
                max_running=self.max_running,
                slots={POOL: SLOTS} if name in WORKERS else None,
            )
            for name in EVERYBODY
        }
        self.beaten(EVERYBODY)

    # What the model knows

    def beaten(self, them: Any) -> None:
        for name in them:
            self.leases[name] = self.time.now + 5 * SECOND

    def living(self, name: str) -> bool:
        return self.leases.get(name, 0) >= self.time.now

    @property
    def capacity(self) -> int:
        total = sum(SLOTS if name in WORKERS else PERMITS for name in EVERYBODY if self.living(name))
        return max(min(total, self.max_running or total), 1)

    def of(self, name: str) -> int:
        return sum(permit.process == name for permit in self.permits.values())

    def free_slots(self) -> int:
        free = sum(max(0, SLOTS - self.of(name)) for name in WORKERS if self.living(name))
        return max(0, free - self.of(""))

    def below_cap(self) -> bool:
        return not self.max_running or len(self.permits) < self.max_running

    def waiting(self) -> int:
        return len(self.places) + len(self.here)

    def owned(self, owner: str) -> int:
        owners = [place.owner for place in self.places.values()]
        owners += [here.owner for here in self.here.values()]
        owners += [permit.place.owner for permit in self.permits.values()]
        return owners.count(owner)

    def promise(self) -> Any:
        self.ledger.limits = dataclasses.replace(self.limits, max_workers=self.capacity)
        self.ledger._service = self.service
        return self.ledger._promise()

    def look(self) -> None:
        """Who is away now."""
        for task_id, place in self.places.items():
            told = self.told.get(task_id)
            away = (
                told is not None
                and self.entries[task_id].grace < math.inf
                and (told < 0 or self.time.now - told > PATIENCE)
            )
            (self.queue.step_aside if away else self.queue.come_back)(place)

    def grant(self, place: Place[str], name: str, *, begun: bool) -> None:
        task_id = place.payload
        del self.places[task_id]
        self.held.pop(task_id, None)
        self.permits[task_id] = Permit(place, name, self.time.now, begun)
        if begun:
            self.told.pop(task_id, None)

    def forget(self, task_id: str) -> None:
        for known in (self.places, self.permits, self.here, self.told, self.held):
            known.pop(task_id, None)

    def read(self, task_id: str, *, attended: bool) -> None:
        grace = self.entries[task_id].grace
        if grace == math.inf:
            return
        if attended:
            self.told[task_id] = self.time.now
        elif grace > 0:
            self.told.setdefault(task_id, -self.time.now)

    def pick(self, them: Any, number: int) -> str:
        them = list(them)
        return str(them[number % len(them)])

    def free(self, task_id: str, name: str, *, owed: bool = False) -> bool:
        """What a release does."""
        if permit := self.permits.get(task_id):
            if permit.process != name and (permit.process != "" or owed):
                return False
            if permit.begun and not owed:
                self.service.observe(self.time.now - permit.since)
        elif place := self.places.get(task_id):
            if owed and not place.held:
                return False
            self.queue.remove(place)
        elif task_id not in self.here:
            return False
        self.forget(task_id)
        return True

    def start(self, task_id: str, name: str) -> bool:
        """What a begin does."""
        if permit := self.permits.get(task_id):
            permit.process, permit.begun = name, True
            self.told.pop(task_id, None)
            return True
        if place := self.places.get(task_id):
            self.queue.take(place)
            self.grant(place, name, begun=True)
            return True
        if task_id not in self.here or not self.below_cap():
            return False
        here = self.here.pop(task_id)
        self.direct_permit(task_id, here.owner, here.priority, name)
        return True

    def direct_permit(self, task_id: str, owner: str, priority: int, name: str) -> None:
        virtual = self.queue._virtual_time.get(priority, 0)
        self.queue.charge(owner, priority)
        tag = self.queue._last_tag[owner, priority]
        place = Place(task_id, owner, priority, self.time.now, virtual, tag, 0)
        self.permits[task_id] = Permit(place, name, self.time.now, begun=True)

    # What happens

    @rule(quarters=st.sampled_from([1, 4, 9, 11, 19, 24, 50]), beats=st.booleans())
    def time_passes(self, quarters: int, beats: bool) -> None:
        self.time.now += quarters * SECOND // 4
        if beats:
            self.everybody_beats()

    @rule()
    def everybody_beats(self) -> None:
        for name in EVERYBODY:
            if name not in self.crashed:
                assert now(self.pools[name].beat()) is self.living(name)
                self.beaten([name])
                for (pool, task_id), operation in list(self.pools[name]._owed.items()):
                    raise AssertionError(f"{operation} of {task_id} in {pool} is still owed")

    @rule(name=process_names)
    def crashes(self, name: str) -> None:
        self.crashed.add(name)

    @precondition(lambda self: self.crashed)
    @rule(number=which)
    def goes_on(self, number: int) -> None:
        self.crashed.discard(self.pick(sorted(self.crashed), number))
        self.everybody_beats()

    @rule(
        name=web_names,
        owner=owners,
        priority=classes,
        offered=st.booleans(),
        here=st.sampled_from([False, False, False, True]),
        grace=st.sampled_from([0.0, 5.0, math.inf]),
        timeout=st.sampled_from([20.0, math.inf]),
        again=twice,
        lose=lost,
    )
    def admit(self, name, owner, priority, offered, here, grace, timeout, again, lose):
        self.look()
        self.number += 1
        task_id = f"t{self.number:03}"
        asked = Entry(task_id, owner, priority, grace, timeout)
        self.entries[task_id] = asked
        pools, permit = self.pools[name], offered and self.of(name) < PERMITS

        def ask() -> Any:
            if here:
                return now(pools.admit_here(POOL, asked, state="running" if permit else "waiting"))
            return now(pools.admit(POOL, asked, permit=permit))

        load = Snapshot(
            pool=POOL,
            running=0 if permit and self.below_cap() else 1,
            waiting=self.waiting(),
            max_workers=1,
            queue_size=LIMITS.queue_size,
            owner_active=self.owned(owner),
            per_owner=LIMITS.per_owner,
            oldest_wait_seconds=0.0,
            eligible=self.queue.eligible,
        )
        expected: Decision | None = decide(load)
        self.direct.lose = lose
        if lose:
            with pytest.raises(RedisAway):
                ask()
        else:
            decision, snapshot, after = ask()
            assert decision == expected == decide(snapshot)
            assert (snapshot.waiting, snapshot.owner_active) == (load.waiting, load.owner_active)
            assert expected is not None
            assert expected.route is Route.REJECTED or snapshot.eligible == load.eligible
            assert (after > 0) is (expected.route is Route.REJECTED) or after == 0
        if lose == "call":
            expected = None
        if expected is not None and expected.route is Route.DIRECT:
            self.direct_permit(task_id, owner, priority, name)
        elif expected is not None and expected.route is Route.QUEUED and here:
            self.here[task_id] = Here(owner, priority, name)
        elif expected is not None and expected.route is Route.QUEUED:
            self.places[task_id] = self.queue.push(task_id, owner, priority, self.time.now, held=True)
            self.held[task_id] = self.time.now
        if lose:
            # Its process does not know; it says with its next beat that it wants nothing.
            now(pools.beat())
            self.beaten([name])
            self.free(task_id, name, owed=True)
        elif again and expected is not None and expected.route is not Route.REJECTED:
            assert ask()[0].route is expected.route

    @rule(name=web_names, arrivals=st.lists(st.tuples(owners, classes), min_size=3, max_size=8))
    def many_come(self, name: str, arrivals: list[tuple[str, int]]) -> None:
        for owner, priority in arrivals:
            self.time.now += SECOND // 4
            self.admit(name, owner, priority, True, False, 5.0, math.inf, False, "")
        for task_id in list(self.held):
            assert now(self.pools[name].let_go(POOL, task_id, attended=True))
            self.queue.let_go(self.places[task_id])
            del self.held[task_id]
            self.read(task_id, attended=True)

    @precondition(lambda self: self.held)
    @rule(number=which, name=process_names, attended=st.booleans(), again=twice)
    def let_go(self, number: int, name: str, attended: bool, again: bool) -> None:
        task_id = self.pick(self.held, number)
        assert now(self.pools[name].let_go(POOL, task_id, attended=attended))
        self.queue.let_go(self.places[task_id])
        del self.held[task_id]
        self.read(task_id, attended=attended)
        if again:
            assert now(self.pools[name].let_go(POOL, task_id, attended=not attended))

    @precondition(lambda self: self.places)
    @rule(name=web_names, chosen=st.sets(which))
    def attend(self, name: str, chosen: set[int]) -> None:
        them = {self.pick(self.places, number) for number in chosen}
        now(self.pools[name].attend(POOL, [*them, "unknown", *self.permits]))
        self.told.update(dict.fromkeys(them, self.time.now))

    @rule(name=process_names)
    def pull(self, name: str) -> None:
        self.look()
        task_id = now(self.pools[name].pull(POOL))
        permits = 0 if name in WORKERS else PERMITS
        if self.of(name) >= permits or not self.below_cap() or self.queue.eligible <= self.free_slots():
            assert task_id is None
        else:
            place = self.queue.pop(self.time.now, self.promise())
            assert task_id == place.payload
            self.grant(place, name, begun=False)

    @rule(name=process_names)
    def dispatch(self, name: str) -> None:
        self.look()
        found = now(self.pools[name].dispatch(POOL))
        free = self.free_slots()
        if self.max_running:
            free = min(free, self.max_running - len(self.permits))
        expected: list[str] = []
        while free > len(expected) and self.queue.eligible:
            place = self.queue.pop(self.time.now, self.promise())
            expected.append(place.payload)
            self.grant(place, "", begun=False)
        assert found == expected

    @precondition(lambda self: self.permits or self.here)
    @rule(number=which, name=process_names, lose=lost, again=twice)
    def begin(self, number: int, name: str, lose: Lost, again: bool) -> None:
        self.look()
        task_id = self.pick([*self.permits, *self.here], number)
        if task_id in self.here or self.permits[task_id].process:
            name = (self.here.get(task_id) or self.permits[task_id]).process
        elif self.of(name) >= 2:
            return
        pools = self.pools[name]
        self.direct.lose = lose
        if lose:
            with pytest.raises(RedisAway):
                now(pools.begin(POOL, task_id))
            now(pools.beat())
            self.beaten([name])
            self.start(task_id, name)
        else:
            assert now(pools.begin(POOL, task_id)) is self.start(task_id, name)
        if again:
            assert now(pools.begin(POOL, task_id)) is self.start(task_id, name)

    @precondition(lambda self: self.places)
    @rule(number=which, name=web_names)
    def begins_although_it_waits(self, number: int, name: str) -> None:
        """It was handed over, put back, and claimed all the same."""
        self.look()
        if self.of(name) < PERMITS and self.below_cap():
            task_id = self.pick(self.places, number)
            assert now(self.pools[name].begin(POOL, task_id)) is self.start(task_id, name) is True

    @precondition(lambda self: self.permits or self.places or self.here)
    @rule(number=which, name=process_names, lose=lost, again=twice)
    def release(self, number: int, name: str, lose: Lost, again: bool) -> None:
        task_id = self.pick([*self.permits, *self.places, *self.here], number)
        if self.direct.lose or (task_id in self.permits and self.permits[task_id].process not in ("", name)):
            assert now(self.pools[name].release(POOL, task_id)) is False
            return
        if lose and task_id in self.permits and self.permits[task_id].process == name:
            self.direct.lose = lose
            with pytest.raises(RedisAway):
                now(self.pools[name].release(POOL, task_id))
            self.free(task_id, name, owed=lose == "call")
            now(self.pools[name].beat())
            self.beaten([name])
        else:
            assert now(self.pools[name].release(POOL, task_id)) is self.free(task_id, name) is True
        if again:
            assert now(self.pools[name].release(POOL, task_id)) is False

    @precondition(lambda self: self.places)
    @rule(number=which, name=process_names, again=twice)
    def remove(self, number: int, name: str, again: bool) -> None:
        task_id = self.pick(self.places, number)
        self.queue.remove(self.places[task_id])
        self.forget(task_id)
        assert now(self.pools[name].remove(POOL, task_id))
        if again:
            assert not now(self.pools[name].remove(POOL, task_id))

    @precondition(lambda self: self.places)
    @rule(number=which, name=process_names, priority=classes, again=twice)
    def move(self, number: int, name: str, priority: int, again: bool) -> None:
        task_id = self.pick(self.places, number)
        moved = self.queue.move(self.places[task_id], priority)
        assert now(self.pools[name].move(POOL, task_id, priority)) is moved
        if again:
            assert not now(self.pools[name].move(POOL, task_id, priority))

    @rule(number=which, name=process_names, attended=st.booleans(), taken=st.booleans(), again=twice)
    def put_back(self, number: int, name: str, attended: bool, taken: bool, again: bool) -> None:
        """A retry, one of a dead process, or one that Redis had lost."""
        task_id = self.pick([*self.permits, *self.places, "lost"], number)
        if task_id == "lost":
            self.number += 1
            task_id = f"t{self.number:03}"
        asked = self.entries.setdefault(task_id, Entry(task_id, "c", 1, 5.0, math.inf))
        arrived = self.time.now - 7 * SECOND
        permit = self.permits.get(task_id)
        former = permit.process if permit is not None and taken else ""

        def ask() -> bool:
            return now(
                self.pools[name].put_back(POOL, asked, arrived / SECOND, attended=attended, former=former)
            )

        if place := self.places.get(task_id):
            assert ask()
            self.held.pop(task_id, None)
            self.queue.let_go(place)
            return
        if permit is not None:
            void = permit.process in (name, former) or (former != "" and not permit.begun)
            if not void and (permit.process == "" or self.living(permit.process)):
                assert not ask()
                return
            told = self.told.get(task_id)
            self.forget(task_id)
            if told is not None:
                self.told[task_id] = told
        assert ask()
        self.places[task_id] = self.queue.put_back(task_id, asked.owner, asked.priority, arrived)
        self.read(task_id, attended=attended)
        if again:
            assert ask()

    @rule(name=process_names)
    def sweep(self, name: str) -> None:
        self.look()
        found = now(self.pools[name].sweep())
        if self.time.now - self.swept < SECOND:
            assert found == type(found)()
            return
        self.swept = self.time.now
        dead, unclaimed = set(), set()
        for task_id, permit in list(self.permits.items()):
            gone = permit.process != "" and not self.living(permit.process)
            if gone:
                dead.add(permit.process)
            if not permit.begun and (gone or self.time.now - permit.since > 10 * SECOND):
                unclaimed.add(task_id)
                del self.permits[task_id]
                self.places[task_id] = permit.place
                self.queue.restore(permit.place)
                if task_id in self.told:
                    self.told[task_id] = self.time.now
            elif gone:
                self.forget(task_id)
        for task_id, here in list(self.here.items()):
            if not self.living(here.process):
                dead.add(here.process)
                self.forget(task_id)
        stale, left, late = set(), set(), set()
        for place in self.queue.places():
            task_id, asked = place.payload, self.entries[place.payload]
            if place.held:
                if self.time.now - self.held[task_id] > 10 * SECOND:
                    stale.add(task_id)
                    self.queue.remove(place)
                    self.forget(task_id)
            elif place.away and self.time.now - abs(self.told[task_id]) >= asked.grace * SECOND:
                left.add(task_id)
            elif self.time.now - place.arrived >= asked.queue_timeout * SECOND:
                late.add(task_id)
        assert found.dead == dead
        for them, expected in (
            (found.unclaimed, unclaimed),
            (found.stale_held, stale),
            (found.left, left),
            (found.late, late),
        ):
            assert sorted(them) == sorted((POOL, task_id) for task_id in expected)

    # What always holds

    @invariant()
    def the_tickets_are_those_of_the_model(self) -> None:
        self.look()
        there = Tickets(self.direct, POOL)
        assert there.counts == there.counted()
        assert set(there.line) == set(self.places)
        assert set(there.here) == set(self.here)
        assert {task_id: (ticket[12], ticket[14]) for task_id, ticket in there.permits.items()} == {
            task_id: (permit.process, int(permit.begun)) for task_id, permit in self.permits.items()
        }
        assert there.attended == set(self.told)
        line = now(self.pools["web1"].line(POOL))
        assert list(line.task_ids) == [
            place.payload for place in self.queue.ordered(self.time.now, self.promise())
        ]
        assert line.capacity == self.capacity

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        there = Tickets(self.direct, POOL)
        assert all(there.of(name) <= PERMITS for name in WEBS)
        assert sum(there.of(name) for name in ("", *WORKERS)) <= SLOTS * len(WORKERS)
        assert not self.max_running or len(there.permits) <= self.max_running

    def teardown(self) -> None:
        """Everybody has crashed; whoever comes then finds nothing but those who wait, and serves them."""
        self.time.now += 3600 * SECOND
        heir = process(self.direct, self.time, "heir", self.limits)
        now(heir.sweep())
        there = Tickets(self.direct, POOL)
        assert (there.here, there.permits) == ({}, {})
        assert set(there.line) >= {task_id for task_id in self.places if task_id not in self.held}
        now(heir.attend(POOL, there.line))
        served = 0
        while (task_id := now(heir.pull(POOL))) is not None:
            served += 1
            assert now(heir.begin(POOL, task_id))
            assert now(heir.release(POOL, task_id))
        assert served == len(there.line)
        there = Tickets(self.direct, POOL)
        assert (there.waiting, there.permits, there.counts, there.attended) == (0, {}, {}, set())


@pytest.mark.parametrize(("max_running", "limits"), [(0, UNHURRIED), (5, LIMITS)], ids=["many", "few"])
def test_several_processes_keep_the_one_order_and_every_limit(client, max_running, limits):
    known = {"client": client, "max_running": max_running, "limits": limits}
    machine = type("Limited", (Cluster,), known)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# --- At once, by real connections ---------------------------------------------------------------------


BURST_PROCESSES = 4
BURST_EACH = 100
BURST = dataclasses.replace(
    LIMITS, max_workers=5, queue_size=30, per_owner=7, aging_seconds=1e6, longest_wait=math.inf
)


@asynccontextmanager
async def burst(url: str, max_running: int) -> AsyncIterator[list[SharedPools]]:
    shared = [SharedRedis(url, prefix="burst", timeout=30.0) for _ in range(BURST_PROCESSES)]
    pools = [
        SharedPools(each, f"p{number}", {POOL: BURST}, max_running=max_running)
        for number, each in enumerate(shared)
    ]
    try:
        await asyncio.gather(*(each.beat() for each in pools))
        yield pools
    finally:
        await asyncio.gather(*(connection.close() for connection in shared))


@pytest.mark.parametrize(("max_running", "run"), [(0, 20), (8, 8)])
async def test_of_four_hundred_at_once_exactly_the_permitted_number_gets_in(redis_server, max_running, run):
    """100 each in four processes, of eight owners and three classes."""
    async with burst(redis_server.url(), max_running) as pools:
        asked = {}

        async def ask(number: int) -> tuple[str, Route, Reason]:
            at, task_id = number % BURST_PROCESSES, f"t{number:03}"
            asked[task_id] = entry(task_id, f"owner{number % 8}", number % 3, grace=math.inf)
            # Each process has its five permits, whatever it has heard of so far.
            decision, snapshot, _ = await pools[at].admit(POOL, asked[task_id], permit=True)
            assert decide(snapshot) == decision
            if decision.route is Route.QUEUED:
                await pools[at].let_go(POOL, task_id, attended=True)
            return task_id, decision.route, decision.reason

        answers = await asyncio.gather(*map(ask, range(BURST_PROCESSES * BURST_EACH)))
        taken = [task_id for task_id, route, _ in answers if route is not Route.REJECTED]
        routes = Counter(route for _, route, _ in answers)
        assert (routes[Route.DIRECT], routes[Route.QUEUED]) == (run, 30)
        assert max(Counter(asked[task_id].owner for task_id in taken).values()) <= BURST.per_owner
        stood = (await pools[0].statistics())[POOL]
        assert (stood.running, stood.waiting) == (run, 30)

        # Each permit that comes back goes to the next one, wherever it comes back: by class, then by turns.
        line = list((await pools[0].line(POOL)).task_ids)
        served = []
        running = [
            (task_id, int(task_id[1:]) % BURST_PROCESSES)
            for task_id, route, _ in answers
            if route == "direct"
        ]
        while running:
            task_id, at = running.pop(0)
            await pools[at].release(POOL, task_id)
            if (following := await pools[at].pull(POOL)) is not None:
                assert await pools[at].begin(POOL, following)
                served.append(following)
                running.append((following, at))
        assert served == line
        classes = [asked[task_id].priority for task_id in served]
        assert classes == sorted(classes)
        for priority in range(3):
            turns = [asked[task_id].owner for task_id in served if asked[task_id].priority == priority]
            still = Counter(turns)
            had = Counter[str]()
            for owner in turns:
                had[owner] += 1
                still[owner] -= 1
                # Whoever waits still has had no turn less than two before.
                assert all(had[owner] - had[other] <= 2 for other in still if still[other] > 0)
        stood = (await pools[0].statistics())[POOL]
        assert (stood.running, stood.waiting) == (0, 0)


# --- What heals ---------------------------------------------------------------------------------------


def full(direct: Direct, time: Time) -> tuple[SharedPools, SharedPools]:
    """Two processes with two that run each, and three that wait."""
    one, other = process(direct, time, "one", LIMITS), process(direct, time, "other", LIMITS)
    for number, pools in enumerate([one, one, other, other]):
        now(pools.admit(POOL, entry(f"run{number}", OWNERS[number % 3], grace=math.inf), permit=True))
    for number in range(3):
        time.now += SECOND
        task_id = f"wait{number}"
        now(one.admit(POOL, entry(task_id, OWNERS[number], grace=math.inf), permit=False))
        now(one.let_go(POOL, task_id, attended=True))
    return one, other


def test_a_redis_that_lost_everything_is_filled_again(client):
    time = Time()
    direct = Direct(client)
    one, other = full(direct, time)
    before = Tickets(direct, POOL)
    waiting = before.line
    client.delete(*client.keys(f"{direct.prefix}:*"))
    assert Tickets(direct, POOL).counts == {}

    for _ in range(2):  # what is said twice is the same
        for number, pools in enumerate([one, one, other, other]):
            task = entry(f"run{number}", OWNERS[number % 3], grace=math.inf)
            now(pools.beat())
            now(pools.restate([Stated(POOL, task, True, 3.0)]))
        for task_id, place in reversed(waiting.items()):
            task = entry(task_id, place[1], grace=math.inf)
            assert now(other.put_back(POOL, task, place[3] / SECOND))
    after = Tickets(direct, POOL)
    assert after.counts == before.counts == after.counted()
    # Who had how many turns is lost; who has the same turn is served by arrival.
    assert names(one) == ["wait0", "wait1", "wait2"]
    assert [place[3] for place in after.line.values()] == [place[3] for place in waiting.values()]
    assert sorted(now(one.line(POOL)).running_ages) == [3.0] * 4


def test_workers_are_handed_no_more_than_they_have_slots_for(client):
    """And a web process takes only what no slot is free for."""
    time = Time()
    direct = Direct(client)
    one, _ = full(direct, time)
    worker = process(direct, time, "worker", LIMITS, slots={POOL: 2})
    now(one.release(POOL, "run0"))
    assert now(worker.pull(POOL)) is None
    assert now(worker.dispatch(POOL)) == ["wait1", "wait2"]
    # Whose row says that it waits yet is handed over once.
    assert not now(one.put_back(POOL, entry("wait1", grace=math.inf), time.now / SECOND - 60))
    assert now(worker.dispatch(POOL)) == []
    assert now(one.pull(POOL)) == "wait0"
    assert now(worker.begin(POOL, "wait1"))
    assert now(worker.begin(POOL, "wait2"))
    now(one.admit(POOL, entry("wait3", "c", grace=math.inf), permit=False))
    now(one.let_go(POOL, "wait3", attended=True))
    assert now(worker.dispatch(POOL)) == []
    now(worker.release(POOL, "wait1"))
    now(one.release(POOL, "run1"))
    assert now(one.pull(POOL)) is None
    assert now(one.dispatch(POOL)) == ["wait3"]


def test_what_was_owed_does_not_undo_what_has_gone_on_since(client):
    """Its process could not say that it had given the task up; then another one put it back."""
    time = Time()
    direct = Direct(client)
    one, other = full(direct, time)
    direct.lose = "call"
    with pytest.raises(RedisAway):
        now(one.release(POOL, "run0"))
    assert now(other.put_back(POOL, entry("run0", "a", grace=math.inf), time.now / SECOND - 60, former="one"))
    now(one.beat())
    assert "run0" in names(one)

    direct.lose = "call"
    with pytest.raises(RedisAway):
        now(one.release(POOL, "run1"))
    worker = process(direct, time, "worker", LIMITS, slots={POOL: 2})
    assert now(worker.put_back(POOL, entry("run1", grace=math.inf), time.now / SECOND - 90, former="one"))
    assert "run1" in now(worker.dispatch(POOL))
    now(one.beat())
    assert "run1" in Tickets(direct, POOL).permits
    now(other.release(POOL, "run2"))
    assert now(other.pull(POOL)) is not None
    there = Tickets(direct, POOL)
    assert there.counts == there.counted()


def test_a_process_whose_lease_was_over_is_told_so(client):
    time = Time()
    direct = Direct(client)
    one, other = full(direct, time)
    assert now(one.beat()) is True
    time.now += 6 * SECOND
    now(other.beat())
    swept = now(other.sweep())
    assert swept.dead == {"one"}
    assert set(Tickets(direct, POOL).permits) == {"run2", "run3"}
    assert now(one.beat()) is False
    now(one.restate([Stated(POOL, entry(f"run{number}", OWNERS[number]), True, 9.0) for number in (0, 1)]))
    there = Tickets(direct, POOL)
    assert (len(there.permits), there.counts) == (4, there.counted())


def test_numbers_that_were_wrong_are_right_after_a_sweep(client):
    time = Time()
    direct = Direct(client)
    one, _ = full(direct, time)
    client.hset(f"{direct.prefix}:q:{POOL}:c", mapping={"o:a": 77, "o:nobody": 5, "p:one": 0})
    client.hdel(f"{direct.prefix}:q:{POOL}:c", "p:other")
    now(one.beat())
    now(one.sweep())
    there = Tickets(direct, POOL)
    assert there.counts == there.counted()


def test_an_admission_that_nobody_waited_for_takes_nothing(client):
    """Redis took it up after it had been told that the task is not wanted any more."""
    time = Time()
    direct = Direct(client)
    one = process(direct, time, "one", LIMITS)
    direct.lose = "call"
    with pytest.raises(RedisAway):
        now(one.admit(POOL, entry("late"), permit=True))
    now(one.beat())
    decision, _, _ = now(one.admit(POOL, entry("late"), permit=True))
    assert decision.route is Route.REJECTED
    assert Tickets(direct, POOL).counts == {}


def test_what_is_remembered_of_owners_is_bounded_and_as_the_queue_remembers_it(client):
    time = Time()
    direct = Direct(client)
    one = process(direct, time, "one", dataclasses.replace(LIMITS, max_workers=3, queue_size=50))
    queue = Queue(8.0)
    tags = {f"old{number}": number % 3 for number in range(1000)}
    queue._last_tag = {(owner, 1): tag for owner, tag in tags.items()}
    client.hset(f"{direct.prefix}:q:{POOL}:t", mapping={f"1:{owner}": tag for owner, tag in tags.items()})
    for number in range(100):
        owner = f"new{number}"
        if number % 30 == 0:
            now(one.admit(POOL, entry(f"w{number}", owner), permit=False))
            queue.push(f"w{number}", owner, 1, 0.0, held=True)
        else:
            now(one.admit_here(POOL, entry(f"t{number}", owner), state="running"))
            now(one.release(POOL, f"t{number}"))
            queue.charge(owner, 1)
    expected = {f"{priority}:{owner}": tag for (owner, priority), tag in queue._last_tag.items()}
    assert Tickets(direct, POOL).tags == expected
    assert len(expected) < 200
