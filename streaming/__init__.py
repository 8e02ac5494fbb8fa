"""Sluice's reusable app: any generator becomes a routed, resumable event stream.

    from streaming import stream

    async def summarise(request):
        return await stream(request, my_generator(request), kind="summary")

The names below are the public API; they are loaded at first use, so that the package can be named in
INSTALLED_APPS.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streaming.core.errors import GenerationError
    from streaming.core.events import Content, Finish, Output, Restart, Result
    from streaming.hot_door import hot_route
    from streaming.producers import current_stream_id, producer
    from streaming.shortcuts import start, start_and_wait, start_in_background, stream
    from streaming.telemetry.observers import traceparent

_HOMES = {
    "hot_route": "streaming.hot_door",
    "stream": "streaming.shortcuts",
    "start": "streaming.shortcuts",
    "start_and_wait": "streaming.shortcuts",
    "start_in_background": "streaming.shortcuts",
    "producer": "streaming.producers",
    "current_stream_id": "streaming.producers",
    "traceparent": "streaming.telemetry.observers",
    "Content": "streaming.core.events",
    "Finish": "streaming.core.events",
    "Output": "streaming.core.events",
    "Restart": "streaming.core.events",
    "Result": "streaming.core.events",
    "GenerationError": "streaming.core.errors",
}

__all__ = [
    "Content",
    "Finish",
    "GenerationError",
    "Output",
    "Restart",
    "Result",
    "current_stream_id",
    "hot_route",
    "producer",
    "start",
    "start_and_wait",
    "start_in_background",
    "stream",
    "traceparent",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
