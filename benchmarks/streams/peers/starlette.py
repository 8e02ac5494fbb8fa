"""Starlette with sse-starlette: its dictionaries become events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from .script import Script, tokens

PATH = "/content/generate/stream/async"


async def _events(script: Script) -> AsyncIterator[dict[str, str]]:
    async for token in tokens(script):
        yield {"event": "content", "data": f'{{"type":"content","delta":"{token}"}}'}
    yield {"event": "complete", "data": '{"type":"complete"}'}


async def _generate(request: Request) -> EventSourceResponse:
    return EventSourceResponse(_events(Script(await request.body())))


application = Starlette(routes=[Route(PATH, _generate, methods=["POST"])])
