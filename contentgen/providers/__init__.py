"""Who writes: one short file per provider, found by name.

A provider is a generator function of a brief (async or blocking) that yields parts, plus a few facts
about it. `register` makes it known; the caller of the API chooses a name, never an address.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from django.conf import settings

from contentgen.brief import Brief

Write = Callable[[Brief], AsyncIterator[Any] | Iterator[Any]]


@dataclass(frozen=True, slots=True)
class CodeRequest:
    """What a piece of code shall do, and the language of its comments (`en`, `zh`)."""

    prompt: str
    language: str


WriteCode = Callable[[CodeRequest], AsyncIterator[Any]]


class ProviderUnavailable(LookupError):
    """No provider of that name, or it is switched off."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A way to write. `models`: the names that a brief may ask for; `default_model`: the one that writes when
    it names none. `is_model`: whether a model writes, not a program. `takes_options`: whether a brief may
    carry `options`. `enabled`: whether the settings allow it. `write_code`: how it writes code, if it can."""

    name: str
    write: Write
    models: Callable[[], frozenset[str]]
    default_model: Callable[[], str]
    is_model: bool = False
    takes_options: bool = False
    enabled: Callable[[], bool] = lambda: True
    write_code: WriteCode | None = None


_MODULES: Final = {
    "offline": "contentgen.providers.offline",
    "openai": "contentgen.providers.openai",
    "scripted": "contentgen.providers.scripted",
}


def find_provider(name: str) -> Provider:
    """The provider called `name`. Raises `ProviderUnavailable`."""
    provider = _known(name)
    if provider is None or not provider.enabled():
        raise ProviderUnavailable(name)
    return provider


def _known(name: str) -> Provider | None:
    if name not in _loaded:
        if name not in _MODULES:
            return None
        _loaded[name] = import_module(_MODULES[name]).PROVIDER
    return _loaded[name]


_loaded: Final[dict[str, Provider]] = {}


def default_provider() -> Provider:
    """The provider of briefs that name none. Raises `ProviderUnavailable`."""
    return find_provider(settings.CONTENT_PROVIDER)


def code_provider() -> Provider:
    """Who writes code: the default provider, else the offline one. Raises `ProviderUnavailable`."""
    provider = default_provider()
    return provider if provider.write_code is not None else find_provider("offline")


def available_providers() -> list[str]:
    """The names that a brief may ask for."""
    providers = [_known(name) for name in _MODULES]
    return [provider.name for provider in providers if provider is not None and provider.enabled()]
