"""What operations do, as sources of a stream's parts. They belong to their process: code never runs again, or
somewhere else, without its writer's act."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

from asgiref.sync import sync_to_async

from streaming import Finish, current_stream_id
from streaming.core.errors import KernelStopped
from streaming.core.events import Result

from . import store
from .kernels.key import Key
from .kernels.output import CellEnd, CellOutput
from .kernels.service import KernelService
from .operations import Complete, Inspect

logger = logging.getLogger(__name__)

LATE_INTERVAL: Final = 0.25
"""Seconds for which what a cell's threads say after its end is collected, before it is written down."""

_FINISH: Final = {"ok": "stop", "error": "error", "aborted": "aborted"}

_late: Final[dict[tuple[Key, str], asyncio.Task[None]]] = {}

_writing: Final[WeakValueDictionary[tuple[Key, str], asyncio.Lock]] = WeakValueDictionary()
"""Held from a cell's beginning until its outputs are written down: what is late comes after them."""


@dataclass(slots=True)
class CellRun:
    """One execution of a cell. `era`: see `Kernels.era`. `begun`: whether it has a permit; `over`: whether it
    has ended."""

    key: Key
    cell_id: str
    code: str
    era: int
    begun: bool = False
    over: bool = False

    async def accepted(self, stream_id: str) -> None:
        """It runs, or waits, as this stream: a page that is opened now finds it."""
        if not self.begun:
            await self._begin(stream_id)
            if self.over:
                # It ran and ended while this was written.
                await self._end(stream_id)

    async def parts(self, kernels: KernelService) -> AsyncIterator[Any]:
        """Its output as it comes. Raises `KernelDied`, `KernelStopped`, `KernelNotStarted`,
        `TooManyKernels`, `RunTimeout`."""
        key, stream_id = self.key, current_stream_id()
        self.begun = True
        await _refuse_if_restarted(kernels, key, self.era)
        output = CellOutput(kernels.limits.output_limit)
        end = CellEnd("aborted", None)
        async with _lock_of(key, self.cell_id), AsyncExitStack() as stack:
            await self._begin(stream_id)
            try:
                lent = kernels.lent(key, partial(_keep_late, key), self.era)
                loan = await stack.enter_async_context(lent)
            except BaseException:
                # Nothing has run: what the cell said before stays.
                await self._end(stream_id)
                raise
            began = time.monotonic()
            try:
                if not loan.interrupted:
                    async with aclosing(loan.kernel.execute(self.code, output, self.cell_id)) as parts:
                        async for part in parts:
                            if isinstance(part, CellEnd):
                                end = part
                            else:
                                yield part
            finally:
                await self._end(
                    stream_id,
                    outputs=output.take(),
                    dropped_chars=output.dropped,
                    execution_count=end.execution_count,
                    updates=output.updates,
                )
        yield Finish(
            finish_reason=_FINISH.get(end.status, end.status),
            execution_count=end.execution_count,
            duration_ms=round((time.monotonic() - began) * 1000, 3),
        )

    async def _begin(self, stream_id: str) -> None:
        begin = sync_to_async(store.begin_cell)
        await begin(self.key.owner, self.key.notebook, self.cell_id, self.code, stream_id)

    async def _end(self, stream_id: str, **result: Any) -> None:
        self.over = True
        end = sync_to_async(store.end_cell)
        await end(self.key.owner, self.key.notebook, self.cell_id, stream_id, **result)


async def ask(kernels: KernelService, key: Key, question: Complete | Inspect, era: int) -> AsyncIterator[Any]:
    """What the kernel knows at a position in the code. Raises as `CellRun.parts`."""
    await _refuse_if_restarted(kernels, key, era)
    cursor = len(question.code) if question.cursor is None else question.cursor
    kind = "complete" if isinstance(question, Complete) else "inspect"
    async with kernels.lent(key, partial(_keep_late, key), era) as loan:
        result = await loan.kernel.ask(kind, question.code, cursor)
    yield Result(data=result)


async def answer(data: Any) -> AsyncIterator[Any]:
    """One result."""
    yield Result(data=data)


async def interrupt(kernels: KernelService, key: Key) -> AsyncIterator[Any]:
    """Interrupt what runs, or waits for a kernel that starts."""
    interrupted = await kernels.interrupt(key)
    yield Result(data={"interrupted": interrupted, **await status(kernels, key)})


async def restart(kernels: KernelService, key: Key) -> AsyncIterator[Any]:
    """Begin with a new kernel; what runs and what waits for the old one ends."""
    await kernels.stop(key)
    async with kernels.lent(key, partial(_keep_late, key)):
        # It is there: no more is asked of it.
        pass
    yield Result(data=await status(kernels, key))


async def shutdown(kernels: KernelService, key: Key) -> AsyncIterator[Any]:
    """End the kernel; what runs and what waits for it ends."""
    stopped = await kernels.stop(key)
    yield Result(data={"stopped": stopped, **await status(kernels, key)})


async def list_notebooks(kernels: KernelService, owner: str) -> AsyncIterator[Any]:
    """The owner's notebooks, each with what its kernel does."""
    yield Result(
        data={"notebooks": await with_states(kernels, owner, await sync_to_async(store.listed)(owner))}
    )


async def with_states(
    kernels: KernelService, owner: str, notebooks: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The owner's notebooks as `store.listed` has them, each with what its kernel does."""
    statuses = await kernels.statuses(Key(owner, each["notebook_id"]) for each in notebooks)
    return [{**each, "kernel": found.state} for each, found in zip(notebooks, statuses, strict=True)]


async def status(kernels: KernelService, key: Key) -> dict[str, Any]:
    """What the notebook's kernel does: `none`, `starting`, `idle` or `busy`."""
    (found,) = await kernels.statuses([key])
    return {"state": found.state, "execution_count": found.execution_count}


async def tell_status(kernels: KernelService, key: Key) -> AsyncIterator[Any]:
    """The same, as a result."""
    yield Result(data=await status(kernels, key))


async def _refuse_if_restarted(kernels: KernelService, key: Key, era: int) -> None:
    if await kernels.era(key) != era:
        raise KernelStopped(key.notebook)


def _keep_late(key: Key, cell_id: str, output: CellOutput) -> None:
    """In the record, under the cell that said it."""
    if (key, cell_id) not in _late:
        task = asyncio.create_task(_write_late(key, cell_id, output), name="late output")
        _late[key, cell_id] = task
        task.add_done_callback(lambda _: _late.pop((key, cell_id), None))


async def _write_late(key: Key, cell_id: str, output: CellOutput) -> None:
    await asyncio.sleep(LATE_INTERVAL)
    try:
        async with _lock_of(key, cell_id):
            await sync_to_async(store.add_late)(key.owner, key.notebook, cell_id, output.take())
    except Exception:
        logger.exception("notebook %s: late output is lost", key.notebook)


def _lock_of(key: Key, cell_id: str) -> asyncio.Lock:
    return _writing.setdefault((key, cell_id), asyncio.Lock())
