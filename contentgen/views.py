"""The three calls that start a text: as a stream, whole, or for later."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from msgspec.structs import replace

from streaming import start, start_and_wait, start_in_background
from streaming.requests import endpoint, json_object

from .brief import Brief
from .producers import CONTENT
from .validation import parse


@endpoint("POST")
async def generate_stream(request: HttpRequest) -> HttpResponseBase:
    """`POST /content/generate/stream/async`: brief → event stream."""
    brief = parse(json_object(request))
    return await start(request, CONTENT, msgspec.to_builtins(brief), **_options(brief))


@endpoint("POST")
async def generate(request: HttpRequest) -> HttpResponseBase:
    """`POST /content/generate`: brief → the whole answer as JSON."""
    brief = parse(json_object(request))
    return await start_and_wait(request, CONTENT, msgspec.to_builtins(brief), **_options(brief))


@endpoint("POST")
async def generate_later(request: HttpRequest) -> HttpResponseBase:
    """`POST /content/generate/async`: brief → 202 with the task's id and URLs."""
    brief = parse(json_object(request))
    return await start_in_background(request, CONTENT, msgspec.to_builtins(brief), **_options(brief))


NOT_THE_WORK: Final[dict[str, Any]] = {"user_id": "", "priority": None, "on_disconnect": None}
"""What of a brief makes no difference to its text."""


def _options(brief: Brief) -> dict[str, Any]:
    """What the brief says about running it; what it leaves open has the call's own default."""
    options: dict[str, Any] = {
        "end_user": brief.user_id,
        "language": brief.language,
        "identity": msgspec.to_builtins(replace(brief, **NOT_THE_WORK)),
    }
    if brief.priority is not None:
        options["priority"] = brief.priority
    if brief.on_disconnect is not None:
        options["on_disconnect"] = brief.on_disconnect
    return options
