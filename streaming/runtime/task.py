"""One generation: what it is, where it stands, what it cost."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from streaming.core.distribution import Distribution, microseconds
from streaming.core.errors import GenerationError
from streaming.core.events import Finish, Restart, Terminal, Timing, clean_text
from streaming.core.origin import Origin, TraceParent
from streaming.core.quota import Standing
from streaming.core.states import State, advance

from .journals.base import Journal
from .ledger import Ticket

Source = AsyncIterator[Any] | Iterator[Any]
"""A producer at work. Parts are `str` (text of the main channel), `Content`, `Output`, `Result`,
`Restart`, or `Finish` to say what `complete` shall tell."""


current_task_id: contextvars.ContextVar[str] = contextvars.ContextVar("current_task_id")
"""Of the task that the running producer feeds."""

current_trace: contextvars.ContextVar[TraceParent] = contextvars.ContextVar("current_trace")
"""Of the caller of that task, if it sent one."""


GAPS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between two events of text, as they are counted. Shorter ones than the first are no pause for a
reader, so they need not be looked at one by one."""


class CancelReason(StrEnum):
    """Who ended a task early."""

    CLIENT = "client"
    ADMIN = "admin"
    DISCONNECT = "disconnect"


Outcome = Finish | GenerationError | CancelReason
"""How a task ended: by itself, by a fault, or by somebody's wish."""


class Reader(Protocol):
    """Somebody who follows a task."""

    def update(self, now: float) -> None:
        """The task's state or place may have changed."""
        ...

    def dismiss(self) -> None:
        """Send the reader away, to come back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What is asked for.

    `owner`: key of the authenticated caller, None for an anonymous one. `share_key`: who shares fairly
    and is limited by `per_owner`. `end_user`: on whose behalf. `grace`: seconds that the task outlives
    its last reader; 0 cancels at once, infinity goes on. `arguments`: what a registered producer was
    given (JSON), None for an iterator. `context`: context variables in which the producer runs.
    `fingerprint`: by which the same work is found, empty if it is not shared. `source`: the task that this
    one copies; then it needs no permit. `needs_worker`: whether it takes a permit; without one it starts at
    once, and no limit of the pool counts it. `series`: tasks of one pool with the same value run one at a
    time, in order of arrival. `eager`: text that comes after a pause does not wait for more (`Coalescer`).
    `kept`: whether it is recorded and counted, and can be replayed after its end.
    `origin`: the request that asked for it, None where there was none. `payer`: whose quotas it is charged
    to, empty for nobody's. `uses_kernel`: its time is charged as seconds of a kernel, and its parts are no
    tokens.
    """

    kind: str
    pool: str
    priority: int
    owner: str | None
    share_key: Hashable
    end_user: str
    grace: float
    language: str
    open_source: Callable[[], Source | Awaitable[Source]]
    arguments: dict[str, Any] | None = None
    context: contextvars.Context = field(default_factory=contextvars.Context)
    fingerprint: str = ""
    source: Task | None = None
    needs_worker: bool = True
    series: Hashable | None = None
    eager: bool = False
    kept: bool = True
    origin: Origin | None = None
    payer: str = ""
    uses_kernel: bool = False


@dataclass(slots=True)
class Counts:
    """What a task did so far. `full_flushes`, `widened`: of its coalescer, known when it has ended.
    `slow_readers`: closed because they did not read."""

    parts: int = 0
    chunks: int = 0
    content_length: int = 0
    status_messages: int = 0
    resumes: int = 0
    blocked: float = 0.0
    full_flushes: int = 0
    widened: int = 0
    slow_readers: int = 0


@dataclass(slots=True, eq=False, weakref_slot=True)
class Task:
    """State of one generation. Times ending in `_at` are wall-clock, others monotonic seconds.

    `deadline` is the next moment at which the supervisor must act by itself: queue time-out, run
    time-out, or the end of the patience after a cancel. `final` is the terminal event from the moment it
    is decided, `receipt` the timing of that moment; it is in the journal once `state` is terminal.
    `error_detail`: foreign words about a fault, for its record alone.
    `recorded`: whether the recorder was told of it; before, its admission may be void (a key that another
    call took). `recorded_id`: the last event that the recorder has. `read`: whether it ever had a reader of
    its own.
    `epoch` rises when another process takes the task
    over, `attempts` when one begins to run it.
    `followed_elsewhere_at`: when another process last had a reader, None for not of late.
    `left_at`: when a reader last left here. `pauses`: the longer gaps between events of text (see `GAPS`).
    `lost`: its process is gone, and what it had counted for itself with it. `standings`: how its owner stood
    with the quotas when it was let in here. `route`, `reason`: what the
    router decided, and why.
    """

    id: str
    spec: TaskSpec
    journal: Journal
    ticket: Ticket
    created: float
    created_at: datetime
    ended: asyncio.Future[None]
    state: State = State.QUEUED
    deadline: float = math.inf
    unattended_since: float | None = None
    started: float | None = None
    started_at: datetime | None = None
    first_content: float | None = None
    last_content: float | None = None
    pauses: Distribution | None = None
    finished: float | None = None
    finished_at: datetime | None = None
    counts: Counts = field(default_factory=Counts)
    followers: set[Reader] = field(default_factory=set)
    waiters: int = 0
    ending: Outcome | None = None
    final: Terminal | None = None
    error_detail: str = ""
    receipt: Timing | None = None
    pump: asyncio.Task[None] | None = None
    stuck: bool = False
    recorded: bool = False
    recorded_id: int = 0
    epoch: int = 1
    attempts: int = 0
    followed_elsewhere_at: float | None = None
    left_at: float = 0.0
    read: bool = False
    lost: bool = False
    standings: tuple[Standing, ...] = ()
    route: str = field(init=False)
    reason: str = field(init=False)

    def __post_init__(self) -> None:
        decision = self.ticket.decision
        # Enum's `value` is a property in Python, and this is on the way to the first byte.
        self.route, self.reason = decision.route._value_, decision.reason._value_

    @property
    def attended(self) -> bool:
        """Whether anybody reads or waits."""
        return self.attended_here or self.followed_elsewhere_at is not None

    @property
    def attended_here(self) -> bool:
        """Whether anybody reads or waits in this process."""
        return bool(self.followers) or self.waiters > 0

    @property
    def can_go_on_elsewhere(self) -> bool:
        """Whether another process could do it, and nobody waits here for it: a registered producer, which is
        plain data, and at most readers, who can come back."""
        return self.spec.arguments is not None and not self.waiters

    @property
    def can_begin_anew_elsewhere(self) -> bool:
        """Likewise, although it runs: and it neither copies another task nor has its turn among others."""
        return self.can_go_on_elsewhere and self.spec.source is None and self.spec.series is None

    @property
    def begins_anew(self) -> bool:
        """Whether a process that is gone had begun it, and this one has said nothing of it yet."""
        return self.journal.next_id > self.journal.last_id + 1

    def advance(self, target: State) -> None:
        """Step along the state table."""
        self.state = advance(self.state, target)

    def update_readers(self, now: float) -> None:
        """Tell them that its state or place may have changed."""
        for reader in list(self.followers):
            reader.update(now)

    def send_readers_away(self) -> None:
        """They shall come back, and look for it again."""
        for reader in list(self.followers):
            reader.dismiss()

    def append(self, event: Any) -> None:
        """Journal a durable event that is not text; a `Restart` voids the text so far."""
        if isinstance(event, Restart):
            self.counts.content_length = 0
        self.journal.append(event)

    def append_content(self, text: str, channel: str | None, now: float) -> None:
        """Journal a piece of text and count it; lone surrogates become U+FFFD."""
        if not text.isascii():
            text = clean_text(text)
        self.journal.append_content(text, channel)
        last, self.last_content = self.last_content, now
        if last is None:
            self.first_content = now
        elif now - last > GAPS[0]:
            self._pause(now - last)
        self.counts.chunks += 1
        if channel is None:
            self.counts.content_length += len(text)

    def add_gaps_to(self, gaps: Distribution) -> None:
        """Count the gaps between its events of text there; the bounds are `GAPS`."""
        if self.first_content is None or self.last_content is None:
            return
        short, total = self.counts.chunks - 1, microseconds(self.last_content - self.first_content)
        if self.pauses is not None:
            gaps.add(self.pauses)
            short -= sum(self.pauses.counts)
            total -= self.pauses.total
        gaps.counts[0] += short
        gaps.total += max(total, 0)

    def _pause(self, seconds: float) -> None:
        if self.pauses is None:
            self.pauses = Distribution(GAPS)
        self.pauses.observe(seconds)

    def timing(self, now: float) -> Timing:
        """The receipt, if the task ended now."""
        granted = self.started if self.started is not None else now
        counts = self.counts
        return Timing(
            route=self.route,
            queued_ms=_milliseconds(granted - self.created),
            first_content_ms=None
            if self.first_content is None
            else _milliseconds(self.first_content - self.created),
            total_ms=_milliseconds(now - self.created),
            coalesced_ratio=round(counts.chunks / counts.parts, 4) if counts.parts else None,
            blocked_ms=_milliseconds(counts.blocked),
            status_messages=counts.status_messages,
            resumes=counts.resumes,
        )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
