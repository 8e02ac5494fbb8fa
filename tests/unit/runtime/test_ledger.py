"""Permits and places: never too many, always to the best, never lost."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streaming.core.routing import Reason, Route
from streaming.runtime.ledger import Holding, Ledger, PoolRefused

from .fakes import pool_limits


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def never():
    raise AssertionError("nothing was to be granted")


def held(tickets, holding):
    return [ticket for ticket in tickets if ticket.holding is holding]


def test_burst_of_100_gives_5_direct_30_queued_65_refused(clock):
    ledger = Ledger(pool_limits(), clock)
    tickets, refusals = [], []
    for number in range(100):
        try:
            tickets.append(ledger.admit(f"owner {number}", 0, never))
        except PoolRefused as refusal:
            refusals.append(refusal)
        assert ledger.running <= 5
        assert ledger.waiting <= 30
    assert [ticket.decision.route for ticket in tickets] == [Route.DIRECT] * 5 + [Route.QUEUED] * 30
    assert len(refusals) == 65
    assert {refusal.decision.reason for refusal in refusals} == {Reason.QUEUE_FULL}
    assert {refusal.snapshot.waiting for refusal in refusals} == {30}
    assert [len(held(tickets, Holding.PERMIT)), len(held(tickets, Holding.PLACE))] == [5, 30]


def test_reason_of_each_route(clock):
    ledger = Ledger(pool_limits(max_workers=1, queue_size=1, per_owner=2), clock)
    first = ledger.admit("a", 0, never)
    second = ledger.admit("a", 0, never)
    assert (first.decision.reason, second.decision.reason) == (Reason.WORKER_FREE, Reason.WORKERS_BUSY)
    assert (first.snapshot.running, second.snapshot.running) == (0, 1)
    with pytest.raises(PoolRefused) as refusal:
        ledger.admit("a", 0, never)
    assert refusal.value.decision.reason is Reason.OWNER_LIMIT
    with pytest.raises(PoolRefused) as refusal:
        ledger.admit("b", 0, never)
    assert refusal.value.decision.reason is Reason.QUEUE_FULL


def test_who_ran_without_waiting_has_had_a_turn(clock):
    ledger = Ledger(pool_limits(max_workers=1), clock)
    running = ledger.admit("a", 0, never)
    granted: list[str] = []
    for owner in ("a", "b"):
        ledger.admit(owner, 0, partial(granted.append, owner))
    ledger.release(running)
    assert granted == ["b"]


def test_a_waiting_ticket_changes_its_class_and_one_that_runs_does_not(clock):
    ledger = Ledger(pool_limits(max_workers=1), clock)
    running = ledger.admit("x", 1, never)
    granted: list[str] = []
    first = ledger.admit("a", 1, partial(granted.append, "first"))
    second = ledger.admit("b", 1, partial(granted.append, "second"))
    assert not ledger.prioritise(running, 0)
    assert ledger.prioritise(second, 0)
    assert not ledger.prioritise(second, 0), "it is of that class"
    assert ledger.statistics().waiting_by_class == {0: 1, 1: 1}
    assert granted == [], "a permit comes from nowhere"
    ledger.release(running)
    assert granted == ["second"]
    ledger.release(first)
    assert not ledger.prioritise(first, 0), "it has left"
    assert (ledger.running, ledger.waiting) == (1, 0)


def test_freed_permit_goes_at_once_and_in_order(clock):
    ledger = Ledger(pool_limits(max_workers=1), clock)
    running = ledger.admit("x", 0, never)
    granted: list[Any] = []
    waiting = {}
    for name, owner, priority in [
        ("batch", "a", 2),
        ("second of a", "a", 0),
        ("third of a", "a", 0),
        ("first of b", "b", 0),
        ("normal", "c", 1),
    ]:
        waiting[name] = ledger.admit(owner, priority, partial(granted.append, name))
    ledger.release(running)
    assert granted == ["second of a"], "the permit passed inside the release"
    assert waiting["second of a"].holding is Holding.PERMIT
    assert (ledger.running, ledger.waiting) == (1, 4)
    while ledger.running:
        ledger.release(waiting[granted[-1]])
    assert granted == ["second of a", "first of b", "third of a", "normal", "batch"]


def _grant_first(granted, tickets):
    granted.append(tickets[0])


def test_ageing_bounds_the_wait_of_the_lowest_class(clock):
    """R20: a flood of high-priority tasks does not starve a low one for ever."""
    ledger = Ledger(pool_limits(max_workers=1, aging_seconds=30.0), clock)
    running = ledger.admit("x", 0, never)
    granted: list[Any] = []
    ledger.admit("low", 2, lambda: granted.append("low"))
    for _ in range(20):
        tickets: list[Any] = []
        tickets.append(ledger.admit("high", 0, partial(_grant_first, granted, tickets)))
        clock.now += 10
        ledger.release(running)
        if granted[-1] == "low":
            break
        running = granted[-1]
    assert granted[-1] == "low"
    assert clock.now - 50.0 <= 3 * 30.0 + 10


def test_withdrawal_of_a_place_grants_nobody_and_frees_a_place(clock):
    ledger = Ledger(pool_limits(max_workers=1, queue_size=2), clock)
    ledger.admit("a", 0, never)
    second, third = ledger.admit("a", 0, never), ledger.admit("a", 0, never)
    with pytest.raises(PoolRefused):
        ledger.admit("a", 0, never)
    ledger.release(second)
    assert (ledger.running, ledger.waiting) == (1, 1)
    assert ledger.admit("a", 0, never).holding is Holding.PLACE
    assert next(ticket for ticket, _ in ledger.line()) is third


def test_release_is_idempotent(clock):
    ledger = Ledger(pool_limits(max_workers=1, per_owner=2), clock)
    first = ledger.admit("a", 0, never)
    granted = []
    second = ledger.admit("a", 0, lambda: granted.append(1))
    for _ in range(3):
        ledger.release(first)
    assert granted == [1]
    assert (ledger.running, ledger.waiting, second.holding) == (1, 0, Holding.PERMIT)
    for _ in range(3):
        ledger.release(second)
    assert (ledger.running, ledger.waiting) == (0, 0)
    # The owner's count was lowered once for each.
    ledger.admit("a", 0, never)
    ledger.admit("a", 0, never)
    with pytest.raises(PoolRefused):
        ledger.admit("a", 0, never)


def test_owner_limit_counts_running_and_waiting_of_that_owner_only(clock):
    ledger = Ledger(pool_limits(max_workers=2, per_owner=3), clock)
    tickets = [ledger.admit("a", 0, lambda: None) for _ in range(3)]
    with pytest.raises(PoolRefused) as refusal:
        ledger.admit("a", 0, never)
    assert refusal.value.decision.reason is Reason.OWNER_LIMIT
    assert refusal.value.retry_after > 0
    ledger.admit("b", 0, lambda: None)
    ledger.release(tickets[0])
    ledger.admit("a", 0, never)


def test_release_inside_granted_passes_on_again(clock):
    """Who is granted a permit that it does not want any more may give it back at once."""
    ledger = Ledger(pool_limits(max_workers=1), clock)
    running = ledger.admit("a", 0, never)
    tickets: list[Any] = []
    granted: list[Any] = []

    def unwilling():
        granted.append("unwilling")
        ledger.release(tickets[0])

    tickets.append(ledger.admit("b", 0, unwilling))
    last = ledger.admit("c", 0, lambda: granted.append("last"))
    ledger.release(running)
    assert granted == ["unwilling", "last"]
    assert (ledger.running, ledger.waiting, last.holding) == (1, 0, Holding.PERMIT)


def test_retry_after_comes_from_the_real_queue(clock):
    ledger = Ledger(pool_limits(max_workers=2, queue_size=4), clock)
    tickets = [ledger.admit("a", 0, lambda: None) for _ in range(6)]

    def refused():
        with pytest.raises(PoolRefused) as refusal:
            ledger.admit("a", 0, never)
        return refusal.value.retry_after

    # Nothing observed yet: a second of service is assumed, or the age of the oldest that runs, up to ten.
    assert refused() == pytest.approx(3)
    clock.now += 8
    assert refused() == pytest.approx(2 + 8 + 8)
    clock.now += 92
    assert refused() == pytest.approx(2.5 + 10 + 10)
    ledger.release(tickets[0])  # 100 s of service
    ledger.admit("a", 0, never)
    clock.now += 10
    # One that ran from the start is due; its neighbour began ten seconds ago.
    assert refused() == pytest.approx(25 + 100 + 100)
    assert [round(eta, 6) for _, eta in ledger.line()] == [25, 90, 125, 190]


def test_stop_granting(clock):
    ledger = Ledger(pool_limits(max_workers=1), clock)
    running = ledger.admit("a", 0, never)
    waiting = ledger.admit("a", 0, never)
    ledger.stop_granting()
    clock.now += 3
    ledger.release(running)
    assert (ledger.running, ledger.waiting, waiting.holding) == (0, 1, Holding.PLACE)
    with pytest.raises(PoolRefused) as refusal:
        ledger.admit("b", 0, never)
    assert refusal.value.decision.reason is Reason.DRAINING
    assert refusal.value.retry_after > 0
    ledger.release(waiting)
    assert ledger.waiting == 0


def test_who_is_away_is_passed_keeps_its_place_and_gets_a_free_permit_when_it_is_back(clock):
    ledger = Ledger(pool_limits(max_workers=1, queue_size=2), clock)
    running = ledger.admit("x", 0, never)
    granted: list[Any] = []
    away, other = (ledger.admit(name, 0, partial(granted.append, name)) for name in ("away", "other"))
    ledger.step_aside(away)
    assert [ticket for ticket, _ in ledger.line()] == [other]
    assert (ledger.waiting, ledger.statistics().away) == (2, 1)
    with pytest.raises(PoolRefused) as refusal:
        ledger.admit("y", 0, never)
    assert (refusal.value.decision.reason, refusal.value.snapshot.eligible) == (Reason.QUEUE_FULL, 1)
    ledger.release(running)
    assert granted == ["other"]
    ledger.release(other)
    assert (granted, ledger.running, ledger.waiting) == (["other"], 0, 1)
    direct = ledger.admit("z", 0, never)
    assert direct.decision.reason is Reason.WORKER_FREE, "who is away keeps nobody from a free permit"
    ledger.release(direct)
    ledger.come_back(away)
    assert (granted, away.holding, ledger.running) == (["other", "away"], Holding.PERMIT, 1)


def test_who_comes_back_stands_before_those_who_came_later(clock):
    ledger = Ledger(pool_limits(max_workers=1), clock)
    ledger.admit("x", 0, never)
    first, second = (ledger.admit("a", 0, never) for _ in range(2))
    ledger.step_aside(first)
    third = ledger.admit("a", 0, never)
    clock.now += 5
    ledger.come_back(first)
    assert [ticket for ticket, _ in ledger.line()] == [first, second, third]


def test_who_is_away_can_be_withdrawn_and_who_runs_cannot_step_aside(clock):
    ledger = Ledger(pool_limits(max_workers=1, queue_size=1), clock)
    running = ledger.admit("x", 0, never)
    waiting = ledger.admit("a", 0, never)
    ledger.step_aside(running)
    ledger.step_aside(waiting)
    ledger.release(waiting)
    ledger.come_back(waiting)
    assert (ledger.running, ledger.waiting, ledger.statistics().away) == (1, 0, 0)
    assert ledger.admit("b", 0, never).holding is Holding.PLACE


def test_a_series_runs_one_at_a_time_in_order_of_arrival_while_others_pass(clock):
    ledger = Ledger(pool_limits(max_workers=3), clock)
    granted: list[str] = []

    def arrive(name, series, priority=0):
        return ledger.admit(name, priority, partial(granted.append, name), series)

    first, second = arrive("first", "book"), arrive("second", "book", 2)
    third, stranger = arrive("third", "book"), arrive("stranger", "other")
    assert [each.decision.reason for each in (first, second, third, stranger)] == [
        Reason.WORKER_FREE,
        Reason.EARLIER_ONE_ACTIVE,
        Reason.EARLIER_ONE_ACTIVE,
        Reason.WORKER_FREE,
    ]
    assert arrive("nobody", None).decision.reason is Reason.WORKER_FREE, (
        "who is held keeps nobody from a permit"
    )
    assert [ticket for ticket, _ in ledger.line()] == [second, third]
    ledger.release(stranger)
    assert granted == []
    ledger.release(first)
    assert granted == ["second"], "the class counts for nothing within a series"
    ledger.release(second)
    ledger.release(third)
    assert granted == ["second", "third"]
    assert arrive("again", "book").decision.reason is Reason.WORKER_FREE, "the series is forgotten"


def test_who_of_a_series_is_withdrawn_or_away_lets_nobody_pass_who_must_wait(clock):
    ledger = Ledger(pool_limits(max_workers=4), clock)
    granted: list[str] = []
    first, second, third, fourth = (
        ledger.admit(name, 0, partial(granted.append, name), "book")
        for name in ("first", "second", "third", "fourth")
    )
    ledger.release(third)
    assert granted == [], "one in the middle has left"
    ledger.step_aside(second)
    ledger.release(first)
    assert granted == [], "its successor does not run before it"
    assert [ticket for ticket, _ in ledger.line()] == [fourth]
    ledger.release(second)
    assert granted == ["fourth"]
    ledger.release(fourth)
    assert (ledger.running, ledger.waiting) == (0, 0)


def test_who_comes_back_while_it_is_held_is_still_held(clock):
    ledger = Ledger(pool_limits(max_workers=4), clock)
    first = ledger.admit("first", 0, never, "book")
    granted: list[str] = []
    second = ledger.admit("second", 0, partial(granted.append, "second"), "book")
    ledger.step_aside(second)
    ledger.come_back(second)
    assert (granted, ledger.statistics().away) == ([], 0)
    ledger.release(first)
    assert granted == ["second"]


def test_a_series_takes_places_like_all_others(clock):
    ledger = Ledger(pool_limits(max_workers=4, queue_size=1), clock)
    ledger.admit("a", 0, never, "book")
    ledger.admit("a", 0, never, "book")
    with pytest.raises(PoolRefused) as refusal:
        ledger.admit("a", 0, never, "book")
    assert (refusal.value.decision.reason, refusal.value.snapshot.earlier) == (Reason.QUEUE_FULL, 2)


def test_on_release_is_called_once_when_the_permit_has_gone_on(clock):
    ledger = Ledger(pool_limits(max_workers=1, per_owner=1), clock)
    ticket = ledger.admit("a", 0, never)
    assert ledger.at_limit("a")
    assert not ledger.at_limit("b")
    seen = []
    ticket.when_released(lambda: seen.append((ledger.running, ledger.at_limit("a"))))
    ledger.release(ticket)
    ledger.release(ticket)
    assert seen == [(0, False)]


def test_who_asks_too_late_is_told_at_once_that_the_ticket_was_released(clock):
    ledger = Ledger(pool_limits(max_workers=1), clock)
    ticket = ledger.admit("a", 0, never)
    ledger.release(ticket)
    seen = []
    ticket.when_released(lambda: seen.append("released"))
    assert seen == ["released"]


def test_a_held_permit_counts_until_it_is_given_back(clock):
    ledger = Ledger(pool_limits(max_workers=1, queue_size=1), clock)
    permit = ledger.hold("a")
    assert permit is not None
    assert ledger.hold("b") is None
    assert ledger.admit("b", 0, lambda: None).decision.route is Route.QUEUED
    ledger.release(permit, used=False)
    assert (ledger.running, ledger.waiting) == (1, 0), "who waited has it"
    assert ledger.statistics().mean_service_seconds is None, "nothing was served"


def test_permits_go_by_turns_to_who_waits_here_and_to_the_line_of_all(clock):
    ledger = Ledger(pool_limits(max_workers=1, per_owner=9), clock)
    turns: list[str] = []
    tickets = [ledger.admit("a", 0, lambda: turns.append("here")) for _ in range(4)]
    ledger.others_wait = True
    running = tickets[0]
    for _ in range(5):
        ledger.release(running)
        others = ledger.hold_for_others("all")
        if others is not None:
            turns.append("all")
            running = others
        else:
            (running,) = held(tickets, Holding.PERMIT)
    assert turns == ["here", "all", "here", "all", "here"]


def test_when_the_promise_is_in_danger_arrival_decides(clock):
    """R20: ten services at most. Half a line in the lowest class, and one newcomer of the highest with each
    permit that comes back."""
    ledger = Ledger(pool_limits(max_workers=2, queue_size=8, aging_seconds=3600.0), clock)
    granted: list[str] = []
    tickets: dict[str, Any] = {}

    def arrive(name, priority):
        tickets[name] = ledger.admit(name, priority, lambda: granted.append(name))
        if tickets[name].holding is Holding.PERMIT:
            granted.append(name)

    def a_service_ends():
        clock.now += 1.0
        ledger.release(tickets[granted[done]])

    arrive("first", 0)
    arrive("second", 0)
    waits: dict[str, float] = {}
    for number in range(4):
        arrive(f"batch {number}", 2)
    arrive("new", 0)
    for done in range(60):
        a_service_ends()
        for name in granted[-1:]:
            waits.setdefault(name, clock.now - 50.0)
        arrive(f"new {done}", 0)
    batch = [waits[f"batch {number}"] for number in range(4)]
    assert batch == sorted(batch)
    assert batch[0] > 4 * 2.0, "as long as there is time the class decides"
    assert batch[-1] <= 10 * 2.0, "two workers, a permit a second: a service takes two"


def test_a_waiting_task_keeps_how_many_of_its_class_and_above_stood_before_it(clock):
    ledger = Ledger(pool_limits(max_workers=1, queue_size=9, per_owner=9), clock)
    tickets = [ledger.admit("a", priority, lambda: None) for priority in (1, 1, 2, 0, 1)]
    assert [ticket.snapshot.ahead for ticket in tickets] == [None, 0, 1, 0, 2]
    ledger.step_aside(tickets[1])
    assert ledger.admit("b", 2, lambda: None).snapshot.ahead == 3, "who is away is passed"


def test_statistics(clock):
    ledger = Ledger(pool_limits(max_workers=2, queue_size=7), clock)
    tickets = [ledger.admit("a", priority, lambda: None) for priority in (0, 0, 2, 1, 2)]
    clock.now += 4
    numbers = ledger.statistics()
    assert (numbers.running, numbers.waiting) == (2, 3)
    assert (numbers.max_workers, numbers.queue_size) == (2, 7)
    assert numbers.oldest_wait_seconds == 4.0
    assert numbers.mean_service_seconds is None
    assert numbers.waiting_by_class == {1: 1, 2: 2}
    assert numbers.oldest_wait_by_class == {1: 4.0, 2: 4.0}
    for ticket in tickets:
        ledger.release(ticket)
    numbers = ledger.statistics()
    assert (numbers.running, numbers.waiting, numbers.oldest_wait_seconds) == (0, 0, 0.0)
    assert numbers.waiting_by_class == numbers.oldest_wait_by_class == {}
    assert numbers.mean_service_seconds is not None


class LedgerMachine(RuleBasedStateMachine):
    """Anything that tasks can do to a pool, in any order."""

    owners = st.sampled_from("abc")

    @initialize(
        workers=st.integers(1, 4),
        queue=st.integers(0, 5),
        per_owner=st.integers(1, 6),
        longest_wait=st.sampled_from([10.0, math.inf]),
    )
    def begin(self, workers, queue, per_owner, longest_wait):
        self.clock = Clock()
        self.limits = pool_limits(
            max_workers=workers,
            queue_size=queue,
            per_owner=per_owner,
            aging_seconds=20.0,
            longest_wait=longest_wait,
        )
        self.ledger = Ledger(self.limits, self.clock)
        self.tickets = []
        self.granted = []
        self.away = set()
        self.draining = False

    def count(self, holding, owner=None):
        return sum(ticket.holding is holding and owner in (None, ticket.owner) for ticket in self.tickets)

    @rule(owner=owners, priority=st.integers(0, 2))
    def admit(self, owner, priority):
        active = self.count(Holding.PERMIT, owner) + self.count(Holding.PLACE, owner)
        running, waiting = self.count(Holding.PERMIT), self.count(Holding.PLACE)
        box: list[Any] = []
        try:
            ticket = self.ledger.admit(owner, priority, lambda: self.granted.append(box[0]))
        except PoolRefused as refusal:
            assert refusal.retry_after > 0 or self.ledger.statistics().mean_service_seconds == 0  # noqa: PT017
            assert self.draining or active >= self.limits.per_owner or waiting >= self.limits.queue_size
            assert refusal.snapshot.owner_active == active  # noqa: PT017
            return
        box.append(ticket)
        self.tickets.append(ticket)
        assert not self.draining
        assert active < self.limits.per_owner
        direct = running < self.limits.max_workers and waiting == len(self.away)
        assert ticket.holding is (Holding.PERMIT if direct else Holding.PLACE)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def release(self, data):
        """Of a permit, of a place (a withdrawal), or once more."""
        ticket = data.draw(st.sampled_from(self.tickets))
        held_before = ticket.holding
        line = [waiting for waiting, _ in self.ledger.line()]
        known = len(self.granted)
        self.ledger.release(ticket)
        self.away.discard(ticket)
        assert ticket.holding is Holding.NOTHING
        fresh = self.granted[known:]
        if held_before is Holding.PERMIT and line and not self.draining:
            # What is released now may change what can be promised, and with it the order.
            best = line[:1] if math.isinf(self.limits.longest_wait) else line
            assert len(fresh) == 1
            assert fresh[0] in best, "the best waiter, at once"
            assert fresh[0].holding is Holding.PERMIT
        else:
            assert fresh == []

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def step_aside(self, data):
        """Whatever it holds: only who waits can."""
        ticket = data.draw(st.sampled_from(self.tickets))
        self.ledger.step_aside(ticket)
        if ticket.holding is Holding.PLACE:
            self.away.add(ticket)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def come_back(self, data):
        """To its old place, or to a permit that was free meanwhile."""
        ticket = data.draw(st.sampled_from(self.tickets))
        known, free = len(self.granted), self.limits.max_workers - self.count(Holding.PERMIT)
        was_away = ticket in self.away
        self.ledger.come_back(ticket)
        self.away.discard(ticket)
        gets_it = was_away and free > 0 and not self.draining
        assert self.granted[known:] == ([ticket] if gets_it else [])

    @rule(seconds=st.sampled_from([0.0, 0.5, 7.0, 45.0]))
    def time_passes(self, seconds):
        self.clock.now += seconds

    @rule(really=st.integers(0, 15))
    def drain(self, really):
        if not really:
            self.ledger.stop_granting()
            self.draining = True

    @invariant()
    def agrees(self):
        if not hasattr(self, "ledger"):
            return
        running, waiting = self.count(Holding.PERMIT), self.count(Holding.PLACE)
        assert self.ledger.running == running <= self.limits.max_workers
        assert self.ledger.waiting == waiting <= self.limits.queue_size
        away = len(self.away)
        assert self.ledger.statistics().away == away <= waiting
        assert self.draining or waiting == away or running == self.limits.max_workers, "no permit lies idle"
        for owner in "abc":
            active = self.count(Holding.PERMIT, owner) + self.count(Holding.PLACE, owner)
            assert active <= self.limits.per_owner
        line = self.ledger.line()
        assert {id(ticket) for ticket, _ in line} == {
            id(ticket) for ticket in held(self.tickets, Holding.PLACE) if ticket not in self.away
        }
        etas = [eta for _, eta in line]
        assert etas == sorted(etas)
        assert len(set(map(id, self.granted))) == len(self.granted), "granted once"


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
