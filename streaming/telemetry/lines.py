"""Log lines: a handler that holds nobody up, and two formats, one for people and one for programs.

Whatever goes through Python's `logging` comes here, the lines of Django, of the server and of libraries, too.
The calling thread notes what only it knows (the arguments, the request, the traceback); structlog formats,
and the file is written, in the background.
"""

from __future__ import annotations

import contextvars
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, TextIO

import msgspec

from streaming.core.origin import Origin
from streaming.core.redaction import redacted_member
from streaming.runtime.task import current_task_id

from .background import BACKGROUND, Background

ORIGIN: contextvars.ContextVar[Origin] = contextvars.ContextVar("sluice_origin")
"""Of the request that the running code serves."""

LONGEST: Final = 16_384
"""Characters of one string in a line: a traceback fits, a document does not."""

_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
"""What every record has; anything else somebody gave as `extra`."""

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Fields = MutableMapping[str, Any]


class Line:
    """What happened, and its members: the message of a log record that programs can read, too."""

    __slots__ = ("event", "fields")

    def __init__(self, event: str, /, **fields: Any) -> None:
        self.event = event
        self.fields = fields

    def __str__(self) -> str:
        return " ".join([self.event, *_pairs(self.fields)])


class LinesHandler(logging.Handler):
    """Writes lines to the file `path`, or else to standard error.

    A file that cannot be opened is told of on standard error, which then gets the lines. Rotation: a file
    that was moved or deleted is opened anew. Several processes may write one file: they write whole lines.
    """

    def __init__(self, path: str = "", background: Background = BACKGROUND) -> None:
        super().__init__()
        self._background = background
        self._lines: list[str] = []
        self._file = _open_or_tell(path) if path else None
        background.after_batch(self._write_out)

    def handle(self, record: logging.LogRecord) -> logging.LogRecord | bool:  # type: ignore[override]
        """As its base, but without its lock: the queue needs none, and nobody shall wait for it."""
        wanted = self.filter(record)
        if isinstance(wanted, logging.LogRecord):
            record = wanted
        if wanted:
            self.emit(record)
        return wanted

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the record over, with what only the calling thread knows."""
        try:
            if self._background.here and not record.args and not record.exc_info:
                self._add(record)
            else:
                self._background.put(self._add, _complete(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait (not for ever) until all lines are written."""
        self._background.flush()

    def close(self) -> None:
        """Write what there is, and close the file."""
        self.flush()
        super().close()
        if self._file is not None:
            self._file.close()

    def _add(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
        except Exception:
            self.handleError(record)

    def _write_out(self, dropped: int) -> None:
        if dropped:
            line = Line("log lines were dropped: too many at once", dropped=dropped)
            self._add(logging.LogRecord("streaming.logs", logging.WARNING, "", 0, line, None, None))
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        text = "\n".join(lines) + "\n"
        if self._file is None or not self._file.write(text):
            _say(text)


class _WatchedFile:
    """A file that several processes append to, and that somebody may move away."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        self._identity = (0, 0)
        self._told = False
        self._open()

    def write(self, text: str) -> bool:
        """Append whole lines, in one piece as far as the system lets us; False if it takes nothing."""
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            self._open_if_moved()
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            if not self._told:
                self._told = True
                _say(f"the log file {self._path} cannot be written: {error.strerror}\n")
            return False
        self._told = False
        return True

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open_if_moved(self) -> None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            self._open()
        else:
            if (found.st_dev, found.st_ino) != self._identity:
                self._open()

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self.close()
        self._descriptor = descriptor
        found = os.fstat(descriptor)
        self._identity = (found.st_dev, found.st_ino)


def _open_or_tell(path: str) -> _WatchedFile | None:
    try:
        return _WatchedFile(os.path.abspath(path))
    except OSError as error:
        _say(f"the log file {path} cannot be opened: {error.strerror}; lines go to standard error\n")
        return None


def _say(text: str) -> None:
    # A service may have no standard error, and a pipe may have lost its reader.
    output: TextIO | None = sys.stderr
    if output is not None:
        with suppress(OSError, ValueError):
            try:
                output.write(text)
            except UnicodeEncodeError:
                output.write(text.encode("ascii", "backslashreplace").decode())
            output.flush()


def _complete(record: logging.LogRecord) -> logging.LogRecord:
    """A copy that no longer depends on this thread: its arguments are in its message, its traceback is
    text."""
    made = logging.makeLogRecord(vars(record))
    if not isinstance(record.msg, Line) and not hasattr(record, "_logger"):
        made.msg, made.args = record.getMessage(), None
    if record.exc_info and not record.exc_text:
        made.exc_text = _plain.formatException(record.exc_info)
    made.exc_info = None
    origin = ORIGIN.get(None)
    if origin is not None:
        made.request_id = origin.request_id
        if origin.trace is not None:
            made.trace_id = origin.trace.trace_id
    task_id = current_task_id.get(None)
    if task_id is not None:
        made.task_id = task_id
    return made


_plain: Final = logging.Formatter()


# Formatting


class LineFormatter(logging.Formatter):
    """Records as lines of text (`console`) or as objects (`json`), one a line; without secrets and prompts.
    What comes by way of structlog's own loggers looks the same.

    `hide`: regular expressions of what else is cut out of every string, but for their first group.
    """

    def __init__(self, style: str = "console", hide: Iterable[str] = ()) -> None:
        self._hide = [re.compile(each) for each in hide]
        self._render = _json if style == "json" else _console
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """One line, also of a record that comes straight from its logger."""
        if hasattr(record, "_logger"):
            return self._structlog.format(record)
        # Nearly all lines: past structlog's copies of the record, which cost as much as all the rest.
        if record.args or record.exc_info:
            record = _complete(record)
        return self._render(self._without_secrets(_members(record)))

    @cached_property
    def _structlog(self) -> logging.Formatter:
        """For records of structlog's loggers. Whoever has none need not wait at each start of a process until
        structlog is loaded, and with it whatever it finds installed (Twisted, Rich)."""
        from structlog.stdlib import ProcessorFormatter

        return ProcessorFormatter(processors=[self._of_structlog])

    def _of_structlog(self, logger: Any, name: str, fields: Fields) -> str:
        found = _basis(fields.pop("_record"))
        del fields["_from_structlog"]
        return self._render(self._without_secrets(found | {"event": ""} | dict(fields)))

    def _without_secrets(self, fields: dict[str, Any]) -> dict[str, Any]:
        for key, value in fields.items():
            kept = redacted_member(key, value)
            if isinstance(kept, str) and not (kept.isalnum() and len(kept) < LONGEST):
                for pattern in self._hide:
                    kept = pattern.sub(r"\1[cut]", kept)
                kept = kept[:LONGEST]
            fields[key] = kept
        return fields


def _basis(record: logging.LogRecord) -> dict[str, Any]:
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return {"timestamp": moment, "level": record.levelname.lower(), "logger": record.name}


def _members(record: logging.LogRecord) -> dict[str, Any]:
    """What a record says, in the order in which it is read."""
    found = _basis(record)
    if isinstance(record.msg, Line):
        found["event"] = record.msg.event
        found |= record.msg.fields
    else:
        found["event"] = str(record.msg)
    for key, value in vars(record).items():
        if key not in _RECORD and key not in found and isinstance(value, str | int | float):
            found[key] = value
    if record.exc_text:
        found["exception"] = record.exc_text
    return found


def _json(fields: dict[str, Any]) -> str:
    return msgspec.json.encode(fields, enc_hook=str).decode()


def _console(fields: dict[str, Any]) -> str:
    head = f"{fields.pop('timestamp')} {fields.pop('level').upper()} {fields.pop('logger')}:"
    event, exception = fields.pop("event"), fields.pop("exception", None)
    line = " ".join([head, _one_line(str(event)), *_pairs(fields)])
    return line if exception is None else f"{line}\n{_without_controls(exception)}"


def _pairs(fields: Mapping[str, Any]) -> list[str]:
    return [f"{key}={_value(value)}" for key, value in fields.items() if value is not None]


def _value(value: Any) -> str:
    text = str(value)
    if text.isalnum() and text.isascii():
        return text
    text = _one_line(text)
    return f'"{text}"' if not text or " " in text else text


def _one_line(text: str) -> str:
    """Nobody writes a second line into the log by way of the first."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _without_controls(text: str) -> str:
    """Several lines, each indented or a continuation of a traceback, and nothing that moves a cursor."""
    return "\n".join(f"    {_one_line(line)}" for line in text.splitlines())


def emit(logger: logging.Logger, level: int, line: Line, created: float | None = None) -> None:
    """Log `line` from the background: as if it came from `logger`, without a look at the stack.

    `created`: seconds since the epoch, None for now.
    """
    record = logger.makeRecord(logger.name, level, "", 0, line, (), None)
    if created is not None:
        record.created = created
        record.msecs = (created - int(created)) * 1000
    logger.handle(record)


def seconds_ago(moment: float) -> float:
    """A monotonic moment as seconds since the epoch."""
    return time.time() - (time.monotonic() - moment)
