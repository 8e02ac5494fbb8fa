"""One line for each routing decision, and one for each task that ended; in between one for each that began
anew in this process.

The event loop notes the task and nothing more; the lines are made in the background. What was refused is
counted, and logged once a second with its number (see `storage.records`): a flood of requests must not become
a flood of lines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable
from typing import Any, Final

from streaming.core.events import Cancelled, Complete, Error
from streaming.runtime.task import Task

from .background import BACKGROUND, Background
from .lines import Line, emit, seconds_ago

logger = logging.getLogger("streaming.tasks")

_QUIET_CODES: Final = frozenset({"interrupted"})
"""Errors that a restart of the server brings about: no warnings."""


_OF_ITS_PROCESS: Final = frozenset(
    {
        "blocked_ms",
        "events",
        "parts",
        "journal_bytes",
        "buffer_full_flushes",
        "buffer_widened",
        "slow_readers",
    }
)
"""What nobody knows of a task whose process is gone."""


class TaskLines:
    """See the module; an observer of the supervisor (`ports.Observer`)."""

    def __init__(self, background: Background = BACKGROUND) -> None:
        self._background = background

    def decided(self, task: Task) -> None:
        """A task was admitted."""
        if logger.isEnabledFor(logging.INFO):
            self._background.put(_log_decision, task)

    def began_anew(self, task: Task) -> None:
        """A task whose process is gone begins here."""
        if logger.isEnabledFor(logging.INFO):
            self._background.put(_log_beginning, (task, time.time()))

    def ended(self, task: Task) -> None:
        """A task has its terminal event."""
        if logger.isEnabledFor(logging.WARNING):
            self._background.put(_log_end, (task, time.time()))


def _log_decision(task: Task) -> None:
    load = task.ticket.snapshot
    line = Line(
        "stream routed",
        **_identity(task),
        priority=task.spec.priority,
        running=load.running,
        waiting=load.waiting,
        max_workers=load.max_workers,
        queue_size=load.queue_size,
        owner_active=load.owner_active,
    )
    emit(logger, logging.INFO, line, seconds_ago(task.created))


def _log_beginning(note: tuple[Task, float]) -> None:
    task, moment = note
    line = Line("stream started again", **_identity(task), attempt=task.attempts)
    emit(logger, logging.INFO, line, moment)


def _log_end(note: tuple[Task, float]) -> None:
    task, moment = note
    counts, end = task.counts, task.final
    level, outcome = logging.INFO, "complete"
    told: dict[str, Any] = {}
    match end:
        case Complete():
            told = {"finish_reason": end.finish_reason, "model": end.model, "cached": end.cached}
        case Error():
            outcome = "error"
            told = {"code": end.code, "retryable": end.retryable}
            level = logging.INFO if end.code in _QUIET_CODES else logging.WARNING
        case Cancelled():
            outcome = "cancelled"
            told = {"cancelled_by": end.reason}
    receipt = task.receipt
    if receipt is not None:
        told |= {
            "queue_ms": receipt.queued_ms,
            "first_content_ms": receipt.first_content_ms,
            "total_ms": receipt.total_ms,
            "blocked_ms": receipt.blocked_ms,
        }
    told |= {
        "attempts": task.attempts,
        "events": task.journal.last_id,
        "parts": counts.parts,
        "chunks": counts.chunks,
        "content_length": counts.content_length,
        "journal_bytes": task.journal.size,
        "buffer_full_flushes": counts.full_flushes,
        "buffer_widened": counts.widened,
        "status_messages": counts.status_messages,
        "resumes": counts.resumes,
        "slow_readers": counts.slow_readers,
    }
    if task.lost:
        told = {name: value for name, value in told.items() if name not in _OF_ITS_PROCESS}
    emit(logger, level, Line("stream ended", **_identity(task), outcome=outcome, **told), moment)


def _identity(task: Task) -> dict[str, Any]:
    """What tells this task, and whose it is; on both lines, so that each can be read alone."""
    spec, origin = task.spec, task.spec.origin
    found: dict[str, Any] = {
        "task_id": task.id,
        "kind": spec.kind,
        "pool": spec.pool,
        "route": task.route,
        "reason": task.reason,
    }
    if spec.share_key is not None:
        found["owner"] = owner_key(spec.share_key)
    if origin is not None:
        found["request_id"] = origin.request_id
        if origin.trace is not None:
            found["trace_id"] = origin.trace.trace_id
    return found


def owner_key(share_key: Hashable) -> str:
    """Whose share and limit counts, as text: `account:7`, `account:7:alice`, `address:192.0.2.1`."""
    parts = share_key if isinstance(share_key, tuple) else (share_key,)
    return ":".join(str(part) for part in parts if part != "")
