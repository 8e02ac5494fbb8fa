"""Keyboard, screen reader, phone, both themes."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from tests.browser.steps import ending_soon, has_written, part, reaches, text, write
from tests.support.browser import Visit, visit
from tests.support.servers import Server

PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 740},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}


async def violations(page: Page) -> list[str]:
    """What axe finds, one line each."""
    found = await Axe().run(page)
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found.response["violations"]
        for node in each["nodes"]
    ]


@pytest.mark.parametrize(("locale", "scheme"), [("en-US", "light"), ("zh-CN", "dark")])
async def test_axe_finds_nothing(browser: Browser, site: Server, locale: str, scheme: str) -> None:
    async with visit(browser, site.url, locale=locale, color_scheme=scheme) as seen:
        page = seen.page
        assert await violations(page) == []
        await page.locator(".chip").first.click()
        await page.locator("[name=length][value=short]").check()
        await page.locator("details.more summary").click()
        await page.locator("[data-generate]").click()
        await reaches(page, "finished")
        await page.locator("[data-rows] summary").click()
        assert await violations(page) == []
        await page.goto(f"{site.url}/accounts/login/")
        assert await violations(page) == []


async def test_all_of_it_works_from_the_keyboard(home: Visit) -> None:
    page = home.page
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    while not await page.get_by_label("Topic").evaluate("element => element === document.activeElement"):
        await page.keyboard.press("Tab")
    await page.keyboard.type("typed, not clicked")
    await page.keyboard.press("Control+Enter")
    await has_written(page, "typed, not clicked")
    stop = page.get_by_role("button", name="Stop")
    await stop.focus()
    await page.keyboard.press("Enter")
    await reaches(page, "cancelled")


async def test_the_focus_is_never_lost(home: Visit) -> None:
    page = home.page
    focused = "document.activeElement.textContent.trim()"
    await page.get_by_label("Topic").fill("focus")
    await page.locator("[data-generate]").press("Enter")
    await has_written(page, "focus")
    assert "Write" in await page.evaluate(focused)
    await page.get_by_role("button", name="Stop").press("Enter")
    await reaches(page, "cancelled")
    assert await page.evaluate(focused) in ("Copy", "Again")
    await page.get_by_role("button", name="Again").press("Enter")
    await has_written(page, "focus")
    assert await page.evaluate(focused) in ("Stop", "Copy")


async def test_focus_is_always_visible(resting: Visit) -> None:
    page = resting.page
    for _ in range(25):
        await page.keyboard.press("Tab")
        outline = await page.evaluate(
            """() => {
                const element = document.activeElement;
                if (element === document.body) return "body";
                const shown = element.type === "radio" ? element.nextElementSibling : element;
                return getComputedStyle(shown).outlineStyle;
            }"""
        )
        assert outline != "none"


@pytest.mark.parametrize("locale", ["en-US", pytest.param("zh-CN", marks=pytest.mark.long)])
async def test_a_phone_needs_no_sideways_scrolling(browser: Browser, site: Server, locale: str) -> None:
    async with visit(browser, site.url, locale=locale, **PHONE) as seen:
        page = seen.page
        await page.locator(".chip").first.tap()
        await page.locator("[name=length][value=short]").check()
        await page.locator("[data-generate]").tap()
        await expect(part(page, "sheet")).to_be_in_viewport()
        await reaches(page, "finished")
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width == PHONE["viewport"]["width"]
        small = await page.evaluate(
            """() => [...document.querySelectorAll("button, a.button, summary, select, textarea")]
                .filter((each) => each.checkVisibility() && each.getBoundingClientRect().height < 24)
                .map((each) => each.outerHTML)"""
        )
        assert small == []


async def test_the_page_does_not_jump_while_text_arrives(home: Visit) -> None:
    page = home.page
    boxes = """() => ['.receipt', '.inspector', '.brief', '.sheet']
        .map((each) => document.querySelector(each).getBoundingClientRect().toJSON())"""
    await ending_soon(page, 100, 0.02)
    await write(page, writer="scripted")
    await has_written(page, "3 ")
    before = await page.evaluate(boxes)
    await reaches(page, "finished")
    assert await page.evaluate(boxes) == before


async def test_the_live_region_does_not_chatter(home: Visit) -> None:
    page = home.page
    await page.evaluate(
        """() => {
            window.said = [];
            const region = document.querySelector("[data-announcer]");
            const heard = new MutationObserver(() => window.said.push(region.textContent));
            heard.observe(region, {childList: true});
        }"""
    )
    await ending_soon(page, 100, 0.02)
    await write(page, writer="scripted")
    await reaches(page, "finished")
    await expect(part(page, "announcer")).to_contain_text("Finished")
    said = await page.evaluate("window.said")
    assert 1 <= len(said) <= 3
    assert all(len(sentence) < 100 for sentence in said)
    live = await text(page).evaluate("element => element.closest('[aria-live], [role=log], [role=status]')")
    assert live is None


async def test_a_screen_reader_finds_the_parts_by_name(resting: Visit) -> None:
    page = resting.page
    for role, name in (
        ("banner", None),
        ("main", None),
        ("contentinfo", None),
        ("navigation", "Main"),
        ("region", "What shall be written?"),
        ("region", "Stream"),
        ("region", "Text"),
        ("region", "Recent streams"),
        ("img", "Timeline of events"),
        ("textbox", "Topic"),
        ("radio", "Medium"),
        ("heading", "Write with Sluice"),
    ):
        await expect(page.get_by_role(role, name=name, exact=True)).to_have_count(1)  # type: ignore[arg-type]


async def test_the_theme_can_be_chosen_and_is_kept(home: Visit) -> None:
    page = home.page
    background = "() => getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(background)
    await page.get_by_role("button", name="Dark theme").click()
    dark = await page.evaluate(background)
    assert dark != light
    await page.reload()
    assert await page.evaluate(background) == dark
    await expect(page.get_by_role("button", name="Dark theme")).to_have_attribute("aria-pressed", "true")
