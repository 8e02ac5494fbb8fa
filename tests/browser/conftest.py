"""One Chromium for all, servers, and pages that must stay free of complaints."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.support.browser import Visit, find_chromium, visit
from tests.support.servers import Server, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The browser lives on one event loop, and so do its tests."""
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here) and item.get_closest_marker("asyncio"):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            item.add_marker(pytest.mark.server)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The system's Chromium."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium here: install the package chromium, or name one with CHROMIUM=/path/to/it")
    # Inside of a container, or as root, Chromium's own sandbox cannot start.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(executable_path=path, args=options)
        yield made
        await made.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with room for every test."""
    folder = tmp_path_factory.mktemp("site")
    with running(
        "serve", folder, AGENT_POOL_PER_OWNER="50", AGENT_POOL_MAX_WORKERS="20", SSE_RETRY="0.2"
    ) as made:
        yield made
        assert "Traceback" not in made.log()


@pytest.fixture(scope="session")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker and one place in the queue."""
    folder = tmp_path_factory.mktemp("small")
    limits = {"AGENT_POOL_PER_OWNER": "5", "AGENT_POOL_MAX_WORKERS": "1", "AGENT_POOL_QUEUE_SIZE": "1"}
    with running("serve", folder, **limits) as made:
        yield made
        assert "Traceback" not in made.log()


@pytest_asyncio.fixture(loop_scope="session")
async def home(browser: Browser, site: Server) -> AsyncIterator[Visit]:
    """The page at `/` in English."""
    async with visit(browser, site.url) as made:
        yield made


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def resting(browser: Browser, site: Server) -> AsyncIterator[Visit]:
    """The same page for all tests that leave it as it is."""
    async with visit(browser, site.url) as made:
        yield made
