"""What every journal promises.

Append assigns the id: 1, 2, 3 … without holes. Readers come with a cursor (the last id they have) and
get what follows it; a reader whose cursor is older than `first_id - 1` has a gap and can see so. Holes come
from crashes alone: what follows one stands far behind the last event that survived, so that no id ever names
two events. It is either the end: a reader whose cursor is in that hole has read what is lost. Or it is a
`restart`: another process begins the task anew, and what was before is void and gone (see `anew_id`).
Frames are the SSE bytes of the events, encoded once, shared by all readers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from streaming.core.errors import StorageFull
from streaming.core.events import Event

LOST_IDS: Final = 1_000_000
"""How far behind the last event that survived a crash the next one stands: more than a process can have sent
and not stored."""


def lost_ids(attempts: int) -> int:
    """How far behind the last event that survived the next one of a task stands that was begun so many times.

    It grows with each attempt: one of which nothing was stored has used ids, too.
    """
    return LOST_IDS * max(attempts, 1)


class JournalClosed(RuntimeError):
    """A programming error: nothing may follow the terminal event."""


class JournalFull(StorageFull):
    """The event would exceed the task's byte limit; it was not appended."""


class Journal(Protocol):
    """The log of one task. `closed` once the terminal event is in; `limit`: bytes that it may hold."""

    closed: bool
    limit: int

    @property
    def last_id(self) -> int:
        """The newest id, 0 before the first event."""
        ...

    @property
    def first_id(self) -> int:
        """The oldest id that can be read; `last_id + 1` when none can."""
        ...

    @property
    def dense_id(self) -> int:
        """The newest id without a hole before it: `last_id`, except after a crash."""
        ...

    @property
    def restart_id(self) -> int:
        """The id of the newest `restart`, which makes every text before it void; 0 without one."""
        ...

    @property
    def next_id(self) -> int:
        """The id that the next event will have: the one after `last_id`, except after `skip`."""
        ...

    @property
    def anew_id(self) -> int:
        """The id of the `restart` with which a new process began the task anew: nothing of what was before is
        missing. 0 without one."""
        ...

    @property
    def written(self) -> int:
        """Bytes of the frames that were appended in this process, those that it holds no more included."""
        ...

    @property
    def size(self) -> int:
        """Bytes that the journal holds in this process."""
        ...

    def skip(self, ids: int) -> None:
        """Let the next event stand so many ids behind the last one, because a process that is gone may have
        used those between. It must be a `restart` or terminal."""
        ...

    def append(self, event: Event) -> int:
        """Add a durable event and wake the readers; returns its id. A terminal event closes the journal.

        Raises `JournalClosed` after the terminal event, `JournalFull` over the limit (terminal events
        and `truncated` always fit).
        """
        ...

    def append_content(self, delta: str, channel: str | None) -> int:
        """`append(Content(…))` on the fast path."""
        ...

    def read(self, after: int, limit: int) -> list[bytes]:
        """At most `limit` frames whose ids follow `after` directly, or follow the gap."""
        ...

    def trim(self, first_id: int) -> None:
        """Forget every event before `first_id`."""
        ...

    def clear(self) -> None:
        """Forget every event; the next one has the id that it would have had."""
        ...

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Call `wake` after each append; it must be short and must not raise."""
        ...

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        """Undo `subscribe`; unknown callbacks are ignored."""
        ...
