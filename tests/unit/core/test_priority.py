"""The line of waiting tasks: class, then turns between owners, then arrival, and no wait without end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streaming.core.priority import FairQueue, Place, Promise

from .test_sse import fast

NEVER = 1e9
"""Seconds after which a task ages in tests that are not about ageing."""

AGING = 8.0

owners = st.sampled_from("abcd")
classes = st.integers(0, 2)
arrivals = st.lists(st.tuples(owners, classes), max_size=30)
# What happens, in order: a task arrives, or (None) the next one is served; seconds pass before it.
happenings = st.lists(st.tuples(st.integers(0, 6), st.none() | st.tuples(owners, classes)), max_size=60)


def line(*tasks: tuple[str, int], aging: float = NEVER) -> FairQueue[int]:
    """A queue in which these tasks (owner, class) arrived at time 0; their payload is their number."""
    queue: FairQueue[int] = FairQueue(aging)
    for number, (owner, priority) in enumerate(tasks):
        queue.push(number, owner, priority, 0.0)
    return queue


def served(queue: FairQueue[int], now: float = 0.0) -> Iterator[Place[int]]:
    while len(queue):
        yield queue.pop(now)


def turns(queue: FairQueue[int], now: float = 0.0) -> str:
    return "".join(str(place.owner) for place in served(queue, now))


# --- Class, owner, arrival ----------------------------------------------------------------------------


@fast
@given(arrivals)
def test_a_higher_class_is_always_served_first(tasks):
    order = [place.priority for place in served(line(*tasks))]
    assert order == sorted(order)


@fast
@given(arrivals)
def test_owners_take_turns_within_a_class(tasks):
    """Nobody gets a second turn before everyone who waits had a first, and so on."""
    rounds: defaultdict[int, list[int]] = defaultdict(list)
    had: Counter[tuple[object, int]] = Counter()
    for place in served(line(*tasks)):
        rounds[place.priority].append(had[place.owner, place.priority])
        had[place.owner, place.priority] += 1
    assert all(each == sorted(each) for each in rounds.values())


@fast
@given(happenings)
def test_arrival_decides_within_one_owner_and_class(steps):
    queue: FairQueue[int] = FairQueue(AGING)
    order: defaultdict[tuple[object, int], list[int]] = defaultdict(list)
    now = 0.0
    for number, (seconds, task) in enumerate(steps):
        now += seconds
        if task is not None:
            owner, priority = task
            queue.push(number, owner, priority, now)
        elif len(queue):
            place = queue.pop(now)
            order[place.owner, place.priority].append(place.payload)
    assert all(numbers == sorted(numbers) for numbers in order.values())


@fast
@given(happenings)
def test_two_owners_who_both_wait_are_never_more_than_two_turns_apart(steps):
    """From the moment when both wait, whatever others do, in one class and without ageing."""
    queue: FairQueue[int] = FairQueue(NEVER)
    waiting: Counter[object] = Counter()
    had = {"a": 0, "b": 0}
    low = high = 0
    for number, (_, task) in enumerate(steps):
        if task is not None:
            queue.push(number, task[0], 0, 0.0)
            waiting[task[0]] += 1
        elif len(queue):
            owner = queue.pop(0.0).owner
            waiting[owner] -= 1
            if owner in had:
                had[str(owner)] += 1
        if not (waiting["a"] and waiting["b"]):
            had = {"a": 0, "b": 0}
            low = high = 0
            continue
        ahead = had["a"] - had["b"]
        low, high = min(low, ahead), max(high, ahead)
        assert high - low <= 2


def test_the_many_tasks_of_one_do_not_stand_before_the_one_of_another():
    assert turns(line(("a", 0), ("a", 0), ("a", 0), ("b", 0))) == "abaa"


def test_an_owner_who_was_away_earns_no_credit():
    queue = line(*[("a", 0)] * 6)
    for _ in range(3):
        queue.pop(0.0)
    for number in range(3):
        queue.push(number, "b", 0, 0.0)
    assert turns(queue) in {"ababab", "bababa"}


def test_an_owner_who_was_served_goes_behind_one_who_was_not():
    queue = line(("a", 0))
    queue.pop(0.0)
    queue.push(1, "a", 0, 0.0)
    queue.push(2, "b", 0, 0.0)
    assert turns(queue) == "ba"


def test_a_task_served_without_waiting_is_charged():
    queue = line()
    queue.charge("a", 0)
    queue.push(1, "a", 0, 0.0)
    queue.push(2, "b", 0, 0.0)
    assert turns(queue) == "ba"


def test_services_in_one_class_do_not_cost_a_newcomer_its_turn_in_another():
    """However many interactive tasks were served meanwhile, batch owners take turns."""
    queue = line(*[("p", 2)] * 4)
    for number in range(10):
        queue.push(number, "x", 0, 0.0)
        queue.pop(0.0)
    for number in range(4):
        queue.push(number, "q", 2, 0.0)
    assert turns(queue) == "pqpqpqpq"


def test_services_in_a_lower_class_do_not_cost_a_newcomer_its_turn_in_a_higher():
    queue = line(*[("p", 0)] * 3)
    for _ in range(10):
        queue.charge("x", 2)
    queue.push(9, "q", 0, 0.0)
    assert turns(queue) == "pqpp"


@dataclass(frozen=True)
class Unordered:
    """A payload that compares equal to its like and cannot be ordered."""

    name: str = "same"


def test_the_payload_takes_no_part():
    queue: FairQueue[Unordered] = FairQueue(NEVER)
    first, second = (queue.push(Unordered(), "a", 0, 0.0) for _ in range(2))
    assert queue.remove(second)
    assert queue.ordered(0.0) == [first]


# --- Ageing -------------------------------------------------------------------------------------------


@fast
@given(happenings)
def test_no_task_is_passed_by_one_that_came_a_whole_aging_step_later(steps):
    """The exact bound: a class higher may come one step later than that and pass, two classes two steps."""
    queue: FairQueue[int] = FairQueue(AGING)
    now = 0.0
    for number, (seconds, task) in enumerate(steps):
        now += seconds
        if task is not None:
            owner, priority = task
            queue.push(number, owner, priority, now)
        elif len(queue):
            chosen = queue.pop(now)
            for other in queue.ordered(now):
                head_start = AGING * (1 + other.priority - chosen.priority)
                assert chosen.arrived < other.arrived + head_start


def services_until(queue: FairQueue[int], victim: Place[int], flood: Iterator[tuple[str, int]]) -> int:
    """One task a second arrives and one is served, without end; how many until the victim."""
    for second in range(1, 1000):
        owner, priority = next(flood)
        queue.push(second, owner, priority, float(second))
        if queue.pop(float(second)) is victim:
            return second
    raise AssertionError("starved")


def always(owner: str, priority: int) -> Iterator[tuple[str, int]]:
    while True:
        yield owner, priority


def ever_new(priority: int) -> Iterator[tuple[str, int]]:
    number = 0
    while True:
        yield f"new {number}", priority
        number += 1


@pytest.mark.parametrize("flood", [always("x", 0), ever_new(0)], ids=["one owner", "ever new owners"])
def test_an_endless_flood_of_a_higher_class_passes_only_for_a_while(flood):
    queue: FairQueue[int] = FairQueue(AGING)
    victim = queue.push(0, "v", 2, 0.0)
    assert services_until(queue, victim, flood) <= 3 * AGING + 1


def test_an_endless_flood_of_new_owners_passes_only_for_a_while():
    """Each of them has the right to a first turn before the victim's second: without ageing, for ever."""
    queue: FairQueue[int] = FairQueue(AGING)
    queue.push(0, "v", 0, 0.0)
    victim = queue.push(0, "v", 0, 0.0)
    assert services_until(queue, victim, ever_new(0)) <= AGING + 1


def test_a_task_served_late_does_not_set_the_virtual_time_back():
    queue = line(*[("b", 0)] * 3, aging=AGING)
    queue.push(3, "a", 0, AGING)
    for _ in range(3):
        queue.pop(AGING)
    queue.push(4, "d", 0, AGING)
    assert queue.pop(AGING).owner == "a"
    queue.push(5, "c", 0, AGING)
    assert turns(queue, AGING) == "dc"


def test_before_its_time_a_task_is_not_lifted():
    queue = line(("a", 1), aging=AGING)
    queue.push(1, "b", 0, AGING - 0.5)
    assert queue.pop(AGING - 0.5).owner == "b"


def test_a_lifted_task_stands_among_the_class_above_in_its_turn():
    queue = line(("a", 1), ("a", 1), aging=AGING)
    queue.push(2, "b", 0, AGING)
    assert queue.pop(AGING).owner == "a"
    assert queue.pop(AGING).owner == "b"


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_ageing_cannot_be_switched_off(seconds):
    with pytest.raises(ValueError, match="aging_seconds"):
        FairQueue(seconds)


# --- Looking at the line, leaving it ------------------------------------------------------------------


@fast
@given(happenings, st.integers(0, 40))
def test_the_line_as_shown_is_the_line_as_served(steps, later):
    queue: FairQueue[int] = FairQueue(AGING)
    now = 0.0
    for number, (seconds, task) in enumerate(steps):
        now += seconds
        if task is not None:
            owner, priority = task
            queue.push(number, owner, priority, now)
        elif len(queue) and number % 3 == 0:
            queue.pop(now)
    shown = queue.ordered(now + later)
    assert shown == list(served(queue, now + later))


def test_looking_takes_nobody_out():
    queue = line(("a", 0), ("b", 0))
    assert len(queue.ordered(0.0)) == len(queue) == 2


def test_nobody_is_served_from_an_empty_line():
    with pytest.raises(IndexError):
        line().pop(0.0)


def test_a_task_leaves_once():
    queue = line()
    place = queue.push(1, "a", 0, 0.0)
    assert queue.remove(place)
    assert not queue.remove(place)
    assert len(queue) == 0


def test_a_served_task_cannot_leave():
    queue = line(("a", 0))
    assert not queue.remove(queue.pop(0.0))


def test_a_task_of_another_line_cannot_leave():
    assert not line(("a", 0)).remove(line(("a", 0)).pop(0.0))


def test_leaving_gives_the_owner_its_turn_back():
    queue = line()
    for number in range(5):
        queue.remove(queue.push(number, "a", 0, 0.0))
    queue.push(5, "a", 0, 0.0)
    queue.push(6, "b", 0, 0.0)
    assert turns(queue) == "ab"


def test_leaving_in_order_of_arrival_gives_every_turn_back():
    queue = line()
    for place in [queue.push(number, "a", 0, 0.0) for number in range(5)]:
        queue.remove(place)
    queue.push(5, "a", 0, 0.0)
    queue.push(6, "b", 0, 0.0)
    assert turns(queue) == "ab"


def test_replacing_ones_own_task_again_and_again_costs_no_turn():
    """A client that supersedes its request before it leaves the old one: push, then remove the older."""
    queue = line()
    old = queue.push(0, "a", 0, 0.0)
    for number in range(1, 50):
        new = queue.push(number, "a", 0, 0.0)
        queue.remove(old)
        old = new
    for number in range(3):
        queue.push(number, "b", 0, 0.0)
    assert turns(queue) == "abbb"


def test_leaving_gives_back_ones_own_turn_only():
    """Not that of a task of the same owner that was served meanwhile."""
    queue = line()
    place = queue.push(0, "a", 0, 0.0)
    queue.charge("a", 0)
    queue.remove(place)
    queue.push(1, "a", 0, 0.0)
    queue.push(2, "b", 0, 0.0)
    assert turns(queue) == "ba"


def test_who_inherits_a_turn_does_not_pass_those_who_came_before():
    queue = line(*[("b", 0)] * 3, aging=AGING)
    place = queue.push(3, "a", 0, AGING)
    for _ in range(3):  # of age, so they go before `a` and the virtual time moves on
        queue.pop(AGING)
    queue.push(4, "c", 0, AGING)
    queue.push(5, "a", 0, AGING)
    queue.remove(place)
    assert turns(queue, AGING) == "ca"


@fast
@given(happenings, st.data())
def test_leaving_moves_nobody_back(steps, data):
    queue: FairQueue[int] = FairQueue(AGING)
    now = 0.0
    for number, (seconds, task) in enumerate(steps):
        now += seconds
        if task is not None:
            owner, priority = task
            queue.push(number, owner, priority, now)
        elif len(queue) and number % 2:
            queue.pop(now)
    before = queue.ordered(now)
    if before:
        gone = data.draw(st.sampled_from(before))
        queue.remove(gone)
        after = queue.ordered(now)
        assert all(after.index(place) <= before.index(place) for place in after)


def test_the_oldest_wait_is_that_of_the_first_to_come():
    queue = line()
    assert queue.oldest_wait(50.0) == 0
    queue.push(1, "a", 2, 10.0)
    queue.push(2, "a", 0, 30.0)
    assert queue.oldest_wait(50.0) == 40.0


def test_classes_are_counted_as_asked_for_not_as_aged():
    queue = line(("a", 2), ("b", 2), ("a", 0), aging=AGING)
    queue.ordered(100.0)
    assert queue.waiting_by_class() == {2: 2, 0: 1}


def test_the_oldest_wait_of_each_class_is_of_who_is_not_away():
    queue = FairQueue[int](AGING)
    for number, (priority, at) in enumerate(((1, 10.0), (1, 20.0), (0, 30.0))):
        place = queue.push(number, "a", priority, at)
        if number == 0:
            queue.step_aside(place)
    assert queue.oldest_wait_by_class(50.0) == {1: 30.0, 0: 20.0}


# --- Moving to another class --------------------------------------------------------------------------


def test_who_is_moved_up_passes_its_old_class_and_stands_in_its_new_one_as_it_came():
    queue = line(("a", 2), ("c", 0), ("b", 2), ("d", 0))
    moved = queue.ordered(0.0)[-1]
    assert (moved.owner, queue.move(moved, 0)) == ("b", True)
    assert turns(queue) == "cbda"


def test_who_is_moved_has_its_owners_turns_behind_it():
    queue = line(("a", 2), ("a", 0), ("b", 0), ("a", 0))
    assert queue.move(queue.ordered(0.0)[-1], 0)
    assert [place.payload for place in served(queue)] == [0, 2, 1, 3]


def test_who_is_moved_down_lets_others_pass():
    queue = line(("a", 0), ("b", 0))
    assert queue.move(queue.ordered(0.0)[0], 2)
    assert turns(queue) == "ba"


def test_a_move_keeps_the_time_that_was_waited():
    """So ageing lifts it as if it had come to its new class in the first place."""
    queue: FairQueue[int] = FairQueue(10.0)
    old = queue.push(1, "a", 0, 0.0)
    queue.push(2, "b", 1, 15.0)
    queue.move(old, 2)
    assert queue.oldest_wait(20.0) == 20.0
    assert turns(queue, now=20.0) == "ab", "two classes up"


def test_a_move_costs_no_turn_in_the_old_class():
    queue = line(("a", 1), ("a", 1), ("b", 1))
    queue.move(queue.ordered(0.0)[0], 2)
    assert turns(queue) == "aba"


def test_a_move_within_a_class_is_none():
    queue = line(("a", 1), ("b", 1))
    assert not queue.move(queue.ordered(0.0)[0], 1)
    assert turns(queue) == "ab"


# --- Stepping aside -----------------------------------------------------------------------------------


def test_others_pass_who_is_away_and_who_is_back_stands_where_it_would():
    queue = line(("a", 0), ("b", 0), ("c", 0))
    first = queue.ordered(0.0)[0]
    queue.step_aside(first)
    queue.step_aside(first)
    assert (len(queue), queue.eligible, queue.away) == (3, 2, 1)
    assert queue.pop(0.0).owner == "b"
    queue.come_back(first)
    queue.come_back(first)
    assert (len(queue), queue.eligible, queue.away) == (2, 2, 0)
    assert turns(queue) == "ac"


def test_who_is_away_is_not_served():
    queue = line(("a", 0))
    queue.step_aside(queue.ordered(0.0)[0])
    assert queue.ordered(0.0) == []
    assert queue.oldest_wait(50.0) == 0.0
    assert queue.waiting_by_class() == {0: 1}
    with pytest.raises(IndexError):
        queue.pop(0.0)


def test_who_is_away_can_leave():
    queue = line(("a", 0), ("b", 0))
    gone = queue.ordered(0.0)[0]
    queue.step_aside(gone)
    assert queue.remove(gone)
    assert (len(queue), queue.eligible, queue.away) == (1, 1, 0)


def test_who_was_away_has_aged():
    queue = line(("a", 2), aging=AGING)
    place = queue.ordered(0.0)[0]
    queue.step_aside(place)
    queue.push(1, "b", 0, 3 * AGING)
    queue.come_back(place)
    assert turns(queue, 3 * AGING) == "ab"


# --- The promise --------------------------------------------------------------------------------------

IN_TIME = Promise(longest=20, pace=2)


def test_while_all_can_be_served_in_time_class_decides():
    queue = line(("a", 2), ("b", 0))
    assert queue.pop(16.0, IN_TIME).owner == "b"


def test_who_could_not_be_served_in_time_goes_with_all_before_it_in_order_of_arrival():
    queue = line(("a", 2), ("b", 1), ("c", 2), ("d", 0))
    queue.push(4, "e", 0, 12.0)
    # If one more passes, the last of those who came first gets the fifth permit from now: 4 × 2 s later.
    assert [each.owner for each in queue.ordered(12.0, IN_TIME)] == ["d", "e", "b", "a", "c"]
    assert [each.owner for each in queue.ordered(12.1, IN_TIME)] == ["a", "b", "c", "d", "e"]


def test_who_is_away_is_promised_nothing_and_delays_nobody():
    queue = line(("a", 2), ("b", 2), ("c", 0))
    queue.step_aside(queue.ordered(0.0)[1])
    assert [each.owner for each in queue.ordered(100.0, IN_TIME)] == ["b", "c"]


@fast
@given(
    rest=st.integers(0, 20),
    tasks=st.lists(st.tuples(st.integers(0, 3), owners, classes), min_size=1, max_size=200),
)
def test_nobody_waits_longer_than_promised_while_permits_keep_their_pace(rest, tasks):
    """Whoever comes: as long as the line itself is short enough to be served within the promise."""
    queue: FairQueue[int] = FairQueue(NEVER)
    places = 1 + rest // 3
    promise = Promise(longest=places * IN_TIME.pace + rest, pace=IN_TIME.pace)
    now, due, waits = 0.0, 0.0, []
    for number, (seconds, owner, priority) in enumerate([*tasks, *[(3, "end", 0)] * 2]):
        now += seconds
        while len(queue) and due <= now:
            waits.append(due - queue.pop(due, promise).arrived)
            due += IN_TIME.pace
        if len(queue) < places:
            due = due if len(queue) else now + IN_TIME.pace
            queue.push(number, owner, priority, now)
    assert all(wait <= promise.longest for wait in waits)


# --- Against a model ----------------------------------------------------------------------------------


@dataclass
class Waiting:
    """A task in the model: what was known when it came, nothing derived."""

    place: Place[object]
    owner: str
    priority: int
    arrived: float
    virtual_time: int
    away: bool = False


class FairQueueMachine(RuleBasedStateMachine):
    """`FairQueue` beside a model that keeps arrivals only and works every tag out afresh, each time."""

    @initialize()
    def start(self) -> None:
        self.queue: FairQueue[object] = FairQueue(AGING)
        self.now = 0.0
        self.waiting: list[Waiting] = []
        self.virtual_time: Counter[int] = Counter()
        self.used: dict[tuple[str, int], int] = {}

    def next_tag(self, owner: str, priority: int, virtual_time: int) -> int:
        return max(virtual_time, self.used.get((owner, priority), -1) + 1)

    def in_order(self) -> list[tuple[tuple[int, int, int], Waiting]]:
        last = dict(self.used)
        keyed = []
        for arrival, each in enumerate(self.waiting):
            tag = max(each.virtual_time, last.get((each.owner, each.priority), -1) + 1)
            last[each.owner, each.priority] = tag
            level = each.priority - int((self.now - each.arrived) // AGING)
            if not each.away:
                keyed.append(((level, tag, arrival), each))
        return sorted(keyed, key=lambda pair: pair[0])

    def use(self, owner: str, priority: int, tag: int) -> None:
        self.used[owner, priority] = tag
        self.virtual_time[priority] = max(self.virtual_time[priority], tag)

    @rule(seconds=st.integers(1, 20))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(owner=owners, priority=classes)
    def arrive(self, owner: str, priority: int) -> None:
        place = self.queue.push(object(), owner, priority, self.now)
        self.waiting.append(Waiting(place, owner, priority, self.now, self.virtual_time[priority]))

    @precondition(lambda self: not self.waiting)
    @rule(owner=owners, priority=classes)
    def go_straight_through(self, owner: str, priority: int) -> None:
        self.queue.charge(owner, priority)
        self.use(owner, priority, self.next_tag(owner, priority, self.virtual_time[priority]))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), away=st.booleans())
    def step_aside_or_come_back(self, data: st.DataObject, away: bool) -> None:
        each = data.draw(st.sampled_from(self.waiting))
        (self.queue.step_aside if away else self.queue.come_back)(each.place)
        each.away = away

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), priority=classes)
    def move(self, data: st.DataObject, priority: int) -> None:
        each = data.draw(st.sampled_from(self.waiting))
        assert self.queue.move(each.place, priority) is (each.priority != priority)
        if each.priority != priority:
            later = self.waiting[self.waiting.index(each) + 1 :]
            seen = [w.virtual_time for w in later if (w.owner, w.priority) == (each.owner, priority)]
            each.priority, each.virtual_time = priority, min([self.virtual_time[priority], *seen])

    @precondition(lambda self: any(not each.away for each in self.waiting))
    @rule()
    def serve(self) -> None:
        (_, tag, _), expected = self.in_order()[0]
        assert self.queue.pop(self.now) is expected.place
        self.waiting.remove(expected)
        self.use(expected.owner, expected.priority, tag)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gone = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.queue.remove(gone.place)
        assert not self.queue.remove(gone.place)

    @invariant()
    def same_line(self) -> None:
        assert self.queue.ordered(self.now) == [each.place for _, each in self.in_order()]

    @invariant()
    def same_counts(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert self.queue.away == sum(each.away for each in self.waiting)
        assert self.queue.eligible == len(self.queue) - self.queue.away
        assert self.queue.waiting_by_class() == Counter(each.priority for each in self.waiting)
        first = min((each.arrived for each in self.waiting if not each.away), default=self.now)
        assert self.queue.oldest_wait(self.now) == self.now - first


TestFairQueueAgainstModel = FairQueueMachine.TestCase
TestFairQueueAgainstModel.settings = settings(fast, max_examples=60, stateful_step_count=40)


# --- Memory -------------------------------------------------------------------------------------------

MANY = 5000
BOUND = 1024 + 30
"""What may be remembered: the limit, and a queueful of those who wait."""


def remembered(queue: FairQueue[int]) -> int:
    return len(queue._last_tag)  # no other way to see what is kept


def test_owners_who_were_served_are_forgotten():
    queue = line()
    for number in range(MANY):
        queue.push(number, f"owner {number}", 0, 0.0)
        queue.push(number, "regular", 0, 0.0)
        queue.pop(0.0)
        queue.pop(0.0)
    assert remembered(queue) <= BOUND


def test_owners_who_never_waited_are_forgotten():
    """An open service sees a new owner with each direct task, and no task ever waits."""
    queue = line()
    for number in range(MANY):
        queue.charge(f"owner {number}", 0)
    assert remembered(queue) <= BOUND


def test_owners_who_left_before_their_turn_are_forgotten():
    queue = line()
    for number in range(MANY):
        queue.remove(queue.push(number, f"owner {number}", 0, 0.0))
    assert remembered(queue) <= BOUND


def test_who_waits_is_remembered_however_many_pass():
    queue = line(*[("a", 1)] * 3)
    for number in range(MANY):
        queue.charge(f"owner {number}", 1)
    queue.push(9, "a", 1, 0.0)
    queue.push(9, "b", 1, 0.0)
    assert turns(queue) == "abaaa"


def test_who_was_just_served_is_remembered_when_others_are_forgotten():
    queue = line()
    for number in range(600):
        queue.charge(f"early {number}", 0)
        queue.charge("a", 0)
    for number in range(600):  # on the way there are too many, and the early ones go
        queue.charge(f"late {number}", 0)
    assert remembered(queue) < 1200
    queue.push(1, "a", 0, 0.0)
    queue.push(2, "b", 0, 0.0)
    assert turns(queue) == "ba"
