"""Notebooks over a real Jupyter Server, served by two processes: every operation, whichever process it comes
to, and one cell at a time."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.client import client, eventually
from tests.support.jupyter import JupyterServer
from tests.support.notebooks import (
    answer,
    ask,
    begin,
    end,
    key_of,
    notebook_server,
    outputs,
    prepare,
    printed,
)
from tests.support.servers import Server, started

pytestmark = pytest.mark.server


def ada() -> dict[str, str]:
    """Headers of somebody who may run code."""
    return key_of("ada")


def settings(jupyter: JupyterServer, **changes: str) -> dict[str, str]:
    where = {"KERNEL_GATEWAY_URL": jupyter.url, "KERNEL_GATEWAY_TOKEN": jupyter.token}
    return where | {"KERNEL_OUTPUT_LIMIT": "200000"} | changes


@pytest.fixture(scope="module")
def houses(jupyter: JupyterServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    folder = tmp_path_factory.mktemp("elsewhere")
    env = prepare(folder, **settings(jupyter))
    with started("serve", folder, env) as one, started("serve", folder, env) as two:
        yield [one, two]


@pytest.fixture
async def one(houses: list[Server]) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(houses[0].url) as made:
        yield made


@pytest.fixture
async def two(houses: list[Server]) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(houses[1].url) as made:
        yield made


def ids(jupyter: JupyterServer) -> set[str]:
    return {each["id"] for each in jupyter.kernels()}


async def state(http: httpx2.AsyncClient, notebook: str) -> Any:
    return answer(await ask(http, ada(), notebook, "status"))["state"]


async def test_all_operations_whichever_process_they_come_to(
    one: httpx2.AsyncClient, two: httpx2.AsyncClient, jupyter: JupyterServer
) -> None:
    assert await state(two, "all") == "none"
    code = "schlüssel = '中文 👩‍👩‍👧‍👦'\nprint(schlüssel)"
    reading = await ask(one, ada(), "all", "execute", code=code)
    assert printed(reading) == "中文 👩‍👩‍👧‍👦\n"
    assert end(reading)["finish_reason"] == "stop"
    assert await state(two, "all") == "idle"
    reading = await ask(two, ada(), "all", "execute", code="print(schlüssel)\n1 / 0")
    assert printed(reading) == "中文 👩‍👩‍👧‍👦\n"
    assert outputs(reading)[0]["ename"] == "ZeroDivisionError"
    assert end(reading)["execution_count"] == 2
    assert "schlüssel" in answer(await ask(one, ada(), "all", "complete", code="schl"))["matches"]
    assert answer(await ask(two, ada(), "all", "inspect", code="print"))["found"]
    (listed,) = (
        each
        for each in answer(await ask(two, ada(), "all", "list"))["notebooks"]
        if each["notebook_id"] == "all"
    )
    assert listed["kernel"] == "idle"
    former = ids(jupyter)
    assert answer(await ask(two, ada(), "all", "restart"))["state"] == "idle"
    assert not former & ids(jupyter)
    assert (
        printed(await ask(one, ada(), "all", "execute", code="print('schlüssel' in globals())")) == "False\n"
    )
    assert answer(await ask(one, ada(), "all", "shutdown")) == {
        "stopped": True,
        "state": "none",
        "execution_count": None,
    }
    assert ids(jupyter) == set()


async def test_one_cell_at_a_time_whichever_process_it_comes_to(
    one: httpx2.AsyncClient, two: httpx2.AsyncClient
) -> None:
    code = "import time\nprint('from', time.time())\ntime.sleep(0.5)\nprint('to', time.time())"
    readings = await asyncio.gather(
        *(
            ask(http, ada(), "turns", "execute", code=code, cell_id=f"c{k}")
            for k, http in enumerate((one, two))
        )
    )
    times = sorted([float(word) for word in printed(each).split() if word[0].isdigit()] for each in readings)
    assert times[0][1] <= times[1][0]
    assert {end(each)["execution_count"] for each in readings} == {1, 2}


async def test_what_runs_in_one_process_is_interrupted_and_ended_by_the_other(
    one: httpx2.AsyncClient, two: httpx2.AsyncClient
) -> None:
    await ask(one, ada(), "stop", "execute", code="1")
    for operation, expected in (("interrupt", "complete"), ("shutdown", "error")):
        running = await begin(one, ada(), "stop", "execute", code="while True: pass")

        async def busy() -> bool:
            return bool(await state(two, "stop") == "busy")

        await eventually(busy)
        await asyncio.sleep(0.3)
        await ask(two, ada(), "stop", operation)
        reading = await running
        assert end(reading)["type"] == expected
    assert end(reading)["code"] == "kernel_stopped"


async def test_a_flood_is_cut_and_a_kernel_that_dies_is_replaced(one: httpx2.AsyncClient) -> None:
    reading = await ask(one, ada(), "flood", "execute", code="for _ in range(20): print('x' * 1_000_000)")
    assert len(printed(reading)) == 200_000
    assert reading.named("truncated")[-1].data["dropped_chars"] == 20 * 1_000_001 - 200_000
    reading = await ask(one, ada(), "flood", "execute", code="import os; os._exit(3)")
    assert end(reading)["code"] == "kernel_died"
    assert printed(await ask(one, ada(), "flood", "execute", code="print('next')")) == "next\n"


@pytest.mark.long
async def test_after_a_process_is_killed_its_cell_is_interrupted_by_the_next(
    houses: list[Server], two: httpx2.AsyncClient, jupyter: JupyterServer, tmp_path: Path
) -> None:
    env = prepare(tmp_path, **settings(jupyter))
    with started("serve", tmp_path, env) as lost, started("serve", tmp_path, env) as left:
        async with client(lost.url) as http, client(left.url) as other:
            await ask(http, ada(), "kept", "execute", code="x = 'still here'")
            running = await begin(http, ada(), "kept", "execute", code="while True: pass")
            await asyncio.sleep(0.5)
            lost.process.send_signal(signal.SIGKILL)
            running.cancel()
            reading = await ask(other, ada(), "kept", "execute", code="print(x)")
            assert printed(reading) == "still here\n"


@pytest.mark.long
async def test_idle_kernels_end_and_at_the_end_none_is_left(jupyter: JupyterServer, tmp_path: Path) -> None:
    before = ids(jupyter)
    with notebook_server(tmp_path, **settings(jupyter, KERNEL_IDLE_TIMEOUT="1")) as server:
        async with client(server.url) as http:
            await ask(http, ada(), "idle", "execute", code="1")
            assert len(ids(jupyter) - before) == 1
            await eventually(lambda: asyncio.sleep(0, ids(jupyter) <= before))
            assert await state(http, "idle") == "none"
            await ask(http, ada(), "idle", "execute", code="1")
        server.process.terminate()
        await asyncio.to_thread(server.process.wait)
    assert ids(jupyter) <= before


@pytest.mark.long
async def test_where_no_server_answers_a_cell_is_told_soon(tmp_path: Path) -> None:
    where = {"KERNEL_GATEWAY_URL": "http://127.0.0.1:1"}
    with notebook_server(tmp_path, **where) as server:
        async with client(server.url) as http:
            began = time.monotonic()
            reading = await ask(http, ada(), "away", "execute", code="1")
            assert time.monotonic() - began < 20
            assert (end(reading)["code"], end(reading)["retryable"]) == ("kernel_not_started", True)
