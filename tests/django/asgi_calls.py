"""Calls of the ASGI application without a server: scope, receive and send by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from streaming.handler import StreamingHandler

PATIENCE = 20.0


class Call:
    """One request and its answer as it comes. `on_send` is called with each message."""

    def __init__(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        on_send: Callable[[dict[str, Any]], None] = lambda message: None,
        handler: StreamingHandler | None = None,
    ) -> None:
        self.messages: list[dict[str, Any]] = []
        self._on_send = on_send
        self._news = asyncio.Event()
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        path, _, query = path.partition("?")
        named = {"host": "testserver", "content-type": "application/json", **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in named.items()],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 80),
        }
        app = handler if handler is not None else StreamingHandler()
        self.running = asyncio.create_task(app(scope, self._incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        self._on_send(message)
        self.messages.append(message)
        self._news.set()

    def leave(self) -> None:
        """The client goes."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def end(self) -> Call:
        """Wait until the application has returned."""
        async with asyncio.timeout(PATIENCE):
            await self.running
        return self

    async def saw(self, text: bytes) -> Call:
        """Wait until the body so far holds `text`."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.body:
                assert not self.running.done(), self.messages
                self._news.clear()
                await self._news.wait()
        return self

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode().lower(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(each.get("body", b"") for each in self.messages)
