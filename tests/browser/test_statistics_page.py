"""The statistics page over real load: what happened is drawn, what happens moves, the slowest tells why."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any, Final

import httpx2
import pytest
from playwright.async_api import Browser, Page, expect

from tests.integration.conftest import TOKEN
from tests.integration.test_admin import LATER, LIST, LONG, operator_of, staff_of
from tests.support.client import brief, client, eventually, read_stream, row
from tests.support.servers import Server, running

from .test_admin import operating, violations_in

PAGE: Final = "/admin/streaming/statistics/"
SHORT: Final = {"tokens": 20, "interval": 0.005, "start_delay": 0.05}

DRAWN: Final = """canvas => canvas.getContext("2d")
    .getImageData(0, 0, canvas.width, canvas.height).data.some(value => value > 0)"""


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two workers and three places in the queue."""
    limits = {"AGENT_POOL_MAX_WORKERS": "2", "AGENT_POOL_QUEUE_SIZE": "3", "AGENT_POOL_PER_OWNER": "20"}
    with running("serve", tmp_path_factory.mktemp("busy"), **limits) as made:
        yield made
        assert "Traceback" not in made.log()


@pytest.fixture(scope="module")
def boss(busy: Server) -> str:
    """A superuser's session."""
    return staff_of(busy)["boss"]


@asynccontextmanager
async def calling(server: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(server.url) as http:
        yield http
        await eventually(lambda: idle(http), 20)


async def pool(http: httpx2.AsyncClient) -> dict[str, Any]:
    numbers: dict[str, Any] = (await http.get("/stats")).json()
    return {**numbers["pools"]["agent_pool"], "followers": numbers["followers"]}


async def idle(http: httpx2.AsyncClient) -> bool:
    now = await pool(http)
    return bool(now["running"] == now["waiting"] == 0)


async def start(http: httpx2.AsyncClient, options: dict[str, Any], **members: Any) -> str:
    answer = await http.post(LATER, json=brief(options=options, **members))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


async def mixed_load(http: httpx2.AsyncClient) -> list[int]:
    """A burst: two run, three wait, the others are refused; one fails. The status of each call."""
    # Longer than a busy machine needs to let nine calls in.
    lasts = SHORT | {"start_delay": 0.6}
    fails = lasts | {"fail_after": 3}
    bodies = [brief(options=fails if number == 1 else lasts, user_id=f"u{number}") for number in range(9)]
    answers = await asyncio.gather(*(http.post(LATER, json=body) for body in bodies))
    await eventually(lambda: idle(http), 20)
    return [answer.status_code for answer in answers]


def live(page: Page) -> Any:
    return page.locator("[data-connection]")


def now(page: Page, what: str) -> Any:
    return page.locator(f'[data-now="pools.agent_pool.{what}"]')


async def test_an_operator_finds_the_slowest_stream_and_why_it_waited(
    browser: Browser, busy: Server, boss: str
) -> None:
    async with calling(busy) as http, operating(browser, busy, boss, "light") as seen:
        page = seen.page
        statuses = await mixed_load(http)
        assert (statuses.count(202), statuses.count(503)) == (5, 4)
        await page.goto(f"{busy.url}{PAGE}")
        await expect(live(page)).to_have_text("live")
        canvases = page.locator("canvas")
        await expect(canvases).to_have_count(7)
        for number in range(7):
            assert await canvases.nth(number).evaluate(DRAWN), number
        await expect(page.locator(".stats-tile").filter(has_text="Refused")).to_contain_text("44 %")
        slowest = page.get_by_role("region", name="Longest in the queue").get_by_role("listitem").first
        await expect(slowest).to_contain_text("2 of 2 workers were busy.")
        await slowest.get_by_role("link").click()
        await expect(page.get_by_role("heading", name="Why was this queued?")).to_be_visible()
        await expect(page.get_by_text("2 of 2 workers were busy.")).to_be_visible()


async def test_numbers_move_without_a_reload(browser: Browser, busy: Server, boss: str) -> None:
    async with calling(busy) as http, operating(browser, busy, boss, "dark") as seen:
        page = seen.page
        await start(http, SHORT)
        await eventually(lambda: idle(http), 20)
        await page.goto(f"{busy.url}{PAGE}")
        await page.evaluate("document.body.dataset.same = 'page'")
        tasks = page.locator(".stats-tile").first.locator(".stats-value")
        before = await tasks.inner_text()
        running = [await start(http, LONG) for _ in range(3)]
        await expect(now(page, "running")).to_have_text("2")
        await expect(now(page, "waiting")).to_have_text("1")
        await expect(now(page, "classes.batch")).not_to_have_text("-")
        assert await page.locator("[data-trace] svg polyline").count() >= 2
        for task_id in running:
            await http.delete(f"/streams/{task_id}")
        await expect(now(page, "running")).to_have_text("0")
        await expect(tasks).not_to_have_text(before)
        assert await page.evaluate("document.body.dataset.same") == "page"


async def test_pause_cut_and_ranges_by_keyboard(browser: Browser, busy: Server, boss: str) -> None:
    async with calling(busy), operating(browser, busy, boss, "light") as seen:
        page, seen.allowed = seen.page, ("ERR_FAILED",)
        await page.goto(f"{busy.url}{PAGE}")
        await expect(live(page)).to_have_text("live")
        await page.get_by_role("button", name="Pause").press("Enter")
        await expect(live(page)).to_have_text("paused")
        await page.route("**/live/", lambda route: route.abort())
        await page.get_by_role("button", name="Go on").press("Enter")
        await expect(live(page)).to_have_text("connection lost, trying again")
        await page.unroute("**/live/")
        await expect(live(page)).to_have_text("live")
        await page.get_by_role("link", name="Week").press("Enter")
        await page.wait_for_url("**/?range=week")
        await expect(page.get_by_role("link", name="Week")).to_have_attribute("aria-current", "page")


async def test_charts_that_cannot_be_read_and_a_session_that_ends_are_told(
    browser: Browser, busy: Server, boss: str
) -> None:
    async with calling(busy), operating(browser, busy, boss, "light") as seen:
        page, seen.allowed = seen.page, ("503", "403")
        await page.clock.install()
        await page.goto(f"{busy.url}{PAGE}?range=day")
        await expect(live(page)).to_have_text("live")
        stale = page.get_by_text("The charts cannot be read now")
        await expect(stale).to_be_hidden()
        await page.route("**/statistics/?*", lambda route: route.fulfill(status=503))
        await page.clock.fast_forward(61_000)
        await expect(stale).to_be_visible()
        await page.unroute("**/statistics/?*")
        await page.clock.fast_forward(6_000)
        await expect(stale).to_be_hidden()
        await seen.context.clear_cookies()
        await page.clock.fast_forward(61_000)
        await expect(live(page)).to_have_text("You are signed out, or may no longer watch.")
        await expect(page.get_by_role("button", name="Pause")).to_be_hidden()
        await page.get_by_role("link", name="Sign in").click()
        await page.wait_for_url("**/admin/login/?next=%2Fadmin%2Fstreaming%2Fstatistics%2F%3Frange%3Dday")


async def test_tiles_leave_no_hole(browser: Browser, busy: Server, boss: str) -> None:
    async with calling(busy) as http, operating(browser, busy, boss, "light") as seen:
        await start(http, SHORT)
        await eventually(lambda: idle(http), 20)
        await seen.page.goto(f"{busy.url}{PAGE}")
        for width in (360, 900, 1280, 1920):
            await seen.page.set_viewport_size({"width": width, "height": 800})
            tops = await seen.page.locator(".stats-tile").evaluate_all("all => all.map(one => one.offsetTop)")
            assert len({tops.count(top) for top in tops}) == 1, (width, tops)


async def test_the_lists_fit_a_window_of_1280_pixels(browser: Browser, busy: Server, boss: str) -> None:
    add_alert(busy)
    async with calling(busy) as http, operating(browser, busy, boss, "light") as seen:
        await start(http, SHORT, user_id="a reader with a rather long name")
        await eventually(lambda: idle(http), 20)
        await seen.page.set_viewport_size({"width": 1280, "height": 900})
        for place in (LIST, "/admin/streaming/alert/"):
            await seen.page.goto(f"{busy.url}{place}")
            table = seen.page.locator("#result_list")
            width, room = await table.evaluate(
                "table => [table.scrollWidth, table.parentElement.clientWidth]"
            )
            # A slow machine's durations have a digit more.
            assert width <= room + 12, place
            assert await table.locator("tbody tr").count() >= 1
        sentence = seen.page.locator(".field-told_at_first").first
        assert await sentence.evaluate("cell => cell.clientWidth") >= 16 * 16


def add_alert(server: Server) -> None:
    """One that was told by mail and could not be told by webhook."""
    with closing(sqlite3.connect(server.database)) as database, database:
        columns = "rule, kind, severity, sentence, value, worst, threshold, raised_at, resolved_at"
        sentence = "12.0% of the tasks end with an error (limit: 5.0%; 220 tasks of the last 5 minutes)."
        moment = "2026-11-21 12:00:00"
        values = ("error_share", "error_share", "critical", sentence, 0.12, 0.2, 0.05, moment, moment)
        added = database.execute(
            f"INSERT INTO streaming_alert ({columns}) VALUES ({', '.join('?' * len(values))})",  # noqa: S608
            values,
        )
        database.executemany(
            "INSERT INTO streaming_alertnotice (alert_id, change, channel, state, attempts, due_at, error) "
            "VALUES (?, ?, ?, ?, 5, ?, 'ConnectError: all connection attempts failed')",
            [
                (added.lastrowid, change, channel, state, moment)
                for change in ("raised", "resolved")
                for channel, state in (("email", "sent"), ("webhook", "failed"))
            ],
        )


@pytest.mark.parametrize(
    ("scheme", "language"), [pytest.param("light", "en", marks=pytest.mark.long), ("dark", "zh-hans")]
)
async def test_it_is_fit_for_all(
    browser: Browser, busy: Server, boss: str, scheme: str, language: str
) -> None:
    async with calling(busy) as http, operating(browser, busy, boss, scheme) as seen:
        page = seen.page
        await mixed_load(http)
        await seen.context.set_extra_http_headers({"Accept-Language": language})
        await page.set_viewport_size({"width": 360, "height": 800})
        await page.goto(f"{busy.url}{PAGE}")
        await expect(live(page)).to_have_attribute("data-state", "live")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        for table in await page.locator(".stats-table").all():
            await table.evaluate("element => element.open = true")
        for table in await page.locator(".stats-table").all():
            assert await table.locator("tbody tr").count() > 0, await table.inner_html()
        assert await violations_in(page, ".stats") == []


async def test_watching_leaves_nothing_behind(busy: Server, boss: str) -> None:
    """No record, no reader that is counted, no task that goes on."""
    async with client(busy.url) as http:
        cookie = {"Cookie": f"sessionid={boss}"}
        reading = await read_stream(http, "GET", f"{PAGE}live/", until=2, headers=cookie)
        numbers = reading.named("result")[0].data["data"]
        assert numbers["pools"]["agent_pool"]["max_workers"] == 2
        assert (numbers["followers"], numbers["processes"]) == (0, 1)

        async def gone() -> bool:
            return bool((await http.get("/stats")).json()["tasks"]["active"] == 0)

        assert await eventually(gone, 10)
        await start(http, SHORT)
        await eventually(lambda: idle(http), 20)
        task_id = reading.response.headers["X-Stream-Id"]
        assert row(busy, "id", task_id) is None


async def test_a_waiting_task_passes_others_when_its_class_is_changed(busy: Server, boss: str) -> None:
    async with calling(busy) as http:
        operator = operator_of(http, boss)
        occupants = [await operator.start(options=LONG) for _ in range(2)]
        first, second = [await operator.start(options=LONG, user_id="later") for _ in range(2)]
        assert 'name="priority"' in await operator.page(second)
        answer = await operator.press(f"{LIST}{second}/priority/", priority="interactive")
        assert "1 waits in the class interactive now." in answer.text
        changed = row(busy, "id", second)
        assert changed is not None
        assert (changed["priority"], changed["state"]) == (0, "queued")
        again = await operator.press(f"{LIST}{second}/priority/", priority="interactive")
        assert "1 was of the class interactive already." in again.text
        csrf = {"X-CSRFToken": TOKEN}
        await http.delete(f"/streams/{occupants[0]}", headers=csrf)

        async def state_of(task_id: str) -> str:
            return str((await http.get(f"/streams/{task_id}")).json()["state"])

        async def runs() -> bool:
            return await state_of(second) == "running"

        assert await eventually(runs, 10)
        assert await state_of(first) == "queued"
        for task_id in (first, second, occupants[1]):
            await http.delete(f"/streams/{task_id}", headers=csrf)
