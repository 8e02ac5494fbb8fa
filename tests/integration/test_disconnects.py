"""A reader who leaves, and what becomes of its stream. Thousands who leave: tests/faults."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import client, generate
from tests.support.scale import SERVERS
from tests.support.servers import Server, environment, migrate, started

pytestmark = [pytest.mark.server, pytest.mark.every_variant]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("disconnects")
    env = environment(folder, AGENT_POOL_MAX_WORKERS="8")
    migrate(env)
    return folder, env


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, house: tuple[Path, dict[str, str]]) -> Iterator[Server]:
    with started(request.param, *house) as made:
        yield made


async def test_a_reader_who_leaves_takes_only_its_own_stream(server: Server):
    """Within a second for an asynchronous producer; a stream beside it does not notice."""
    async with client(server.url) as http:
        beside = asyncio.create_task(
            generate(http, user_id="stays", options={"tokens": 30, "interval": 0.05})
        )
        reading = await generate(
            http,
            until=3,
            user_id="leaves",
            on_disconnect="cancel",
            options={"tokens": 5000, "interval": 0.02},
        )
        task_id = reading.response.headers["X-Stream-Id"]
        record: dict[str, Any] = {}
        for _ in range(200):
            record = (await http.get(f"/streams/{task_id}")).json()
            if record["state"] != "running":
                break
            await asyncio.sleep(0.05)
        assert record["state"] == "cancelled"
        seen = await beside
        assert seen.end.name == "complete"
        assert seen.text == "".join(f"{k} " for k in range(30))


async def test_within_its_grace_a_reader_may_come_back(server: Server):
    options = {"tokens": 60, "interval": 0.05}
    async with client(server.url) as http:
        reading = await generate(http, until=4, on_disconnect=20, options=options)
        task_id = reading.response.headers["X-Stream-Id"]
        await asyncio.sleep(0.5)
        last = reading.ids[-1]
        async with http.stream(
            "GET", f"/streams/{task_id}/events", headers={"Last-Event-ID": str(last)}
        ) as response:
            rest = (await response.aread()).decode()
    deltas = re.findall(r'"delta":"(.*?)"', rest)
    assert reading.text + "".join(deltas) == "".join(f"{k} " for k in range(60))
    assert "event: complete" in rest
