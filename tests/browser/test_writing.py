"""The main thing: a brief becomes a text before the reader's eyes."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.steps import SCRIPT_TEXT, ending_soon, has_written, part, reaches, started, text, write
from tests.support.browser import Visit, visit
from tests.support.servers import Server


async def test_an_english_text_appears_while_it_is_written(home: Visit) -> None:
    page = home.page
    await write(page, "the new café round the corner")
    await expect(text(page)).not_to_be_empty()
    await expect(page.locator("[data-viewer]")).to_have_attribute("data-state", "working")
    await reaches(page, "finished")
    await expect(part(page, "rendered").locator("h1")).to_contain_text("the new café round the corner")
    await expect(part(page, "route")).to_have_text("direct")


async def test_a_chinese_page_writes_chinese(browser: Browser, site: Server) -> None:
    async with visit(browser, site.url, locale="zh-CN") as seen:
        page = seen.page
        await expect(page.locator("html")).to_have_attribute("lang", "zh-hans")
        await page.get_by_role("button", name="探店").click()
        await page.get_by_role("button", name=re.compile("开始写")).click()
        await reaches(page, "finished")
        await expect(part(page, "state-text")).to_have_text("已完成")
        await expect(part(page, "rendered")).to_contain_text("咖啡店")
        # Status messages speak the page's language, whatever the browser's is.
        assert await page.locator("[data-announcer]").inner_text()


async def test_the_brief_says_what_the_fields_say(home: Visit) -> None:
    page = home.page
    await page.get_by_label("Topic").fill("  a bicycle  ")
    await page.get_by_label("Category").fill("tech")
    await page.get_by_label("Tone").fill("warm")
    await page.get_by_role("radio", name="Short").check()
    await page.get_by_text("More options").click()
    await page.get_by_label("Language of the text").select_option("zh")
    await page.get_by_label("Audience").fill("commuters")
    await page.get_by_label("Requirements").fill("mention the bell")
    async with page.expect_request("**/content/generate/stream/async?timing=1") as sent:
        await page.get_by_role("button", name="Write").click()
    brief = (await sent.value).post_data_json
    assert brief is not None
    assert brief.pop("user_id").startswith("visitor-")
    assert brief == {
        "topic": "a bicycle",
        "category": "tech",
        "tone": "warm",
        "length": "short",
        "language": "zh",
        "audience": "commuters",
        "requirements": "mention the bell",
        "provider": "offline",
        "model": "offline-copywriter",
    }
    await reaches(page, "finished")


async def test_the_language_switch_takes_the_stream_along(home: Visit) -> None:
    page = home.page
    await write(page, writer="scripted")
    await has_written(page, "10 ")
    await page.get_by_role("button", name="简体中文").click()
    await expect(page.locator("html")).to_have_attribute("lang", "zh-hans")
    await reaches(page, "finished")
    assert await text(page).text_content() == SCRIPT_TEXT


async def test_the_page_says_who_writes(resting: Visit) -> None:
    await expect(resting.page.locator(".writer")).to_contain_text("The offline writer")
    await expect(resting.page.locator(".writer")).to_contain_text("no model")


async def test_the_receipt_tells_what_it_cost(home: Visit) -> None:
    page = home.page
    await ending_soon(page)
    await write(page, writer="scripted")
    await reaches(page, "finished")
    cells = {name: page.locator(f"[data-receipt={name}]") for name in ("queue", "first", "total", "rate")}
    for cell in cells.values():
        await expect(cell).to_have_text(re.compile(r"\d"))
    await expect(page.locator("[data-receipt-rate]")).to_have_text("Tokens per second")
    await expect(page.locator("[data-receipt=model]")).to_have_text("scripted")
    await expect(page.locator("[data-receipt=statuses]")).to_have_text("1")


async def test_the_inspector_shows_every_event(home: Visit) -> None:
    page = home.page
    await ending_soon(page)
    await write(page, writer="scripted")
    await reaches(page, "finished")
    await page.get_by_text("All events", exact=True).click()
    rows = page.locator("[data-rows-body] tr")
    counted = int(await page.locator("[data-receipt=events]").inner_text())
    await expect(rows).to_have_count(counted)
    cells = await rows.evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")
    assert [cells[0][3], cells[-1][3]] == ["status", "complete"]
    assert [int(each[0]) for each in cells[1:]] == list(range(1, counted))
    assert all(each[1] and each[2] for each in cells[1:])
    await expect(part(page, "timeline")).to_have_attribute("aria-label", re.compile(f"Events: {counted} "))
    drawn = await part(page, "timeline").evaluate(
        "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
    )
    assert drawn


async def test_a_finished_stream_opens_at_its_beginning_with_the_same_receipt(home: Visit) -> None:
    page = home.page
    await ending_soon(page, 200, 0.005)
    await write(page, writer="scripted")
    await reaches(page, "finished")
    await expect(page.locator("[data-receipt=model]")).to_have_text("scripted")
    receipt = await page.locator("[data-receipt]").all_inner_texts()
    await page.set_viewport_size({"width": 360, "height": 500})
    await page.reload()
    await reaches(page, "finished")
    await expect(part(page, "rendered")).to_be_visible()
    assert await part(page, "sheet").evaluate("sheet => sheet.scrollHeight > sheet.clientHeight")
    assert await part(page, "sheet").evaluate("sheet => sheet.scrollTop") == 0
    again = await page.locator("[data-receipt]").all_inner_texts()
    # Of events, a reader who comes later sees no status.
    assert again[:4] + again[5:] == receipt[:4] + receipt[5:]


async def test_plain_text_can_be_had_back(home: Visit) -> None:
    page = home.page
    await write(page)
    await reaches(page, "finished")
    await expect(part(page, "rendered")).to_be_visible()
    await page.get_by_role("button", name="Plain text").click()
    await expect(text(page)).to_be_visible()
    await expect(part(page, "rendered")).to_be_hidden()


async def test_copy_takes_the_text(home: Visit) -> None:
    page = home.page
    await home.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await write(page)
    await reaches(page, "finished")
    await page.get_by_role("button", name="Copy").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    await page.get_by_role("button", name="Copied").click()
    await expect(page.get_by_role("button", name="Copy", exact=True)).to_be_visible()
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied == await text(page).text_content()


async def test_again_writes_the_same_brief_anew(home: Visit) -> None:
    page = home.page
    await write(page, "one more time")
    await reaches(page, "finished")
    first = page.url
    await page.get_by_role("button", name="Again").click()
    await reaches(page, "working")
    await reaches(page, "finished")
    assert page.url != first
    await expect(part(page, "rendered")).to_contain_text("one more time")


async def test_recent_streams_are_listed_and_open(home: Visit) -> None:
    page = home.page
    await write(page, "a text to come back to")
    await reaches(page, "finished")
    entry = page.get_by_role("link", name="a text to come back to")
    await expect(entry).to_contain_text("finished")
    await entry.click()
    await reaches(page, "finished")
    await expect(page).to_have_url(re.compile(r"/streams/[0-9a-f]{32}/view$"))
    await expect(part(page, "rendered")).to_contain_text("a text to come back to")


async def test_a_stream_that_is_not_there_is_a_page_not_a_problem_document(home: Visit) -> None:
    home.allowed = ("404",)
    answer = await home.page.goto(f"{home.url}/streams/{'0' * 32}/view")
    assert answer is not None
    assert answer.status == 404
    await expect(home.page.locator("h1")).to_contain_text("no such page")


HOSTILE = (
    '<script>window.hurt=1</script> <img src=x onerror="window.hurt=2"> '
    "[a](javascript:window.hurt=3) <b>bold</b>"
)


@pytest.mark.parametrize("place", ["#{}", "streams/{}/view"])
async def test_markup_in_a_text_stays_text(home: Visit, site: Server, place: str) -> None:
    page: Page = home.page
    task_id = await started(site.url, options={"text": HOSTILE, "interval": 0})
    await page.goto(f"{home.url}/{place.format(task_id)}")
    await reaches(page, "finished")
    await expect(part(page, "rendered")).to_contain_text("<script>window.hurt=1</script>")
    assert await part(page, "rendered").locator("script, img, b, a").count() == 0
    assert await text(page).text_content() == HOSTILE
    assert await page.evaluate("window.hurt") is None


@pytest.mark.parametrize("sample", ["家庭👨‍👩‍👧‍👦与 emoji", "שלום עולם, مرحبا", "a\u2028b\u0085c e\u0301"])
async def test_any_script_passes(home: Visit, site: Server, sample: str) -> None:
    task_id = await started(site.url, options={"text": sample * 20, "interval": 0.001})
    await home.page.goto(f"{home.url}/#{task_id}")
    await home.page.reload()
    await reaches(home.page, "finished")
    assert await text(home.page).text_content() == sample * 20


async def test_a_browser_that_stores_nothing_writes_all_the_same(browser: Browser, site: Server) -> None:
    refuse = "{ get() { throw new DOMException('storage is off', 'SecurityError'); } }"
    async with visit(browser, site.url) as made:
        page = made.page
        for storage in ("localStorage", "sessionStorage"):
            await made.context.add_init_script(f"Object.defineProperty(window, '{storage}', {refuse});")
        await page.goto(site.url)
        await write(page, "a text that nobody notes down")
        await reaches(page, "finished")
        await expect(page.get_by_role("link", name="a text that nobody notes down")).to_be_visible()
