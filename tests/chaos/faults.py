"""What is done to processes, stores and lines: a table, to which a fault is added by one decorated function.

A fault does its harm and undoes it, and tells the house what may have been lost by it: a `Hit` for each
process whose tasks may have ended under them, an `Outage` for each store that was away. It draws its
particulars from dice of its own.
"""

from __future__ import annotations

import asyncio
import random
import resource
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import psutil

from tests.support.cluster import Node
from tests.support.redis import RedisServer
from tests.support.servers import STOP_LIMIT

from . import callers
from .checker import Hit, Outage
from .house import DRAIN_GRACE, House
from .plan import Mode
from .records import Unreachable

Harm = Callable[[House, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """One kind. `rows`: of the reliability plan; `weight`: how often it comes, relatively."""

    name: str
    rows: str
    modes: tuple[Mode, ...]
    weight: int
    harm: Harm


TABLE: Final[dict[str, Fault]] = {}

EVERYWHERE: Final[tuple[Mode, ...]] = ("embedded", "processes", "cluster")
SEVERAL: Final[tuple[Mode, ...]] = ("processes", "cluster")
CLUSTER: Final[tuple[Mode, ...]] = ("cluster",)
EMBEDDED: Final[tuple[Mode, ...]] = ("embedded",)

NO_ROOM: Final = 4096
"""Bytes that a file may have. Not its size: SQLite begins its log anew when it can."""


def fault(rows: str, modes: tuple[Mode, ...] = EVERYWHERE, weight: int = 2) -> Callable[[Harm], Harm]:
    """Put the decorated function into the table, under its own name."""

    def register(harm: Harm) -> Harm:
        name = harm.__name__.replace("_", "-")
        TABLE[name] = Fault(name, rows, modes, weight, harm)
        return harm

    return register


def kinds(mode: Mode, only: Sequence[str] = ()) -> list[tuple[str, int]]:
    """Names and weights of what can be done in that mode, or of those `only`. Raises `KeyError`."""
    chosen = [TABLE[name] for name in only] if only else list(TABLE.values())
    return [(each.name, each.weight) for each in chosen if mode in each.modes]


# --- Processes ----------------------------------------------------------------------------------------


@fault("R8", weight=4)
async def kill_web(house: House, dice: random.Random) -> None:
    """SIGKILL; back after a while."""
    await _kill(house, [dice.choice(house.webs)], dice.uniform(0, 3))


@fault("R8", SEVERAL)
async def kill_all_webs(house: House, dice: random.Random) -> None:
    """No twin is left to take over."""
    await _kill(house, house.webs, dice.uniform(0, 2))


@fault("R9")
async def drain_web(house: House, dice: random.Random) -> None:
    """SIGTERM; back after a while."""
    await _drain(house, dice.choice(house.webs), dice.uniform(0, 3))


@fault("R10", SEVERAL)
async def restart_webs_in_turn(house: House, dice: random.Random) -> None:
    """A deploy."""
    for node in house.webs:
        await _drain(house, node, 0)


@fault("R12", weight=1)
async def freeze_web(house: House, dice: random.Random) -> None:
    """SIGSTOP for less or more than after which others, if any, hold it for dead; then it goes on."""
    await _freeze(house, dice.choice(house.webs), dice.choice([dice.uniform(0.5, 3), dice.uniform(7, 10)]))


@fault("R11", CLUSTER, weight=4)
async def kill_worker(house: House, dice: random.Random) -> None:
    """SIGKILL; back after a while."""
    await _kill(house, [dice.choice(house.workers)], dice.uniform(0, 4))


@fault("R11", CLUSTER)
async def kill_all_workers(house: House, dice: random.Random) -> None:
    """Nobody is left who could run what waits, for a while."""
    await _kill(house, house.workers, dice.uniform(0, 4))


@fault("R11 R8", CLUSTER)
async def kill_web_and_worker(house: House, dice: random.Random) -> None:
    """The web through which a stream is followed and the worker that runs it."""
    await _kill(house, [dice.choice(house.webs), dice.choice(house.workers)], dice.uniform(0, 3))


@fault("R12", CLUSTER, weight=3)
async def freeze_worker(house: House, dice: random.Random) -> None:
    """SIGSTOP for less or more than its lease; revived, it writes nothing."""
    await _freeze(house, dice.choice(house.workers), dice.choice([dice.uniform(0.5, 3), dice.uniform(7, 15)]))


@fault("R10", CLUSTER)
async def restart_workers_in_turn(house: House, dice: random.Random) -> None:
    """A deploy of workers."""
    for node in house.workers:
        await _drain(house, node, 0)


@fault("R12", CLUSTER, weight=3)
async def deliver_twice(house: House, dice: random.Random) -> None:
    """Whatever waits or runs is published once more, as a broker does that doubts."""
    assert house.programs is not None
    try:
        rows = await house.query(
            "SELECT id FROM streaming_streamtask WHERE state IN ('queued', 'running') ORDER BY id"
        )
        chosen = [str(row[0]) for row in dice.sample(rows, min(len(rows), 10))]
        await asyncio.to_thread(house.programs.code, PUBLISH, *chosen)
    except (Unreachable, RuntimeError) as error:
        # Another fault has taken away the database, or the broker.
        house.note(f"nothing delivered once more: {str(error)[-80:]!r}")
        return
    house.note(f"{len(chosen)} tasks delivered once more")


PUBLISH: Final = """
import sys
from streaming.worker.publishing import publish
for task_id in sys.argv[1:]:
    publish("agent_pool", task_id)
"""


# --- Stores -------------------------------------------------------------------------------------------


@fault("R8", SEVERAL)
async def restart_postgresql(house: House, dice: random.Random) -> None:
    """In order, or by a crash; back after a while. It has promised nothing that it forgets."""
    server = house.postgresql
    assert server is not None
    async with _away(house, "postgresql"):
        number = dice.choice([signal.SIGINT, signal.SIGQUIT])
        await asyncio.to_thread(server.stop, number)
        house.note(f"postgresql ended by {number.name}")
        await asyncio.sleep(dice.uniform(0, 2))
        await asyncio.to_thread(server.start)


@fault("R13", CLUSTER, weight=3)
async def kill_redis(house: House, dice: random.Random) -> None:
    """SIGKILL; back with what it had on disk, which may lack the last second."""
    redis = _redis(house)
    async with _away(house, "redis", loses=1.0):
        await asyncio.to_thread(redis.kill)
        await asyncio.sleep(dice.uniform(0.5, 5))
        await asyncio.to_thread(redis.start)


@fault("R14", CLUSTER, weight=3)
async def freeze_redis(house: House, dice: random.Random) -> None:
    """SIGSTOP; its connections stay."""
    redis = _redis(house)
    async with _away(house, "redis"):
        redis.freeze()
        try:
            await asyncio.sleep(dice.choice([dice.uniform(0.3, 2), dice.uniform(5, 12)]))
        finally:
            redis.thaw()


@fault("R15", CLUSTER)
async def fill_redis(house: House, dice: random.Random) -> None:
    """It refuses every write for want of memory."""
    redis = _redis(house)
    async with _away(house, "redis"):
        await asyncio.to_thread(_limit_memory, redis.port, 1)
        try:
            await asyncio.sleep(dice.uniform(1, 6))
        finally:
            await asyncio.to_thread(_limit_memory, redis.port, 0)


def _limit_memory(port: int, size: int) -> None:
    command = ["redis-cli", "-p", str(port), "CONFIG", "SET", "maxmemory", str(size)]
    subprocess.run(command, check=True, timeout=STOP_LIMIT, capture_output=True)


# --- Networks -----------------------------------------------------------------------------------------


@fault("R6 R30", weight=3)
async def cut_all_lines(house: House, dice: random.Random) -> None:
    """All connections of clients at once, several times: who was on them comes back in a herd."""
    for _ in range(dice.randint(1, 3)):
        house.note(f"{house.cut_lines()} connections cut")
        await asyncio.sleep(dice.uniform(0.1, 1.0))


@fault("R3")
async def freeze_readers(house: House, dice: random.Random) -> None:
    """A dozen readers with a tiny buffer read nothing, and are gone after some seconds (RST)."""
    await callers.never_read(house, dice.choice(house.webs), dice)


@fault("R1 R2 R18")
async def leave_early(house: House, dice: random.Random) -> None:
    """Dozens of callers leave within 0.3 s, many before the first byte."""
    await callers.leave_early(house, house.webs, dice)


# --- Loads --------------------------------------------------------------------------------------------


@fault("R19")
async def flood(house: House, dice: random.Random) -> None:
    """Far more calls at once than there is room for."""
    await callers.flood(house, dice.choice(house.webs), dice)


@fault("R17")
async def fail_upstream(house: House, dice: random.Random) -> None:
    """The model service fails in six ways."""
    await callers.fail_upstream(house, house.webs, dice)


@fault("R21")
async def burden_loop(house: House, dice: random.Random) -> None:
    """Three producers compute on the loop, milliseconds for each token."""
    await callers.burden_loop(house, dice.choice(house.webs), dice)


@fault("R28")
async def starve_files(house: House, dice: random.Random) -> None:
    """A web may open hardly more files than it has, and callers who say nothing take those."""
    node = dice.choice(house.webs)
    async with _targets(house, [node.name]):
        room = dice.randint(2, 8)
        process = psutil.Process(node.process.pid)
        limit = process.num_fds() + room
        at = time.monotonic()
        with node.limited(resource.RLIMIT_NOFILE, limit), ExitStack() as stack:
            async with _hit(house, node, "starved", at):
                await callers.take_files(node, 2 * room, stack)
                house.note(f"{node.name} has {process.num_fds()} of {limit} files")
                await asyncio.sleep(dice.uniform(1, 3))


@fault("R28", EMBEDDED)
async def fill_disk(house: House, dice: random.Random) -> None:
    """The database cannot grow."""
    node = house.webs[0]
    async with _targets(house, [node.name]), _away(house, "sqlite"):
        with node.limited(resource.RLIMIT_FSIZE, NO_ROOM):
            await asyncio.sleep(dice.uniform(1, 4))


# --- How ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def _targets(house: House, names: Sequence[str]) -> AsyncIterator[None]:
    """Nobody else does anything to these meanwhile. Always taken in one order."""
    locks = [house.lock_of(name) for name in sorted(names)]
    for lock in locks:
        await lock.acquire()
    try:
        yield
    finally:
        for lock in locks:
            lock.release()


@asynccontextmanager
async def _hit(house: House, node: Node, why: str, at: float) -> AsyncIterator[int]:
    """The process was hit at that moment, just before the block, and serves again behind it; the number of
    the hit."""
    index = len(house.hits)
    house.hits.append(Hit(at, node.name, why, grace=DRAIN_GRACE, alone=len(house.nodes) == 1))
    house.note(f"{node.name} {why}")
    tasks = await house.running_in(node)
    house.hits[index] = replace(house.hits[index], tasks=tasks)
    try:
        yield index
    finally:
        house.hits[index] = replace(house.hits[index], until=time.monotonic())
        house.note(f"{node.name} is back; it was running {'?' if tasks is None else len(tasks)}")


@asynccontextmanager
async def _away(house: House, store: str, loses: float = 0.0) -> AsyncIterator[None]:
    """The store is not there, or does not answer, within the block."""
    async with house.lock_of(store):
        index = len(house.outages)
        house.outages.append(Outage(store, time.monotonic(), float("inf"), loses))
        house.note(f"{store} goes away")
        try:
            yield
        finally:
            house.outages[index] = replace(house.outages[index], until=time.monotonic())
            house.note(f"{store} is back")


async def _kill(house: House, nodes: Sequence[Node], pause: float) -> None:
    async with _targets(house, [node.name for node in nodes]):
        at = time.monotonic()
        for node in nodes:
            await asyncio.to_thread(node.kill)
        await asyncio.gather(*(_back_after(house, node, at, pause) for node in nodes))


async def _back_after(house: House, node: Node, at: float, pause: float) -> None:
    async with _hit(house, node, "killed", at):
        await asyncio.sleep(pause)
        await house.start(node)


async def _drain(house: House, node: Node, pause: float) -> None:
    async with _targets(house, [node.name]):
        at = time.monotonic()
        node.process.send_signal(signal.SIGTERM)
        async with _hit(house, node, "drained", at) as index:
            await _until_gone(house, node, index)
            await asyncio.sleep(pause)
            await house.start(node)


async def _until_gone(house: House, node: Node, index: int) -> None:
    """Wait for the end of one that was told to go. Meanwhile it may write what it had begun just before."""
    until = time.monotonic() + STOP_LIMIT
    while node.lives:
        if time.monotonic() > until:
            house.note(f"{node.name} does not go")
            await asyncio.to_thread(node.kill)
        tasks, before = await house.running_in(node), house.hits[index].tasks
        known = None if tasks is None or before is None else before | tasks
        house.hits[index] = replace(house.hits[index], tasks=known)
        await asyncio.sleep(0.2)


async def _freeze(house: House, node: Node, seconds: float) -> None:
    async with _targets(house, [node.name]):
        at = time.monotonic()
        node.freeze()
        try:
            async with _hit(house, node, "frozen", at):
                await asyncio.sleep(seconds)
                # Thawed within: it is not back before.
                node.thaw()
        finally:
            node.thaw()


def _redis(house: House) -> RedisServer:
    assert house.redis is not None
    return house.redis
