"""The end of tasks whose process died: the one that the process itself would have told at its shutdown."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from streaming.core import sse
from streaming.core.errors import Interrupted
from streaming.core.events import Error, Timing, encode
from streaming.core.states import State
from streaming.runtime.journals.base import LOST_IDS

from .messages import DjangoMessages
from .models import Segment, StreamTask
from .stored import stored_events
from .transcript import storable_text

_ACTIVE: Final = (State.QUEUED.value, State.RUNNING.value)


def interrupt_tasks_of(process_id: str, by: str) -> int:
    """Take over what the dead process ran, and end it as `interrupted`; how many tasks that were.

    Two processes may do this at once: each task is claimed by one conditional update, and the claim and the
    end are one transaction.
    """
    rows = StreamTask.objects.filter(process=process_id, state__in=_ACTIVE).defer("text", "arguments")
    return sum(_interrupt(row, by) for row in rows.iterator(chunk_size=200))


def _interrupt(row: StreamTask, by: str) -> bool:
    with transaction.atomic():
        claim = StreamTask.objects.filter(pk=row.pk, process=row.process, epoch=row.epoch, state__in=_ACTIVE)
        if not claim.update(process=by, epoch=row.epoch + 1):
            return False
        _write_end(row)
        return True


def _write_end(row: StreamTask) -> None:
    frames = [frame for _, batch in stored_events(row.pk) for frame in batch]
    survived = Segment.objects.filter(task_id=row.pk).aggregate(last_id=Max("last_id"))["last_id"] or 0
    end_id = survived + LOST_IDS
    end = Error(
        code=Interrupted.code,
        message=DjangoMessages().error(Interrupted.code, row.language),
        retryable=Interrupted.retryable,
    )
    frame = sse.frame(end_id, end.name, encode(end))
    Segment.objects.create(task_id=row.pk, first_id=end_id, last_id=end_id, frames=frame)
    now = timezone.now()
    timing = _timing(row, now)
    StreamTask.objects.filter(pk=row.pk).update(
        state=State.ERROR.value,
        error_code=end.code,
        error_message=end.message,
        finished_at=now,
        last_event_id=end_id,
        text=storable_text(frames),
        timing=msgspec.to_builtins(timing),
        queued_ms=timing.queued_ms,
        total_ms=timing.total_ms,
    )


def _timing(row: StreamTask, now: datetime) -> Timing:
    """The receipt, as far as the database knows."""
    return Timing(
        route=row.route,
        queued_ms=_milliseconds(row.created_at, row.started_at or now),
        first_content_ms=row.first_content_ms,
        total_ms=_milliseconds(row.created_at, now),
        coalesced_ratio=None,
        blocked_ms=0.0,
        status_messages=row.status_messages,
        resumes=row.resumes,
    )


def _milliseconds(start: datetime, end: datetime) -> float:
    return round((end - start).total_seconds() * 1000, 3)
