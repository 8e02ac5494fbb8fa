"""What goes wrong, and what the reader sees of it."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.browser.steps import SCRIPT_TEXT, cancelled, has_written, part, reaches, started, text, write
from tests.support.browser import Visit, visit
from tests.support.client import client, eventually
from tests.support.programs import programs
from tests.support.servers import Server, environment, free_port, migrate
from tests.support.servers import started as started_server
from tests.support.toxics import Proxy
from tests.support.toxics import proxy as cutting

LOST = ("net::ERR_", "Failed to load resource")
"""What Chromium says about a connection that is cut."""


@pytest_asyncio.fixture(loop_scope="session")
async def proxy(site: Server) -> AsyncIterator[Proxy]:
    """A proxy in front of the server."""
    async with cutting(site.port) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def cuttable(browser: Browser, proxy: Proxy) -> AsyncIterator[Visit]:
    """The page, seen through the proxy."""
    async with visit(browser, proxy.url) as made:
        made.allowed = LOST
        yield made


async def test_stop_ends_the_task(home: Visit, site: Server) -> None:
    page = home.page
    await write(page, writer="scripted")
    await has_written(page, "5 ")
    await page.get_by_role("button", name="Stop").click()
    await reaches(page, "cancelled")
    await expect(part(page, "state-text")).to_have_text("Stopped")
    await expect(page.get_by_role("button", name="Again")).to_be_visible()
    async with client(site.url) as http:
        record = (await http.get(f"/streams/{page.url.split('#')[1]}")).json()
    assert record["state"] == "cancelled"
    assert await text(page).text_content() == record["text"]


async def test_stop_before_the_answer_stops_the_task_once_it_is_known(
    cuttable: Visit, proxy: Proxy, site: Server
) -> None:
    page = cuttable.page
    proxy.answers.clear()
    await write(page, writer="scripted")
    await page.get_by_role("button", name="Stop").click()
    await expect(part(page, "state-text")).to_have_text("Stopping")
    proxy.answers.set()
    await reaches(page, "cancelled")
    async with client(site.url) as http:
        record = (await http.get(f"/streams/{page.url.split('#')[1]}")).json()
    assert record["state"] == "cancelled"


async def test_stop_while_cut_off_is_done_on_return(cuttable: Visit, proxy: Proxy) -> None:
    page = cuttable.page
    await write(page, writer="scripted")
    await has_written(page, "5 ")
    proxy.refuse = True
    proxy.cut()
    await expect(part(page, "connection")).to_contain_text("Connection lost")
    await page.get_by_role("button", name="Stop").click()
    proxy.refuse = False
    await reaches(page, "cancelled")
    assert await text(page).text_content() != SCRIPT_TEXT


async def test_impatience_starts_one_task(home: Visit) -> None:
    page = home.page
    started_tasks: list[str] = []
    page.on(
        "request", lambda request: started_tasks.append(request.url) if request.method == "POST" else None
    )
    await page.get_by_label("Topic").fill("patience")
    for _ in range(4):
        await page.keyboard.press("Control+Enter")
        # Playwright's own click would wait until the button is enabled again.
        await page.locator("[data-generate]").evaluate("button => button.click()")
    await reaches(page, "finished")
    assert len(started_tasks) == 1


async def test_a_killed_server_takes_no_text_away(browser: Browser, tmp_path: Path) -> None:
    env = environment(tmp_path, SSE_RETRY="0.2", PORT=str(free_port()))
    migrate(env)
    with started_server("serve", tmp_path, env) as first:
        async with cutting(first.port) as proxy, visit(browser, proxy.url) as seen:
            seen.allowed = (*LOST, "404", "410", "500")
            await write(seen.page, writer="scripted")
            await has_written(seen.page, "30 ")
            read = await text(seen.page).text_content()
            first.stop(signal.SIGKILL)
            with started_server("serve", tmp_path, env) as second:
                proxy.retarget(second.port)
                await reaches(seen.page, "failed")
                shown = await text(seen.page).text_content()
                assert read is not None
                assert shown is not None
                assert shown.startswith(read)
                await expect(seen.page.get_by_role("button", name="Again", exact=True)).to_be_visible()
                await expect(part(seen.page, "connection")).to_be_hidden()


async def test_a_reload_goes_on_with_the_same_stream(home: Visit) -> None:
    page = home.page
    await write(page, writer="scripted")
    await has_written(page, "20 ")
    address = page.url
    await page.reload()
    await reaches(page, "finished")
    assert page.url == address
    assert await text(page).text_content() == SCRIPT_TEXT


async def test_a_reload_keeps_what_was_typed(home: Visit) -> None:
    page = home.page
    await page.get_by_label("Topic").fill("half an idea")
    await page.get_by_role("radio", name="Long").check()
    await page.get_by_role("button", name="简体中文").click()
    await expect(page.locator("html")).to_have_attribute("lang", "zh-hans")
    await expect(page.locator("#topic")).to_have_value("half an idea")
    await expect(page.locator("[name=length][value=long]")).to_be_checked()


async def test_a_cut_connection_is_resumed_by_itself(cuttable: Visit, proxy: Proxy) -> None:
    page = cuttable.page
    await write(page, writer="scripted")
    await has_written(page, "20 ")
    proxy.cut()
    await expect(part(page, "connection")).to_have_text("Reconnected")
    await has_written(page, "60 ")
    proxy.cut()
    await reaches(page, "finished")
    assert await text(page).text_content() == SCRIPT_TEXT
    await expect(page.locator("[data-receipt=reconnects]")).to_have_text("2")


async def test_a_network_that_stays_away_is_waited_for(cuttable: Visit, proxy: Proxy) -> None:
    page = cuttable.page
    await write(page, writer="scripted")
    await has_written(page, "20 ")
    proxy.refuse = True
    proxy.cut()
    await expect(part(page, "connection")).to_contain_text("Connection lost")
    proxy.refuse = False
    await expect(part(page, "announcer")).to_have_text("Reconnected")
    await reaches(page, "finished")
    assert await text(page).text_content() == SCRIPT_TEXT


async def test_a_moment_offline_that_the_connection_survives_is_forgotten(home: Visit) -> None:
    page = home.page
    await write(page, writer="scripted")
    await has_written(page, "5 ")
    await page.evaluate("dispatchEvent(new Event('offline'))")
    await expect(part(page, "connection")).to_contain_text("You are offline")
    await page.evaluate("dispatchEvent(new Event('online'))")
    await expect(part(page, "connection")).to_be_hidden()
    await reaches(page, "finished")


async def test_offline_is_said_and_coming_back_resumes(home: Visit) -> None:
    page = home.page
    home.allowed = LOST
    await write(page, writer="scripted")
    await has_written(page, "20 ")
    await home.context.set_offline(True)
    await expect(part(page, "connection")).to_contain_text("You are offline")
    await home.context.set_offline(False)
    await reaches(page, "finished")
    assert await text(page).text_content() == SCRIPT_TEXT


async def test_a_server_that_is_away_is_said_and_nothing_is_lost(cuttable: Visit, proxy: Proxy) -> None:
    page = cuttable.page
    proxy.refuse = True
    proxy.cut()
    await write(page, "kept for later")
    await reaches(page, "refused")
    await expect(part(page, "notice")).to_contain_text("The server cannot be reached")
    await expect(page.get_by_label("Topic")).to_have_value("kept for later")
    proxy.refuse = False
    await page.get_by_role("button", name="Try again").click()
    await reaches(page, "finished")


async def test_a_call_whose_answer_was_cut_is_repeated_and_is_one_task(
    cuttable: Visit, proxy: Proxy, site: Server
) -> None:
    page = cuttable.page
    keys = keys_of(page)
    async with client(site.url) as http:
        before = await direct_tasks(http)
        proxy.answers.clear()
        await write(page, writer="scripted")

        async def has_begun() -> bool:
            return await direct_tasks(http) == before + 1

        assert await eventually(has_begun)
        # Chromium repeats by itself what a lost connection left without an answer; here it cannot.
        proxy.refuse = True
        proxy.cut()
        await expect(part(page, "connection")).to_contain_text("Connection lost")
        proxy.refuse = False
        proxy.answers.set()
        await reaches(page, "finished")
        assert await text(page).text_content() == SCRIPT_TEXT
        assert await direct_tasks(http) == before + 1
    assert len(keys) >= 2
    assert len(set(keys)) == 1


async def test_who_asks_again_by_hand_after_a_lost_answer_gets_the_same_task(
    cuttable: Visit, proxy: Proxy, site: Server
) -> None:
    page = cuttable.page
    keys = keys_of(page)
    async with client(site.url) as http:
        before = await direct_tasks(http)
        proxy.answers.clear()
        await write(page, writer="scripted")

        async def has_begun() -> bool:
            return await direct_tasks(http) == before + 1

        assert await eventually(has_begun)
        proxy.refuse = True
        proxy.cut()
        await reaches(page, "refused")
        proxy.refuse = False
        proxy.answers.set()
        await page.get_by_role("button", name="Try again").click()
        await reaches(page, "finished")
        assert await text(page).text_content() == SCRIPT_TEXT
        assert await direct_tasks(http) == before + 1
        await page.get_by_role("button", name="Again", exact=True).click()
        await reaches(page, "working")
        await reaches(page, "finished")
        assert await direct_tasks(http) == before + 2, "the same brief once more is a task of its own"
    assert len(set(keys)) == 2


async def test_a_page_without_a_secure_context_has_keys_too(browser: Browser, site: Server) -> None:
    async with visit(browser, site.url) as seen:
        await seen.context.add_init_script("delete Crypto.prototype.randomUUID")
        await seen.page.reload()
        keys = keys_of(seen.page)
        await write(seen.page)
        await reaches(seen.page, "finished")
    assert re.fullmatch(r"[0-9a-f]{32}", keys[0])


def keys_of(page: Page) -> list[str]:
    """The keys of the calls that the page makes from now on."""
    keys: list[str] = []
    page.on(
        "request",
        lambda request: keys.append(request.headers["idempotency-key"]) if request.method == "POST" else None,
    )
    return keys


async def direct_tasks(http: httpx2.AsyncClient) -> int:
    """How many tasks the server has started."""
    return int((await http.get("/stats")).json()["routes"]["direct"])


async def test_waiting_shows_the_place_in_the_queue(browser: Browser, small_site: Server) -> None:
    running = await started(small_site.url, options={"tokens": 10_000})
    async with visit(browser, small_site.url) as seen:
        await write(seen.page)
        await reaches(seen.page, "waiting")
        await expect(part(seen.page, "place")).to_have_text("1")
        await expect(part(seen.page, "wait-text")).to_contain_text("Waiting in the queue")
        await expect(part(seen.page, "route")).to_have_text("queued")
        await cancelled(small_site.url, running)
        await reaches(seen.page, "finished")
        await expect(part(seen.page, "rendered")).to_be_visible()


async def test_a_full_queue_counts_down_what_the_server_says(browser: Browser, small_site: Server) -> None:
    tasks = [await started(small_site.url, options={"tokens": 10_000}) for _ in range(2)]
    async with visit(browser, small_site.url) as seen:
        seen.allowed = ("503",)
        async with seen.page.expect_response("**/content/generate/stream/async?timing=1") as refusal:
            await write(seen.page, "patience")
        await reaches(seen.page, "refused")
        promised = int((await (await refusal.value).all_headers())["retry-after"])
        await expect(part(seen.page, "notice")).to_contain_text("The queue is full")
        button = part(seen.page, "retry")
        await expect(button).to_be_disabled()
        shown = re.search(r"\d+", await button.inner_text())
        assert shown is not None
        assert promised - 3 <= int(shown[0]) <= promised
        for task_id in tasks:
            await cancelled(small_site.url, task_id)
        await expect(button).to_be_enabled(timeout=(promised + 10) * 1000)
        await expect(button).to_have_text("Try again")
        await button.click()
        await reaches(seen.page, "finished")


async def test_a_failed_stream_keeps_its_text_and_says_why(home: Visit, site: Server) -> None:
    task_id = await started(site.url, options={"tokens": 50, "interval": 0, "fail_after": 20})
    await home.page.goto(f"{home.url}/#{task_id}")
    await home.page.reload()
    await reaches(home.page, "failed")
    await expect(part(home.page, "notice")).to_contain_text("The generation failed.")
    assert await text(home.page).text_content() == "".join(f"{k} " for k in range(20))


async def test_an_empty_brief_is_explained_at_its_field(home: Visit) -> None:
    page = home.page
    await page.locator("[data-generate]").click()
    await expect(page.get_by_label("Topic")).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_label("Topic")).to_be_focused()
    await expect(page.get_by_label("Topic")).to_have_accessible_description("Say what it shall be about.")


async def test_what_the_server_refuses_is_shown_at_the_field(home: Visit) -> None:
    page = home.page
    home.allowed = ("422",)
    await write(page, "\u200b")
    await reaches(page, "refused")
    await expect(page.get_by_label("Topic")).to_have_accessible_description("This field must not be blank.")


async def test_a_reader_who_leaves_for_good_frees_the_server(browser: Browser, site: Server) -> None:
    async with visit(browser, site.url) as seen:
        await write(seen.page, writer="scripted")
        await has_written(seen.page, "5 ")
    async with client(site.url) as http:

        async def nobody_reads() -> bool:
            return bool((await http.get("/stats")).json()["followers"] == 0)

        assert await eventually(nobody_reads)


SIGN_IN = """
from django.contrib.auth import get_user_model
from django.test import Client
browser = Client()
browser.force_login(get_user_model().objects.get_or_create(username="leaver")[0])
print(browser.cookies["sessionid"].value)
"""

SIGN_OUT = """
from django.contrib.sessions.models import Session
import sys
Session.objects.get(pk=sys.argv[1]).delete()
"""


async def test_whose_session_ends_elsewhere_is_told_so_and_asks_no_more(home: Visit, site: Server) -> None:
    page, token = home.page, "c" * 32
    with programs(environment(site.database.parent)) as console:
        session = await asyncio.to_thread(console.code, SIGN_IN)
        cookies = {"sessionid": session, "csrftoken": token}
        await home.context.add_cookies(
            [{"name": name, "value": value, "url": site.url} for name, value in cookies.items()]
        )
        await page.goto(site.url)
        await write(page, writer="scripted")
        await has_written(page, "5 ")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await asyncio.to_thread(console.code, SIGN_OUT, session)
    await reaches(page, "failed")
    await expect(part(page, "notice-title")).to_have_text("You may not read this any more")
    await expect(part(page, "notice")).to_have_attribute("data-code", "access_revoked")
    await expect(part(page, "retry")).to_be_hidden()
    await expect(part(page, "notice-link")).to_have_text("Sign in")
    assert await text(page).text_content(), "what was read stays"
    await page.wait_for_timeout(1_000)
    assert [url for url in asked if "/streams/" in url] == []
