"""Who is next: priority class, then fair share between owners, then arrival; ageing bounds any wait.

Fair share is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each task gets a start tag
when it arrives, the larger of its class's virtual time (the highest tag served) and one more than its
owner's last tag in that class. Serving in order of tags gives owners turns, however many tasks each of
them has waiting, and an owner that was away earns no credit. Ageing lifts a task by one class per
`aging_seconds` waited, beyond the highest class too: so a task that waited long enough passes everything
younger, whoever sent it.

A task may step aside: it keeps its place and its order key, others pass it, and nothing serves it until it
comes back. A task may also be held, until an earlier one of its series is over. *Eligible* are those who
wait, are not away and not held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_PRUNE_ABOVE: Final = 1024
"""Remembered owners at which those that do not wait are forgotten, those that could not matter first."""


@dataclass(slots=True, eq=False)
class Place(Generic[T]):
    """One waiting task. Equality is identity; the payload takes no part in the order."""

    payload: T
    owner: Hashable
    priority: int
    arrived: float
    virtual_time: int
    tag: int
    sequence: int
    away: bool = False
    held: bool = False

    @property
    def eligible(self) -> bool:
        """Whether it can be served."""
        return not self.away and not self.held


@dataclass(frozen=True, slots=True)
class Promise:
    """No wait longer than `longest` seconds while a permit comes back each `pace` seconds.

    Classes and turns count as long as everybody who waits could still be served in time by going in order
    of arrival; those who could not, and whoever came before them, do go in order of arrival.
    """

    longest: float
    pace: float


class FairQueue(Generic[T]):
    """Waiting tasks of one pool in the order in which they will be served.

    Not thread-safe: one thread owns it. `aging_seconds` > 0.
    """

    def __init__(self, aging_seconds: float) -> None:
        if aging_seconds <= 0:
            raise ValueError("aging_seconds must be positive")
        self._aging = aging_seconds
        self._places: list[Place[T]] = []
        self._virtual_time: dict[int, int] = {}
        self._last_tag: dict[tuple[Hashable, int], int] = {}
        self._sequence = 0
        self._away = 0
        self._eligible = 0

    def __len__(self) -> int:
        return len(self._places)

    @property
    def away(self) -> int:
        """Tasks that have stepped aside."""
        return self._away

    @property
    def eligible(self) -> int:
        """Tasks that can be served."""
        return self._eligible

    def push(self, payload: T, owner: Hashable, priority: int, now: float, *, held: bool = False) -> Place[T]:
        """Let a task wait; `priority` 0 is the highest class. The place is the handle for `remove`."""
        self._sequence += 1
        virtual_time = self._virtual_time.get(priority, 0)
        tag = self._next_tag(owner, priority)
        place = Place(payload, owner, priority, now, virtual_time, tag, self._sequence, held=held)
        self._places.append(place)
        self._eligible += not held
        return place

    def charge(self, owner: Hashable, priority: int) -> None:
        """Count a task of `owner` that was served without waiting, so that its share is used."""
        self._serve(priority, self._next_tag(owner, priority))

    def remove(self, place: Place[T]) -> bool:
        """Take a task out of line; False if it is not waiting (any more)."""
        if place not in self._places:
            return False
        self._away -= place.away
        self._eligible -= place.eligible
        self._places.remove(place)
        self._refund(place)
        return True

    def move(self, place: Place[T], priority: int) -> bool:
        """Let a waiting task wait in another class, as if it had asked for that one: before those of its
        owner that came later, and lifted by all the time that it has waited. It earns no credit there, and
        costs nothing in its old one. False if it is of that class."""
        if place.priority == priority:
            return False
        self._refund(place)
        place.priority = priority
        place.virtual_time = self._virtual_time.get(priority, 0)
        self._take_turn(place)
        return True

    def step_aside(self, place: Place[T]) -> None:
        """Let others pass a waiting task until it comes back; its order key stays. Idempotent."""
        if not place.away:
            self._eligible -= place.eligible
            place.away = True
            self._away += 1

    def come_back(self, place: Place[T]) -> None:
        """The task can be served again, where it would stand if it had never been away. Idempotent."""
        if place.away:
            place.away = False
            self._away -= 1
            self._eligible += place.eligible

    def let_go(self, place: Place[T]) -> None:
        """A held task can be served. Idempotent."""
        if place.held:
            place.held = False
            self._eligible += place.eligible

    def pop(self, now: float, promise: Promise | None = None) -> Place[T]:
        """The next eligible task, out of line. Raises `IndexError` when there is none."""
        if not self.eligible:
            raise IndexError("nobody waits")
        if self._overdue(now, promise):
            place = next(self._present())
        else:
            place = min(self._present(), key=lambda each: self._key(each, now))
        self._places.remove(place)
        self._eligible -= 1
        self._serve(place.priority, place.tag)
        return place

    def ordered(self, now: float, promise: Promise | None = None) -> list[Place[T]]:
        """The eligible tasks, the next first, as if nobody came any more."""
        present = self._present()
        first = list(islice(present, self._overdue(now, promise)))
        return first + sorted(present, key=lambda each: self._key(each, now))

    def held(self) -> list[Place[T]]:
        """Those that are held and not away, in order of arrival."""
        return [place for place in self._places if place.held and not place.away]

    def oldest_wait(self, now: float) -> float:
        """Seconds that the longest waiting eligible task has waited; 0 when there is none."""
        return max((now - place.arrived for place in self._present()), default=0.0)

    def oldest_wait_by_class(self, now: float) -> dict[int, float]:
        """`oldest_wait` of each priority class, as asked for, that has an eligible task."""
        oldest: dict[int, float] = {}
        for place in self._present():
            oldest[place.priority] = max(now - place.arrived, oldest.get(place.priority, 0.0))
        return oldest

    def waiting_by_class(self) -> dict[int, int]:
        """Number of waiting tasks, away or not, per priority class as asked for (not aged)."""
        return dict(Counter(place.priority for place in self._places))

    def ahead_of(self, priority: int) -> int:
        """Number of eligible tasks of this class or a higher one, as asked for (not aged)."""
        return sum(place.priority <= priority for place in self._present())

    def _present(self) -> Iterator[Place[T]]:
        """The eligible tasks in order of arrival."""
        return (place for place in self._places if place.eligible)

    def _overdue(self, now: float, promise: Promise | None) -> int:
        """How many, in order of arrival, must be served before all others for the promise to hold."""
        overdue = 0
        if promise is not None:
            for number, place in enumerate(self._present(), 1):
                # When it would be served if one more passed now, and then all before it were served.
                if now - place.arrived + number * promise.pace > promise.longest:
                    overdue = number
        return overdue

    def _key(self, place: Place[T], now: float) -> tuple[int, int, int]:
        lifted = int((now - place.arrived) / self._aging)
        return (place.priority - lifted, place.tag, place.sequence)

    def _next_tag(self, owner: Hashable, priority: int) -> int:
        if len(self._last_tag) >= _PRUNE_ABOVE:
            self._prune()
        key = (owner, priority)
        tag = max(self._virtual_time.get(priority, 0), self._last_tag.get(key, -1) + 1)
        self._last_tag[key] = tag
        return tag

    def _serve(self, priority: int, tag: int) -> None:
        self._virtual_time[priority] = max(self._virtual_time.get(priority, 0), tag)

    def _take_turn(self, place: Place[T]) -> None:
        """A turn among those of its owner and class, in order of arrival: the later ones move back."""
        key = (place.owner, place.priority)
        turns = [each for each in self._places if (each.owner, each.priority) == key]
        if len(turns) == 1:
            place.tag = self._next_tag(*key)
            return
        at = turns.index(place)
        # Who came later has not seen an earlier time; else the turn could not be given back in full.
        place.virtual_time = min(each.virtual_time for each in turns[at:])
        tag = turns[at - 1].tag if at else turns[1].tag - 1
        for each in turns[at:]:
            each.tag = tag = max(each.virtual_time, tag + 1)
        self._last_tag[key] = max(self._last_tag.get(key, tag), tag)

    def _refund(self, gone: Place[T]) -> None:
        """A task that never ran costs its owner nothing: the later ones get tags as if it had not come."""
        key = (gone.owner, gone.priority)
        later = [
            each
            for each in self._places
            if (each.owner, each.priority) == key and each.sequence > gone.sequence
        ]
        was_last = self._last_tag.get(key) == (later[-1].tag if later else gone.tag)
        tag = gone.tag - 1
        for each in later:
            each.tag = tag = max(each.virtual_time, tag + 1)
        if was_last:
            self._last_tag[key] = tag

    def _prune(self) -> None:
        # An owner whose next tag would be the virtual time anyway needs no memory.
        self._last_tag = {
            key: last for key, last in self._last_tag.items() if last >= self._virtual_time.get(key[1], 0)
        }
        if len(self._last_tag) > _PRUNE_ABOVE // 2:
            # Ever new owners, each served once, do not move the virtual time: they get a turn back.
            waiting = {(place.owner, place.priority) for place in self._places}
            self._last_tag = {key: last for key, last in self._last_tag.items() if key in waiting}
