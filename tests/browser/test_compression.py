"""Compressed streams in a real browser: `fetch`, and a native `EventSource`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.support.browser import Visit, visit
from tests.support.client import STREAM, brief
from tests.support.servers import Server, running


@pytest.fixture(scope="module")
def compressing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that compresses."""
    folder = tmp_path_factory.mktemp("compressing")
    settings = {"STREAM_COMPRESSION": "br, zstd, gzip", "AGENT_POOL_PER_OWNER": "50"}
    with running("serve", folder, **settings, BUFFER_FLUSH_CHARS="1") as made:
        yield made
        assert "Traceback" not in made.log()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, compressing: Server) -> AsyncIterator[Visit]:
    async with visit(browser, compressing.url) as made:
        yield made


BY_FETCH = """async ([url, brief]) => {
    const headers = { "Content-Type": "application/json" };
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(brief) });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let shown = "";
    while (!shown.includes('"delta":"2 "')) {
        const { value, done } = await reader.read();
        if (done) throw new Error(shown);
        shown += value;
    }
    return [response.headers.get("content-encoding"), response.headers.get("x-stream-id")];
}"""

BY_EVENT_SOURCE = """(id) => new Promise((resolve, reject) => {
    const source = new EventSource(`/streams/${id}/events`);
    let text = "";
    source.addEventListener("content", (event) => {
        text += JSON.parse(event.data).delta;
        if (text === "0 1 2 ") { source.close(); resolve(text); }
    });
    source.onerror = () => reject(new Error(text));
})"""


async def test_both_show_what_there_is_before_there_is_more(page: Visit) -> None:
    script = brief(options={"tokens": 9, "interval": 0.02, "hang_after": 3}, on_disconnect=5)
    coding, task_id = await page.page.evaluate(BY_FETCH, [STREAM, script])
    assert coding in ("br", "zstd", "gzip")
    async with page.page.expect_response("**/events") as waited:
        assert await page.page.evaluate(BY_EVENT_SOURCE, task_id) == "0 1 2 "
    events = await waited.value
    assert await events.header_value("content-encoding") == coding
