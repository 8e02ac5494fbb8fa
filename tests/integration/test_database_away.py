"""Pages while the database is really away: sessions live in it, so nothing of a page can be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.client import client
from tests.support.servers import Server, running

from .test_admin import staff_of

pytestmark = pytest.mark.server

PAGE = "/admin/streaming/statistics/"


@contextmanager
def away(database: Path) -> Iterator[None]:
    """A folder where the file was."""
    hidden = database.with_suffix(".hidden")
    database.rename(hidden)
    database.mkdir()
    try:
        yield
    finally:
        database.rmdir()
        hidden.rename(database)


async def test_pages_say_that_the_database_does_not_answer(tmp_path: Path) -> None:
    with running("serve", tmp_path) as server:
        session = staff_of(server)["boss"]
        async with client(server.url) as http:
            asked = {"Cookie": f"sessionid={session}", "Accept": "text/html"}
            with away(server.database):
                for path in (PAGE, "/admin/", f"{PAGE}?range=week"):
                    page = await http.get(path, headers=asked)
                    assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
                    assert "The database does not answer" in page.text
                    assert "The fault is ours" not in page.text
                chinese = await http.get(PAGE, headers={**asked, "Accept-Language": "zh-hans"})
                assert chinese.status_code == 503
                document = await http.get("/admin/", headers={**asked, "Accept": "application/json"})
                assert (document.status_code, document.json()["code"]) == (503, "storage_unavailable")
                live = await http.get(f"{PAGE}live/", headers=asked)
                assert (live.status_code, live.json()["code"]) == (503, "storage_unavailable")
            assert (await http.get(PAGE, headers=asked)).status_code == 200
        _one_line_each(server, 6)


def _one_line_each(server: Server, asked: int) -> None:
    log = server.log()
    lines = [line for line in log.splitlines() if "the database does not answer" in line]
    assert len(lines) == asked, log
    assert all("unable to open database file" in line for line in lines)
    assert "Traceback" not in log
