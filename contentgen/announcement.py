"""What `serve` says of this app on an operator's terminal: who writes, and a call to try it."""

from __future__ import annotations

import json

from django.urls import NoReverseMatch, reverse

from . import conf
from .brief import EXAMPLE
from .providers import ProviderUnavailable, default_provider


def first_call(url: str) -> list[str]:
    """Lines with a call that streams from the server at `url`; none where the project has no such route."""
    try:
        place = reverse("content-stream")
    except NoReverseMatch:
        return []
    body = json.dumps(EXAMPLE, ensure_ascii=False, separators=(",", ":"))
    return ["Try it:", f"  curl -N -X POST {url}{place} -H 'Content-Type: application/json' -d '{body}'"]


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
