"""Who is next: priority class, then fair share between owners, then arrival; ageing bounds any wait.

Fair share is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each task gets a start tag
when it arrives, the larger of the queue's virtual time and one more than its owner's last tag. Serving
in order of tags gives owners turns, however many tasks each of them has waiting, and an owner that was
away earns no credit. Ageing lifts a task by one class per `aging_seconds` waited, beyond the highest
class too: so a task that waited long enough passes everything younger, whoever sent it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_PRUNE_ABOVE: Final = 1024
"""Remembered owners above which those that could not matter any more are forgotten."""


@dataclass(slots=True, eq=False)
class Place(Generic[T]):
    """One waiting task. Equality is identity; the payload takes no part in the order."""

    payload: T
    owner: Hashable
    priority: int
    arrived: float
    tag: int
    sequence: int


class FairQueue(Generic[T]):
    """Waiting tasks of one pool in the order in which they will be served.

    Not thread-safe: one thread owns it. `aging_seconds` > 0.
    """

    def __init__(self, aging_seconds: float) -> None:
        if aging_seconds <= 0:
            raise ValueError("aging_seconds must be positive")
        self._aging = aging_seconds
        self._places: list[Place[T]] = []
        self._virtual_time = 0
        self._last_tag: dict[tuple[Hashable, int], int] = {}
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._places)

    def push(self, payload: T, owner: Hashable, priority: int, now: float) -> Place[T]:
        """Let a task wait; `priority` 0 is the highest class. The place is the handle for `remove`."""
        self._sequence += 1
        place = Place(payload, owner, priority, now, self._next_tag(owner, priority), self._sequence)
        self._places.append(place)
        return place

    def charge(self, owner: Hashable, priority: int) -> None:
        """Count a task of `owner` that was served without waiting, so that its share is used."""
        self._serve(self._next_tag(owner, priority))

    def remove(self, place: Place[T]) -> bool:
        """Take a task out of line; False if it is not waiting (any more)."""
        if place not in self._places:
            return False
        self._places.remove(place)
        key = (place.owner, place.priority)
        if self._last_tag.get(key) == place.tag:
            # It never ran, so its owner shall not pay for it.
            self._last_tag[key] = place.tag - 1
        return True

    def pop(self, now: float) -> Place[T]:
        """The next task, out of line. Raises `IndexError` when nobody waits."""
        if not self._places:
            raise IndexError("nobody waits")
        place = min(self._places, key=lambda each: self._key(each, now))
        self._places.remove(place)
        self._serve(place.tag)
        return place

    def ordered(self, now: float) -> list[Place[T]]:
        """All waiting tasks, the next first, as if nobody came any more."""
        return sorted(self._places, key=lambda each: self._key(each, now))

    def oldest_wait(self, now: float) -> float:
        """Seconds that the longest waiting task has waited; 0 when nobody waits."""
        return max((now - place.arrived for place in self._places), default=0.0)

    def waiting_by_class(self) -> dict[int, int]:
        """Number of waiting tasks per priority class as asked for (not aged)."""
        return dict(Counter(place.priority for place in self._places))

    def _key(self, place: Place[T], now: float) -> tuple[int, int, int]:
        lifted = int((now - place.arrived) / self._aging)
        return (place.priority - lifted, place.tag, place.sequence)

    def _next_tag(self, owner: Hashable, priority: int) -> int:
        key = (owner, priority)
        tag = max(self._virtual_time, self._last_tag.get(key, -1) + 1)
        self._last_tag[key] = tag
        return tag

    def _serve(self, tag: int) -> None:
        self._virtual_time = max(self._virtual_time, tag)
        if len(self._last_tag) > _PRUNE_ABOVE:
            # An owner whose next tag would be the virtual time anyway needs no memory.
            self._last_tag = {
                key: last for key, last in self._last_tag.items() if last >= self._virtual_time
            }
