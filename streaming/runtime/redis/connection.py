"""The connections of this process to the Redis that processes share.

A few for commands, however many ask, and one for blocking reads, however many follow. Nothing is tried twice
by itself: a script whose answer was lost may have run. Each question has a limit of time, from the wait for a
connection to the last byte of the answer; what is interrupted in between closes its connection, so that no
answer is ever taken for that to another question.

When Redis does not answer as it should, it is *away*: every call is refused at once, until a write of the
probe has succeeded. A ping would not do: a replica and a Redis whose disk is full answer pings.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from streaming.core.errors import RedisAway, RedisFull

logger = logging.getLogger(__name__)

Argument = str | bytes | int | float
Command = Sequence[Argument]

PROBE_INTERVAL: Final = 0.5
"""Seconds between two looks whether Redis is back."""

PROBE_LIFE: Final = 10_000
"""Milliseconds that the key of the probe stays."""

UNABLE: Final = tuple(f"{code} " for code in ("MISCONF", "NOREPLICAS", "BUSY", "CLUSTERDOWN"))
"""How answers of a Redis begin that cannot write at the moment, whatever is asked."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, which runs as one step. `sha`: its name in Redis."""

    name: str
    text: str
    sha: str

    @classmethod
    def beside(cls, module: str, name: str) -> Script:
        """The file `name` next to the module whose `__file__` is `module`."""
        text = Path(module).with_name(name).read_text(encoding="utf-8")
        return cls(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Link:
    """One connection and one conversation at a time; it connects when it is asked something.

    A conversation that does not come to its end, be it for an error or because who asked was cancelled,
    closes the connection.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers, in order; one that is an error is in the list as such.

        Has no limit of time. Raises what redis-py raises for a broken connection.
        """
        connection = self._connection
        complete = False
        try:
            if connection.is_connected and await connection.can_read():
                # Nothing was asked: Redis has closed it.
                await self.hang_up()
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            answers = [await _answer(connection) for _ in commands]
            complete = True
            return answers
        finally:
            if not complete:
                await self.hang_up()

    async def hang_up(self) -> None:
        """Close the connection; the next question opens a new one."""
        await self._connection.disconnect(nowait=True)


async def _answer(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


class SharedRedis:
    """The Redis at `url`. `prefix`: before every key, without its colon; `timeout`: seconds that an answer
    may take; `connections`: for commands, at most. Made anywhere, used on one event loop.

    `away`: whether it did not answer the last time, and has not since. `commands`, `failures`: so far.
    """

    def __init__(self, url: str, *, prefix: str, timeout: float = 1.0, connections: int = 4) -> None:
        self.prefix = prefix
        self.timeout = timeout
        self.away = False
        self.commands = 0
        self.failures = 0
        # Only makes them: whom they belong to, and for how long, is known here.
        self._maker = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
            client_name=prefix,
        )
        self._room = asyncio.Semaphore(connections)
        self._free: list[Link] = []
        self._links: list[Link] = []
        self._reading: Link | None = None
        self._returned: list[Callable[[], object]] = []
        self._probing: asyncio.Task[None] | None = None
        self._closed = False

    def key(self, *parts: str) -> str:
        """The full name of a key."""
        return ":".join((self.prefix, *parts))

    def require(self) -> None:
        """Raise `RedisAway` where every question is refused at once; whose question is long asks before it
        makes it."""
        if self.away or self._closed:
            raise RedisAway("Redis is away")

    async def call(self, script: Script, keys: Sequence[str], args: Iterable[Argument]) -> Any:
        """Run a script. Raises `RedisAway` within `timeout`, at once while Redis is away, and `RedisFull`."""
        (answer,) = await self.calls(script, [(keys, args)])
        return self.understood(answer)

    async def calls(
        self, script: Script, calls: Sequence[tuple[Sequence[str], Iterable[Argument]]]
    ) -> list[Any]:
        """Run a script several times in one go; an answer may be an error, to be given to `understood`.

        Raises `RedisAway` as `call` does.
        """
        commands = [("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in calls]
        answers = await self.ask(commands)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            # Where one is missing all are, unless another process has just brought it: none is run twice.
            again = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            first, *others = (commands[i] for i in again)
            retold = await self.ask([("EVAL", script.text, *first[2:]), *others])
            for i, answer in zip(again, retold, strict=True):
                answers[i] = answer
        return answers

    async def execute(self, *command: Argument) -> Any:
        """One plain command. Raises as `call` does."""
        (answer,) = await self.ask([command])
        return self.understood(answer)

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands in one go; an answer may be an error, to be given to `understood`.

        Raises `RedisAway` as `call` does.
        """
        self.require()
        try:
            async with asyncio.timeout(self.timeout), self._room:
                link = self._free.pop() if self._free else self._link()
                try:
                    answers = await link.ask(commands)
                finally:
                    self._free.append(link)
        except (RedisError, OSError, TimeoutError) as error:
            raise self.failed(error) from error
        self.commands += len(commands)
        return answers

    def understood(self, answer: Any) -> Any:
        """The answer, unless it is an error. Raises `RedisFull`, and `RedisAway` for every other one."""
        if not isinstance(answer, ResponseError):
            return answer
        if isinstance(answer, OutOfMemoryError):
            raise RedisFull(str(answer)) from answer
        if isinstance(answer, ReadOnlyError | MasterDownError) or str(answer).startswith(UNABLE):
            raise self.failed(answer) from answer
        logger.error("Redis refuses a command: %s", answer)
        raise RedisAway(str(answer)) from answer

    def reading(self) -> Link:
        """The one connection for blocking reads. The limit of time is its reader's affair, who tells by
        `failed` what went wrong."""
        if self._reading is None:
            self._reading = self._link()
        return self._reading

    def failed(self, error: Exception) -> RedisAway:
        """Redis did not answer as it should: it is away until it does. Returns what to raise."""
        self.failures += 1
        words = f"{type(error).__name__}: {error}"
        if not self.away and not self._closed:
            self.away = True
            logger.warning("Redis is away (%s)", words)
            self._probing = asyncio.create_task(self._probe(), name="redis probe")
        return RedisAway(words)

    def subscribe_to_return(self, function: Callable[[], object]) -> None:
        """Call `function` on the loop each time that Redis is back after having been away."""
        self._returned.append(function)

    async def close(self) -> None:
        """Hang up, for good."""
        self._closed = True
        if self._probing is not None:
            self._probing.cancel()
        for link in self._links:
            await link.hang_up()

    def _link(self) -> Link:
        link = self._new_link()
        self._links.append(link)
        return link

    def _new_link(self) -> Link:
        return Link(self._maker.make_connection())  # type: ignore[no-untyped-call]

    async def _probe(self) -> None:
        """Look until Redis takes a write, or has only no memory left for one."""
        since = time.monotonic()
        # What was open leads to a Redis that is gone, or behind on its answers.
        for free in tuple(self._free):
            await free.hang_up()
        link = self._new_link()
        try:
            while True:
                try:
                    command = ("SET", self.key("alive"), 1, "PX", PROBE_LIFE)
                    async with asyncio.timeout(self.timeout):
                        (answer,) = await link.ask([command])
                except (RedisError, OSError, TimeoutError) as error:
                    answer = error
                if not isinstance(answer, Exception) or isinstance(answer, OutOfMemoryError):
                    break
                await asyncio.sleep(PROBE_INTERVAL)
        finally:
            await link.hang_up()
        self.away = False
        logger.warning("Redis is back after %.1f s", time.monotonic() - since)
        for function in tuple(self._returned):
            try:
                function()
            except Exception:
                logger.exception("what was to be done at Redis' return failed")
