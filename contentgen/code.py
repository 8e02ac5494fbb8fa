"""Code for a notebook's next cell: the registered producer `code`. Its reader decides whether it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, Literal

import msgspec

from streaming import producer

from .providers import CodeRequest, code_provider

CODE: Final = "code"


class _Arguments(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str
    language: Literal["zh", "en"] = "en"


@producer(CODE)
def code(arguments: dict[str, Any]) -> AsyncIterator[Any]:
    """Write what the prompt asks for. Raises `ProviderUnavailable` if nobody writes code here."""
    wanted = msgspec.convert(arguments, _Arguments)
    write = code_provider().write_code
    assert write is not None
    return write(CodeRequest(wanted.prompt, wanted.language))
