"""One line for each decision, one for each end; and spans of the same tasks."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys

import pytest
from opentelemetry.trace import StatusCode

from streaming.core.origin import Origin, TraceParent, span_id
from streaming.runtime.task import CancelReason
from streaming.telemetry import observers, task_lines
from streaming.telemetry.background import Background
from streaming.telemetry.task_lines import TaskLines, owner_key
from tests.unit.runtime.fakes import ended, house, occupant, pool_limits, spec

PATIENCE = 20.0
TRACE = TraceParent("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)


@pytest.fixture
def background():
    return Background(pause=0.001)


@pytest.fixture
def lines(background, monkeypatch):
    """What was logged, as (level, event, members)."""
    found: list[tuple[int, str, dict]] = []

    class Noting(logging.Handler):
        def emit(self, record):
            found.append((record.levelno, record.msg.event, record.msg.fields))

    logger = logging.Logger("streaming.tasks", logging.INFO)
    logger.addHandler(Noting())
    monkeypatch.setattr(task_lines, "logger", logger)

    def read():
        assert background.flush(PATIENCE)
        return found

    return read


def admitted(supervisor, source, **changes):
    """A task as the service begins it."""
    task = supervisor.open(spec(source, **changes))
    supervisor.record(task)
    return task


async def run(supervisor, source, **changes):
    """One from its beginning to its end."""
    task = admitted(supervisor, source, **changes)
    await ended(task)
    return task


async def words():
    for word in ("one ", "two ", "a piece of text that is long enough by itself ", "three"):
        yield word
        await asyncio.sleep(0)


async def test_a_task_has_two_lines(background, lines):
    origin = Origin("req-1", TRACE, 0.0)
    async with house(observers=[TaskLines(background)]) as supervisor:
        await run(supervisor, words, share_key=("account", "7", "alice"), origin=origin)
    (level, event, decision), (end_level, end_event, end) = lines()
    assert (level, event) == (end_level, "stream routed") == (logging.INFO, "stream routed")
    assert end_event == "stream ended"
    for told in (decision, end):
        assert (told["route"], told["reason"], told["pool"]) == ("direct", "worker_free", "agent_pool")
        assert (told["owner"], told["request_id"]) == ("account:7:alice", "req-1")
        assert told["trace_id"] == TRACE.trace_id
    assert decision["task_id"] == end["task_id"]
    assert (end["outcome"], end["finish_reason"]) == ("complete", "stop")
    assert end["parts"] == 4
    assert end["chunks"] <= end["events"] - 1
    assert end["first_content_ms"] <= end["total_ms"]
    assert not any("long enough" in str(value) for value in end.values()), "no text in a log"


async def test_a_task_that_waited_says_why_and_how_long(background, lines):
    first, release = occupant()
    async with house(pool=pool_limits(max_workers=1), observers=[TaskLines(background)]) as supervisor:
        admitted(supervisor, first)
        waiting = admitted(supervisor, words, share_key="another")
        release.set()
        await ended(waiting)
    mine = [fields for _, _, fields in lines() if fields["task_id"] == waiting.id]
    decision, end = mine
    assert (decision["route"], decision["reason"]) == ("queued", "workers_busy")
    assert (decision["running"], decision["max_workers"], decision["waiting"]) == (1, 1, 0)
    assert end["queue_ms"] > 0


async def test_an_error_is_a_warning_with_its_code(background, lines):
    async def failing():
        yield "x"
        raise ValueError("a secret of the producer")

    async with house(observers=[TaskLines(background)]) as supervisor:
        await run(supervisor, failing)
    level, event, end = lines()[-1]
    assert (level, event, end["outcome"], end["code"]) == (
        *(logging.WARNING, "stream ended", "error"),
        "producer_failed",
    )
    assert "secret" not in str(end)


async def test_a_cancel_tells_by_whom(background, lines):
    held, _ = occupant()
    async with house(observers=[TaskLines(background)]) as supervisor:
        task = admitted(supervisor, held)
        supervisor.cancel(task, CancelReason.ADMIN)
        await ended(task)
    _, _, end = lines()[-1]
    assert (end["outcome"], end["cancelled_by"]) == ("cancelled", "admin")


async def test_an_admission_that_is_taken_back_has_no_line(background, lines):
    """Nobody was told of it: another call with the same key was first."""
    held, _ = occupant()
    async with house(observers=[TaskLines(background)]) as supervisor:
        task = supervisor.open(spec(held))
        await asyncio.sleep(0)
        supervisor.retract(task)
        stays = await run(supervisor, words)
    assert [(event, fields["task_id"]) for _, event, fields in lines()] == [
        ("stream routed", stays.id),
        ("stream ended", stays.id),
    ]


async def test_of_a_task_whose_process_is_gone_only_what_the_record_knows_is_told(background, lines):
    held, _ = occupant()
    async with house(observers=[TaskLines(background)]) as supervisor:
        task = supervisor.open(spec(held, share_key=None))
        task.lost = True
        supervisor.cancel(task, CancelReason.CLIENT)
        await ended(task)
    _, _, end = lines()[-1]
    known = {
        "queue_ms",
        "first_content_ms",
        "total_ms",
        "chunks",
        "content_length",
        "status_messages",
        "resumes",
        "attempts",
    }
    identity = {"task_id", "kind", "pool", "route", "reason"}
    assert set(end) == identity | known | {"outcome", "cancelled_by"}


async def test_flush_pressure_is_told(background, lines):
    """Text that left because there was enough of it, and not because its time had come."""

    async def eager():
        for _ in range(40):
            yield "four"

    async with house(observers=[TaskLines(background)], flush_chars=15, buffer_size=20) as supervisor:
        await run(supervisor, eager)
    _, _, end = lines()[-1]
    assert end["buffer_full_flushes"] >= 8
    assert end["buffer_widened"] >= 0


async def test_nothing_is_handed_over_below_the_level(background, lines):
    task_lines.logger.setLevel(logging.CRITICAL)
    async with house(observers=[TaskLines(background)]) as supervisor:
        await run(supervisor, words)
    assert lines() == []
    assert background._thread is None


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (("account", "7", ""), "account:7"),
        (("account", "7", "alice"), "account:7:alice"),
        (("address", "192.0.2.1"), "address:192.0.2.1"),
        ("somebody", "somebody"),
    ],
)
def test_owners_are_told_as_text(key, text):
    assert owner_key(key) == text


# --- Spans --------------------------------------------------------------------------------------------


@pytest.fixture
def spans(background):
    """An observer that makes spans, and how to read them."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from streaming.telemetry.spans import TaskSpans

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def read():
        assert background.flush(PATIENCE)
        return exporter.get_finished_spans()

    return TaskSpans(provider, background), read


async def test_a_task_is_a_span_from_the_request_to_the_end(spans):
    observer, read = spans
    async with house(observers=[observer]) as supervisor:
        received = supervisor.loop.time()
        task = await run(supervisor, words, origin=Origin("req-1", TRACE, received))
    generated, span = read()
    assert (span.name, generated.name) == ("stream test", "generate")
    assert (span.context.trace_id, span.parent.span_id) == (int(TRACE.trace_id, 16), int(TRACE.span_id, 16))
    assert generated.parent == span.context
    assert generated.context.span_id == int(span_id(task.id), 16)
    assert [event.name for event in span.events] == ["routed direct"]
    assert [event.name for event in generated.events] == ["first content"]
    moments = [
        span.start_time,
        span.events[0].timestamp,
        generated.start_time,
        generated.events[0].timestamp,
        generated.end_time,
    ]
    assert moments == sorted(moments)
    assert generated.end_time == span.end_time
    assert span.attributes["sluice.request_id"] == "req-1"
    assert span.attributes["sluice.outcome"] == "complete"
    assert span.attributes["sluice.reason"] == "worker_free"
    assert not any(each.status.status_code is StatusCode.ERROR for each in (span, generated))


async def test_what_waited_has_a_span_of_its_waiting(spans):
    observer, read = spans
    first, release = occupant()
    async with house(pool=pool_limits(max_workers=1), observers=[observer]) as supervisor:
        held = admitted(supervisor, first)
        waiting = admitted(supervisor, words, share_key="another")
        await asyncio.sleep(0.02)
        release.set()
        await asyncio.gather(ended(held), ended(waiting))
    mine = [each for each in read() if _root_of(each, read()).attributes["sluice.task_id"] == waiting.id]
    assert [each.name for each in mine] == ["queue", "generate", "stream test"]
    queue, generated, root = mine
    assert queue.parent == generated.parent == root.context
    assert [event.name for event in root.events] == ["routed queued"]
    assert queue.end_time == generated.start_time
    assert queue.end_time - queue.start_time >= 20_000_000
    assert generated.context.span_id != int(span_id(waiting.id), 16), "nobody was told"


def _root_of(span, every):
    if span.parent is None:
        return span
    return next(each for each in every if each.context.span_id == span.parent.span_id)


async def test_what_was_never_begun_has_waited_to_its_end(spans):
    observer, read = spans
    first, release = occupant()
    pool = pool_limits(max_workers=1, queue_timeout=0.01)
    async with house(pool=pool, observers=[observer]) as supervisor:
        held = admitted(supervisor, first)
        await run(supervisor, words, share_key="another")
        release.set()
        await ended(held)
    queue, root = read()[:2]
    assert (queue.name, root.name) == ("queue", "stream test")
    assert queue.end_time == root.end_time
    assert queue.status.description == root.status.description == "queue_timeout"


async def test_a_task_whose_process_is_gone_has_a_span_too(spans):
    observer, read = spans
    held, _ = occupant()
    async with house(observers=[observer]) as supervisor:
        task = supervisor.open(spec(held, share_key=None))
        task.lost = True
        supervisor.cancel(task, CancelReason.CLIENT)
        await ended(task)
    *_, span = read()
    assert span.attributes["sluice.outcome"] == "cancelled"
    assert not {"sluice.events", "sluice.owner"} & set(span.attributes)


async def test_without_a_parent_it_is_a_trace_of_its_own_and_an_error_is_one(spans):
    observer, read = spans

    async def failing():
        raise ValueError("a secret of the producer")
        yield

    async with house(observers=[observer]) as supervisor:
        await run(supervisor, failing)
    generated, span = read()
    assert span.parent is None
    assert span.attributes["error.type"] == "producer_failed"
    assert generated.parent == span.context
    for each in (span, generated):
        assert each.status.status_code is StatusCode.ERROR
        assert "secret" not in each.to_json()


async def test_a_parent_that_is_not_kept_is_not_kept_here_either(spans):
    observer, read = spans
    async with house(observers=[observer]) as supervisor:
        await run(supervisor, words, origin=Origin("r", TRACE._replace(sampled=False), 0.0))
    assert read() == ()


async def _told():
    yield str(observers.traceparent())


@pytest.mark.parametrize("makes_spans", [True, False])
async def test_a_producer_hands_the_trace_on(monkeypatch, makes_spans):
    """As the part that its own span is; where none is made, as the caller's."""
    monkeypatch.setattr(observers, "_makes_spans", makes_spans)

    def blocking():
        yield str(observers.traceparent())

    async with house() as supervisor:
        for source in (_told, blocking):
            task = await run(supervisor, source, origin=Origin("r", TRACE, 0.0))
            own = span_id(task.id) if makes_spans else TRACE.span_id
            text = b"".join(task.journal.read(0, 1)).decode()
            assert f"00-{TRACE.trace_id}-{own}-01" in text


@pytest.mark.parametrize("origin", [None, Origin("r", None, 0.0)])
async def test_without_a_caller_who_traces_nothing_is_handed_on(origin):
    assert observers.traceparent() is None
    async with house() as supervisor:
        task = await run(supervisor, _told, origin=origin)
    assert b"None" in b"".join(task.journal.read(0, 1))


OFF = """
import importlib, json, os, sys, traceback
os.environ["DJANGO_SETTINGS_MODULE"] = "settings.settings"
import django
django.setup()
import streaming.service
from django.conf import settings
from settings import settings as file
from streaming.telemetry.observers import observers
for variables in json.loads(sys.argv[1]):
    if os.fork():
        os.wait()
        continue
    try:
        os.environ.update(variables)
        settings.OTEL_TRACES_EXPORTER = importlib.reload(file).OTEL_TRACES_EXPORTER
        made = len(observers())
        print(made, any(name.startswith("opentelemetry") for name in sys.modules), flush=True)
    except BaseException:
        print(traceback.format_exc().splitlines()[-1], flush=True)
    finally:
        os._exit(0)
"""
"""Each environment in a process of its own: one of them imports what all have in common, and forks."""


def test_nothing_of_it_is_imported_unless_the_environment_asks(tmp_path):
    from tests.support.servers import ROOT, environment

    somewhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    cases = [
        ({}, "1 False"),
        (somewhere, "2 True"),
        (somewhere | {"OTEL_SDK_DISABLED": "true"}, "1 False"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "2 True"),
        (somewhere | {"OTEL_TRACES_EXPORTER": "none"}, "1 False"),
    ]
    made = subprocess.run(
        [sys.executable, "-c", OFF, json.dumps([variables for variables, _ in cases])],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = made.stdout.splitlines()
    assert list(zip([variables for variables, _ in cases], found, strict=True)) == cases, made.stderr
