"""What is told of spans that are lost: one line when it begins, one when it is over."""

from __future__ import annotations

import logging
import threading

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from streaming.telemetry.export import CountingExporter, SpanSender

PATIENCE_MS = 20_000


class Collector(SpanExporter):
    """Takes spans, or says of each try that it failed, as the SDK's exporters do."""

    def __init__(self) -> None:
        self.away = False
        self.cause: str | OSError = OSError("refused")
        self.raises = False
        self.taken = 0
        self.closed = threading.Event()
        self.held = threading.Event()
        self.held.set()

    def export(self, spans):
        assert self.held.wait(20)
        if self.raises:
            raise OSError("no route")
        if not self.away:
            self.taken += len(spans)
            return SpanExportResult.SUCCESS
        for number in range(3 if self.cause else 0):
            logging.getLogger(__name__).warning(
                "Transient error %s, retry in %.2fs", self.cause, number + 0.5
            )
        logging.getLogger(__name__).error("Failed to export %s batch due to timeout", "spans")
        return SpanExportResult.FAILURE

    def shutdown(self):
        self.closed.set()


@pytest.fixture
def collector():
    return Collector()


@pytest.fixture
def made(collector):
    """An exporter in its processor; takes its hands off the SDK's loggers at the end."""
    names = (__name__, "opentelemetry.sdk._shared_internal")
    before = {name: list(logging.getLogger(name).filters) for name in names}
    exporter = CountingExporter(collector)
    provider = TracerProvider(shutdown_on_exit=False)
    sender = SpanSender(exporter, max_queue_size=8, max_export_batch_size=8, schedule_delay_millis=60_000)
    provider.add_span_processor(sender)
    tracer = provider.get_tracer("test")

    def send(count):
        for _ in range(count):
            tracer.start_span("x").end()
        provider.force_flush(PATIENCE_MS)

    yield send, provider
    provider.shutdown()
    for name, filters in before.items():
        logging.getLogger(name).filters[:] = filters


def words(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_collector_that_is_away_is_one_line_and_its_return_another(made, collector, caplog):
    send, _ = made
    send(2)
    assert words(caplog) == []
    collector.away = True
    for _ in range(5):
        send(2)
    collector.away = False
    for _ in range(3):
        send(1)
    assert words(caplog) == [
        ("WARNING", "spans are lost until they can be sent (again): refused"),
        ("WARNING", "spans are sent again; 10 were lost"),
    ]
    assert collector.taken == 5


def test_a_collector_that_does_not_answer_gives_no_cause(made, collector, caplog):
    send, _ = made
    collector.away, collector.cause = True, ""
    send(1)
    ((_, word),) = words(caplog)
    assert word == "spans are lost until they can be sent (again): no answer in time"


def test_each_time_anew_and_whatever_the_exporter_does(made, collector, caplog):
    send, _ = made
    for _ in range(2):
        collector.raises = True
        send(3)
        collector.raises = False
        send(1)
    lost, again = (
        "spans are lost until they can be sent (again): OSError('no route')",
        "spans are sent again",
    )
    assert [word[: len(lost)] for _, word in words(caplog)] == [lost, f"{again}; 3 were lost"] * 2


def test_what_finds_no_room_is_counted(made, collector, caplog):
    """The first eight are on their way, the next wait, and five of them for nothing."""
    send, _ = made
    collector.held.clear()
    threading.Timer(0.2, collector.held.set).start()
    send(21)
    send(1)
    assert words(caplog)[0] == (
        "WARNING",
        "spans are lost until they can be sent (again): more come than can be sent",
    )
    total = 22
    assert words(caplog)[1:] == [("WARNING", f"spans are sent again; {total - collector.taken} were lost")]


def test_the_end_says_what_was_lost_and_waits_for_nobody(made, collector, caplog):
    send, provider = made
    collector.away = True
    send(4)
    closed_before_the_rest: list[bool] = []
    export = collector.export

    def look(spans):
        closed_before_the_rest.append(collector.closed.is_set())
        return export(spans)

    collector.export = look
    provider.get_tracer("test").start_span("left").end()
    provider.shutdown()
    assert closed_before_the_rest == [True]
    assert words(caplog)[-1] == ("WARNING", "5 spans were lost")
