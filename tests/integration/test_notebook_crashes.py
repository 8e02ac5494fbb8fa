"""Servers that are killed, or asked to go, in the middle of a cell: what was said is kept, readers get an
end, and nothing is left running."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil
import pytest

from tests.support.client import Reading, client, eventually, read_events, read_stream
from tests.support.notebooks import (
    OPERATION,
    below,
    call,
    end,
    key_of,
    notebook_server,
    outputs,
    prepare,
    printed,
    session_of,
)
from tests.support.servers import Server, serving

pytestmark = pytest.mark.server

PATIENCE: Final = 30

CELL: Final = """
import os, subprocess, time
subprocess.Popen(["setsid", "sleep", "1000"])
print(os.path.dirname(os.getcwd()))
for number in range(100_000):
    print("line", number)
    time.sleep(0.02)
"""
"""Tells the kernel's folder, leaves its process group behind, and prints for long."""


@asynccontextmanager
async def cell_in_the_middle(
    server: Server, notebook: str
) -> AsyncIterator[tuple[str, list[dict[str, Any]], asyncio.Task[None]]]:
    """A cell that has printed a few lines: its stream's place, the events, and who reads them to the end."""
    events: list[dict[str, Any]] = []
    place, begun = "", asyncio.Event()

    async def read() -> None:
        nonlocal place
        body = call(notebook, "execute", code=CELL, cell_id="cell")
        try:
            async with (
                client(server.url, headers=key_of("ada")) as http,
                http.stream("POST", OPERATION, json=body) as response,
            ):
                place = response.headers["location"]
                async for event in read_events(response):
                    events.append(event.data)
                    if "line 9\n" in said(events):
                        begun.set()
        except httpx2.HTTPError:
            pass
        finally:
            begun.set()

    reading = asyncio.create_task(read())
    async with asyncio.timeout(PATIENCE):
        await begun.wait()
    assert "line 9\n" in said(events), events
    yield place, events, reading
    async with asyncio.timeout(PATIENCE):
        await reading


def said(events: list[dict[str, Any]]) -> str:
    return "".join(each["delta"] for each in events if each["type"] == "content")


def folder_of(text: str) -> Path:
    found = Path(text.splitlines()[0])
    assert re.fullmatch(r"sluice-\w+", found.name), found
    return found


async def gone(processes: set[psutil.Process]) -> bool:
    async def none() -> bool:
        return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)

    return await eventually(none, PATIENCE)


async def replay(http: httpx2.AsyncClient, place: str) -> Reading:
    async with asyncio.timeout(PATIENCE):
        return await read_stream(http, "GET", f"{place}/events")


async def is_written(server: Server, task_id: str) -> bool:
    """Whether the first lines are in the database: what was said a moment before a crash is lost."""
    query = "SELECT max(last_id) FROM streaming_segment WHERE task_id = ?"
    with closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True, timeout=20)) as database:
        return bool((database.execute(query, (task_id,)).fetchone()[0] or 0) >= 10)


async def source_of(http: httpx2.AsyncClient, notebook: str) -> dict[str, Any]:
    shown = (await http.get(f"/notebooks/{notebook}")).json()
    (cell,) = shown["cells"]
    return dict(cell)


async def test_what_a_killed_server_had_said_is_replayed_and_ends_and_no_folder_is_left(
    tmp_path: Path,
) -> None:
    """What the code wrote, the sockets and their key: the keeper goes last, and can take them along."""
    env = prepare(tmp_path)
    ends: dict[str, str] = {}
    for round_ in ("first", "second"):
        async with serving("serve", tmp_path, env) as server:
            async with client(server.url, headers=key_of("ada")) as http:
                # What earlier servers left is whole, after each restart anew.
                for notebook, place in ends.items():
                    reading = await replay(http, place)
                    assert (end(reading)["type"], end(reading)["code"]) == ("error", "interrupted")
                    assert "line 5\n" in printed(reading)
                    assert (await source_of(http, notebook))["source"] == CELL
            async with cell_in_the_middle(server, round_) as (place, events, _):
                folder = folder_of(said(events))
                assert folder.exists()
                assert await eventually(partial(is_written, server, place.rpartition("/")[2]), PATIENCE)
                processes = below(server)
                assert len(processes) >= 3
                server.process.kill()
                await asyncio.to_thread(server.process.wait, PATIENCE)
            assert await gone(processes)
            assert not folder.exists()
            ends[round_] = place
    async with serving("serve", tmp_path, env) as server, client(server.url, headers=key_of("ada")) as http:
        for notebook, place in ends.items():
            reading = await replay(http, place)
            assert end(reading)["code"] == "interrupted"
            cell = await source_of(http, notebook)
            assert (cell["source"], cell["stream"]) == (CELL, place.rpartition("/")[2])
        again = await read_stream(http, "POST", OPERATION, json=call("first", "execute", code="1 + 1"))
        assert (outputs(again)[0]["data"]["text/plain"], end(again)["execution_count"]) == ("2", 1)


async def test_a_server_that_is_asked_to_go_ends_its_cells_in_order_and_keeps_their_outputs(
    tmp_path: Path,
) -> None:
    env = prepare(tmp_path, SSE_DRAIN_GRACE="0.5")
    async with serving("serve", tmp_path, env) as server:
        async with cell_in_the_middle(server, "kept") as (place, events, reading):
            folder = folder_of(said(events))
            assert folder.exists()
            processes = below(server)
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                await reading
            assert (events[-1]["type"], events[-1].get("code")) == ("error", "interrupted")
            status = await asyncio.to_thread(server.process.wait, PATIENCE)
        assert status in (0, -signal.SIGTERM)
        assert await gone(processes)
        assert not folder.exists()
        assert "Traceback" not in server.log()
    async with serving("serve", tmp_path, env) as server, client(server.url, headers=key_of("ada")) as http:
        cell = await source_of(http, "kept")
        assert "line 5\n" in cell["outputs"][0]["text"]
        reading_again = await replay(http, place)
        assert end(reading_again)["code"] == "interrupted"


async def test_a_session_that_ends_lets_nobody_go_on(tmp_path: Path) -> None:
    """Signing out: what runs goes on for its owner to come back to, and takes no more orders."""
    with notebook_server(tmp_path) as server:
        async with client(server.url, headers=session_of("grace")) as http:
            body = call("out", "execute", code="x = 1\nprint('ran')")
            assert printed(await read_stream(http, "POST", OPERATION, json=body)) == "ran\n"
            out = await http.post("/accounts/logout/", headers={"Origin": server.url})
            assert out.status_code in (200, 302), out.text
            refused = await http.post(OPERATION, json=body)
            assert (refused.status_code, refused.json()["code"]) == (401, "not_authenticated")
