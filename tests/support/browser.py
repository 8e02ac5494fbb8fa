"""A real browser on a real page, and a proxy that cuts connections."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

expect.set_options(timeout=20_000)


def find_chromium() -> str | None:
    """The system's Chromium (or what CHROMIUM names), None if there is none."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for path in map(shutil.which, NAMES) if path), None)


@dataclass
class Visit:
    """A page and everything about it that nobody should have to see."""

    page: Page
    context: BrowserContext
    url: str
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    allowed: tuple[str, ...] = ()
    """Words of complaints that the test provokes."""

    def unexpected(self) -> list[str]:
        """Console errors that no test provoked, and requests to other hosts."""
        return [
            each for each in self.complaints if not any(word in each for word in self.allowed)
        ] + self.foreign

    def watch(self, page: Page) -> None:
        """Note what goes wrong on `page`."""
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._note_host)

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _note_host(self, request: Request) -> None:
        if urlsplit(request.url).hostname not in ("127.0.0.1", None):
            self.foreign.append(request.url)


@asynccontextmanager
async def visit(browser: Browser, url: str, **options: Any) -> AsyncIterator[Visit]:
    """A new browser profile that looks at `url`; at the end nothing unexpected must have happened."""
    defaults: dict[str, Any] = {"locale": "en-US", "viewport": {"width": 1280, "height": 900}}
    context = await browser.new_context(**defaults | options)
    try:
        page = await context.new_page()
        made = Visit(page, context, url)
        made.watch(page)
        await page.goto(url)
        yield made
        assert made.unexpected() == []
    finally:
        await context.close()


class CuttingProxy:
    """TCP on loopback in front of a server; `cut` breaks what is open, `refuse` what would come; while
    `answers` is not set, nothing comes back from the server."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.refuse = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def retarget(self, port: int) -> None:
        """The server is elsewhere now."""
        self._target = port

    def cut(self) -> None:
        """Reset all connections, as a lost network does."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, there and back."""
        if self.refuse:
            writer.transport.abort()
            return
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target)
        mine = {writer, other_writer}
        self._writers |= mine
        try:
            await asyncio.gather(_copy(reader, other_writer), _copy(other_reader, writer, self.answers))
        finally:
            self._writers -= mine
            for each in mine:
                each.transport.abort()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event | None = None
) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            if gate is not None:
                await gate.wait()
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@asynccontextmanager
async def cutting(port: int) -> AsyncIterator[CuttingProxy]:
    """A running proxy in front of the server at `port`."""
    proxy = CuttingProxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        proxy.cut()
        server.close()
