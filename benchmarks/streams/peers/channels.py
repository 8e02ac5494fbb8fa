"""Channels' HTTP consumer."""

from __future__ import annotations

from typing import Any

from django.conf import settings

settings.configure(ALLOWED_HOSTS=["127.0.0.1"])

from channels.generic.http import AsyncHttpConsumer  # noqa: E402 - it reads settings

from .script import HEADERS, Script, frames  # noqa: E402


class _Generate(AsyncHttpConsumer):  # type: ignore[misc]
    async def handle(self, body: bytes) -> None:
        """Send the script."""
        await self.send_headers(headers=[(name.encode(), value.encode()) for name, value in HEADERS.items()])
        async for frame in frames(Script(body)):
            await self.send_body(frame, more_body=True)
        await self.send_body(b"")


_consumer: Any = _Generate.as_asgi()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """HTTP only."""
    if scope["type"] != "http":
        raise RuntimeError("HTTP only")
    await _consumer(scope, receive, send)
