"""Journals through a real Redis: what every store promises to readers, and what this one promises when
writers, readers and Redis itself come and go."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.core import sse
from streaming.core.errors import RedisAway
from streaming.core.events import Event, encode
from streaming.runtime.journals import redis_streams
from streaming.runtime.journals.base import LOST_IDS, Journal
from streaming.runtime.journals.memory import MemoryJournal, MemoryJournals
from streaming.runtime.journals.redis_streams import StreamReader, StreamWriter
from streaming.runtime.redis.connection import SharedRedis
from tests.support.journal_contract import *  # noqa: F403 (tests of every store)
from tests.support.journal_contract import END, INTERRUPTED
from tests.support.redis import RedisServer, find_redis
from tests.support.redis import redis_server as make_redis_server
from tests.support.scale import ALL

T = TypeVar("T")

TASK = "a" * 32
LIFE = 60.0
PATIENCE = 20.0
BROAD = 100_000_000


class Process:
    """What a process has of all this."""

    def __init__(self, url: str, prefix: str, *, timeout: float = 5.0) -> None:
        self.id = secrets.token_hex(4)
        self.redis = SharedRedis(url, prefix=prefix, timeout=timeout)
        self.fenced: list[tuple[str, int]] = []
        self.messages: list[dict[str, Any]] = []
        self.writer = StreamWriter(self.redis, LIFE, lambda *lost: self.fenced.append(lost))
        self.reader = StreamReader(self.redis, self.id, self.messages.append)
        self.reader.start()
        self._journals = MemoryJournals(BROAD)

    def journal(self) -> MemoryJournal:
        """An empty one."""
        return self._journals.create()

    def own(self, task_id: str = TASK, epoch: int = 1) -> MemoryJournal:
        """The journal of a task of this process."""
        journal = self.journal()
        self.writer.mirror(task_id, epoch, journal)
        return journal

    def follow(self, task_id: str = TASK) -> MemoryJournal:
        """The journal of another process's task."""
        journal = self.journal()
        self.reader.watch(task_id, journal)
        return journal

    async def close(self) -> None:
        """End it."""
        await self.writer.close(0)
        await self.reader.close()
        await self.redis.close()


@pytest.fixture
async def make_process(redis_server: RedisServer) -> AsyncIterator[Callable[..., Process]]:
    """Processes that share a Redis: that of all tests, or the one that a test brings."""
    prefix = secrets.token_hex(4)
    made: list[Process] = []

    def make(server: RedisServer = redis_server, **options: Any) -> Process:
        made.append(Process(server.url(0), prefix, **options))
        return made[-1]

    yield make
    for process in made:
        await process.close()


@pytest.fixture(scope="module")
def frail() -> Iterator[RedisServer]:
    """A Redis that tests may stop and fill."""
    if find_redis() is None:
        pytest.skip("no Redis")
    with make_redis_server() as server:
        yield server


async def caught_up(reader: Journal, last_id: int) -> None:
    """Wait until the journal has that event."""
    there = asyncio.Event()

    def look() -> None:
        if reader.last_id >= last_id:
            there.set()

    reader.subscribe(look)
    look()
    async with asyncio.timeout(PATIENCE):
        await there.wait()
    reader.unsubscribe(look)


async def until(check: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not check():  # noqa: ASYNC110 (Redis and other connections move on)
            await asyncio.sleep(0.005)


def fill(journal: MemoryJournal, count: int, text: str = "x") -> None:
    for _ in range(count):
        journal.append_content(text, None)


# --- What every store promises -------------------------------------------------------------------------


class Mirrored:
    """A task's owner, and another process that follows it."""

    live = True

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._closed = False
        self._run(self._begin, url)

    async def _begin(self, url: str) -> None:
        prefix = secrets.token_hex(4)
        self.owner, self.other = Process(url, prefix), Process(url, prefix)
        self.journal = self.owner.own()
        self.copy = self.other.follow()

    def append(self, event: Event) -> int:
        return self._run(self._append, event)

    async def _append(self, event: Event) -> int:
        return self.journal.append(event)

    def settle(self) -> None:
        self._run(self._settle)

    async def _settle(self) -> None:
        assert await self.owner.writer.written(TASK, PATIENCE)
        await caught_up(self.copy, self.journal.last_id)

    def crash(self) -> None:
        """Another process takes it over; the owner goes on for a moment."""
        self._run(self._take_over)

    async def _take_over(self) -> None:
        heir = self.other.journal()
        await self.other.writer.fence(TASK, 2)
        await self.other.reader.open(TASK, heir)
        self.other.reader.close_stream(TASK)
        self.other.reader.watch(TASK, self.copy)
        end_id = heir.last_id + LOST_IDS
        heir.adopt(end_id, [sse.frame(end_id, INTERRUPTED.name, encode(INTERRUPTED))])
        self.other.writer.mirror(TASK, 2, heir)
        assert await self.other.writer.written(TASK, PATIENCE)
        if not self.journal.closed:
            self.journal.append(END)
        await self.owner.writer.written(TASK, PATIENCE)
        await caught_up(self.copy, end_id)

    def reader(self) -> Journal:
        return self.copy

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._run(self._end)
        self._runner.close()

    async def _end(self) -> None:
        await asyncio.gather(self.owner.close(), self.other.close())

    def _run(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        return self._runner.run(function(*arguments))


class Loaded(Mirrored):
    """Read from its beginning, after the end."""

    live = False

    def reader(self) -> Journal:
        return self._run(self._load)

    async def _load(self) -> Journal:
        journal = self.other.journal()
        assert await self.other.reader.open(TASK, journal)
        return journal


@pytest.fixture(params=[Mirrored, Loaded], ids=["followed", "loaded after the end"])
def make_store(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Callable[[], Mirrored]]:
    made: list[Mirrored] = []

    def make() -> Mirrored:
        made.append(request.param(redis_server.url(0)))
        return made[-1]

    yield make
    for store in made:
        store.close()


# --- Any interleaving ----------------------------------------------------------------------------------


class Witness:
    """Sees what a follower would: each id, and gaps, which are told."""

    def __init__(self, journal: MemoryJournal) -> None:
        self.journal = journal
        self.seen: list[int] = []
        self.gaps: set[int] = set()
        journal.subscribe(self._look)

    def _look(self) -> None:
        after = self.seen[-1] if self.seen else 0
        for frame in self.journal.read(after, 1_000_000):
            number = sse.event_id(frame) or 0
            if number != after + 1:
                assert self.journal.first_id > after + 1 or self.journal.dense_id < number
                self.gaps.add(number)
            self.seen.append(number)
            after = number


_PLAIN_STEPS = ["turn", "settle", "lose", "lose the scripts", "hand over", "mirror anew"]

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 40)),
        st.tuples(st.just("trim"), st.integers(0, 5)),
        st.tuples(
            st.sampled_from(["turn", "settle", "lose", "lose the scripts", "hand over", "mirror anew"]),
            st.none(),
        ),
    ),
    max_size=14,
)


@settings(
    max_examples=40 if ALL else 15,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=_STEPS, ending=st.sampled_from(["end", "crash"]))
def test_a_reader_sees_each_event_once_and_in_order_or_is_told_of_a_gap(
    redis_server: RedisServer, steps: list[tuple[str, Any]], ending: str
) -> None:
    asyncio.run(check_interleaving(redis_server, steps, ending))


def copy_of(journal: MemoryJournal, process: Process) -> MemoryJournal:
    """The same in another process, as it would have it from the database."""
    copy = process.journal()
    copy.first_id, copy.last_id, copy.dense_id = journal.first_id, journal.first_id - 1, journal.first_id - 1
    copy.adopt(journal.first_id, journal.read(0, journal.last_id))
    return copy


async def check_interleaving(server: RedisServer, steps: list[tuple[str, Any]], ending: str) -> None:
    prefix = secrets.token_hex(4)
    admin = SharedRedis(server.url(0), prefix=prefix, timeout=5)
    first, second, other = processes = [Process(server.url(0), prefix) for _ in range(3)]
    epoch, journal, owner, idle = 1, first.own(), first, second
    copy = other.follow()
    witness = Witness(copy)
    for what, how in steps:
        match what:
            case "append":
                fill(journal, how, f"epoch {epoch}")
            case "trim":
                journal.trim(journal.last_id - how)
            case "turn":
                await asyncio.sleep(0.002)
            case "settle":
                assert await owner.writer.written(TASK, PATIENCE)
            case "lose":
                await admin.execute("DEL", admin.key("s", TASK), admin.key("e", TASK))
            case "lose the scripts":
                await admin.execute("SCRIPT FLUSH")
            case "mirror anew":
                owner.writer.mirror(TASK, epoch, journal)
            case "hand over":
                # The old one has told all; the new one goes on from a copy; the old one wakes up once more.
                assert await owner.writer.written(TASK, PATIENCE)
                epoch += 1
                late, journal = journal, copy_of(journal, idle)
                owner, idle = idle, owner
                await owner.writer.fence(TASK, epoch)
                owner.writer.mirror(TASK, epoch, journal)
                fill(late, 3, "of a dead one")
    if ending == "end":
        journal.append(END)
    else:
        heir = idle.journal()
        epoch += 1
        await idle.writer.fence(TASK, epoch)
        await idle.reader.open(TASK, heir)
        # As where Redis has lost it: the database knows what was told.
        end_id = max(heir.last_id, copy.last_id) + LOST_IDS
        heir.adopt(end_id, [sse.frame(end_id, INTERRUPTED.name, encode(INTERRUPTED))])
        idle.writer.mirror(TASK, epoch, heir)
        journal, owner = heir, idle
    assert await owner.writer.written(TASK, PATIENCE)
    await caught_up(copy, journal.last_id)
    assert copy.closed
    assert witness.seen == sorted(set(witness.seen))
    assert witness.seen[-1] == journal.last_id
    entries = await admin.execute("XRANGE", admin.key("s", TASK), "-", "+")
    assert [fields[1] for _, fields in entries] == journal.read(0, 1_000_000)
    for process in processes:
        await process.close()
    await admin.close()


# --- Writers -------------------------------------------------------------------------------------------


async def test_an_older_owner_is_refused_and_told(make_process: Callable[..., Process]) -> None:
    old, new, other = make_process(), make_process(), make_process()
    journal, copy = old.own(epoch=3), other.follow()
    fill(journal, 5)
    assert await old.writer.written(TASK, PATIENCE)
    await new.writer.fence(TASK, 4)
    fill(journal, 5)
    assert not await old.writer.written(TASK, PATIENCE)
    assert old.fenced == [(TASK, 3)]
    heir = new.journal()
    assert await new.reader.open(TASK, heir)
    assert heir.last_id == 5, "nothing of it is in the stream"
    new.writer.mirror(TASK, 4, heir)
    heir.append(END)
    await caught_up(copy, 6)
    assert copy.closed
    assert old.writer.statistics()["fenced"] == 1


async def test_what_a_dead_owner_wrote_after_all_goes(make_process: Callable[..., Process]) -> None:
    """Where Redis has lost the fence the two of them may write in turns."""
    old, new, other = make_process(), make_process(), make_process()
    journal = old.own(epoch=1)
    fill(journal, 5, "old")
    assert await old.writer.written(TASK, PATIENCE)
    heir = new.own(epoch=2)
    fill(heir, 3, "new")
    assert await new.writer.written(TASK, PATIENCE)
    copy = other.journal()
    assert await other.reader.open(TASK, copy)
    assert copy.read(0, 99) == heir.read(0, 99)


async def test_events_written_together_share_a_command(make_process: Callable[..., Process]) -> None:
    owner = make_process()
    journals = [owner.own(f"task {number}") for number in range(20)]
    for journal in journals:
        fill(journal, 20)
    for number in range(20):
        assert await owner.writer.written(f"task {number}", PATIENCE)
    statistics = owner.writer.statistics()
    assert (statistics["frames"], statistics["commands"], statistics["rounds"]) == (400, 20, 1)


async def test_a_task_with_much_to_write_lets_the_others_through(
    make_process: Callable[..., Process],
) -> None:
    owner = make_process()
    busy = owner.own("busy")
    fill(busy, 20_000)
    quiet = [owner.own(f"quiet {number}") for number in range(10)]
    for journal in quiet:
        fill(journal, 1)
    ending = asyncio.create_task(owner.writer.written("busy", PATIENCE))
    for number in range(10):
        assert await owner.writer.written(f"quiet {number}", PATIENCE)
    assert not ending.done()
    assert await ending


async def test_a_written_end_is_forgotten(make_process: Callable[..., Process]) -> None:
    owner = make_process()
    journal = owner.own()
    journal.append(END)
    assert await owner.writer.written(TASK, PATIENCE)
    assert owner.writer.statistics()["tasks"] == 0


async def test_what_memory_has_forgotten_goes_from_redis_too(make_process: Callable[..., Process]) -> None:
    owner, other = make_process(), make_process()
    journal = owner.own()
    fill(journal, 50)
    assert await owner.writer.written(TASK, PATIENCE)
    journal.trim(41)
    fill(journal, 1)
    assert await owner.writer.written(TASK, PATIENCE)
    copy = other.journal()
    assert await other.reader.open(TASK, copy)
    assert (copy.first_id, copy.last_id) == (41, 51), "who comes from the beginning sees the gap (P38)"


async def test_keys_do_not_stay(make_process: Callable[..., Process]) -> None:
    owner = make_process()
    fill(owner.own(), 1)
    assert await owner.writer.written(TASK, PATIENCE)
    redis = owner.redis
    assert 0 < await redis.execute("TTL", redis.key("s", TASK)) <= LIFE
    assert LIFE < await redis.execute("TTL", redis.key("e", TASK)) <= LIFE + redis_streams.FENCE_LIFE


# --- Readers -------------------------------------------------------------------------------------------


async def test_a_stream_that_is_followed_later_ends_the_read_that_is_under_way(
    make_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_streams, "BLOCK", 10 * PATIENCE)
    owner, other = make_process(), make_process()
    fill(owner.own("first"), 1)
    await caught_up(other.follow("first"), 1)
    for number in range(5):
        name = f"later {number}"
        journal, copy = owner.own(name), other.follow(name)
        fill(journal, 1)
        await caught_up(copy, 1)


async def test_a_thousand_streams_are_one_connection(make_process: Callable[..., Process]) -> None:
    owner, other = make_process(), make_process()
    names = [f"task {number}" for number in range(1000)]
    copies = [other.follow(name) for name in names]
    journals = [owner.own(name) for name in names]
    fill(journals[0], 5000)
    for journal in journals:
        fill(journal, 2)
    for copy in copies:
        await caught_up(copy, 2)
    await caught_up(copies[0], 5002)
    assert await connections(owner.redis) <= 2 * (4 + 1)
    for name, copy in zip(names, copies, strict=True):
        other.reader.close_stream(name)
        assert copy.read(0, 1)
    assert other.reader.statistics()["streams"] == 0


async def connections(redis: SharedRedis) -> int:
    """Of all that have this prefix."""
    listed: str = (await redis.execute("CLIENT LIST")).decode()
    return listed.count(f" name={redis.prefix} ")


async def test_a_stream_that_is_not_there_is_not_opened(make_process: Callable[..., Process]) -> None:
    owner, other = make_process(), make_process()
    journal = other.journal()
    assert not await other.reader.open(TASK, journal)
    other.reader.watch(TASK, journal)
    fill(owner.own(), 1)
    await caught_up(journal, 1)


async def test_a_long_stream_is_loaded_whole(make_process: Callable[..., Process]) -> None:
    owner, other = make_process(), make_process()
    journal = owner.own()
    fill(journal, 1700)
    assert await owner.writer.written(TASK, PATIENCE)
    copy = other.journal()
    assert await other.reader.open(TASK, copy)
    assert copy.read(0, 9999) == journal.read(0, 9999)
    fill(journal, 1)
    await caught_up(copy, 1701)


async def test_entries_that_are_not_ours_are_left_out(make_process: Callable[..., Process]) -> None:
    owner, other = make_process(), make_process()
    journal, copy = owner.own(), other.follow()
    fill(journal, 2)
    await caught_up(copy, 2)
    redis = owner.redis
    stream, inbox = redis.key("s", TASK), redis.key("in", other.id)
    await redis.execute("XADD", stream, "2-7", "f", "?")
    await redis.execute("XADD", stream, "2-8", "other", "?")
    await redis.execute("XADD", inbox, "*", "m", "not JSON")
    await redis.execute("XADD", inbox, "*", "m", "[1]")
    await redis.execute("XADD", inbox, "*", "m", "[" * 100_000)
    await redis.execute("XADD", inbox, "*", "other", "?")
    await owner.reader.post(other.id, {"good": 1})
    fill(journal, 1)
    await caught_up(copy, 3)
    assert copy.read(0, 9) == journal.read(0, 9)
    await until(lambda: other.messages == [{"good": 1}])
    assert other.reader.statistics()["poison"] == 6


async def test_a_key_that_is_no_stream_stops_nobody_else(make_process: Callable[..., Process]) -> None:
    owner, other = make_process(), make_process()
    await owner.redis.execute("SET", owner.redis.key("s", "wrong"), "?")
    other.follow("wrong")
    fill(owner.own("wrong"), 1)
    copy = other.follow("right")
    fill(owner.own("right"), 1)
    await caught_up(copy, 1)


async def test_messages_reach_one_process_or_all(make_process: Callable[..., Process]) -> None:
    one, two, three = make_process(), make_process(), make_process()
    await until(lambda: all(each.reader.statistics()["ready"] for each in (one, two, three)))
    await one.reader.post(two.id, {"cancel": TASK})
    await one.reader.post("*", {"to": "all"})
    await until(lambda: len(two.messages) == 2)
    await until(lambda: one.messages == three.messages == [{"to": "all"}])
    assert two.messages == [{"cancel": TASK}, {"to": "all"}]
    late = make_process()
    await one.reader.post(late.id, {"for": "the late one"})
    await until(lambda: late.messages == [{"for": "the late one"}])


async def test_a_reader_that_fails_at_a_message_goes_on(make_process: Callable[..., Process]) -> None:
    owner, other = make_process(), make_process()
    other.reader._on_message = lambda message: message["missing"]
    copy = other.follow()
    await owner.reader.post(other.id, {})
    fill(owner.own(), 1)
    await caught_up(copy, 1)


# --- Redis comes and goes ------------------------------------------------------------------------------


async def test_after_a_crash_everything_is_there_again(
    make_process: Callable[..., Process], frail: RedisServer
) -> None:
    owner, other = make_process(frail, timeout=1.0), make_process(frail, timeout=1.0)
    journal, copy = owner.own(), other.follow()
    silent, silent_copy = owner.own("silent"), other.follow("silent")
    fill(journal, 700)
    fill(silent, 3)
    await caught_up(copy, 700)
    await caught_up(silent_copy, 3)
    frail.kill()
    fill(journal, 800)
    await until(lambda: owner.redis.away and other.redis.away)
    assert not await owner.writer.written(TASK, PATIENCE), "who asks need not wait"
    with pytest.raises(RedisAway):
        await other.reader.open(TASK, other.journal())
    frail.start()
    fill(journal, 1)
    await caught_up(copy, 1501)
    assert copy.read(0, 9999) == journal.read(0, 9999)
    assert await owner.writer.written(TASK, PATIENCE)
    assert await owner.writer.written("silent", PATIENCE)
    late = other.journal()
    assert await other.reader.open("silent", late), "also where nothing new came"
    assert late.last_id == 3
    assert owner.writer.statistics()["resent"] >= 700
    journal.append(END)
    await caught_up(copy, 1502)


async def test_frozen_for_a_while(make_process: Callable[..., Process], frail: RedisServer) -> None:
    owner, other = make_process(frail, timeout=0.3), make_process(frail, timeout=0.3)
    journal, copy = owner.own(), other.follow()
    fill(journal, 10)
    await caught_up(copy, 10)
    frail.freeze()
    try:
        fill(journal, 10)
        await until(lambda: owner.redis.away)
        assert owner.writer.statistics()["late"] > 0
    finally:
        frail.thaw()
    fill(journal, 10)
    await caught_up(copy, 30)
    assert copy.read(0, 99) == journal.read(0, 99)


async def test_full_and_emptied(make_process: Callable[..., Process], frail: RedisServer) -> None:
    owner, other = make_process(frail), make_process(frail)
    journal, copy = owner.own(), other.follow()
    fill(journal, 3)
    await caught_up(copy, 3)
    with frail.client() as admin:
        admin.config_set("maxmemory", 1)
        fill(journal, 50, "y" * 1000)
        await until(lambda: owner.writer.statistics()["refused"] > 0)
        assert not owner.redis.away
        assert copy.last_id == 3
        admin.config_set("maxmemory", 0)
    await caught_up(copy, 53)
    assert copy.read(0, 99) == journal.read(0, 99)
