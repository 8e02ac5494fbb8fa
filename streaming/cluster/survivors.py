"""What survives a process beside the database: events in another store, which may have got further.

All of it is called in threads and may block. Who is asked and cannot tell says that it has nothing: the task
then goes on from what the database has.
"""

from __future__ import annotations

from typing import Final, Protocol


class Survivors(Protocol):
    """A store of events that is written beside the database (see the module). Its methods raise nothing."""

    def fence(self, task_id: str, epoch: int) -> None:
        """From now on refuse whoever writes of the task under an epoch below `epoch`. Called before the task
        is taken, and before `tail`; also where somebody else is faster then."""
        ...

    def tail(self, task_id: str, after_id: int) -> list[bytes]:
        """The frames behind that id, in order."""
        ...

    def ended(self, task_id: str, frame: bytes, event_id: int, epoch: int) -> None:
        """The task's end was written, and committed, in the name of a process that is gone."""
        ...


class _Nothing:
    """Where there is no other store."""

    def fence(self, task_id: str, epoch: int) -> None:
        pass

    def tail(self, task_id: str, after_id: int) -> list[bytes]:
        return []

    def ended(self, task_id: str, frame: bytes, event_id: int, epoch: int) -> None:
        pass


NO_SURVIVORS: Final[Survivors] = _Nothing()
