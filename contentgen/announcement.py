"""Who writes, in one line for an operator's terminal."""

from __future__ import annotations

from . import conf
from .providers import ProviderUnavailable, default_provider


def who_writes() -> str:
    """The provider of briefs that name none."""
    try:
        provider = default_provider()
    except ProviderUnavailable:
        return "Text by nobody: CONTENT_PROVIDER is unknown or switched off."
    service = conf.service()
    if provider.is_model and service is not None:
        return f"Text by the model {provider.default_model()} at {service.host}."
    if provider.name == "offline":
        return "Text by the offline writer: no model, no key, no network; set OPENAI_API_KEY for a model."
    return f"Text by the provider {provider.name}: no model."
