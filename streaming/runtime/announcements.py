"""What readers are told of a task besides its text: where it stands, and how it ended."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from functools import lru_cache

from streaming.core.errors import GenerationError, StreamError
from streaming.core.events import Cancelled, Complete, Error, Finish, Status, Terminal, Timing

from .ports import Messages
from .task import CancelReason, Outcome, Task

logger = logging.getLogger(__name__)


class Announcements:
    """The events; `messages` has the words for people."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    def status(
        self, task: Task, name: str, position: int | None, eta: float | None, language: str, elapsed: float
    ) -> Status:
        """The status event of this moment, its message in `language`. `eta`, `elapsed`: seconds."""
        return Status(
            status=name,
            message=self._words_of_status(task, name, position, eta, language),
            task_id=task.id,
            route=task.route,
            reason=task.reason,
            position=position,
            eta_seconds=None if eta is None else round(eta, 1),
            elapsed_seconds=round(elapsed, 3),
            timestamp=timestamp(),
        )

    def _words_of_status(
        self, task: Task, name: str, position: int | None, eta: float | None, language: str
    ) -> str:
        try:
            return self._messages.status(task, name, position, eta, language)
        except Exception:
            return _no_words()

    def end(self, task: Task, outcome: Outcome, receipt: Timing) -> Terminal:
        """The terminal event."""
        if isinstance(outcome, CancelReason):
            return Cancelled(reason=outcome.value)
        if isinstance(outcome, GenerationError):
            return self.failure(outcome, task.spec.language)
        assert isinstance(outcome, Finish)
        return Complete(
            task_id=task.id,
            finish_reason=outcome.finish_reason,
            content_length=task.counts.content_length,
            chunks=task.counts.chunks,
            usage=outcome.usage,
            model=outcome.model,
            cached=outcome.cached,
            timing=receipt,
            execution_count=outcome.execution_count,
            duration_ms=outcome.duration_ms,
        )

    def failure(self, error: StreamError, language: str) -> Error:
        """The `error` event for it, its message in `language`."""
        try:
            message = self._messages.error(error.code, language)
        except Exception:
            message = _no_words()
        return Error(code=error.code, message=message, retryable=error.retryable)


def timestamp() -> str:
    """Now, RFC 3339 with offset."""
    seconds, fraction = divmod(time.time(), 1)
    return f"{_to_the_second(int(seconds))}.{int(fraction * 1000):03}+00:00"


@lru_cache(maxsize=2)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _no_words() -> str:
    """In an exception's handler: a broken translation must not keep a task from starting or ending."""
    logger.exception("no words for people")
    return ""
