"""A page of another site, with the script that the docs show."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Route, expect

from tests.support.browser import visit
from tests.support.client import brief, client
from tests.support.servers import ROOT, environment, free_port, migrate, started
from tests.support.toxics import proxy as cutting

LOST = ("net::ERR_", "Failed to load resource")


def shown_script() -> str:
    """The example in docs/protocol.md."""
    text = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
    found = re.search(r"```js\n(async function follow.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.long
async def test_a_page_of_another_site_goes_on_with_tickets(browser: Browser, tmp_path: Path) -> None:
    port, asked = free_port(), 0
    # The page has an origin of its own, as the stream comes from another port, where a proxy cuts it.
    env = environment(tmp_path, CORS_ALLOWED_ORIGINS=f"http://127.0.0.1:{port}")
    migrate(env)
    with started("serve", tmp_path, env, port=port) as site:
        async with cutting(site.port) as proxy, client(site.url) as http:

            async def own_server(route: Route) -> None:
                nonlocal asked
                asked += 1
                wanted = {"stream_id": route.request.url.rpartition("/")[2]}
                await route.fulfill(json=(await http.post("/tickets", json=wanted)).json())

            async with visit(browser, f"{site.url}/healthz") as seen:
                seen.allowed = LOST
                page = seen.page
                await page.route("**/ticket-for/*", own_server)
                options = {"tokens": 60, "interval": 0.05}
                begun = await http.post("/content/generate/async", json=brief(options=options))
                script = shown_script().replace("https://sluice.example.org", proxy.url)
                show = "(delta) => { document.body.textContent += delta; }"
                task_id = begun.json()["task_id"]
                await page.evaluate(
                    f"() => {{ document.body.textContent = ''; {script}; follow('{task_id}', {show}); }}"
                )
                await expect(page.locator("body")).to_contain_text("5 ")
                proxy.cut()
                await expect(page.locator("body")).to_have_text("".join(f"{k} " for k in range(60)).strip())
                await asyncio.sleep(2.5)
                assert asked == 2, "one for the beginning, one for the rest, none after the end"
