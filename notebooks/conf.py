"""The app's settings, typed and validated. A project needs none of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from streaming.conf import problems_of

from .kernels.limits import KernelLimits


def kernels_enabled() -> bool:
    """Whether anybody may run code (KERNELS_ENABLED)."""
    return bool(getattr(settings, "KERNELS_ENABLED", False))


def without_sandbox() -> bool:
    """Whether several users may run code as the server's own user (KERNELS_WITHOUT_SANDBOX)."""
    return bool(getattr(settings, "KERNELS_WITHOUT_SANDBOX", False))


@cache
def limits() -> KernelLimits:
    """KERNEL_CONFIG. Raises `ImproperlyConfigured` on a wrong value."""
    for _, text in problems():
        raise ImproperlyConfigured(text)
    return msgspec.convert(_values(), KernelLimits)


def problems() -> Iterator[tuple[str, str]]:
    """Everything that is wrong with KERNEL_CONFIG: the setting's name, and a sentence."""
    found = list(problems_of("KERNEL_CONFIG", "KERNEL", KernelLimits, _values()))
    yield from found
    if not found:
        try:
            msgspec.convert(_values(), KernelLimits).sandbox_words  # noqa: B018 - it raises
        except ValueError as error:
            yield "KERNEL_CONFIG", f"KERNEL_SANDBOX: {error}"


def _values() -> Any:
    return getattr(settings, "KERNEL_CONFIG", {})


def _forget(**kwargs: Any) -> None:
    limits.cache_clear()


setting_changed.connect(_forget)
