"""One reader of a task: replay after its cursor, then live, with status and signs of life of its own.

A follower holds no queue: what it has not sent yet is in the journal, and of its own messages it keeps
the latest only. So a slow or stopped reader costs a few hundred bytes until it is closed. One that keeps
pace gets the journal's frames as they are, shared with all others; one that is behind gets them compacted.
`left` is called once when it closes; `revoked`: its reader lost the right to read.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from streaming.core.errors import AccessRevoked, StreamError
from streaming.core.events import Error, Event, Gap, Ping, Reconnect, Status
from streaming.core.framing import Framing
from streaming.core.states import State
from streaming.core.throttle import StatusThrottle

from .backlog import Backlogs
from .limits import Counters, StreamLimits
from .measures import Measures
from .task import Task
from .wheel import TimerWheel

logger = logging.getLogger(__name__)

MAX_FRAMES: Final = 64
"""Events joined into one write; who is further behind than that catches up in compacted steps."""

NEVER_READ: Final = 10.0
"""Seconds after which a follower whose response was never sent is let go."""

REVOKED_PATIENCE: Final = 1.0
"""Seconds that a reader who lost the right to read has to take what was written before."""

MAX_BURST: Final = 1_024
"""Events in writes in a row, none of which waited, after which a reader lets others run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowOptions:
    """How a reader wants its events. `after`: the last id it has. `typed_heartbeat`: `ping` events
    instead of comments. `timing`: `sent_at` in every event. `resumed`: it comes back, or joins.
    `language`: of its status messages, empty for the task's own."""

    framing: Framing
    after: int = 0
    typed_heartbeat: bool = False
    timing: bool = False
    resumed: bool = False
    language: str = ""


class FollowerHost(Protocol):
    """What a follower needs of its supervisor."""

    limits: StreamLimits
    counters: Counters
    measures: Measures
    backlogs: Backlogs
    wheel: TimerWheel
    loop: asyncio.AbstractEventLoop

    def place_of(self, task: Task) -> tuple[int | None, float | None]:
        """Position and expected seconds until the permit, None for a task that does not wait."""
        ...

    def status(self, task: Task, name: str, position: int | None, eta: float | None, language: str) -> Status:
        """The status event of this moment."""
        ...

    def failure(self, error: StreamError, language: str) -> Error:
        """The `error` event for what ends a reader and no task."""
        ...

    def timestamp(self) -> str:
        """Now, RFC 3339."""
        ...

    def reader_left(self, follower: Follower) -> None:
        """The follower closed."""
        ...


class Follower:
    """See the module. Made by `Supervisor.follow`; read with `take` and `news`, or by `follow`."""

    __slots__ = (
        "_armed_for",
        "_catching_up",
        "_closed",
        "_created",
        "_cursor",
        "_dismissed",
        "_heartbeat",
        "_held_up",
        "_host",
        "_last_bytes",
        "_news",
        "_notices",
        "_on_slow",
        "_opened",
        "_options",
        "_sending_since",
        "_status",
        "_taken",
        "_throttle",
        "_told_running",
        "_waiter",
        "done",
        "left",
        "passed",
        "revoked",
        "sent_bytes",
        "slow",
        "task",
    )

    def __init__(self, host: FollowerHost, task: Task, options: FollowOptions) -> None:
        limits = host.limits
        now = time.monotonic()
        self.task = task
        self._host = host
        self._options = options
        self._cursor = options.after
        self._throttle = StatusThrottle(limits.status_interval)
        self._created = self._last_bytes = now
        self._sending_since: float | None = None
        self._on_slow: Callable[[], object] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._status: Status | None = None
        self._notices: list[Event] = []
        self._heartbeat = False
        # Whether there is anything to say beside the events of the journal.
        self._news = True
        self._opened = self._taken = self._closed = False
        self._told_running = self._dismissed = self._held_up = False
        self._catching_up = options.resumed or task.state.terminal
        self._armed_for = math.inf
        self.passed = 0
        self.sent_bytes = 0
        self.done = False
        self.slow = False
        self.revoked = False
        self.left: Callable[[], object] | None = None
        task.followers.add(self)
        task.journal.subscribe(self.wake)
        if task.state.terminal:
            self._arm(now)
        else:
            self.update(now)

    @property
    def resumed(self) -> bool:
        """Whether it came to a task that was there already."""
        return self._options.resumed

    def take(self) -> bytes:
        """What can be sent now, possibly nothing. `done` is true once the terminal event is in it; `passed`
        is the number of journalled events that it stands for, and `sent_bytes` counts on."""
        journal, cursor = self.task.journal, self._cursor
        if (
            self._news
            or self._catching_up
            or self._options.timing
            or not journal.restart_id <= cursor < journal.last_id == journal.dense_id <= cursor + MAX_FRAMES
            or journal.first_id > cursor + 1
        ):
            chunk = self._take_everything()
            self.sent_bytes += len(chunk)
            return chunk
        # Some events that follow each other are all there is to send: so it is for nearly every token of a
        # reader that keeps pace.
        frames = journal.read(cursor, MAX_FRAMES)
        self.passed = len(frames)
        self._cursor = journal.last_id
        self.done = journal.closed
        self._last_bytes = now = time.monotonic()
        self._throttle.content_flowed(now)
        chunk = self._options.framing.durable(frames, None)
        self.sent_bytes += len(chunk)
        return chunk

    def _take_everything(self) -> bytes:
        now = time.monotonic()
        sent_at = time.time() if self._options.timing else None
        framing = self._options.framing
        pieces: list[bytes] = []
        if not self._opened:
            self._opened = True
            pieces.append(framing.retry(self._host.limits.retry))
        if self.revoked:
            language = self._options.language or self.task.spec.language
            refusal = self._host.failure(AccessRevoked(self.task.id), language)
            self.passed = 0
            self.done = True
            return b"".join([*pieces, framing.ephemeral(refusal, sent_at)])
        journal = self.task.journal
        if self._dismissed and self._cursor + 1 < journal.first_id:
            # What is missing here is where the reader is sent to.
            self.done = True
            return b"".join(pieces + self._send_away(sent_at))
        if self._cursor + 1 < journal.first_id == journal.anew_id:
            # Whatever this reader had is void, and the `restart` says so; who had nothing need not clear it.
            self._cursor = journal.first_id - 1 if self._cursor else journal.first_id
        elif self._cursor + 1 < journal.first_id:
            self._notices.append(Gap(requested=self._cursor, available_from=journal.first_id))
            self._cursor = journal.first_id - 1
        elif journal.dense_id < self._cursor < journal.last_id or (
            journal.closed and self._cursor > journal.last_id
        ):
            # What this reader saw did not survive a crash; all that is left is the end.
            self._notices.append(Gap(requested=self._cursor, available_from=journal.last_id, lost=True))
            self._cursor = journal.last_id - 1
        if self._status is not None:
            self._notices.append(self._status)
            self._status = None
            self.task.counts.status_messages += 1
            self._host.measures.status_messages += 1
        if self._notices:
            pieces += [framing.ephemeral(event, sent_at) for event in self._notices]
            self._notices.clear()
        if self._heartbeat:
            self._heartbeat = False
            pieces.append(self._sign_of_life(now, sent_at))
        self._news = False
        self.passed, events = self._next_events(sent_at)
        if self.passed:
            self._cursor = self._behind(self.passed)
            self._throttle.content_flowed(now)
        if events:
            pieces.append(events)
        if self._cursor >= journal.last_id:
            self._catching_up = False
        if journal.closed and self._cursor >= journal.last_id:
            self.done = True
        elif self._dismissed:
            pieces += self._send_away(sent_at)
            self.done = True
        if pieces:
            self._last_bytes = now
            if not self._taken:
                # Until now the timer only looked out for a response that is never read.
                self._taken = True
                self._arm(now)
        return b"".join(pieces)

    def news(self) -> asyncio.Future[None] | None:
        """What to await until `take` may have something new; None where it may have now.

        A future and no coroutine: it is made for each event, and for one reader at a time.
        """
        if self._ready():
            return None
        self._waiter = self._host.loop.create_future()
        return self._waiter

    def wake(self) -> None:
        """Something happened: let who awaits `news` go on."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def update(self, now: float) -> None:
        """The task's state or place may have changed: tell the reader if it is worth telling."""
        task = self.task
        if task.state.terminal or self._closed:
            return
        position, eta = self._host.place_of(task) if task.state is State.QUEUED else (None, None)
        if self._throttle.wants(task.state, task.route, position, now):
            language = self._options.language or task.spec.language
            self._status = self._host.status(task, self._status_name(), position, eta, language)
            self._news = True
            self.wake()
        self._arm(now)

    def show_life(self) -> None:
        """Send a heartbeat now, although none is due."""
        self._heartbeat = self._news = True
        self.wake()

    def dismiss(self) -> None:
        """Send the reader away, to come back later and resume: `reconnect`, then the end of the bytes."""
        self._dismissed = self._news = True
        self.wake()

    def revoke(self) -> None:
        """The reader may have no more of it: `error` without an id, then the end of the bytes. One that does
        not even take that is closed a moment later; the task goes on as if its reader had left."""
        if self.revoked or self._closed:
            return
        self.revoked = self._news = True
        self._host.counters.readers_revoked += 1
        self.wake()
        self._host.wheel.at(time.monotonic() + REVOKED_PATIENCE, self._cut)

    def sending(self, on_slow: Callable[[], object]) -> None:
        """A write begins; `on_slow` is called if it blocks longer than the limit."""
        self._sending_since = time.monotonic()
        self._on_slow = on_slow

    def sent(self) -> None:
        """The write is over."""
        if self._sending_since is not None:
            self.task.counts.blocked += time.monotonic() - self._sending_since
            self._sending_since = None
            self._on_slow = None
            if self._held_up:
                self._held_up = False
                self._arm(time.monotonic())

    def close(self) -> None:
        """The reader is gone. Idempotent; the task's grace begins if this was the last one."""
        if self._closed:
            return
        self._closed = True
        self.task.journal.unsubscribe(self.wake)
        self.task.followers.discard(self)
        self._host.reader_left(self)
        left, self.left = self.left, None
        if left is not None:
            left()
        self.wake()

    def close_from_any_thread(self) -> None:
        """`close`, for handlers that end responses in a thread."""
        if self._closed:
            return
        loop = self._host.loop
        try:
            here = asyncio.get_running_loop() is loop
        except RuntimeError:
            here = False
        if here:
            self.close()
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self.close)

    @property
    def closed(self) -> bool:
        """Whether nobody reads here any more."""
        return self._closed

    def _send_away(self, sent_at: float | None) -> list[bytes]:
        retry = self._host.limits.jittered_retry()
        return send_away(self._options.framing, retry, self._cursor, sent_at)

    def _next_events(self, sent_at: float | None) -> tuple[int, bytes]:
        """How many durable events are next, and their bytes, which may be none where all of them are void."""
        journal, framing = self.task.journal, self._options.framing
        if journal.last_id - self._cursor > MAX_FRAMES:
            self._catching_up = True
        if self._catching_up or self._cursor < journal.restart_id:
            return self._host.backlogs.step(self.task.id, journal, self._cursor, framing, sent_at)
        frames = journal.read(self._cursor, MAX_FRAMES)
        return len(frames), framing.durable(frames, sent_at) if frames else b""

    def _behind(self, count: int) -> int:
        """The cursor after `count` more frames, over the hole before the end if there is one."""
        journal = self.task.journal
        cursor = max(self._cursor, journal.first_id - 1) + count
        return cursor if cursor <= journal.dense_id else journal.last_id

    def _ready(self) -> bool:
        journal = self.task.journal
        return self._cursor < journal.last_id or self._news or self.done or self._closed or journal.closed

    def _status_name(self) -> str:
        if self.task.state is State.QUEUED:
            # It may have run before, in a process that is gone.
            self._told_running = False
            return "queued"
        fresh = not self._told_running and self.task.first_content is None
        self._told_running = True
        return "started" if fresh else "processing"

    def _sign_of_life(self, now: float, sent_at: float | None) -> bytes:
        task = self.task
        elapsed = round(now - task.created, 3)
        timestamp = self._host.timestamp()
        if self._options.typed_heartbeat:
            ping = Ping(state=task.state.value, elapsed_seconds=elapsed, timestamp=timestamp)
            return self._options.framing.ephemeral(ping, sent_at)
        return self._options.framing.heartbeat(f"heartbeat {timestamp} {task.state.value} {elapsed}")

    def _arm(self, now: float) -> None:
        due = max(self._next_due(now), now)
        if due < self._armed_for:
            self._armed_for = due
            self._host.wheel.at(due, self._tick)

    def _next_due(self, now: float) -> float:
        limits = self._host.limits
        if self._sending_since is not None:
            # While a write blocks nothing else can be sent.
            return self._sending_since + limits.connection_timeout
        if not self._taken:
            return self._created + NEVER_READ
        due = now + limits.connection_timeout
        if self.task.state.terminal:
            return due
        if limits.heartbeat_interval > 0:
            due = min(due, self._last_bytes + limits.heartbeat_interval)
        if self._throttle.due is not None:
            due = min(due, self._throttle.due)
        return due

    def _tick(self) -> None:
        now = time.monotonic()
        if self._closed or now < self._armed_for:
            return
        self._armed_for = math.inf
        limits = self._host.limits
        if self._sending_since is not None:
            if now - self._sending_since >= limits.connection_timeout:
                self._give_up()
                return
            # The timer waits for this write now; status and heartbeat are due again once it is over.
            self._held_up = True
        elif not self._taken and now - self._created >= NEVER_READ:
            self.close()
            return
        elif not self.task.state.terminal:
            self.update(now)
            if limits.heartbeat_interval > 0 and now - self._last_bytes >= limits.heartbeat_interval:
                self._heartbeat = self._news = True
                self.wake()
        self._arm(now)

    def _give_up(self) -> None:
        self._host.counters.slow_readers_closed += 1
        self.task.counts.slow_readers += 1
        self._end_write()

    def _cut(self) -> None:
        """What was written before the reader lost its right is still on its way."""
        if not self._closed:
            self._end_write()

    def _end_write(self) -> None:
        self.slow = True
        on_slow = self._on_slow
        self.close()
        if on_slow is not None:
            on_slow()


def send_away(framing: Framing, retry: float, after: int, sent_at: float | None = None) -> list[bytes]:
    """The last bytes for a reader who shall come back in `retry` seconds and resume after `after`."""
    event = Reconnect(after=after, retry=round(retry * 1000))
    return [framing.retry(retry), framing.ephemeral(event, sent_at)]


async def follow(follower: Follower) -> AsyncGenerator[bytes, None]:
    """The reader's bytes, for any server: ends after the terminal event, lets go of the follower always.

    A free function rather than a method, so that response and generator do not hold each other. No
    exception leaves it (Daphne would leave the client hanging): a fault of ours ends the bytes, and the
    reader, who saw no terminal event, comes back.
    """
    reader = asyncio.current_task()
    assert reader is not None
    burst = 0
    try:
        while not follower.closed:
            chunk = follower.take()
            if chunk:
                follower.sending(reader.cancel)
                yield chunk
                follower.sent()
            if follower.done:
                return
            burst += follower.passed
            if burst >= MAX_BURST:
                burst = 0
                await asyncio.sleep(0)
            if (news := follower.news()) is not None:
                await news
    except Exception:
        logger.exception("stream %s: the reader's bytes failed", follower.task.id)
    finally:
        follower.close()
