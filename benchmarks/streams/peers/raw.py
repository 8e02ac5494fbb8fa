"""An ASGI application without a framework: the practical limit of Python."""

from __future__ import annotations

from typing import Any, Final

from .script import HEADERS, Script, frames

_START: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()],
}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, answer with the script."""
    if scope["type"] != "http":
        raise RuntimeError("HTTP only")
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send(_START)
    async for frame in frames(Script(body)):
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
