"""Spans on their way to a collector: one line when they begin to be lost, one when they are sent again.

The SDK tells of each try that failed, which is several lines a batch for as long as the collector is away.
Imported only where spans are sent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

logger = logging.getLogger(__name__)

_QUEUE: Final = "opentelemetry.sdk._shared_internal"
"""The logger that tells of spans that found the SDK's queue full."""

_LONGEST: Final = 300
"""Characters of the reason in a line."""


class CountingExporter(SpanExporter):
    """Another exporter, and the lines of its losses. What that one logs itself is left out."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._reason = _Reason()
        self._dropped = _Dropped()
        self.lost = 0
        """Spans, since the last that was sent without a loss."""
        _first(logging.getLogger(type(exporter).__module__), self._reason)
        _first(logging.getLogger(_QUEUE), self._dropped)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch. Raises nothing."""
        self._reason.text = ""
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            self._reason.text = repr(error)
            result = SpanExportResult.FAILURE
        lost, self._dropped.count = self._dropped.count, 0
        if result is SpanExportResult.SUCCESS:
            self._note(lost, "more come than can be sent")
        else:
            self._note(lost + len(spans), self._reason.text or "no answer in time")
        return result

    def hurry(self) -> None:
        """The process goes down: nobody waits for a collector that is away."""
        if self.lost:
            self._exporter.shutdown()

    def shutdown(self) -> None:
        """Close the exporter, after the last batch."""
        if self.lost:
            logger.warning("%d spans were lost", self.lost)
        self._exporter.shutdown()

    def _note(self, lost: int, reason: str) -> None:
        if lost and not self.lost:
            logger.warning("spans are lost until they can be sent (again): %s", reason[:_LONGEST])
        elif self.lost and not lost:
            logger.warning("spans are sent again; %d were lost", self.lost)
            self.lost = 0
        self.lost += lost


class SpanSender(BatchSpanProcessor):
    """Sends in batches, from a thread of its own. `limits`: the SDK's, by default those of OTEL_BSP_…."""

    def __init__(self, exporter: CountingExporter, **limits: Any) -> None:
        super().__init__(exporter, **limits)
        self._counting = exporter

    def shutdown(self) -> None:
        """Send what is left, unless the collector is away anyway."""
        self._counting.hurry()
        super().shutdown()  # type: ignore[no-untyped-call]


class _Reason(logging.Filter):
    """Takes in what an exporter logs, and keeps the first cause that it names: an error, a status."""

    text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        if not self.text and isinstance(record.args, tuple):
            causes = [each for each in record.args if isinstance(each, str | int | Exception)]
            self.text = ", ".join(str(each) for each in causes if each != "spans")
        return False


class _Dropped(logging.Filter):
    """Takes in and counts the SDK's lines of spans that found no room."""

    count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        is_loss = str(record.msg).startswith("Queue full")
        self.count += is_loss
        return not is_loss


def _first(source: logging.Logger, taker: logging.Filter) -> None:
    # Before the SDK's own filter, which leaves repetitions out.
    source.filters.insert(0, taker)
