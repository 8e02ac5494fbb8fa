"""The registered producer: a brief as plain data → a provider at work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import msgspec

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
