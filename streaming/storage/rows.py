"""From a task to its row, and rows into the database."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from django.db import connection
from django.db.models import DateTimeField, F, ForeignKey, JSONField, QuerySet

from streaming.core.events import Cancelled, Complete, Error, Terminal, clean_text
from streaming.models import Refusal, Segment, StreamTask
from streaming.runtime.task import Task

from .notes import Batch, Note
from .rollups import counted_by
from .transcript import storable_text

BATCH: Final = 200
"""Rows in one statement: below every database's limit of parameters."""

NOBODY: Final = ""
"""The process of a task that waits for one."""

_OF_OTHERS: Final = ("id", "epoch", "followed_at", "cancel_requested", "priority_requested", "purged_at")
"""Columns that the owner of a task leaves alone once its row is there."""

_FIELDS: Final = StreamTask._meta.concrete_fields

_DEFAULTS: Final = [(field.attname, field.get_default()) for field in _FIELDS]

_CONVERTED: Final = [
    (number, field)
    for number, field in enumerate(_FIELDS)
    if isinstance(field, DateTimeField | JSONField | ForeignKey)
]
"""Fields whose values a database's driver does not take as they are."""


def write_tasks(rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert tasks by their columns, or update those that are there; a column that is not named gets its
    default. One prepared statement for all: Django's bulk_create makes an object and an expression of each
    value, which costs several times what the database does."""
    quote = connection.ops.quote_name
    columns = [quote(field.column or "") for field in _FIELDS]
    ours = [quote(field.column or "") for field in _FIELDS if field.name not in _OF_OTHERS]
    statement = (
        f"INSERT INTO {quote(StreamTask._meta.db_table)} ({', '.join(columns)}) "  # noqa: S608 (our names)
        f"VALUES ({', '.join(['%s'] * len(columns))}) "
        f"ON CONFLICT ({quote('id')}) DO UPDATE SET {', '.join(f'{each} = EXCLUDED.{each}' for each in ours)}"
    )
    moment = connection.ops.adapt_datetimefield_value
    _execute(statement, [_stored(row, moment) for row in rows])


def _stored(row: Mapping[str, Any], moment: Callable[[datetime], Any]) -> list[Any]:
    values = [row.get(name, default) for name, default in _DEFAULTS]
    for number, field in _CONVERTED:
        value = values[number]
        if value is None:
            continue
        if isinstance(field, DateTimeField):
            values[number] = moment(value)
        elif isinstance(field, JSONField):
            values[number] = _json(value)
        else:
            values[number] = field.get_db_prep_save(value, connection)
    return values


def _json(value: Any) -> str:
    """JSON values, or records of msgspec's."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        # Lone surrogates, which JSON can only escape.
        return json.dumps(value)


def write_segments(rows: Sequence[tuple[str, Batch]]) -> None:
    """Insert events by their tasks' ids. Twice, where the commit's answer was lost: the same events again."""
    quote = connection.ops.quote_name
    names = ("task_id", "first_id", "last_id", "frames")
    statement = (
        f"INSERT INTO {quote(Segment._meta.db_table)} ({', '.join(map(quote, names))}) "  # noqa: S608
        "VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
    )
    database: Any = connection
    binary = database.Database.Binary
    _execute(
        statement,
        [[task_id, batch.first_id, batch.last_id, binary(b"".join(batch.frames))] for task_id, batch in rows],
    )


def _execute(statement: str, rows: list[list[Any]]) -> None:
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(statement, rows)


def lock(rows: QuerySet[StreamTask]) -> QuerySet[StreamTask]:
    """Lock the rows until the end of the transaction, in the order in which everybody locks several of them:
    by id. So nobody waits for somebody who waits for them (a deadlock)."""
    ids = list(rows.select_for_update().order_by("pk").values_list("pk", flat=True))
    return rows.filter(pk__in=ids)


def stored_rows(notes: Mapping[str, Note]) -> dict[str, tuple[str, int, int | None]]:
    """Process, epoch and what is counted of those of the tasks that have a row; the rows are locked until the
    end of the transaction, so that nobody takes over in between."""
    quote = connection.ops.quote_name
    names = ", ".join(map(quote, ("id", "process", "epoch", "counted")))
    lock = connection.ops.for_update_sql() if connection.features.has_select_for_update else ""
    known = sorted(task_id for task_id, note in notes.items() if not note.fresh)
    found: dict[str, tuple[str, int, int | None]] = {}
    with connection.cursor() as cursor:
        for start in range(0, len(known), BATCH):
            ids = known[start : start + BATCH]
            cursor.execute(
                f"SELECT {names} FROM {quote(StreamTask._meta.db_table)} "  # noqa: S608 (our names)
                f"WHERE {quote('id')} IN ({', '.join(['%s'] * len(ids))}) ORDER BY {quote('id')} {lock}",
                ids,
            )
            found |= {pk: (process, epoch, counted) for pk, process, epoch, counted in cursor}
    return found


def write_notes(notes: Mapping[str, Note]) -> None:
    """Rows first, then the events that belong to them."""
    write_tasks(
        [
            task_columns(task_id, note.values, note.text)
            for task_id, note in notes.items()
            if note.values is not None
        ]
    )
    write_segments(
        [(task_id, batch) for task_id, note in notes.items() for batch in note.batches if batch.frames]
    )


def write_refusals(refusals: Mapping[tuple[datetime, str, str], int]) -> None:
    """Add to the counts by (minute, pool, reason)."""
    for (minute, pool, reason), count in refusals.items():
        row, _ = Refusal.objects.get_or_create(minute=minute, pool=pool, reason=reason)
        Refusal.objects.filter(pk=row.pk).update(count=F("count") + count)


def task_columns(task_id: str, values: Mapping[str, Any], frames: list[bytes] | None) -> dict[str, Any]:
    """The row with `values`; its text is put together from the journal's `frames`, where there are any."""
    columns = {"id": task_id, **values, "counted": counted_by(values["state"])}
    if frames is not None:
        columns["text"] = storable_text(frames)
    return columns


def plain_values(task: Task) -> dict[str, Any]:
    """`row_values` as one reads them from the database."""
    values = row_values(task)
    return values | {
        name: msgspec.to_builtins(values[name]) for name in ("snapshot", "timing") if name in values
    }


def row_values(task: Task) -> dict[str, Any]:
    """The row's columns but id and text, as they stand now; records instead of what JSON makes of them."""
    spec, final, counts = task.spec, task.final, task.counts
    values: dict[str, Any] = {
        "owner_id": spec.owner,
        "end_user": spec.end_user,
        "kind": spec.kind,
        "pool": spec.pool,
        "priority": spec.priority,
        "state": task.state.value if final is None else final.name,
        "route": task.route,
        "reason": task.reason,
        "snapshot": task.ticket.snapshot,
        "arguments": spec.arguments,
        "fingerprint": spec.fingerprint,
        "language": spec.language,
        "grace": None if spec.grace == math.inf else spec.grace,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "last_event_id": task.journal.last_id,
        "chunks": counts.chunks,
        "content_length": counts.content_length,
        "status_messages": counts.status_messages,
        "resumes": counts.resumes,
        "attempts": task.attempts,
    }
    timing = task.receipt
    if timing is not None:
        values["timing"] = timing
        values["queued_ms"] = timing.queued_ms
        values["first_content_ms"] = timing.first_content_ms
        values["total_ms"] = timing.total_ms
        # The terminal event itself comes right after this record.
        values["last_event_id"] = task.journal.next_id
    if final is not None:
        values |= ending_columns(final)
    if task.error_detail:
        # PostgreSQL takes no NUL.
        values["error_detail"] = clean_text(task.error_detail).replace("\0", "\ufffd")
    return values


def ending_columns(final: Terminal) -> dict[str, Any]:
    """What the row says of its task's end, beside the state."""
    match final:
        case Complete():
            return {"finish_reason": final.finish_reason, "model": final.model or "", "usage": final.usage}
        case Error():
            return {"error_code": final.code, "error_message": final.message}
        case Cancelled():
            return {"cancel_reason": final.reason}
    raise AssertionError("there are three terminal events")
