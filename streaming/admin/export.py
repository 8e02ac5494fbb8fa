"""The list of tasks as a file, sent while it is read: rows come in steps, and no step keeps a connection."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import datetime
from itertools import chain
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db.models import Q, QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from django.utils import timezone

from streaming.models import StreamTask

NUMBERS: Final = (
    "id",
    "owner",
    "end_user",
    "kind",
    "pool",
    "priority",
    "state",
    "route",
    "reason",
    "snapshot",
    "language",
    "created_at",
    "started_at",
    "finished_at",
    "queued_ms",
    "first_content_ms",
    "total_ms",
    "chunks",
    "content_length",
    "status_messages",
    "resumes",
    "finish_reason",
    "model",
    "error_code",
    "cancel_reason",
)
"""Columns that everybody gets who may see tasks."""

TEXTS: Final = ("arguments", "error_message", "error_detail", "text")
"""Columns for who may read what people and models wrote."""

HEAVY: Final = (*TEXTS, "snapshot", "timing", "usage")
"""Columns that are read only where they are asked for."""

STEP: Final = 500
"""Rows of one query."""

STEP_WITH_TEXTS: Final = 50
"""The same, where each row has its text: those of a step are in memory together."""

_FORMULA: Final = tuple("=+-@\t\r\n＝＋－＠")
"""With these a spreadsheet's formula begins (CWE-1236)."""

Row = dict[str, Any]


def as_file(
    request: HttpRequest,
    tasks: QuerySet[StreamTask],
    ending: str,
    *,
    texts: bool,
    shown_id: Callable[[StreamTask], str],
) -> StreamingHttpResponse:
    """The tasks, newest first, as `csv` or `json`. `texts`: with what people and models wrote; `shown_id`: as
    much of a task's id as the reader may know."""
    columns = NUMBERS + TEXTS if texts else NUMBERS
    steps = _Steps(tasks, columns, STEP_WITH_TEXTS if texts else STEP, shown_id)
    write, content_type = _WRITERS[ending]
    pieces: Any = write(columns, steps)
    if isinstance(request, ASGIRequest):
        # A plain iterator would be read to its end before the first byte leaves.
        pieces = _in_threads(pieces)
    response = StreamingHttpResponse(pieces, content_type=content_type)
    name = f"tasks-{timezone.localtime():%Y-%m-%d-%H%M%S}.{ending}"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Cache-Control"] = "no-store"
    response["X-Content-Type-Options"] = "nosniff"
    # No middleware shall collect it to compress it.
    response["Content-Encoding"] = "identity"
    return response


class _Steps:
    """The rows, some at a time."""

    def __init__(
        self,
        tasks: QuerySet[StreamTask],
        columns: tuple[str, ...],
        size: int,
        shown_id: Callable[[StreamTask], str],
    ) -> None:
        left_out = [name for name in HEAVY if name not in columns]
        # What the list has left out may be asked for here.
        self._tasks = (
            tasks.order_by("-created_at", "-id").select_related("owner").defer(None).defer(*left_out)
        )
        self._columns = columns
        self._size = size
        self._shown_id = shown_id

    def __iter__(self) -> Iterator[list[Row]]:
        last: StreamTask | None = None
        while True:
            tasks = self._tasks if last is None else self._tasks.filter(_behind(last))
            found = list(tasks[: self._size])
            if not found:
                return
            yield [self._row(task) for task in found]
            last = found[-1]

    def _row(self, task: StreamTask) -> Row:
        values = {name: getattr(task, name) for name in self._columns}
        values |= {"id": self._shown_id(task), "owner": "" if task.owner is None else str(task.owner)}
        return values


def _behind(task: StreamTask) -> Q:
    """What comes after the task in the order of the file: no row is left out or comes twice, whatever is
    added meanwhile."""
    return Q(created_at__lt=task.created_at) | Q(created_at=task.created_at, pk__lt=task.pk)


def _csv(columns: tuple[str, ...], steps: Iterable[list[Row]]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    # Spreadsheets take a file without this mark for one of their own old encodings.
    buffer.write("\ufeff")
    writer.writerow(columns)
    for rows in chain(([],), steps):
        writer.writerows([[_cell(row[name]) for name in columns] for row in rows])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _cell(value: Any) -> Any:
    """A value of a CSV file; text that a spreadsheet would run gets an apostrophe before it."""
    match value:
        case None:
            return ""
        case datetime():
            return value.isoformat()
        case dict() | list():
            value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return f"'{value}"
    return value


def _json(columns: tuple[str, ...], steps: Iterable[list[Row]]) -> Iterator[str]:
    """An array with a task in each line."""
    before = "[\n"
    for rows in steps:
        lines = [json.dumps(row, ensure_ascii=False, default=datetime.isoformat) for row in rows]
        yield before + ",\n".join(lines)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


_WRITERS: Final = {
    "csv": (_csv, "text/csv; charset=utf-8"),
    "json": (_json, "application/json"),
}

FORMATS: Final = tuple(_WRITERS)


async def _in_threads(pieces: Iterator[str]) -> AsyncIterator[str]:
    """Each step in a thread, where it may ask the database."""
    while (piece := await sync_to_async(lambda: next(pieces, None))()) is not None:
        yield piece
