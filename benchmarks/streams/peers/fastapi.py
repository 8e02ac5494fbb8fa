"""FastAPI with a plain streaming response."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from .script import HEADERS, Script, frames

application = FastAPI()


@application.post("/content/generate/stream/async")
async def generate(request: Request) -> StreamingResponse:
    """The script."""
    return StreamingResponse(frames(Script(await request.body())), headers=HEADERS)
