"""The admin as operators meet it: nothing from elsewhere, no complaint in the console, fit for all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx2
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from tests.integration.conftest import TOKEN
from tests.integration.test_admin import LATER, LIST, LONG, SHORT, staff_of
from tests.support.browser import Visit, visit
from tests.support.client import brief
from tests.support.servers import Server

KEYS = "/admin/streaming/apikey/"
OURS = ".stream-task, .stream-section"
GROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="session")
def session(site: Server) -> str:
    """A superuser's session."""
    return staff_of(site)["boss"]


@asynccontextmanager
async def operating(browser: Browser, site: Server, session: str, scheme: str) -> AsyncIterator[Visit]:
    """A superuser's browser, which watches for complaints and for requests to other hosts."""
    async with visit(browser, f"{site.url}/admin/login/", color_scheme=scheme) as seen:
        cookies = {"sessionid": session, "csrftoken": TOKEN}
        await seen.context.add_cookies(
            [{"name": name, "value": value, "url": site.url} for name, value in cookies.items()]
        )
        yield seen


async def violations_in(page: Page, parts: str) -> list[str]:
    """What axe finds in those parts, one line each; the theme's own are the theme's."""
    found = await Axe().run(page, context={"include": [[parts]]})
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found.response["violations"]
        for node in each["nodes"]
    ]


async def violations_in_both(page: Page, parts: str) -> list[str]:
    """What axe finds in those parts in the dark scheme, then in the light one."""
    found: list[str] = []
    grounds: list[str] = []
    for scheme in ("dark", "light"):
        await page.emulate_media(color_scheme=scheme)
        # The theme looks at the scheme once, when it is loaded; a page with a new key cannot be loaded again.
        await page.evaluate(
            "dark => document.documentElement.classList.toggle('dark', dark)", scheme == "dark"
        )
        await page.wait_for_function(
            "document.getAnimations().every(each => !(each instanceof CSSTransition))"
        )
        grounds.append(await page.evaluate(GROUND))
        found += [f"{scheme}: {each}" for each in await violations_in(page, parts)]
    assert len(set(grounds)) == 2, grounds
    return found


def started(site: Server, options: Mapping[str, object], **members: object) -> str:
    """A task in the background; its id."""
    answer = httpx2.post(f"{site.url}{LATER}", json=brief(options=options, **members), trust_env=False)
    assert answer.status_code == 202
    return str(answer.json()["task_id"])


async def test_a_task_is_cancelled_and_started_again(browser: Browser, site: Server, session: str) -> None:
    task_id = started(site, LONG)
    async with operating(browser, site, session, "light") as seen:
        page = seen.page
        await page.goto(f"{site.url}{LIST}")
        await page.get_by_role("link", name=task_id[:8]).click()
        await expect(page.locator(".stream-top")).to_contain_text("running")
        assert await violations_in_both(page, OURS) == []
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.get_by_text("1 cancelled.")).to_be_visible()
        await expect(page.locator(".stream-top")).to_contain_text("cancelled")
        assert await violations_in(page, OURS) == []
        await page.get_by_role("button", name="Start again").click()
        await expect(page.get_by_text("1 started again.")).to_be_visible()
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.get_by_text("1 cancelled.")).to_be_visible()


@pytest.mark.parametrize("language", ["en", "zh-hans"])
async def test_durations_are_in_view_on_a_small_screen(
    browser: Browser, site: Server, session: str, language: str
) -> None:
    task_id = started(site, SHORT, user_id="somebody-with-a-name-that-is-long")
    async with operating(browser, site, session, "light") as seen:
        page = seen.page
        await seen.context.set_extra_http_headers({"Accept-Language": language})
        await page.set_viewport_size({"width": 1280, "height": 800})
        await page.goto(f"{site.url}{LIST}")
        for name in ("state_in_words", "who", "accepted", "queued", "first_content", "total"):
            cell = page.get_by_role("row").filter(has_text=task_id[:8]).locator(f".field-{name}")
            box = await cell.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= 1280, name


async def test_a_reload_of_the_page_with_the_key_makes_no_second_one(
    browser: Browser, site: Server, session: str
) -> None:
    async with operating(browser, site, session, "light") as seen:
        page = seen.page
        await page.goto(f"{site.url}{KEYS}add/")
        await page.get_by_label("Name").fill("made once")
        await page.get_by_label("Name").press("Enter")
        await expect(page.get_by_label("API key", exact=True)).to_be_visible()
        await page.reload()
        await expect(page.get_by_text("This form was sent already")).to_be_visible()
        await expect(page.get_by_role("row").filter(has_text="made once")).to_have_count(1)


async def test_what_a_model_wrote_runs_nothing(browser: Browser, site: Server, session: str) -> None:
    wild = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    task_id = started(site, {**SHORT, "text": wild, "tokens": 1})
    async with operating(browser, site, session, "light") as seen:
        await seen.page.goto(f"{site.url}{LIST}{task_id}/change/")
        await expect(seen.page.locator(".stream-prose")).to_have_text(wild)
        assert "owned" not in await seen.page.title()
        assert await seen.page.locator(".stream-task img, .stream-task script").count() == 0


async def test_a_key_is_made_copied_and_revoked(browser: Browser, site: Server, session: str) -> None:
    async with operating(browser, site, session, "light") as seen:
        page = seen.page
        await seen.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await page.goto(f"{site.url}{KEYS}add/")
        await page.get_by_label("Name").fill("a key")
        await page.get_by_label("Name").press("Enter")
        key = await page.get_by_label("API key", exact=True).input_value()
        assert await violations_in_both(page, OURS) == []
        await page.get_by_role("button", name="Copy").click()
        await expect(page.get_by_role("status").filter(has_text="Copied")).to_be_visible()
        assert await page.evaluate("navigator.clipboard.readText()") == key
        await page.get_by_role("link", name="Done").click()
        await page.get_by_role("link", name=key[:15]).click()
        await page.get_by_label("Name").fill("renamed")
        await page.get_by_label("Name").press("Enter")
        row = page.get_by_role("row").filter(has_text=key[:15])
        await expect(row).to_contain_text("valid")
        await row.get_by_role("link", name=key[:15]).click()
        await expect(page.locator(".stream-section").first).to_be_visible()
        assert await violations_in_both(page, ".stream-section") == []
        await page.get_by_role("button", name="Revoke the key").click()
        await expect(page.get_by_text("1 key revoked.")).to_be_visible()
        answer = httpx2.get(
            f"{site.url}/streams", headers={"Authorization": f"Bearer {key}"}, trust_env=False
        )
        assert answer.status_code == 401
