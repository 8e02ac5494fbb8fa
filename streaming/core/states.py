"""The life of a task as a table.

    queued ──► running ──► complete
      ▲│          │├─────► error
      └┼──────────┘│                  (its process is gone, or goes: it waits for another one)
       ├───────────┼─────► error      (queue time-out, shutdown)
       └───────────┴─────► cancelled

A task that is routed directly is `running` from its first moment. Terminal states have no way out,
which is what makes "exactly one terminal event" checkable.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a task stands; the value is the name on the wire and in the record."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    ERROR = "error"
    CANCELLED = "cancelled"

    terminal: bool
    """Whether nothing can follow."""


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.QUEUED: frozenset({State.RUNNING, State.ERROR, State.CANCELLED}),
    State.RUNNING: frozenset({State.QUEUED, State.COMPLETE, State.ERROR, State.CANCELLED}),
    State.COMPLETE: frozenset(),
    State.ERROR: frozenset(),
    State.CANCELLED: frozenset(),
}


for _state in State:
    _state.terminal = not TRANSITIONS[_state]


class IllegalTransition(RuntimeError):
    """A programming error: the table has no such arrow."""


def advance(current: State, target: State) -> State:
    """`target`, if the table allows the step from `current`; raises `IllegalTransition` otherwise."""
    if target not in TRANSITIONS[current]:
        raise IllegalTransition(f"{current} -> {target}")
    return target
