"""Starlette with a generator that blocks: each token is a visit to a thread of its pool."""

from __future__ import annotations

import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from .script import HEADERS, Script, blocking_frames

PATH = "/content/generate/stream/async"

THREADS = 256
"""As many as there are streams at once. Starlette's own limit of 40 would be what is measured."""


async def _generate(request: Request) -> StreamingResponse:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    return StreamingResponse(blocking_frames(Script(await request.body())), headers=HEADERS)


application = Starlette(routes=[Route(PATH, _generate, methods=["POST"])])
