"""System checks of the providers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from .providers import ProviderUnavailable, available_providers, find_provider


@register("contentgen")
def check_providers(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """E001: an unknown default provider. W001: the scripted provider outside of development."""
    found: list[CheckMessage] = []
    try:
        find_provider(settings.CONTENT_PROVIDER)
    except ProviderUnavailable:
        found.append(
            Error(
                f"CONTENT_PROVIDER is {settings.CONTENT_PROVIDER!r}, which is unknown or switched off",
                hint=f"Available: {', '.join(available_providers())}.",
                id="contentgen.E001",
            )
        )
    if settings.ALLOW_SCRIPTED_PROVIDER and not settings.DEBUG:
        found.append(
            Warning(
                "the scripted provider is on",
                hint="It lets callers burn processor time; unset ALLOW_SCRIPTED_PROVIDER on a public server.",
                id="contentgen.W001",
            )
        )
    return found
