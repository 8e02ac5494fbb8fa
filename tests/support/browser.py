"""A real browser on a real page."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect

NAMES: Final = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)

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
    defaults: dict[str, Any] = {
        "locale": "en-US",
        "viewport": {"width": 1280, "height": 900},
        # Without a graphics processor an animation costs a third of what the whole page costs.
        "reduced_motion": "reduce",
    }
    context = await browser.new_context(**defaults | options)
    try:
        page = await context.new_page()
        made = Visit(page, context, url)
        made.watch(page)
        await page.goto(url)
        yield made
        assert made.unexpected() == [], made.unexpected()
    finally:
        await context.close()
