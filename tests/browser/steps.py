"""What a person does and sees on the page."""

from __future__ import annotations

import json
from typing import Any

from playwright.async_api import Locator, Page, Route, expect

from tests.support.client import brief, client

SCRIPT_TEXT = "".join(f"{k} " for k in range(200))
"""What the scripted provider writes by default, in 4 seconds."""


async def ending_soon(page: Page, tokens: int = 50, interval: float = 0.01) -> None:
    """What the scripted provider is asked for from now on is shorter than by default."""

    async def shorten(route: Route) -> None:
        asked = route.request.post_data_json
        assert asked is not None
        options = {"tokens": tokens, "interval": interval}
        await route.continue_(post_data=json.dumps({**asked, "options": options}))

    await page.route("**/content/generate/stream/async?*", shorten)


async def write(page: Page, topic: str = "a test", writer: str | None = None) -> None:
    """Fill in the brief, for a short text, and send it off; `writer`: the name of a provider."""
    await page.get_by_label("Topic").fill(topic)
    await page.locator("[name=length][value=short]").check()
    if writer is not None:
        await page.locator(".more").evaluate("element => element.open = true")
        await page.locator("#writer").select_option(f"{writer} {writer}")
    await page.locator("[data-generate]").click()


def text(page: Page) -> Locator:
    """The plain text."""
    return page.locator("[data-text]")


def part(page: Page, name: str) -> Locator:
    """A part of the viewer."""
    return page.locator(f"[data-{name}]")


async def reaches(page: Page, state: str) -> None:
    """The viewer gets into `state`."""
    await expect(page.locator("[data-viewer]")).to_have_attribute("data-state", state, timeout=40_000)


async def has_written(page: Page, piece: str) -> None:
    """The text has got as far as `piece`."""
    await expect(text(page)).to_contain_text(piece)


async def started(url: str, **members: Any) -> str:
    """Start a scripted task over the API; returns its id."""
    async with client(url) as http:
        answer = await http.post("/content/generate/async", json=brief(**members))
        assert answer.status_code == 202, answer.text
        task_id: str = answer.json()["task_id"]
        return task_id


async def cancelled(url: str, task_id: str) -> None:
    """End a task over the API."""
    async with client(url) as http:
        await http.delete(f"/streams/{task_id}")
