"""Redis stops answering between the admission of a call and its place in line."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.client import STREAM, brief, client, eventually, read_stream
from tests.support.redis import RedisServer, find_redis, redis_server
from tests.support.servers import Server, running

pytestmark = pytest.mark.server

KEY = {"Idempotency-Key": "once"}
LATER = "/content/generate/async"


@pytest.fixture(scope="module")
def frail() -> Iterator[RedisServer]:
    """A Redis that tests may freeze."""
    if find_redis() is None:
        pytest.skip("no Redis")
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def server(frail: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker, so that a second task has to wait."""
    folder = tmp_path_factory.mktemp("refused")
    with running("serve", folder, REDIS_URL=frail.url(), AGENT_POOL_MAX_WORKERS="1") as made:
        yield made


async def test_what_has_its_row_is_accepted_and_served_when_redis_is_back(
    server: Server, frail: RedisServer
) -> None:
    """Invariant 10: nothing that was accepted is lost. And the key leads to it."""
    waits = brief(user_id="waits", options={"tokens": 5, "interval": 0})
    async with client(server.url) as http:
        first = await http.post(LATER, json=brief(user_id="runs", options={"tokens": 9_999}))
        running = first.json()["task_id"]

        async def counted() -> bool:
            return bool((await http.get("/stats")).json()["pools"]["agent_pool"]["running"])

        assert await eventually(counted)
        with closing(sqlite3.connect(server.database, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            calling = asyncio.create_task(read_stream(http, "POST", STREAM, json=waits, headers=KEY))
            try:
                assert await eventually(lambda: _admitted(frail))
                frail.freeze()
            finally:
                database.execute("ROLLBACK")
        await asyncio.sleep(1)
        frail.thaw()
        await http.delete(f"/streams/{running}")
        reading = await calling
        assert (reading.end.name, reading.text) == ("complete", "0 1 2 3 4 ")
        again = await read_stream(http, "POST", STREAM, json=waits, headers=KEY)
        assert again.response.headers["x-stream-id"] == reading.response.headers["x-stream-id"]


async def _admitted(frail: RedisServer) -> bool:
    """Whether somebody has a place in line, be it only held for him."""
    with frail.client(1) as redis:
        return any(key.endswith(b":q:agent_pool:w") for key in redis.scan_iter())
