"""What the tests of the runtime share: a clock that jumps, a recorder and messages that remember, a reader.

Two kinds of tests. Those marked `@virtual_time` run on a loop that never sleeps: when nothing is ready its
clock jumps to the next timer, so ten silent seconds take a millisecond and are exact. They must not use
threads. All others run on the real loop and wait for events.
"""

from __future__ import annotations

import asyncio
import functools
import json
import selectors
import types
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from streaming.core.framing import SSE
from streaming.runtime import attendance, follower, pump, room, supervisor
from streaming.runtime.executor import WorkerPool
from streaming.runtime.follower import Follower, FollowOptions, follow
from streaming.runtime.ledger import PoolLimits
from streaming.runtime.limits import StreamLimits
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import Task, TaskSpec
from streaming.runtime.wheel import FINE, TimerWheel

PATIENCE = 20.0
"""Seconds after which a wait of a test has failed; far above every promise."""


# --- A clock that jumps -------------------------------------------------------------------------------


class _JumpingSelector(selectors.SelectSelector):
    """Instead of sleeping until the next timer, put the loop's clock there."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("every task waits and no timer is set")
        self.loop.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own."""

    def __init__(self) -> None:
        self.now = 1_000.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


@contextmanager
def _clock_of(loop: VirtualLoop) -> Iterator[None]:
    shim = types.SimpleNamespace(monotonic=loop.time, time=lambda: 1_700_000_000 + loop.now)
    with ExitStack() as patched:
        for module in (attendance, follower, pump, room, supervisor):
            patched.enter_context(mock.patch.object(module, "time", shim))
        yield


def run_virtual(main: Callable[[], Awaitable[Any]], seconds: float = 3_000) -> Any:
    """Run `main` on a loop of its own whose clock jumps; at most `seconds` of its time."""

    async def bounded() -> Any:
        async with asyncio.timeout(seconds):
            return await main()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        with _clock_of(loop):
            return runner.run(bounded())


def virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make an async test run by `run_virtual`."""

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        run_virtual(lambda: test(*args, **kwargs))

    return wrapper


def now() -> float:
    """The running loop's time."""
    return asyncio.get_running_loop().time()


# --- The world outside --------------------------------------------------------------------------------


class FakeCommit:
    """Durable after `delay` seconds."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay

    async def wait(self, seconds: float) -> bool:
        if self.delay:
            await asyncio.sleep(min(self.delay, seconds))
        return self.delay <= seconds


class FakeRecorder:
    """Remembers what it was told, in order."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.calls: list[tuple[str, str]] = []

    def accepted(self, task: Task, *, known: bool = False) -> FakeCommit:
        self.calls.append(("accepted", task.id))
        return FakeCommit(self.delay)

    def started(self, task: Task) -> FakeCommit:
        self.calls.append(("started", task.id))
        return FakeCommit(self.delay)

    def given_up(self, task: Task) -> FakeCommit:
        self.calls.append(("given up", task.id))
        return FakeCommit(self.delay)

    def appended(self, task: Task) -> None:
        assert task.journal.last_id > 0

    def ended(self, task: Task) -> FakeCommit:
        assert task.final is not None
        assert not task.journal.closed, "the record comes before the reader"
        self.calls.append(("ended", task.id))
        return FakeCommit(self.delay)

    def refused(self, snapshot: Any, reason: str) -> None:
        self.calls.append(("refused", reason))

    def count(self, what: str) -> int:
        return sum(name == what for name, _ in self.calls)


class FakeMessages:
    """Says what it was asked."""

    def status(self, task: Task, status: str, position: int | None, eta: float | None, language: str) -> str:
        return f"{status} {position}"

    def error(self, code: str, language: str) -> str:
        return f"{code} in {language}"


# --- Limits, specs, a house ---------------------------------------------------------------------------


def pool_limits(**changes: Any) -> PoolLimits:
    """The default settings, but without a limit per owner."""
    limits = PoolLimits(
        name="agent_pool",
        max_workers=5,
        queue_size=30,
        queue_timeout=300.0,
        run_timeout=300.0,
        per_owner=10_000,
        aging_seconds=30.0,
    )
    return replace(limits, **changes)


def stream_limits(**changes: Any) -> StreamLimits:
    """The default settings."""
    limits = StreamLimits(
        heartbeat_interval=30.0,
        connection_timeout=60.0,
        cleanup_interval=30.0,
        status_interval=5.0,
        retry=2.0,
        replay_ttl=600.0,
        max_journal_bytes=8_388_608,
        journal_memory=268_435_456,
        max_followers=1000,
        flush_chars=15,
        flush_interval=0.05,
        buffer_size=20,
        max_flush_interval=0.1,
    )
    return replace(limits, **changes)


def spec(open_source: Callable[[], Any], **changes: Any) -> TaskSpec:
    """A task whose producer is what `open_source` returns; it goes on without readers."""
    basis = TaskSpec(
        kind="test",
        pool="agent_pool",
        priority=0,
        owner=None,
        share_key="somebody",
        end_user="somebody",
        grace=float("inf"),
        language="en",
        open_source=open_source,
    )
    return replace(basis, **changes)


@asynccontextmanager
async def house(
    *,
    pool: PoolLimits | None = None,
    recorder: FakeRecorder | None = None,
    messages: Any = None,
    tidy_thread: Callable[[], None] = lambda: None,
    observers: Any = (),
    **limits: Any,
):
    """A supervisor on the running loop. At the end nothing may have been reported to the loop's handler
    of exceptions, and no task may be left."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    pool = pool if pool is not None else pool_limits()
    supervisor = Supervisor(
        {pool.name: pool},
        stream_limits(**limits),
        recorder if recorder is not None else FakeRecorder(),
        messages if messages is not None else FakeMessages(),
        tidy_thread,
        observers=observers,
    )
    if isinstance(loop, VirtualLoop):
        supervisor.wheel = TimerWheel(loop, loop.time)
        supervisor.flushes = TimerWheel(loop, loop.time, FINE)
        supervisor.pools[pool.name] = WorkerPool(pool, loop.time)
    try:
        yield supervisor
    finally:
        supervisor.close()
        left = asyncio.all_tasks() - before
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        loop.set_exception_handler(None)
    assert not complaints, complaints


# --- A reader -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One block of an event stream. `id` None: ephemeral; `name` "comment" and "retry" for those."""

    name: str
    id: int | None
    data: Any
    at: float


TERMINAL = {"complete", "error", "cancelled"}


def parse(chunk: bytes, at: float = 0.0) -> list[Seen]:
    """The blocks of a chunk, which must be whole ones; not done with the code under test."""
    blocks = chunk.decode().split("\n\n")
    assert blocks.pop() == "", "a chunk ends with a whole event"
    seen = []
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        if "" in fields:
            seen.append(Seen("comment", None, fields[""], at))
        elif "retry" in fields:
            seen.append(Seen("retry", None, int(fields["retry"]), at))
        else:
            data = json.loads(fields["data"])
            assert data["type"] == fields["event"]
            event_id = int(fields["id"]) if "id" in fields else None
            seen.append(Seen(fields["event"], event_id, data, at))
    return seen


def text_of(events: list[Seen], channel: str | None = None) -> str:
    """The concatenated deltas of a channel."""
    return "".join(
        each.data["delta"]
        for each in events
        if each.name == "content" and each.data.get("channel") == channel
    )


def check_stream(events: list[Seen], after: int = 0, *, compacted: bool = False) -> None:
    """What holds for every whole stream: dense ids (rising ones if `compacted`), no empty delta, exactly one
    terminal event, last."""
    durable = [each for each in events if each.id is not None]
    ids = [after, *(each.id or 0 for each in durable)]
    assert ids == sorted(set(ids))
    assert compacted or ids == list(range(after, after + len(ids)))
    assert all(each.data["delta"] for each in durable if each.name == "content")
    assert [each.name in TERMINAL for each in events].count(True) == 1, events
    assert events[-1].name in TERMINAL


def check_replay(events: list[Seen], original: list[Seen], after: int) -> int:
    """Each of the durable `events` stands for all of the `original` ones (ids 1, 2, 3 …) since the one before
    it, the first for those behind the cursor `after`. Returns the last id."""
    original = [each for each in original if each.id is not None]
    for each in events:
        if each.id is None:
            continue
        assert each.id > after
        covered = [seen.data for seen in original[after : each.id]]
        delta = "".join(data.get("delta", "") for data in covered)
        merged = {**covered[-1], "delta": delta} if len(covered) > 1 else covered[-1]
        assert all(data | {"delta": ""} == merged | {"delta": ""} for data in covered)
        assert each.data == merged
        after = each.id
    return after


class Reader:
    """A client that reads one follower in a task of its own."""

    def __init__(self, supervisor: Supervisor, task: Task, framing: Any = SSE, **options: Any) -> None:
        self.follower: Follower = supervisor.follow(task, FollowOptions(framing=framing, **options))
        self.events: list[Seen] = []
        self.chunks: list[bytes] = []
        self._sse = framing is SSE
        self._news = asyncio.Event()
        self.running = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with aclosing(follow(self.follower)) as chunks:
                async for chunk in chunks:
                    self.chunks.append(chunk)
                    if self._sse:
                        self.events += parse(chunk, now())
                    self._news.set()
        finally:
            self._news.set()

    async def until(self, wanted: Callable[[Reader], object]) -> Reader:
        """Wait until `wanted(self)` is true."""
        async with asyncio.timeout(PATIENCE + 1_000):
            while not wanted(self):
                assert not self.running.done(), ("the stream is over", self.events)
                self._news.clear()
                await self._news.wait()
        return self

    async def saw(self, text: str) -> Reader:
        """Wait until the text so far holds `text`."""
        return await self.until(lambda reader: text in text_of(reader.events))

    async def end(self) -> list[Seen]:
        """Read to the end."""
        async with asyncio.timeout(PATIENCE + 2_000):
            await self.running
        return self.events

    async def leave(self) -> None:
        """Go away in the middle."""
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running

    def named(self, name: str) -> list[Seen]:
        return [each for each in self.events if each.name == name]


async def run(supervisor: Supervisor, open_source: Callable[[], Any], **changes: Any) -> list[Seen]:
    """Open a task, read it to its end, check the stream."""
    events = await Reader(supervisor, supervisor.open(spec(open_source, **changes))).end()
    check_stream(events)
    return events


def in_memory(supervisor: Supervisor, task_id: str) -> Task:
    """The task, which is in memory."""
    task = supervisor.tasks.find(task_id)
    assert task is not None, "not in memory"
    return task


async def ended(task: Task) -> None:
    """Wait for the end of a task."""
    async with asyncio.timeout(PATIENCE + 1_000):
        await asyncio.wait([task.ended])


async def eventually(condition: Callable[[], object], what: str = "") -> None:
    """For what no event tells: look every 5 ms, fail after `PATIENCE`."""
    for _ in range(round(PATIENCE / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(what or condition)


def pool_numbers(supervisor: Supervisor) -> dict[str, Any]:
    """The only pool's part of the statistics."""
    pools: Any = supervisor.statistics()["pools"]
    numbers: dict[str, Any]
    (numbers,) = pools.values()
    return numbers


def occupant() -> tuple[Callable[[], Any], asyncio.Event]:
    """A producer that holds its permit until the event is set."""
    gate = asyncio.Event()

    async def source():
        yield "busy"
        await gate.wait()

    return source, gate
