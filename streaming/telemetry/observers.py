"""Who looks at the tasks of this process, by the settings."""

from __future__ import annotations

from importlib.util import find_spec

from django.conf import settings

from streaming.core.origin import span_id
from streaming.runtime.ports import Observer
from streaming.runtime.task import current_task_id, current_trace

from .task_lines import TaskLines

_makes_spans = False


def observers() -> tuple[Observer, ...]:
    """Lines always; spans where OTEL_TRACES_EXPORTER asks for them. Without that nothing of OpenTelemetry is
    imported."""
    global _makes_spans
    if getattr(settings, "OTEL_TRACES_EXPORTER", "none") == "none" or not _is_installed():
        _makes_spans = False
        return (TaskLines(),)
    from .spans import TaskSpans, install

    install()
    spans = TaskSpans()
    _makes_spans = spans.know_their_ids
    return TaskLines(), spans


def traceparent() -> str | None:
    """The header `traceparent` for a service that the running producer calls; None where the caller of its
    task sent none, and outside of a producer.

    It names the task's span `generate`, or, where no spans are made, the caller's.
    """
    parent = current_trace.get(None)
    if parent is None:
        return None
    if _makes_spans:
        parent = parent._replace(span_id=span_id(current_task_id.get()))
    return parent.header


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.trace") is not None
    except ModuleNotFoundError:
        return False
