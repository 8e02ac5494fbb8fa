"""Clients who come at a steady rate, each for about the same time; some of them do what clients do wrong."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.client import STREAM, brief
from tests.support.wire import Persistent, PersistentSocket, Refused, ask, request, start

INTERVAL: Final = 0.2
"""Seconds between two tokens."""

SHORT: Final = 0.5
"""Seconds after which whoever leaves, cancels or is cut does so, at least."""


WHOLE: Final = 20
"""Tokens of an answer that comes as a whole: nothing is heard of it before."""


@dataclass
class Load:
    """`streams` at once, `joins` new ones a second, `faults` the share of those who misbehave."""

    port: int
    streams: float
    joins: float
    faults: float
    dice: random.Random
    name: str = "soak"
    done: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    _number: int = 0

    @property
    def tokens(self) -> int:
        """Of each stream, so that as many are open as shall be."""
        return max(1, round(self.streams / self.joins / INTERVAL))

    async def run(self, seconds: float) -> None:
        """Let clients come for so long; returns when the last has gone. Raises what a client raised."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        async with asyncio.TaskGroup() as clients:
            while loop.time() < until:
                clients.create_task(self._one())
                await asyncio.sleep(self.dice.expovariate(self.joins))

    async def _one(self) -> None:
        self._number += 1
        faulty = self.dice.random() < self.faults
        what = self.dice.choice(_FAULTS if faulty else _READERS)
        await what(self, f"{self.name} {self._number}")
        self.done[what.__name__.strip("_")] += 1

    # Those who read to the end

    async def _read(self, user: str) -> None:
        await self._follow(Persistent(lambda: self.port), user)

    async def _read_by_socket(self, user: str) -> None:
        await self._follow(PersistentSocket(lambda: self.port), user)

    async def _read_later(self, user: str) -> None:
        reader = Persistent(lambda: self.port, task_id=await start(self.port, **self._wish(user)))
        await reader.follow()
        self._judge(reader, user)

    async def _whole(self, user: str) -> None:
        answer = await ask(self.port, "/content/generate", "POST", brief(**self._wish(user, WHOLE)))
        if answer.get("text") != _text(WHOLE):
            self.violations.append(f"{user}: the whole answer is not exact: {str(answer)[:200]}")

    # Those who do not

    async def _leave(self, user: str) -> None:
        """In the middle; its task goes when its grace is over."""
        body = brief(**self._wish(user))
        async with request(self.port, "POST", STREAM, body) as answer:
            await self._a_while(answer)

    async def _cut(self, user: str) -> None:
        """Reads by many connections."""
        reader = Persistent(lambda: self.port, task_id=await start(self.port, **self._wish(user)), pause=0.05)
        reading = asyncio.create_task(reader.follow())
        while not reading.done():
            await asyncio.sleep(self.dice.uniform(SHORT, 10 * SHORT))
            if not reading.done():
                reading.cancel()
                await asyncio.wait([reading])
                reading = asyncio.create_task(reader.follow())
        await reading
        self._judge(reader, user)

    async def _cancel(self, user: str) -> None:
        task_id = await start(self.port, **self._wish(user))
        await asyncio.sleep(self.dice.uniform(SHORT, 5 * SHORT))
        await ask(self.port, f"/streams/{task_id}", "DELETE")

    async def _never_read(self, user: str) -> None:
        """A full window, then RST."""
        await self._raw(
            f"POST {STREAM} HTTP/1.1", brief(**self._wish(user)), self.dice.uniform(SHORT, 10 * SHORT)
        )

    async def _half_a_body(self, user: str) -> None:
        await self._raw(f"POST {STREAM} HTTP/1.1", brief(**self._wish(user)), SHORT, cut=20)

    async def _nonsense(self, user: str) -> None:
        async with request(self.port, "POST", STREAM, {"topic": 5, "more": [user]}) as answer:
            if answer.status != 422:
                self.violations.append(f"{user}: nonsense was answered with {answer.status}")

    # What they have in common

    def _wish(self, user: str, tokens: int | None = None) -> dict[str, Any]:
        return {"user_id": user, "options": {"tokens": tokens or self.tokens, "interval": INTERVAL}}

    async def _follow(self, reader: Persistent, user: str) -> None:
        try:
            await reader.generate(**self._wish(user))
        except Refused as refusal:
            self.violations.append(f"{user}: refused {refusal.args}")
            return
        self._judge(reader, user)

    def _judge(self, reader: Persistent, user: str) -> None:
        self.violations += [f"{user}: {each}" for each in reader.violations]
        end = reader.end
        if end is None or end.name != "complete" or reader.text != _text(self.tokens):
            said = None if end is None else (end.name, end.data)
            self.violations.append(f"{user}: not the exact text; the end was {said}")

    async def _a_while(self, answer: Any) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.dice.uniform(0, 10 * SHORT)
        async for _ in answer.chunks():
            if loop.time() >= until:
                return

    async def _raw(self, line: str, body: dict[str, Any], seconds: float, cut: int = 0) -> None:
        """A request, of whose body the last `cut` bytes do not come, and an end by RST after a while."""
        data = json.dumps(body).encode()
        lines = (line, "Host: localhost", "Content-Type: application/json", f"Content-Length: {len(data)}")
        head = "\r\n".join([*lines, "", ""])
        with socket.socket() as raw:
            raw.setblocking(False)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(raw, ("127.0.0.1", self.port))
            await loop.sock_sendall(raw, head.encode() + data[: len(data) - cut])
            await asyncio.sleep(seconds)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _text(tokens: int) -> str:
    """What the scripted provider says."""
    return "".join(f"{k} " for k in range(tokens))


_Client = Callable[[Load, str], Awaitable[None]]

_READERS: Final[tuple[_Client, ...]] = (
    Load._read,
    Load._read,
    Load._read,
    Load._read_by_socket,
    Load._read_later,
    Load._whole,
)
_FAULTS: Final[tuple[_Client, ...]] = (
    Load._leave,
    Load._cut,
    Load._cancel,
    Load._never_read,
    Load._half_a_body,
    Load._nonsense,
)
