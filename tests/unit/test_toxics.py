"""The proxy with toxics does what it says, to a server that says how it was left."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.support.toxics import End, Link, Plan, Toxics, always, cut_after, proxy

DATA = bytes(range(256)) * 20


class Echo:
    """Says back what it hears, in the sizes in which it came. `left`: how its readers went."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.left: asyncio.Queue[str] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                self.sizes.append(len(data))
                writer.write(data)
                await writer.drain()
            self.left.put_nowait("end")
        except ConnectionError:
            self.left.put_nowait("reset")
        finally:
            writer.close()


@asynccontextmanager
async def echo(plan: Plan, seed: int = 1) -> AsyncIterator[tuple[Echo, int]]:
    """An echo behind a proxy: the echo, and the proxy's port."""
    house = Echo()
    server = await asyncio.start_server(house.serve, "127.0.0.1", 0)
    try:
        async with proxy(server.sockets[0].getsockname()[1], plan, random.Random(seed)) as made:
            yield house, made.port
    finally:
        server.close()


@asynccontextmanager
async def say(
    port: int, data: bytes = DATA
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_clean_link_changes_nothing():
    async with echo(always(Link())) as (house, port), say(port) as (reader, writer):
        writer.write_eof()
        assert await reader.read() == DATA
        assert await house.left.get() == "end"


async def test_slices_cut_both_ways_and_lose_nothing():
    toxics = Toxics(slices=(1, 7))
    async with echo(always(Link(up=toxics, down=toxics))) as (house, port), say(port) as (reader, _):
        assert await reader.readexactly(len(DATA)) == DATA
        assert len(house.sizes) > 20


def test_slices_have_the_sizes_they_are_given():
    pieces = list(Toxics(slices=(1, 7)).pieces(DATA, random.Random(3)))
    assert b"".join(pieces) == DATA
    assert {len(piece) for piece in pieces[:-1]} == set(range(1, 8))


async def test_a_reset_is_an_error_on_both_sides():
    async with echo(cut_after(lambda dice: 100, End.RESET)) as (house, port), say(port) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert await house.left.get() == "reset"


async def test_a_fin_is_an_end_on_both_sides():
    async with echo(cut_after(lambda dice: 100, End.FIN)) as (house, port), say(port) as (reader, _):
        assert await reader.read() == DATA[:100]
        assert await house.left.get() in ("end", "reset")


async def test_a_half_closed_connection_goes_on_in_the_other_direction():
    async with echo(cut_after(lambda dice: 100, End.HALF)) as (house, port), say(port) as (reader, writer):
        assert await reader.read() == DATA[:100]
        writer.write(b"still heard")
        writer.write_eof()
        assert await house.left.get() == "end"
        assert sum(house.sizes) == len(DATA) + len(b"still heard")


async def test_a_stalled_direction_takes_nothing_and_says_nothing():
    stalled = Link(down=Toxics(limit=50, end=End.STALL))
    async with echo(always(stalled)) as (house, port), say(port) as (reader, _):
        assert await reader.readexactly(50) == DATA[:50]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(1)
        assert house.left.empty()


async def test_latency_and_bandwidth_take_at_least_their_time():
    slow = Link(down=Toxics(latency=0.1, jitter=0.05, rate=20_000))
    begin = time.monotonic()
    async with echo(always(slow)) as (_, port), say(port, DATA[:2_000]) as (reader, _):
        assert await reader.readexactly(2_000) == DATA[:2_000]
        assert time.monotonic() - begin >= 0.05 + 2_000 / 20_000


async def test_the_same_seed_cuts_at_the_same_bytes():
    async def lengths(seed: int) -> list[int]:
        found = []
        async with echo(cut_after(lambda dice: dice.randint(1, 1000), End.FIN), seed) as (_, port):
            for _ in range(5):
                async with say(port) as (reader, _):
                    found.append(len(await reader.read()))
        return found

    assert await lengths(7) == await lengths(7)
    assert await lengths(7) != await lengths(8)


async def test_cutting_and_refusing():
    house = Echo()
    server = await asyncio.start_server(house.serve, "127.0.0.1", 0)
    async with proxy(server.sockets[0].getsockname()[1]) as made:
        async with say(made.port) as (reader, _):
            assert await reader.readexactly(len(DATA)) == DATA
            assert made.open == 1
            made.refuse = True
            made.cut()
            with pytest.raises(ConnectionResetError):
                await reader.read()
        async with say(made.port) as (reader, _):
            with pytest.raises(ConnectionResetError):
                await reader.read()
    server.close()
