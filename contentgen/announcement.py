"""What `serve` says of this app on an operator's terminal: who writes, and a call to try it."""

from __future__ import annotations

from typing import Final

from django.urls import NoReverseMatch, reverse

from . import conf
from .providers import ProviderUnavailable, default_provider

EXAMPLE: Final = (
    '{"user_id":"test_user","category":"美食探店","topic":"新开的咖啡店","tone":"活泼可爱","length":"中等"}'
)


def first_call(url: str) -> list[str]:
    """Lines with a call that streams from the server at `url`; none where the project has no such route."""
    try:
        place = reverse("content-stream")
    except NoReverseMatch:
        return []
    return ["Try it:", f"  curl -N -X POST {url}{place} -H 'Content-Type: application/json' -d '{EXAMPLE}'"]


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
