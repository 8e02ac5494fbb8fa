"""Who looks at the tasks of this process, by the settings."""

from __future__ import annotations

from importlib.util import find_spec

from django.conf import settings

from streaming.runtime.ports import Observer

from .task_lines import TaskLines


def observers() -> tuple[Observer, ...]:
    """Lines always; spans where OTEL_TRACES_EXPORTER asks for them. Without that nothing of OpenTelemetry is
    imported."""
    if getattr(settings, "OTEL_TRACES_EXPORTER", "none") == "none" or not _is_installed():
        return (TaskLines(),)
    from .spans import TaskSpans, install

    install()
    return TaskLines(), TaskSpans()


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.trace") is not None
    except ModuleNotFoundError:
        return False
