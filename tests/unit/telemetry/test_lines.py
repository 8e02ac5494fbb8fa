"""Log lines: their two formats, what is never in them, and the file that they go to."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from datetime import datetime

import pytest
import structlog

from streaming.core.origin import Origin, TraceParent
from streaming.telemetry.background import Background
from streaming.telemetry.lines import LONGEST, ORIGIN, Line, LineFormatter, LinesHandler

PATIENCE = 20.0
SECRET = "hush-hush"
KEY = "sk-proj-0123456789abcdefABCDEF"


class Log:
    """A logger of its own that writes to a file."""

    def __init__(self, path, style, **options):
        self.background = Background(pause=0.001)
        self.path = path
        self.handler = LinesHandler(str(path), self.background)
        self.handler.setFormatter(LineFormatter(style, **options))
        self.logger = logging.Logger("streaming.test")
        self.logger.addHandler(self.handler)

    def text(self):
        assert self.background.flush(PATIENCE)
        return self.path.read_text(encoding="utf-8")

    def objects(self):
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "app.log", "json")


@pytest.fixture
def console(tmp_path):
    return Log(tmp_path / "app.log", "console", hide=[r"(/signin/)[^/\s]+"])


def test_a_record_is_an_object(log):
    log.logger.warning("a view failed: %s", 3, extra={"pool": "agent_pool", "request": object()})
    (found,) = log.objects()
    moment = datetime.fromisoformat(found.pop("timestamp"))
    assert moment.tzinfo is not None
    assert found == {
        "level": "warning",
        "logger": "streaming.test",
        "event": "a view failed: 3",
        "pool": "agent_pool",
    }


def test_a_line_has_members(log):
    log.logger.info(Line("stream ended", task_id="ab", events=3, queue_ms=0.25, model=None, text="x"))
    (found,) = log.objects()
    assert found["event"] == "stream ended"
    assert (found["task_id"], found["events"], found["queue_ms"]) == ("ab", 3, 0.25)
    assert found["text"] == "[cut]"


def test_a_line_reads_well_for_people(console):
    console.logger.warning(Line("stream ended", task_id="ab", model="a b", code=None, queue_ms=0.25))
    text = console.text()
    assert text.endswith(' WARNING streaming.test: stream ended task_id=ab model="a b" queue_ms=0.25\n')


def test_a_line_says_everything_where_another_handler_writes_it():
    line = Line("stream ended", task_id="ab", outcome="complete")
    record = logging.LogRecord("x", logging.INFO, "", 0, line, None, None)
    assert logging.Formatter("%(message)s").format(record) == "stream ended task_id=ab outcome=complete"


@pytest.mark.parametrize("style", ["json", "console"])
def test_arguments_are_put_in_at_once(tmp_path, style):
    """What changes later does not change the line."""
    log = Log(tmp_path / "app.log", style)
    value = ["before"]
    log.logger.info("it is %s", value)
    value[0] = "after"
    assert "it is ['before']" in log.text()


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_secret_and_no_prompt_comes_through(tmp_path, style):
    log = Log(tmp_path / "app.log", style)
    log.logger.info("headers: %s", {"Authorization": f"Bearer {SECRET}", "Cookie": SECRET})
    log.logger.info(f"the service said: no such key {KEY}")
    log.logger.info(
        Line("x", arguments={"topic": SECRET}, prompt=SECRET, text=SECRET, deep=[{"prompt": SECRET}])
    )
    log.logger.info("x", extra={"prompt": SECRET, "cookie": SECRET})
    try:
        raise ValueError(f"bad brief: {{'topic': '{SECRET}'}}, key {KEY}")
    except ValueError:
        log.logger.exception("the producer failed")
    text = log.text()
    assert SECRET not in text
    assert KEY not in text
    assert "Traceback" in text
    assert "ValueError: bad brief" in text


def test_a_project_hides_what_else_is_secret(console):
    console.logger.warning("Not Found: %s", f"/accounts/signin/{SECRET}/")
    assert "Not Found: /accounts/signin/[cut]/" in console.text()


@pytest.mark.parametrize("style", ["json", "console"])
def test_nobody_writes_a_second_line_by_way_of_the_first(tmp_path, style):
    log = Log(tmp_path / "app.log", style)
    evil = "x\n2026-01-01T00:00:00 INFO root: all is well\r\x1b[2J\u2028\x85"
    log.logger.info("path %s", evil)
    log.logger.info(Line("request", path=evil))
    try:
        raise ValueError(evil)
    except ValueError:
        log.logger.info("failed", exc_info=True)
    text = log.text()
    assert not any(line.startswith("2026-01-01T00:00:00 INFO root") for line in text.splitlines())
    assert "\x1b" not in text
    assert "\r" not in text


def test_a_long_string_is_cut(log):
    log.logger.info("y" * 100_000)
    assert len(log.objects()[0]["event"]) == LONGEST


def test_request_and_trace_are_those_of_the_calling_code(log):
    token = ORIGIN.set(Origin("req-1", TraceParent("a" * 32, "b" * 16, True), 0.0))
    try:
        log.logger.info("within")
    finally:
        ORIGIN.reset(token)
    log.logger.info("without")
    within, without = log.objects()
    assert (within["request_id"], within["trace_id"]) == ("req-1", "a" * 32)
    assert "request_id" not in without


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_line_of_structlogs_own_loggers_looks_the_same(tmp_path, style):
    log = Log(tmp_path / "app.log", style)
    logger = structlog.wrap_logger(
        log.logger,
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    )
    logger.warning("it happened", prompt=SECRET, number=3)
    text = log.text()
    assert SECRET not in text
    if style == "json":
        found = json.loads(text)
        assert (found["event"], found["number"], found["level"]) == ("it happened", 3, "warning")
    else:
        assert "WARNING streaming.test: it happened prompt=[cut] number=3" in text


def test_a_bad_call_of_logging_is_told_and_harms_nothing(log, capsys):
    log.logger.info("%d", "no number")
    log.logger.info("afterwards")
    assert [each["event"] for each in log.objects()] == ["afterwards"]
    assert "Logging error" in capsys.readouterr().err


def test_a_file_that_was_moved_is_opened_anew(log, tmp_path):
    log.logger.info("one")
    assert "one" in log.text()
    log.path.rename(tmp_path / "app.log.1")
    log.logger.info("two")
    assert [each["event"] for each in log.objects()] == ["two"]
    assert "one" in (tmp_path / "app.log.1").read_text()


def test_a_file_that_cannot_be_opened_is_told_of_and_lines_are_not_lost(tmp_path, capsys):
    log = Log(tmp_path, "console")
    log.logger.warning("something")
    assert log.background.flush(PATIENCE)
    printed = capsys.readouterr().err
    assert "cannot be opened: Is a directory; lines go to standard error" in printed
    assert "streaming.test: something" in printed


def test_lines_that_were_dropped_are_counted_in_the_log(log):
    held, begun = threading.Event(), threading.Event()

    def hold(argument):
        begun.set()
        held.wait(PATIENCE)

    log.background._capacity = 3
    log.background.put(hold, None)
    assert begun.wait(PATIENCE)
    for number in range(10):
        log.logger.info("line %d", number)
    held.set()
    found = log.objects()
    assert [each["event"] for each in found] == [
        *("line 0", "line 1", "line 2"),
        "log lines were dropped: too many at once",
    ]
    assert found[-1]["dropped"] == 7


WRITER = """
import logging, sys
from streaming.telemetry.lines import Line, LineFormatter, LinesHandler
handler = LinesHandler(sys.argv[1])
handler.setFormatter(LineFormatter("json"))
logger = logging.Logger("x")
logger.addHandler(handler)
for number in range(2000):
    logger.info(Line("line", number=number, writer=sys.argv[2], filling="z" * 200))
"""


def test_several_processes_write_whole_lines_into_one_file_and_lose_none_at_their_end(tmp_path):
    path = tmp_path / "app.log"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, str(each)], env={**os.environ}) for each in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for writer in "012":
        numbers = [each["number"] for each in found if each["writer"] == writer]
        assert numbers == list(range(2000))
