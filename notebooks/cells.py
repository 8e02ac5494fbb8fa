"""What operations do, as sources of a stream's parts. They belong to their process: code never runs again, or
somewhere else, without its writer's act."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any, Final

from asgiref.sync import sync_to_async

from streaming import Finish
from streaming.core.errors import KernelStopped
from streaming.core.events import Content, Output, Result

from . import store
from .kernels.kernel import CellEnd, Kernel
from .kernels.output import CellOutput, Part
from .kernels.table import Kernels, Key
from .operations import Complete, Inspect

logger = logging.getLogger(__name__)

MAX_LATE: Final = 200
"""Outputs of a cell beyond which nothing late is kept."""

_FINISH: Final = {"ok": "stop", "error": "error", "aborted": "aborted"}

_late: Final[set[asyncio.Task[None]]] = set()

_streams: Final[dict[tuple[Key, str], str]] = {}
"""Of cells that run or wait, their streams' ids."""


def runs_as(key: Key, cell_id: str, stream_id: str) -> None:
    """The cell's stream, as long as it runs or waits, so that a page that is opened anew finds it."""
    _streams[key, cell_id] = stream_id


def streams_of(key: Key) -> dict[str, str]:
    """The streams of a notebook's cells that run or wait, by cell."""
    return {cell_id: stream_id for (of, cell_id), stream_id in _streams.items() if of == key}


async def run_cell(kernels: Kernels, key: Key, cell_id: str, code: str, era: int) -> AsyncIterator[Any]:
    """A cell's output as it comes. `era`: see `Kernels.era`. Raises `KernelDied`, `KernelStopped`,
    `KernelNotStarted`, `TooManyKernels`, `RunTimeout`."""
    _refuse_if_restarted(kernels, key, era)
    await sync_to_async(store.begin_cell)(key.owner, key.notebook, cell_id, code)
    output = CellOutput(kernels.limits.output_limit)
    end = CellEnd("aborted", None)
    began = time.monotonic()
    try:
        kernel = await kernels.get(key, partial(_keep_late, key))
        began = time.monotonic()
        async with aclosing(kernel.execute(code, output, cell_id)) as parts:
            async for part in parts:
                if isinstance(part, CellEnd):
                    end = part
                else:
                    yield part
    finally:
        await sync_to_async(store.end_cell)(
            key.owner, key.notebook, cell_id, output.outputs(), end.execution_count
        )
    yield Finish(
        finish_reason=_FINISH.get(end.status, end.status),
        execution_count=end.execution_count,
        duration_ms=round((time.monotonic() - began) * 1000, 3),
    )


async def ask(kernels: Kernels, key: Key, question: Complete | Inspect, era: int) -> AsyncIterator[Any]:
    """What the kernel knows at a position in the code. Raises as `run_cell`."""
    _refuse_if_restarted(kernels, key, era)
    kernel = await kernels.get(key, partial(_keep_late, key))
    cursor = len(question.code) if question.cursor is None else question.cursor
    kind = "complete" if isinstance(question, Complete) else "inspect"
    yield Result(data=await kernel.ask(kind, question.code, cursor))


async def answer(data: Any) -> AsyncIterator[Any]:
    """One result."""
    yield Result(data=data)


async def interrupt(kernels: Kernels, key: Key) -> AsyncIterator[Any]:
    """Interrupt what runs."""
    kernel = kernels.find(key)
    busy = kernel is not None and kernel.busy
    if kernel is not None:
        await kernel.interrupt()
    yield Result(data={"interrupted": busy, **status(kernels, key)})


async def restart(kernels: Kernels, key: Key) -> AsyncIterator[Any]:
    """Begin with a new kernel; what runs and what waits for the old one ends."""
    await kernels.stop(key)
    await kernels.get(key, partial(_keep_late, key))
    yield Result(data=status(kernels, key))


async def shutdown(kernels: Kernels, key: Key) -> AsyncIterator[Any]:
    """End the kernel; what runs and what waits for it ends."""
    stopped = await kernels.stop(key)
    yield Result(data={"stopped": stopped, **status(kernels, key)})


async def list_notebooks(kernels: Kernels, owner: str) -> AsyncIterator[Any]:
    """The owner's notebooks, each with what its kernel does."""
    found = await sync_to_async(store.listed)(owner)
    for each in found:
        each["kernel"] = status(kernels, Key(owner, each["notebook_id"]))["state"]
    yield Result(data={"notebooks": found})


def status(kernels: Kernels, key: Key) -> dict[str, Any]:
    """What the notebook's kernel does: `none`, `starting`, `idle` or `busy`."""
    kernel = kernels.find(key)
    if kernel is None:
        return {"state": "starting" if kernels.starting(key) else "none", "execution_count": None}
    return {"state": _state(kernel), "execution_count": kernel.execution_count}


def _state(kernel: Kernel) -> str:
    return "busy" if kernel.busy else "idle"


def _refuse_if_restarted(kernels: Kernels, key: Key, era: int) -> None:
    if kernels.era(key) != era:
        raise KernelStopped(key.notebook)


def _keep_late(key: Key, cell_id: str, parts: list[Part]) -> None:
    """In the record, under the cell that said it."""
    task = asyncio.create_task(_store_late(key, cell_id, parts), name="late output")
    _late.add(task)
    task.add_done_callback(_late.discard)


async def _store_late(key: Key, cell_id: str, parts: list[Part]) -> None:
    outputs = [kept for part in parts if (kept := _late_output(part)) is not None]
    try:
        await sync_to_async(store.add_late)(key.owner, key.notebook, cell_id, outputs, MAX_LATE)
    except Exception:
        logger.exception("notebook %s: late output is lost", key.notebook)


def _late_output(part: Part) -> dict[str, Any] | None:
    match part:
        case Content():
            return {"output_type": "stream", "name": part.channel or "stdout", "text": part.delta}
        case Output(output_type="display_data" | "execute_result"):
            return {"output_type": "display_data", "data": part.data or {}, "metadata": {"late": True}}
        case Output(output_type="error"):
            return {
                "output_type": "error",
                "ename": part.ename or "",
                "evalue": part.evalue or "",
                "traceback": part.traceback or [],
            }
    return None
