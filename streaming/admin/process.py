"""From the admin's threads to the service on the server's event loop.

The admin's views are synchronous and run in a thread of the ASGI handler; `async_to_sync` takes a call back
to the loop that the thread was lent by, which is the loop of all streams of this process. Elsewhere (WSGI)
there is no such loop, and no task in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest

from streaming.cluster.neighbours import Prioritised, ask_for_priority, ask_to_cancel
from streaming.cluster.statistics import last_told
from streaming.models import StreamTask
from streaming.retry import NotRetryable, obstacle_to_retry
from streaming.runtime.task import CancelReason, Task
from streaming.service import service
from streaming.storage.rows import plain_values


class NoStreamsHere(Exception):
    """This process runs no event loop, so it cannot run or reach a task."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What this process has of a task in memory: its row's values as of now, and its events; `gone` ones were
    trimmed."""

    active: bool
    values: dict[str, Any]
    gone: int
    last_id: int
    frames: list[bytes]


def in_memory(request: HttpRequest, task_id: str) -> Memory | None:
    """The task as this process has it; None if it has not (or no longer)."""
    if not isinstance(request, ASGIRequest):
        return None
    found: Memory | None = async_to_sync(_in_memory)(task_id)
    return found


def cancel(request: HttpRequest, task_ids: Iterable[str]) -> set[str]:
    """See `Service.cancel_for_operator`. Where there are no streams, those who run them are asked, and nobody
    waits for them."""
    if not isinstance(request, ASGIRequest):
        ask_to_cancel(task_ids, CancelReason.ADMIN.value)
        return set()
    cancelled: set[str] = async_to_sync(_cancel)(task_ids)
    return cancelled


def retry(request: HttpRequest, row: StreamTask) -> Task:
    """See `Service.retry`. Raises `NoStreamsHere` as well."""
    # Here and not only there, because it may have to fetch columns that the list left out.
    obstacle = obstacle_to_retry(row)
    if obstacle is not None:
        raise NotRetryable(obstacle)
    if not isinstance(request, ASGIRequest):
        raise NoStreamsHere
    task: Task = async_to_sync(_retry)(row)
    return task


def prioritise(request: HttpRequest, task_ids: Iterable[str], priority: int) -> dict[str, Prioritised]:
    """See `Service.prioritise`. Where there are no streams, the processes in which the tasks wait are asked,
    and nobody waits for them."""
    if not isinstance(request, ASGIRequest):
        return ask_for_priority(task_ids, priority)
    found: dict[str, Prioritised] = async_to_sync(_prioritise)(task_ids, priority)
    return found


def numbers(request: HttpRequest) -> dict[str, Any]:
    """Pools, routes and totals of all living processes together, as of now; elsewhere as they told last."""
    if not isinstance(request, ASGIRequest):
        return last_told()
    found: dict[str, Any] = async_to_sync(_numbers)()
    return found


async def _in_memory(task_id: str) -> Memory | None:
    supervisor = service().supervisor
    task = supervisor.tasks.find(task_id)
    if task is None or not (supervisor.tasks.runs(task) or task.state.terminal):
        return None
    journal = task.journal
    return Memory(
        active=not task.state.terminal,
        values=plain_values(task),
        # What a `restart` after a crash has made void is not missing.
        gone=journal.first_id - max(journal.anew_id, 1),
        last_id=journal.last_id,
        frames=journal.read(0, journal.last_id),
    )


async def _cancel(task_ids: Iterable[str]) -> set[str]:
    return await service().cancel_for_operator(task_ids)


async def _prioritise(task_ids: Iterable[str], priority: int) -> dict[str, Prioritised]:
    return await service().prioritise(task_ids, priority)


async def _numbers() -> dict[str, Any]:
    return await service().statistics_of_all()


async def _retry(row: StreamTask) -> Task:
    return await service().retry(row)
