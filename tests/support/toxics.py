"""A TCP proxy on loopback that does to connections what networks do: delays, cuts and silences.

The names of the toxics are those of Toxiproxy (Shopify). Chance comes from one `random.Random`, so that a
script with a seed meets the same sizes and delays again.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

BLOCK: Final = 65_536
"""Bytes that are taken in at once."""

IN_FLIGHT: Final = 64
"""Blocks of one direction that may be on their way at the same time."""


class End(Enum):
    """What becomes of a connection after `Toxics.limit` bytes."""

    RESET = "RST to both sides, as a network that is lost"
    FIN = "both sides see an orderly end"
    HALF = "an end in this direction; the other goes on"
    STALL = "nothing more is read in this direction, and nothing said"


@dataclass(frozen=True, slots=True)
class Toxics:
    """What one direction of a connection suffers. `latency` ± `jitter`: seconds; `rate`: bytes a second;
    `slices`: the fewest and the most bytes of one write; `limit`: bytes after which `end` comes."""

    latency: float = 0.0
    jitter: float = 0.0
    rate: float | None = None
    slices: tuple[int, int] | None = None
    limit: int | None = None
    end: End = End.RESET

    def pieces(self, data: bytes, dice: random.Random) -> Iterator[bytes]:
        """`data` in the writes that it becomes."""
        if self.slices is None:
            yield data
            return
        at = 0
        while at < len(data):
            size = dice.randint(*self.slices)
            yield data[at : at + size]
            at += size

    def delay(self, dice: random.Random) -> float:
        """Seconds that this block takes to arrive."""
        return max(0.0, self.latency + dice.uniform(-self.jitter, self.jitter)) if self.latency else 0.0


@dataclass(frozen=True, slots=True)
class Link:
    """Both directions: `up` to the server, `down` to the client."""

    up: Toxics = field(default_factory=Toxics)
    down: Toxics = field(default_factory=Toxics)


CLEAN: Final = Link()

Plan = Callable[[random.Random], Link]
"""What the next connection suffers."""


def always(link: Link) -> Plan:
    """The same for each connection."""
    return lambda dice: link


HARMLESS: Final = always(CLEAN)


class Proxy:
    """In front of the server at `port`. `cut` breaks what is open, `refuse` what would come; while
    `answers` is not set, nothing comes back from the server."""

    def __init__(self, port: int, plan: Plan = HARMLESS, dice: random.Random | None = None) -> None:
        self._target = port
        self._plan = plan
        self._dice = dice or random.Random(0)
        self._writers: set[asyncio.StreamWriter] = set()
        self.refuse = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.port = 0
        self.connections = 0
        self.ended = 0
        """Connections that met their `limit`."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._writers) // 2

    def retarget(self, port: int) -> None:
        """The server is elsewhere from the next connection on."""
        self._target = port

    def cut(self) -> None:
        """Reset all connections, as a lost network does."""
        for writer in list(self._writers):
            reset(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, there and back."""
        self.connections += 1
        if self.refuse:
            reset(writer)
            return
        link = self._plan(self._dice)
        # Each connection has chances of its own: how others interleave must not change them.
        dice = random.Random(self._dice.random())
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            reset(writer)
            return
        mine = {writer, other_writer}
        self._writers |= mine
        try:
            for each in mine:
                each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.gather(
                self._carry(reader, other_writer, writer, link.up, dice, None),
                self._carry(other_reader, writer, other_writer, link.down, dice, self.answers),
            )
        finally:
            self._writers -= mine
            for each in mine:
                each.close()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
        toxics: Toxics,
        dice: random.Random,
        gate: asyncio.Event | None,
    ) -> None:
        """Bytes of one direction, until they end. `back` leads to where they come from."""
        left = toxics.limit
        blocks = _delayed(reader, toxics, dice) if toxics.latency else _read(reader)
        try:
            async for block in blocks:
                if gate is not None:
                    await gate.wait()
                for piece in toxics.pieces(block, dice):
                    part = piece if left is None else piece[:left]
                    if toxics.rate is not None:
                        await asyncio.sleep(len(part) / toxics.rate)
                    writer.write(part)
                    await writer.drain()
                    if toxics.slices is not None:
                        await asyncio.sleep(0)
                    if left is not None:
                        left -= len(part)
                        if left == 0:
                            self.ended += 1
                            return await self._end(toxics.end, writer, back)
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            reset(writer)
            reset(back)
        return None

    async def _end(self, end: End, writer: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        if end is End.RESET:
            reset(writer)
            reset(back)
        elif end is End.FIN:
            writer.close()
            back.close()
        elif end is End.HALF:
            writer.write_eof()
        else:
            back.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport can


async def _read(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(BLOCK):
        yield data


async def _delayed(reader: asyncio.StreamReader, toxics: Toxics, dice: random.Random) -> AsyncIterator[bytes]:
    """Each block as late as the line is long; blocks keep their order and travel at the same time."""
    loop = asyncio.get_running_loop()
    line: asyncio.Queue[tuple[float, bytes] | OSError] = asyncio.Queue(IN_FLIGHT)

    async def fill() -> None:
        try:
            async for data in _read(reader):
                await line.put((loop.time() + toxics.delay(dice), data))
            await line.put((loop.time() + toxics.delay(dice), b""))
        except OSError as error:
            await line.put(error)

    filling = asyncio.create_task(fill())
    try:
        while True:
            item = await line.get()
            if isinstance(item, OSError):
                raise item
            due, data = item
            await asyncio.sleep(due - loop.time())
            if not data:
                return
            yield data
    finally:
        filling.cancel()
        with suppress(asyncio.CancelledError):
            await filling


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with an RST: the other side gets an error and not an end."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def cut_after(limit: Callable[[random.Random], int], *ends: End, down: Toxics | None = None) -> Plan:
    """Each connection ends after as many bytes to the client as `limit` says, in one of the ways `ends`."""
    basis = down or Toxics()
    return lambda dice: Link(down=replace(basis, limit=limit(dice), end=dice.choice(ends)))


@asynccontextmanager
async def proxy(port: int, plan: Plan = HARMLESS, dice: random.Random | None = None) -> AsyncIterator[Proxy]:
    """A running proxy in front of the server at `port`."""
    made = Proxy(port, plan, dice)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await made.serve(reader, writer)
        except asyncio.CancelledError:
            # The proxy's own end; a task that is cancelled in a callback of asyncio's would be a complaint.
            if not stopping:
                raise
        finally:
            tasks.discard(task)

    stopping = False
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        stopping = True
        server.close()
        made.cut()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
