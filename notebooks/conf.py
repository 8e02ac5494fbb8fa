"""The app's settings, typed and validated. A project needs none of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from streaming.conf import problems_of

from .kernels.limits import GatewayConfig, KernelLimits

POLICIES: Final = ("false", "loopback", "true")


def kernels_enabled() -> str:
    """From where code may be run (KERNELS_ENABLED): `false`, `loopback` or `true`."""
    return str(getattr(settings, "KERNELS_ENABLED", "false")).lower()


def has_kernels() -> bool:
    """Whether code may be run from anywhere."""
    return kernels_enabled() != "false"


def without_sandbox() -> bool:
    """Whether several users may run code as the server's own user (KERNELS_WITHOUT_SANDBOX)."""
    return bool(getattr(settings, "KERNELS_WITHOUT_SANDBOX", False))


@cache
def limits() -> KernelLimits:
    """KERNEL_CONFIG. Raises `ImproperlyConfigured` on a wrong value."""
    for _, text in problems():
        raise ImproperlyConfigured(text)
    return msgspec.convert(_values(), KernelLimits)


@cache
def gateway() -> GatewayConfig:
    """KERNEL_GATEWAY. Raises `ImproperlyConfigured` on a wrong value."""
    for _, text in problems():
        raise ImproperlyConfigured(text)
    return msgspec.convert(_gateway_values(), GatewayConfig)


def problems() -> Iterator[tuple[str, str]]:
    """Everything that is wrong with the settings: the setting's name, and a sentence."""
    if kernels_enabled() not in POLICIES:
        expected = ", ".join(POLICIES)
        yield "KERNELS_ENABLED", f"KERNELS_ENABLED is {kernels_enabled()!r}: expected one of {expected}"
    found = list(problems_of("KERNEL_CONFIG", "KERNEL", KernelLimits, _values()))
    yield from found
    if not found:
        try:
            msgspec.convert(_values(), KernelLimits).sandbox_words  # noqa: B018 - it raises
        except ValueError as error:
            yield "KERNEL_CONFIG", f"KERNEL_SANDBOX: {error}"
    yield from _gateway_problems()


def _gateway_problems() -> Iterator[tuple[str, str]]:
    values = _gateway_values()
    secret = {"url", "token"}
    if isinstance(values, Mapping):
        for name in sorted(secret & values.keys()):
            if not isinstance(values[name], str):
                # Never the value itself: it may be a secret.
                yield "KERNEL_GATEWAY", f"KERNEL_GATEWAY_{name.upper()} must be text"
                return
    found = list(problems_of("KERNEL_GATEWAY", "KERNEL_GATEWAY", GatewayConfig, values))
    yield from found
    if not found:
        for text in msgspec.convert(values, GatewayConfig).problems():
            yield "KERNEL_GATEWAY", text


def _gateway_values() -> Any:
    return getattr(settings, "KERNEL_GATEWAY", {})


def _values() -> Any:
    return getattr(settings, "KERNEL_CONFIG", {})


def _forget(**kwargs: Any) -> None:
    limits.cache_clear()
    gateway.cache_clear()


setting_changed.connect(_forget)
