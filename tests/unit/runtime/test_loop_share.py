"""A source that never suspends lets others run; one that does pays nothing."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from streaming.runtime.loop_share import MAX_PARTS, MAX_SLICE, LoopShare

from .fakes import VirtualLoop, now, virtual_time


async def ticks(counted):
    while True:
        counted.append(now())
        await asyncio.sleep(0)


@virtual_time
async def test_others_run_at_least_every_64_parts():
    turns: list[Any] = []
    at_part: list[Any] = []
    other = asyncio.create_task(ticks(turns))
    share = LoopShare(asyncio.get_running_loop(), now())
    for _ in range(1_000):
        at_part.append(len(turns))
        if share.used_up(now()):
            await asyncio.sleep(0)
    other.cancel()
    assert max(at_part.count(value) for value in set(at_part)) <= MAX_PARTS


@virtual_time
async def test_others_run_at_least_every_5_ms_of_work():
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    turns: list[Any] = []
    other = asyncio.create_task(ticks(turns))
    share = LoopShare(loop, now())
    for _ in range(500):
        loop.now += 0.001  # each part costs a millisecond
        if share.used_up(now()):
            await asyncio.sleep(0)
    other.cancel()
    gaps = [later - earlier for earlier, later in itertools.pairwise(turns)]
    assert max(gaps) <= MAX_SLICE + 2 * 0.001 + 1e-9
    assert len(turns) >= 500 / 7 - 2


@virtual_time
async def test_a_source_that_suspends_costs_no_extra_turn():
    share = LoopShare(asyncio.get_running_loop(), now())
    extra = 0
    for _ in range(1_000):
        await asyncio.sleep(0)
        extra += share.used_up(now())
    assert extra == 0


@virtual_time
async def test_a_source_that_suspends_seldom_costs_no_extra_turn():
    """A burst of 50 for each network read: the loop had its turn."""
    share = LoopShare(asyncio.get_running_loop(), now())
    extra = 0
    for number in range(1_000):
        if number % 50 == 0:
            await asyncio.sleep(0.01)
        extra += share.used_up(now())
    assert extra == 0
