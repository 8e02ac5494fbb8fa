"""The settings of the model service, typed and validated.

Only these say where text is sent and with which key: a caller chooses a model by name, never an address.
Read at first use and kept; Django's `override_settings` makes them be read again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Final
from urllib.parse import SplitResult, urlsplit

import msgspec
from django.conf import settings
from django.core.signals import setting_changed
from msgspec import Meta

from streaming.addresses import is_loopback
from streaming.conf import problems_of

DEFAULT_BASE: Final = "https://api.openai.com/v1"
DEFAULT_MODEL: Final = "gpt-4o-mini"

OPENAI_HOST: Final = "api.openai.com"
"""The one host that wants `max_completion_tokens`; all others know `max_tokens`."""

_KEY: Final = re.compile(r"[!-~]{1,4096}")
_MODEL: Final = re.compile(r"[!-~]{1,128}")


class OpenAIConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OPENAI_CONFIG. Times in seconds; see docs/settings.md."""

    connect_timeout: Annotated[float, Meta(gt=0, le=300)] = 5
    first_token_timeout: Annotated[float, Meta(gt=0, le=3_600)] = 30
    token_timeout: Annotated[float, Meta(gt=0, le=3_600)] = 30
    max_connections: Annotated[int, Meta(ge=1, le=10_000)] = 100
    keepalive: Annotated[float, Meta(ge=0, le=3_600)] = 60
    retries: Annotated[int, Meta(ge=0, le=10)] = 2


@dataclass(frozen=True, slots=True)
class Service:
    """A model service: where it is, and what opens it. The key is in no `repr`."""

    base: str
    key: str = field(repr=False)
    model: str
    models: frozenset[str]
    config: OpenAIConfig

    @property
    def host(self) -> str:
        """Host and port, for people."""
        return urlsplit(self.base).netloc

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine."""
        host = urlsplit(self.base).hostname or ""
        return is_loopback(host) or host == "localhost" or host.endswith(".localhost")

    @property
    def is_openai(self) -> bool:
        """Whether it is OpenAI's own."""
        return urlsplit(self.base).hostname == OPENAI_HOST


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a setting: its name, a sentence without the value of a secret, how to mend it."""

    setting: str
    message: str
    hint: str


@cache
def service() -> Service | None:
    """The model service; None without a key, or while its settings are not sound."""
    if not _key() or any(True for _ in faults()):
        return None
    model = _text("OPENAI_MODEL", DEFAULT_MODEL)
    return Service(
        base=_base().rstrip("/"),
        key=_key(),
        model=model,
        models=frozenset({model, *_further_models()}),
        config=msgspec.convert(_config(), OpenAIConfig),
    )


def _forget(**kwargs: Any) -> None:
    service.cache_clear()


setting_changed.connect(_forget)


def faults() -> Iterator[Fault]:
    """Everything that keeps the model service off although somebody asked for it."""
    yield from key_faults()
    yield from base_faults()
    yield from value_faults()


def key_faults() -> Iterator[Fault]:
    """A key that no HTTP header can carry, or that was copied with its quotes."""
    key = _key()
    if not key:
        return
    hint = "Copy it again, without quotes, spaces or a line break; it is not shown here."
    if key[0] in "'\"" or key[-1] in "'\"":
        yield Fault("OPENAI_API_KEY", "OPENAI_API_KEY is in quotes", hint)
    elif not _KEY.fullmatch(key):
        yield Fault("OPENAI_API_KEY", "OPENAI_API_KEY holds a character that no key has", hint)


def base_faults() -> Iterator[Fault]:
    """An address that is none of a service over HTTP, or that says more than an address."""
    message = base_fault(_base())
    if message:
        hint = f"For instance {DEFAULT_BASE} or http://127.0.0.1:11434/v1: scheme, host and path, no more."
        yield Fault("OPENAI_API_BASE", f"OPENAI_API_BASE {message}", hint)


def base_fault(base: str) -> str:
    """What is wrong with the address of a service; empty if nothing is. Never repeats a password."""
    if not base.isascii() or any(char <= " " or char == "\x7f" for char in base):
        return "holds a blank or a character that no URL has"
    try:
        parts = urlsplit(base)
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https"):
        return "does not begin with https:// or http://"
    return _place_fault(parts) if port_is_sound else "has an impossible port"


def _place_fault(parts: SplitResult) -> str:
    if not parts.hostname:
        return "names no host"
    if "@" in parts.netloc:
        return "holds a user name or a password"
    return "holds a query or a fragment" if parts.query or parts.fragment else ""


def value_faults() -> Iterator[Fault]:
    """Models and OPENAI_CONFIG."""
    hint = "See docs/settings.md for names, units and ranges; unset the variable to get the default."
    if not _MODEL.fullmatch(_text("OPENAI_MODEL", DEFAULT_MODEL)):
        yield Fault("OPENAI_MODEL", "OPENAI_MODEL is not the name of a model", hint)
    for name in _further_models():
        if not _MODEL.fullmatch(name):
            yield Fault(
                "OPENAI_MODELS", f"OPENAI_MODELS holds {name!r}, which is not the name of a model", hint
            )
    for setting, message in problems_of("OPENAI_CONFIG", "OPENAI", OpenAIConfig, _config()):
        yield Fault(setting, message, hint)


def is_set_without_key() -> bool:
    """Whether somebody named a service, but no key."""
    return not _key() and _base() != DEFAULT_BASE


def _key() -> str:
    return _text("OPENAI_API_KEY", "")


def _base() -> str:
    return _text("OPENAI_API_BASE", DEFAULT_BASE)


def _config() -> Any:
    return getattr(settings, "OPENAI_CONFIG", {})


def _further_models() -> list[str]:
    return [str(name) for name in getattr(settings, "OPENAI_MODELS", ())]


def _text(setting: str, default: str) -> str:
    return str(getattr(settings, setting, default))
