"""Registered producers: a name plus JSON arguments → a source of parts.

An iterator handed to `stream` lives and dies with its process. What shall wait in a queue over a
restart, be retried or run elsewhere must be made anew from plain data, so it is registered by name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from streaming.runtime.task import Source, current_task_id

Producer = Callable[[dict[str, Any]], Source | Awaitable[Source]]
"""An async or sync generator function (or a function that returns an iterator) of the arguments."""

_registry: Final[dict[str, Producer]] = {}


def producer(name: str) -> Callable[[Producer], Producer]:
    """Register the decorated function under `name`. Raises `ValueError` if another one has it."""

    def register(function: Producer) -> Producer:
        known = _registry.setdefault(name, function)
        if known is not function:
            raise ValueError(f"two producers are named {name!r}")
        return function

    return register


def current_stream_id() -> str:
    """The id of the stream that the running producer feeds. Raises `LookupError` outside of a producer."""
    return current_task_id.get()


def is_registered(name: str) -> bool:
    """Whether there is a producer of that name."""
    return name in _registry


def registered_names() -> list[str]:
    """Of all producers."""
    return list(_registry)


def open_producer(name: str, arguments: Mapping[str, Any]) -> Source | Awaitable[Source]:
    """Call the producer `name`. Raises `LookupError` if there is none."""
    try:
        function = _registry[name]
    except KeyError:
        raise LookupError(f"no producer is registered as {name!r}") from None
    return function(dict(arguments))
