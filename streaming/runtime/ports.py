"""What the runtime asks of the world outside: words for people, and a place for records.

Both are given to the supervisor by the edge (Django's translations and database); tests give fakes.
"""

from __future__ import annotations

from typing import Protocol

from streaming.core.routing import Snapshot

from .task import Task


class Messages(Protocol):
    """Texts for people."""

    def status(self, task: Task, status: str, position: int | None, eta: float | None, language: str) -> str:
        """One line about where the task stands. `eta` in seconds."""
        ...

    def error(self, code: str, language: str) -> str:
        """What went wrong, without internals."""
        ...


class Commit(Protocol):
    """A promise that everything said so far is durable."""

    async def wait(self, seconds: float) -> bool:
        """Whether it came true within `seconds`."""
        ...


class Nowhere:
    """The commit of what is not kept."""

    async def wait(self, seconds: float) -> bool:
        """True: nothing is left to be written."""
        return True


class Recorder(Protocol):
    """Keeps the record of each task, written behind. Calls return at once and never raise."""

    def accepted(self, task: Task, *, known: bool = False) -> Commit:
        """A task was admitted, directly or into the queue. `known`: it is recorded already."""
        ...

    def started(self, task: Task) -> Commit:
        """A waiting task got its permit."""
        ...

    def given_up(self, task: Task) -> Commit:
        """The waiting task belongs to no process from now on; any of them may take it up (again). What it has
        said so far is kept for that one."""
        ...

    def appended(self, task: Task) -> None:
        """The task's journal has new events. Called for each of them."""
        ...

    def ended(self, task: Task) -> Commit:
        """`task.final` is decided, and will be the next event of the journal."""
        ...

    def refused(self, snapshot: Snapshot, reason: str) -> None:
        """A task was not admitted."""
        ...


class Observer(Protocol):
    """Sees what becomes of tasks, for logs and spans. Calls return at once and never raise."""

    def decided(self, task: Task) -> None:
        """A task was admitted for good; its ticket tells why it goes which way."""
        ...

    def began_anew(self, task: Task) -> None:
        """A task that had begun in a process that is gone begins here; `attempts` counts this time, too."""
        ...

    def ended(self, task: Task) -> None:
        """A task that ran here, or was `lost`, has its terminal event."""
        ...
