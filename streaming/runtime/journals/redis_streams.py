"""Journals on their way between processes: a Redis Stream per task, written by the task's own process behind
its journal in memory, read by the others into journals in memory of theirs.

Entries have the ids of the events (`<n>-0`) and one field, `f`, the frame as it is in memory. What a process
writes is fenced by the epoch of the task's row: once a newer owner has written, an older one writes nothing.

Redis may be slow, gone, or have forgotten everything: writers send again what their memory still has, and
readers go on from the last event that they have. What is lost for good is a gap that readers are told of.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from redis.exceptions import RedisError, ResponseError

from streaming.core import sse
from streaming.core.errors import RedisAway, RedisFull
from streaming.runtime.redis.connection import Argument, Command, Script, SharedRedis

from .base import Journal
from .memory import MemoryJournal, MemoryJournals

logger = logging.getLogger(__name__)

APPEND: Final = Script.beside(__file__, "append.lua")
POST: Final = Script.beside(__file__, "post.lua")

ROUND_FRAMES: Final = 500
ROUND_BYTES: Final = 1_000_000
"""What one round of writing sends at most, of all tasks; a single frame may be larger."""

ROUND_TASKS: Final = 200
"""Of so many tasks at most, so that one round stays far below the time that Redis has for an answer."""

LEAST_SHARE: Final = 8
"""Frames of one task that a round takes where many tasks have some: fewer would cost more than they carry."""

PAUSE: Final = 0.5
"""Seconds before the next try when Redis could not do it, unless it says before that it is back."""

FENCE_LIFE: Final = 3_600
"""Seconds that a fence outlives its stream: a writer that was frozen for less writes nothing."""

CHUNK: Final = 500
"""Entries read at once where a stream is read from its beginning."""

BLOCK: Final = 2.0
"""Seconds that a blocking read waits at most: so long a Redis that has frozen may go unnoticed."""

READ_FRAMES: Final = 2_000
LEAST_READ: Final = 8
"""Entries that one read takes, about, of all streams together, and of each stream at least."""

READ_SHARE: Final = 20e-6
LONGEST_PAUSE: Final = 0.05
SHORTEST_PAUSE: Final = 0.001
"""Seconds per followed stream between two reads, at most and at least (less is none): each read names all of
the streams, and what comes meanwhile comes with the next one."""

AT_ONCE: Final = 100
"""Streams whose news are taken in in one step of the loop."""

INBOX_LENGTH: Final = 1_000
INBOX_LIFE: Final = 60
"""Messages that an inbox holds, about, and seconds that it stays after the last one."""

EVERYBODY: Final = "*"

_FRAME: Final = re.compile(rb"id: ([0-9]+)\nevent: [A-Za-z0-9._:-]{1,64}\ndata: [^\r\n]*\n\n")

_WRITTEN, _HOLE, _FENCED, _RAISED = 1, 0, -1, 2


class _Mirror:
    """A task whose journal is written to Redis. `after`: the last id that the stream has; `anew`: whether
    what it has is not the journal's, and goes."""

    __slots__ = ("after", "anew", "epoch", "journal", "task_id", "waiting", "wake")

    def __init__(self, task_id: str, epoch: int, journal: Journal) -> None:
        self.task_id = task_id
        self.epoch = epoch
        self.journal = journal
        self.after = 0
        self.anew = False
        self.waiting: list[tuple[int, asyncio.Future[bool]]] = []
        self.wake: Callable[[], None]

    def frames(self, count: int, size: int) -> tuple[int, list[bytes]]:
        """The next frames that belong together, and the id of the first: so many, of so many bytes together,
        but one at least where there is one."""
        journal = self.journal
        frames = journal.read(self.after, count)
        if not frames:
            return self.after + 1, frames
        first = sse.event_id(frames[0])
        assert first is not None
        if first <= journal.dense_id:
            # The end behind the hole of a crash comes by itself.
            del frames[journal.dense_id + 1 - first :]
        for number, frame in enumerate(frames):
            size -= len(frame)
            if size < 0 and number:
                del frames[number:]
                break
        return first, frames

    def has(self, last_id: int, frame: bytes | None) -> bool:
        """Whether a stream that ends so is the beginning of this journal, as far as memory can tell."""
        journal = self.journal
        if last_id < journal.first_id - 1:
            return True
        if frame is None:
            return last_id <= journal.dense_id
        return journal.read(last_id - 1, 1) == [frame]

    def settle(self) -> None:
        """Tell those who wait for what is written now."""
        for target, waiter in self.waiting:
            if target <= self.after and not waiter.done():
                waiter.set_result(True)

    def give_up(self) -> None:
        """Tell those who wait that nothing more will be written."""
        for _, waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(False)


class _Write:
    """What a round sends of a task. `until`: the journal's last id by then."""

    __slots__ = ("first", "frames", "mirror", "until")

    def __init__(self, mirror: _Mirror, count: int, size: int) -> None:
        self.mirror = mirror
        self.first, self.frames = mirror.frames(count, size)
        self.until = mirror.journal.last_id

    @property
    def size(self) -> int:
        """Bytes of the frames."""
        return sum(map(len, self.frames))


class StreamWriter:
    """Writes the journals of this process's tasks to Redis, behind.

    One write is under way at a time; it takes what all tasks have by then, and what comes meanwhile goes with
    the next. Who is alone waits for nothing. Only cursors are kept here. `lifetime`: seconds that a stream
    stays after the last write. `on_fenced`: called on the loop with the id of a task that another process
    has written of since, and its last epoch here; nothing more is written of it.
    """

    def __init__(self, redis: SharedRedis, lifetime: float, on_fenced: Callable[[str, int], object]) -> None:
        self._redis = redis
        self._lifetime = max(1, round(lifetime))
        self._on_fenced = on_fenced
        self._mirrors: dict[str, _Mirror] = {}
        # Those with something to write, and since when; in the order in which their turn comes.
        self._dirty: dict[_Mirror, float] = {}
        self._asleep: asyncio.Future[None] | None = None
        self._returned = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._frames = self._bytes = self._calls = self._rounds = 0
        self._resent = self._refused = self._fenced = 0
        redis.subscribe_to_return(self._look_again)

    def mirror(self, task_id: str, epoch: int, journal: Journal) -> None:
        """Write what `journal` has and will have, until its end. A task has one journal at a time."""
        self.forget(task_id)
        mirror = self._mirrors[task_id] = _Mirror(task_id, epoch, journal)
        mirror.wake = self._waker(mirror)
        journal.subscribe(mirror.wake)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_for_ever(), name="redis streams: writer")
        if journal.last_id:
            self._note(mirror)

    async def fence(self, task_id: str, epoch: int) -> None:
        """From now on nobody of an older epoch writes of the task. Whoever takes one over does this first:
        what Redis has of it then is all that its readers can have. Raises `RedisAway`."""
        nothing = _Write(_Mirror(task_id, epoch, MemoryJournals(0).create()), 0, 0)
        await self._redis.call(APPEND, *self._call(nothing))

    def forget(self, task_id: str) -> None:
        """Write no more of a task. (One whose end is written is forgotten by itself.)"""
        mirror = self._mirrors.pop(task_id, None)
        if mirror is not None:
            mirror.journal.unsubscribe(mirror.wake)
            self._dirty.pop(mirror, None)
            mirror.give_up()

    async def written(self, task_id: str, seconds: float) -> bool:
        """Wait, for so long at most, until Redis has what the journal has now; whether it has. False at once
        while Redis is away; true of a task of which nothing is left to be written."""
        mirror = self._mirrors.get(task_id)
        if mirror is None:
            return True
        target = mirror.journal.last_id
        if mirror.after >= target and mirror not in self._dirty:
            return True
        if self._redis.away:
            return False
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiting = target, waiter
        mirror.waiting.append(waiting)
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except TimeoutError:
            return False
        finally:
            mirror.waiting.remove(waiting)

    async def close(self, seconds: float) -> None:
        """Write what is left, for so long at most, and stop."""
        await asyncio.gather(*(self.written(mirror.task_id, seconds) for mirror in tuple(self._dirty)))
        if self._writing is not None:
            self._writing.cancel()
            with suppress(asyncio.CancelledError):
                await self._writing
            self._asleep = None
        for task_id in tuple(self._mirrors):
            self.forget(task_id)

    def statistics(self) -> dict[str, float]:
        """`tasks` mirrored and `late` (seconds that the oldest event has waited) now; so far: `frames`,
        `bytes`, `commands`, `rounds`, frames sent again (`resent`), writes `refused` for want of memory,
        tasks lost to a newer owner (`fenced`)."""
        oldest = min(self._dirty.values(), default=None)
        return {
            "tasks": len(self._mirrors),
            "late": 0.0 if oldest is None else asyncio.get_running_loop().time() - oldest,
            "frames": self._frames,
            "bytes": self._bytes,
            "commands": self._calls,
            "rounds": self._rounds,
            "resent": self._resent,
            "refused": self._refused,
            "fenced": self._fenced,
        }

    def _waker(self, mirror: _Mirror) -> Callable[[], None]:
        """What the journal calls for each event."""
        dirty, note = self._dirty, self._note

        def wake() -> None:
            if mirror not in dirty:
                note(mirror)

        return wake

    def _note(self, mirror: _Mirror) -> None:
        """There is something to write."""
        self._dirty.setdefault(mirror, asyncio.get_running_loop().time())
        if self._asleep is not None:
            self._asleep.set_result(None)
            self._asleep = None

    def _look_again(self) -> None:
        """Redis is back, and may have forgotten what was written."""
        for mirror in self._mirrors.values():
            self._note(mirror)
        self._returned.set()

    async def _write_for_ever(self) -> None:
        while True:
            if not self._dirty:
                self._asleep = asyncio.get_running_loop().create_future()
                await self._asleep
            self._returned.clear()
            try:
                able = await self._write_round()
            except RedisAway:
                able = False
            except Exception:
                logger.exception("could not write streams")
                able = False
            if not able:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE):
                        await self._returned.wait()

    async def _write_round(self) -> bool:
        """Write some of what there is; whether Redis took it."""
        began = asyncio.get_running_loop().time()
        writes = self._take()
        answers = await self._redis.calls(APPEND, [self._call(write) for write in writes])
        self._rounds += 1
        self._calls += len(writes)
        able = True
        for write, answer in zip(writes, answers, strict=True):
            task_id = write.mirror.task_id
            if self._mirrors.get(task_id) is not write.mirror:
                continue
            try:
                what, last_id, *frame = self._redis.understood(answer)
            except RedisFull:
                self._refused += 1
                able = False
            except RedisAway:
                if self._redis.away:
                    raise
                # Of this task only: its key is none of ours. It is still in the database.
                self.forget(task_id)
            else:
                self._settle(write, began, what, last_id, frame[0] if frame else None)
        return able

    def _take(self) -> list[_Write]:
        count, size = ROUND_FRAMES, ROUND_BYTES
        share = max(ROUND_FRAMES // len(self._dirty), LEAST_SHARE)
        writes: list[_Write] = []
        for mirror in self._dirty:
            if count <= 0 or size <= 0 or len(writes) >= ROUND_TASKS:
                break
            write = _Write(mirror, min(share, count), size)
            count -= len(write.frames)
            size -= write.size
            writes.append(write)
        return writes

    def _call(self, write: _Write) -> tuple[Sequence[str], Iterable[Argument]]:
        mirror = write.mirror
        keys = self._redis.key("s", mirror.task_id), self._redis.key("e", mirror.task_id)
        return keys, (
            mirror.epoch,
            mirror.after,
            write.first,
            mirror.journal.first_id,
            self._lifetime,
            self._lifetime + FENCE_LIFE,
            "new" if mirror.anew else "",
            *write.frames,
        )

    def _settle(self, write: _Write, began: float, what: int, last_id: int, frame: bytes | None) -> None:
        """Take in what Redis says to a write that began then."""
        mirror, journal = write.mirror, write.mirror.journal
        if what == _FENCED:
            self._lose(mirror)
            return
        since = self._dirty.pop(mirror)
        mirror.anew = False
        if what == _WRITTEN:
            self._frames += len(write.frames)
            self._bytes += write.size
            # Else somebody has written there who is none of us.
            ours = last_id <= journal.last_id
        else:
            self._resent += max(mirror.after - last_id, 0)
            ours = what == _HOLE or mirror.has(last_id, frame)
        mirror.after, mirror.anew = (last_id, False) if ours else (0, True)
        mirror.settle()
        if what == _WRITTEN and not write.frames and mirror.after < journal.last_id:
            # Memory has dropped what was still to be written; the database has it.
            if journal.closed:
                self.forget(mirror.task_id)
        elif mirror.after < journal.last_id or what != _WRITTEN:
            # After the others.
            self._dirty[mirror] = since if mirror.after < write.until else began
        elif journal.closed:
            self.forget(mirror.task_id)

    def _lose(self, mirror: _Mirror) -> None:
        logger.warning("task %s: another process has written its stream", mirror.task_id)
        self._fenced += 1
        self.forget(mirror.task_id)
        try:
            self._on_fenced(mirror.task_id, mirror.epoch)
        except Exception:
            logger.exception("task %s: could not tell that it is lost", mirror.task_id)


class _Followed:
    """A stream that is read. `cursor`: the id of the last entry that was looked at."""

    __slots__ = ("cursor", "journal", "task_id")

    def __init__(self, task_id: str, journal: MemoryJournal) -> None:
        self.task_id = task_id
        self.journal = journal
        self.rewind()

    def rewind(self) -> None:
        """Go on from the last event that the journal has."""
        self.cursor = b"%d-0" % self.journal.last_id


class StreamReader:
    """Feeds journals of this process with what others write, and takes their messages, over one connection
    however many streams are followed: one blocking read names all of them, and this process's inbox.

    A read that is under way does not know of streams that are followed since: a message into the own inbox
    ends it at once. (CLIENT UNBLOCK would miss a read that Redis has not begun yet, and is forbidden to the
    users of many a hosted Redis.) `on_message`: called on the loop with each message.
    """

    def __init__(self, redis: SharedRedis, process_id: str, on_message: Callable[[dict[str, Any]], object]):
        self._redis = redis
        self._on_message = on_message
        self._inboxes = {
            redis.key("in", process_id).encode(): b"0-0",
            redis.key("in", EVERYBODY).encode(): b"",
        }
        self._process_id = process_id
        self._followed: dict[bytes, _Followed] = {}
        self._blocked = False
        self._waking: asyncio.Task[None] | None = None
        self._outdated = False
        self._returned = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._reads = self._frames = self._bytes = self._poison = 0
        redis.subscribe_to_return(self._returned.set)

    def start(self) -> None:
        """Read from now on."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_for_ever(), name="redis streams: reader")

    async def open(self, task_id: str, journal: MemoryJournal) -> bool:
        """Load what is there behind the journal's last event, and feed the journal from then on until its
        end; false if Redis has no such stream. Raises `RedisAway`."""
        key = self._key(task_id)
        known, entries = await self._load(("EXISTS", key), _range(key, journal.last_id))
        if not known:
            return False
        while True:
            before = journal.last_id
            self._take_in(journal, entries)
            if len(entries) < CHUNK or journal.last_id == before:
                break
            (entries,) = await self._load(_range(key, journal.last_id))
        if not journal.closed:
            self.watch(task_id, journal)
        return True

    def watch(self, task_id: str, journal: MemoryJournal) -> None:
        """Feed the journal until its end, be there a stream yet or not."""
        self._followed[self._key(task_id)] = _Followed(task_id, journal)
        if self._blocked:
            self._outdated = True
            if self._waking is None:
                self._waking = asyncio.create_task(self._wake(), name="redis streams: wake the reader")

    def close_stream(self, task_id: str) -> None:
        """Feed it no more."""
        self._followed.pop(self._key(task_id), None)

    async def post(self, process_id: str, message: Mapping[str, Any]) -> None:
        """Put a message into the inbox of a process; `"*"`: to all that read now. Raises `RedisAway`."""
        await self._post(process_id, "m", msgspec.json.encode(message))

    async def close(self) -> None:
        """Read no more."""
        for task in (self._reading, self._waking):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def statistics(self) -> dict[str, int]:
        """Whether it hears messages to everybody (`ready`), and `streams` followed now; so far: `reads`,
        `frames`, `bytes`, entries that were not ours (`poison`)."""
        return {
            "ready": int(all(self._inboxes.values())),
            "streams": len(self._followed),
            "reads": self._reads,
            "frames": self._frames,
            "bytes": self._bytes,
            "poison": self._poison,
        }

    def _key(self, task_id: str) -> bytes:
        return self._redis.key("s", task_id).encode()

    async def _load(self, *commands: Command) -> list[Any]:
        return [self._redis.understood(answer) for answer in await self._redis.ask(commands)]

    async def _post(self, process_id: str, field: str, value: bytes) -> None:
        await self._redis.call(
            POST, [self._redis.key("in", process_id)], (field, value, INBOX_LENGTH, INBOX_LIFE)
        )

    async def _wake(self) -> None:
        # What is followed while a message is on its way needs another.
        while self._outdated:
            self._outdated = False
            with suppress(RedisAway):
                # Where it cannot be woken the read ends soon by itself.
                await self._post(self._process_id, "w", b"")
        self._waking = None

    async def _read_for_ever(self) -> None:
        while True:
            self._returned.clear()
            try:
                await self._find_inboxes()
                for followed in self._followed.values():
                    followed.rewind()
                while True:
                    await self._read()
            except RedisAway:
                pass
            except Exception:
                # Readers of other streams shall not wait for ever.
                logger.exception("could not read streams")
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self._returned.wait()

    async def _find_inboxes(self) -> None:
        """Messages to everybody count from now on. Where Redis has begun anew its ids may have, too."""
        newest = await self._load(*(("XREVRANGE", key, "+", "-", "COUNT", 1) for key in self._inboxes))
        for (key, cursor), entries in zip(tuple(self._inboxes.items()), newest, strict=True):
            last = entries[0][0] if entries else b"0-0"
            if not cursor:
                self._inboxes[key] = last
            elif _order(last) < _order(cursor):
                self._inboxes[key] = b"0-0"

    async def _read(self) -> None:
        """Wait for news of all streams; of those that have more, some more at once, so that neither they nor
        the others wait for each other."""
        count = max(READ_FRAMES // (len(self._followed) + 1), LEAST_READ)
        self._blocked = True
        try:
            found = await self._ask(self._followed, count, ("BLOCK", round(BLOCK * 1000)), BLOCK)
        finally:
            self._blocked = False
        await self._take(found)
        full = {
            key: self._followed[key]
            for key, entries in found
            if len(entries) == count and key in self._followed
        }
        if full:
            await self._take(await self._ask(full, max(READ_FRAMES // len(full), LEAST_READ)))
        pause = min(len(self._followed) * READ_SHARE, LONGEST_PAUSE)
        if found and pause >= SHORTEST_PAUSE:
            await asyncio.sleep(pause)

    async def _ask(
        self, streams: Mapping[bytes, _Followed], count: int, block: Command = (), seconds: float = 0.0
    ) -> list[Any]:
        """New entries of the inboxes and of these streams: keys with their entries."""
        cursors = [*self._inboxes.values(), *(each.cursor for each in streams.values())]
        command: Command = ("XREAD", "COUNT", count, *block, "STREAMS", *self._inboxes, *streams, *cursors)
        try:
            async with asyncio.timeout(seconds + self._redis.timeout):
                (answer,) = await self._redis.reading().ask([command])
        except (RedisError, OSError, TimeoutError) as error:
            raise self._redis.failed(error) from error
        self._reads += 1
        if isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE"):
            await self._drop_others()
            return []
        return self._redis.understood(answer) or []

    async def _drop_others(self) -> None:
        """One of the keys is no stream; nobody of ours has made it."""
        keys = [*self._inboxes, *self._followed]
        for key, kind in zip(keys, await self._load(*(("TYPE", key) for key in keys)), strict=True):
            if kind not in (b"stream", b"none"):
                logger.error("the key %r in Redis is no stream", key)
                self._poison += 1
                if self._followed.pop(key, None) is None:
                    await self._load(("DEL", key))

    async def _take(self, found: list[Any]) -> None:
        for number, (key, entries) in enumerate(found, 1):
            self._take_one(key, entries)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)

    def _take_one(self, key: bytes, entries: list[Any]) -> None:
        last = entries[-1][0]
        if key in self._inboxes:
            self._inboxes[key] = last
            for _, fields in entries:
                self._take_message(fields)
            return
        followed = self._followed.get(key)
        if followed is None:
            return
        self._take_in(followed.journal, entries)
        followed.cursor = last
        if followed.journal.closed:
            del self._followed[key]

    def _take_in(self, journal: MemoryJournal, entries: list[Any]) -> None:
        """Give the journal the frames, those together whose ids follow each other; the journal knows what it
        has, and what it has missed."""
        first = 0
        frames: list[bytes] = []
        for entry_id, fields in entries:
            frame = fields[1] if fields and fields[0] == b"f" else b""
            number = _number(entry_id, frame)
            if number is None:
                self._poison += 1
                continue
            if frames and number != first + len(frames):
                journal.adopt(first, frames)
                frames = []
            if not frames:
                first = number
            frames.append(frame)
            self._frames += 1
            self._bytes += len(frame)
        journal.adopt(first, frames)

    def _take_message(self, fields: list[bytes] | None) -> None:
        if fields and fields[0] == b"w":
            return
        try:
            if not fields or fields[0] != b"m":
                raise ValueError("not a message")
            message = msgspec.json.decode(fields[1], type=dict[str, Any])
        except (ValueError, RecursionError):
            self._poison += 1
            return
        try:
            self._on_message(message)
        except Exception:
            logger.exception("a message from another process could not be taken in")


def _range(key: bytes, after: int) -> Command:
    return "XRANGE", key, f"({after}-0", "+", "COUNT", CHUNK


def _number(entry_id: bytes, frame: bytes) -> int | None:
    """The id of the event that an entry is; None if it is none of ours."""
    number, _, rest = entry_id.partition(b"-")
    found = _FRAME.fullmatch(frame)
    return int(number) if rest == b"0" and found is not None and found[1] == number else None


def _order(entry_id: bytes) -> tuple[int, int]:
    number, _, rest = entry_id.partition(b"-")
    return int(number), int(rest)
