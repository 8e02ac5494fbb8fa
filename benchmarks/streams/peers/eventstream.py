"""django-eventstream: a channel for each request, without storage, and a task that sends to it.

It is made for events that many listen to; one reader each, at the pace of tokens, is not what it is for. It
never ends a response: the reader goes when it has seen `complete`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase, StreamingHttpResponse

from . import django_project
from .script import Script, tokens

django_project.configure(middleware=[], apps=["django_eventstream"])

from django_eventstream import send_event  # noqa: E402 - it reads settings
from django_eventstream.views import events  # noqa: E402

_producers: Final[set[asyncio.Task[None]]] = set()


async def _produce(channel: str, script: Script) -> None:
    async for token in tokens(script):
        send_event(channel, "content", {"type": "content", "delta": token})
    send_event(channel, "complete", {"type": "complete"})


async def _read(body: AsyncGenerator[Any], channel: str, script: Script) -> AsyncIterator[Any]:
    """The library's body. What is sent before its first piece is lost, so the producer starts then."""
    try:
        yield await anext(body)
        producer = asyncio.create_task(_produce(channel, script))
        _producers.add(producer)
        producer.add_done_callback(_producers.discard)
        async for piece in body:
            yield piece
    finally:
        await body.aclose()


async def generate(request: HttpRequest) -> HttpResponseBase:
    """The script."""
    script = Script(request.body)
    channel = secrets.token_hex(8)
    response = events(request, channels=[channel])
    assert isinstance(response, StreamingHttpResponse)
    body: Any = response.streaming_content
    response.streaming_content = _read(body, channel, script)
    return response


application = django_project.serve(generate)
