"""The registered producer: a brief as plain data → a provider at work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from streaming import producer

from .brief import Brief
from .providers import find_provider

CONTENT: Final = "content"


@producer(CONTENT)
def content(arguments: dict[str, Any]) -> AsyncIterator[Any] | Iterator[Any]:
    """Write what the brief asks for. Raises `ProviderUnavailable` if its provider is gone by now."""
    brief = msgspec.convert(arguments, Brief)
    assert brief.provider is not None
    return find_provider(brief.provider).write(brief)


NOT_THE_WORK: Final[dict[str, Any]] = {"user_id": "", "priority": None, "on_disconnect": None}
"""What of a brief makes no difference to its text."""


def options_of(brief: Brief) -> dict[str, Any]:
    """What the brief says about running it; what it leaves open has the call's own default."""
    options: dict[str, Any] = {
        "end_user": brief.user_id,
        "language": brief.language,
        "identity": msgspec.to_builtins(replace(brief, **NOT_THE_WORK)),
    }
    if brief.priority is not None:
        options["priority"] = brief.priority
    if brief.on_disconnect is not None:
        options["on_disconnect"] = brief.on_disconnect
    return options
