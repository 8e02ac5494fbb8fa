"""The three calls that start a text: as a stream, whole, or for later.

Who may not call learns that, and nothing of what is wrong with the body; of a sound one `start` asks.
"""

from __future__ import annotations

from functools import partial

import msgspec
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from streaming import hot_route, start, start_and_wait, start_in_background
from streaming.access import identify
from streaming.problems import Problem
from streaming.requests import endpoint, json_object
from streaming.scopes import Scope

from .producers import CONTENT, options_of
from .validation import parse


@partial(hot_route, lends_thread=False)
@endpoint("POST")
async def generate_stream(request: HttpRequest) -> HttpResponseBase:
    """`POST /content/generate/stream/async`: brief → event stream."""
    try:
        brief = parse(json_object(request))
    except Problem:
        await identify(request, Scope.GENERATE)
        raise
    return await start(request, CONTENT, msgspec.to_builtins(brief), **options_of(brief))


@endpoint("POST")
async def generate(request: HttpRequest) -> HttpResponseBase:
    """`POST /content/generate`: brief → the whole answer as JSON."""
    try:
        brief = parse(json_object(request))
    except Problem:
        await identify(request, Scope.GENERATE)
        raise
    return await start_and_wait(request, CONTENT, msgspec.to_builtins(brief), **options_of(brief))


@endpoint("POST")
async def generate_later(request: HttpRequest) -> HttpResponseBase:
    """`POST /content/generate/async`: brief → 202 with the task's id and URLs."""
    try:
        brief = parse(json_object(request))
    except Problem:
        await identify(request, Scope.GENERATE)
        raise
    return await start_in_background(request, CONTENT, msgspec.to_builtins(brief), **options_of(brief))
