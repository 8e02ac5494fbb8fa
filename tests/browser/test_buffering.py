"""The event inspector says when a proxy holds events back, and only then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.async_api import Browser, expect

from tests.browser.steps import ending_soon, reaches, write
from tests.support.browser import Visit, visit
from tests.support.buffering import COLLECTING
from tests.support.nginx import Nginx, find_nginx, fronted
from tests.support.servers import running

WARNING = "[data-inspector-warning]"

FEED = """async (events) => {
    const { Bunches } = await import("/static/streaming/page/bunches.js");
    const bunches = new Bunches();
    for (const [at, sent] of events) bunches.add(at, sent);
    return bunches.held;
}"""


@pytest.fixture(scope="module")
def collecting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """An nginx that compresses and collects."""
    folder = tmp_path_factory.mktemp("collecting")
    with (
        running("serve", folder, ALLOW_ANONYMOUS="true") as server,
        fronted(tmp_path_factory.mktemp("nginx"), server.port, COLLECTING) as nginx,
    ):
        yield nginx


@pytest.mark.skipif(find_nginx() is None, reason="no nginx here: apt-get install nginx")
async def test_a_proxy_that_collects_is_named(browser: Browser, collecting: Nginx) -> None:
    async with visit(browser, collecting.url) as seen:
        await expect(seen.page.locator(WARNING)).to_be_hidden()
        await write(seen.page, writer="scripted")
        await reaches(seen.page, "finished")
        await expect(seen.page.locator(WARNING)).to_contain_text("A proxy is buffering this stream")
        # The next stream is judged by itself.
        await write(seen.page, writer="scripted")
        await expect(seen.page.locator(WARNING)).to_be_hidden()


async def test_without_a_proxy_nothing_is_said(home: Visit) -> None:
    await ending_soon(home.page, 100, 0.02)
    await write(home.page, writer="scripted")
    await reaches(home.page, "finished")
    await expect(home.page.locator(WARNING)).to_be_hidden()
    rows = home.page.locator("[data-rows-body]")
    await expect(rows).to_contain_text("content")
    await expect(rows).not_to_contain_text("sent_at")


@pytest.mark.parametrize(
    ("events", "held"),
    [
        ([(100 * k, 5e6 + k / 10) for k in range(10)], 0),
        ([(100 * k + 800, 5e6 + k / 10) for k in range(10)], 0),
        ([(900, 5e6 + k / 10) for k in range(10)], 900),
        ([(500 * (1 + k // 5), 5e6 + k / 10) for k in range(10)], 400),
        ([(900, 5e6 + k / 1000) for k in range(10)], 0),
        ([(900, 5e6 + k / 10) for k in range(4)], 0),
        ([(900, None) for _ in range(10)], 0),
    ],
    ids=["in time", "late but even", "all at the end", "in bursts", "sent together", "few", "not told"],
)
async def test_the_rule(resting: Visit, events: list[tuple[float, float | None]], held: float) -> None:
    given = [[at] if sent is None else [at, sent] for at, sent in events]
    assert await resting.page.evaluate(FEED, given) == pytest.approx(held, abs=1)
