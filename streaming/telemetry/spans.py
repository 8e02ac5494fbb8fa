"""OpenTelemetry: a span for each task, from the request to the end, and in it what became of the time:
`queue` while it waited, `generate` from its permit on.

They are made when the task has ended, from the moments that the task has noted anyway, and in the background:
so they cost a stream nothing. What the producer calls meanwhile is told the id that `generate` will have (see
`streaming.traceparent`). Imported only where settings ask for spans (see `observers`).
"""

from __future__ import annotations

import logging
from datetime import datetime
from importlib.util import find_spec
from typing import Any, Final

from django.conf import settings
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from streaming.core.events import Cancelled, Complete, Error
from streaming.core.origin import TraceParent, span_id
from streaming.core.routing import Route
from streaming.runtime.task import Task

from .background import BACKGROUND, Background
from .task_lines import owner_key

logger = logging.getLogger(__name__)

NAME: Final = "sluice"
"""Of the tracer, and of the service where OTEL_SERVICE_NAME says nothing."""


class TaskSpans:
    """See the module; an observer of the supervisor (`ports.Observer`). `provider`: None for the process'
    own."""

    def __init__(
        self, provider: trace.TracerProvider | None = None, background: Background = BACKGROUND
    ) -> None:
        self._tracer = trace.get_tracer(NAME, tracer_provider=provider)
        self._ids = _ids_of(self._tracer)
        self._background = background

    @property
    def know_their_ids(self) -> bool:
        """Whether the span `generate` of a task with a caller's trace has the id `span_id(task.id)`."""
        return self._ids is not None

    def decided(self, task: Task) -> None:
        """Its span is made when it has ended."""

    def began_anew(self, task: Task) -> None:
        """Likewise: `generate` begins with this attempt."""

    def ended(self, task: Task) -> None:
        """A task has its terminal event."""
        self._background.put(self._make, task)

    def _make(self, task: Task) -> None:
        moment = _Moments(task)
        origin = task.spec.origin
        span = self._tracer.start_span(
            f"stream {task.spec.kind}",
            context=_parent(origin.trace) if origin is not None and origin.trace is not None else None,
            kind=SpanKind.SERVER,
            start_time=moment.of(origin.received if origin is not None else task.created),
            attributes=_attributes(task),
        )
        load = task.ticket.snapshot
        waits = {"sluice.running": load.running, "sluice.waiting": load.waiting}
        span.add_event(f"routed {task.route}", waits, moment.of(task.created))
        inside = trace.set_span_in_context(span)
        end = moment.of(task.finished) if task.finished is not None else None
        if task.route == Route.QUEUED.value:
            granted = moment.of(task.started) if task.started is not None else None
            waited = self._tracer.start_span("queue", inside, start_time=moment.of(task.created))
            _end(waited, task, granted, end)
        if task.started is not None:
            if self._ids is not None and origin is not None and origin.trace is not None:
                self._ids.next = int(span_id(task.id), 16)
            generated = self._tracer.start_span("generate", inside, start_time=moment.of(task.started))
            if task.first_content is not None:
                generated.add_event("first content", timestamp=moment.of(task.first_content))
            _end(generated, task, None, end)
        _end(span, task, None, end)


def _end(span: trace.Span, task: Task, passed_on: int | None, end: int | None) -> None:
    """End a span: at the moment at which the next one begins (`passed_on`), else with the task, whose fault
    it then is, too."""
    if passed_on is None and isinstance(task.final, Error):
        span.set_status(Status(StatusCode.ERROR, task.final.code))
    span.end(end if passed_on is None else passed_on)


class _Ids:
    """The SDK's ids of a tracer's spans, of which one may be given: `next`, 0 for none."""

    def __init__(self, ids: Any) -> None:
        self._ids = ids
        self.next = 0

    def generate_span_id(self) -> int:
        given, self.next = self.next, 0
        return given or int(self._ids.generate_span_id())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ids, name)


def _ids_of(tracer: Any) -> _Ids | None:
    """Those of the tracer from now on; None for one that makes no spans. Tracers are shared by their name."""
    ids = getattr(tracer, "id_generator", None)
    if ids is None or isinstance(ids, _Ids):
        return ids
    tracer.id_generator = _Ids(ids)
    return _ids_of(tracer)


class _Moments:
    """Monotonic seconds of a task as nanoseconds since the epoch."""

    def __init__(self, task: Task) -> None:
        self._created_at = _nanoseconds(task.created_at)
        self._created = task.created

    def of(self, moment: float) -> int:
        return self._created_at + int((moment - self._created) * 1e9)


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6) * 1000


def _attributes(task: Task) -> dict[str, Any]:
    counts, receipt, end = task.counts, task.receipt, task.final
    found: dict[str, Any] = {
        "sluice.task_id": task.id,
        "sluice.kind": task.spec.kind,
        "sluice.pool": task.spec.pool,
        "sluice.route": task.route,
        "sluice.reason": task.reason,
        "sluice.content_length": counts.content_length,
        "sluice.status_messages": counts.status_messages,
        "sluice.resumes": counts.resumes,
    }
    if task.spec.share_key is not None:
        found["sluice.owner"] = owner_key(task.spec.share_key)
    if not task.lost:
        found["sluice.events"] = task.journal.last_id
    if task.spec.origin is not None:
        found["sluice.request_id"] = task.spec.origin.request_id
    if receipt is not None:
        found["sluice.queue_ms"] = receipt.queued_ms
        if receipt.first_content_ms is not None:
            found["sluice.first_content_ms"] = receipt.first_content_ms
    match end:
        case Complete():
            found["sluice.outcome"] = "complete"
            found["sluice.finish_reason"] = end.finish_reason
            if end.model:
                found["gen_ai.response.model"] = end.model
        case Error():
            found |= {"sluice.outcome": "error", "error.type": end.code}
        case Cancelled():
            found |= {"sluice.outcome": "cancelled", "sluice.cancelled_by": end.reason}
    return found


def _parent(parent: TraceParent) -> Any:
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    context = SpanContext(
        int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags
    )
    return trace.set_span_in_context(NonRecordingSpan(context))


def install() -> None:
    """Have spans sent to where OTEL_… says, unless the process has a provider of its own already (as under
    `opentelemetry-instrument`)."""
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    if find_spec("opentelemetry.sdk") is None:
        logger.warning("spans are not sent: opentelemetry-sdk is not installed")
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    processor = _processor()
    if processor is None:
        return
    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": NAME}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)


def _processor() -> Any:
    if settings.OTEL_TRACES_EXPORTER == "console":
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        return BatchSpanProcessor(ConsoleSpanExporter())
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        logger.warning("spans are not sent: opentelemetry-exporter-otlp-proto-http is not installed")
        return None
    from .export import CountingExporter, SpanSender

    return SpanSender(CountingExporter(OTLPSpanExporter()))
