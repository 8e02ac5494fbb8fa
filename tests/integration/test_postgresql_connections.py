"""PostgreSQL, as each server process uses it: a bounded number of connections, however many streams there
are, and tables that get new columns while it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress

import httpx2
import psutil
import pytest

from tests.integration.conftest import assert_clean
from tests.support.client import brief, read_stream
from tests.support.postgresql import Cluster
from tests.support.scale import ALL
from tests.support.servers import Server, environment, side_by_side

pytestmark = pytest.mark.server

LATER = "/content/generate/async"

SILENT = {"tokens": 1, "start_delay": 3600}

STEPS = (10, 100, 300) if ALL else (10, 60)
"""Streams that are open at once."""

STEADY = 2
"""Connections of a process: its writer's, and that of the thread that reads tasks of others."""

CROWD = 24
"""Connections of a process while hundreds of requests at once look for a task that is not in it."""

LIMITS = {
    "AGENT_POOL_MAX_WORKERS": "1000",
    "AGENT_POOL_PER_OWNER": "1000",
    "AGENT_POOL_RUN_TIMEOUT": "4000",
}


@pytest.fixture(scope="module")
def url(postgresql: Cluster) -> str:
    return postgresql.migrated()


@pytest.fixture(scope="module")
def pair(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    folder = tmp_path_factory.mktemp("pair")
    env = environment(folder, **LIMITS, DATABASE_URL=url)
    with side_by_side(folder, env) as (one, other):
        yield one, other
        assert_clean(one)
        assert_clean(other)


async def test_connections_do_not_grow_with_the_number_of_streams(
    pair: tuple[Server, Server],
    postgresql: Cluster,
    here: httpx2.AsyncClient,
):
    processes = [psutil.Process(server.process.pid) for server in pair]
    seen: list[list[int]] = []

    def look() -> None:
        """Connections of each of the two, as PostgreSQL knows them."""
        rows = postgresql.execute("SELECT client_port FROM pg_stat_activity WHERE client_port > 0")
        known = {port for (port,) in rows}
        ports = [{each.laddr.port for each in process.net_connections("tcp")} for process in processes]
        seen.append([len(known & each) for each in ports])

    async def watch() -> None:
        """Also while streams are opened, which is when requests ask the database most."""
        while True:
            await asyncio.to_thread(look)
            await asyncio.sleep(0.1)

    followers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    ids: list[str] = []
    steady = []
    watching = asyncio.create_task(watch())
    try:
        for step in STEPS:
            new = await asyncio.gather(*(begin(here, SILENT) for _ in range(step - len(ids))))
            ids += new
            for server in pair:
                followers += await follow(server, new)
            await asyncio.sleep(0.3)
            look()
            steady.append(seen[-1])
        assert not any(reader.at_eof() for reader, _ in followers)
    finally:
        watching.cancel()
        for _, writer in followers:
            writer.close()
        with suppress(asyncio.CancelledError):
            await watching
    assert all(0 < connections <= STEADY for both in steady for connections in both), steady
    assert max(max(both) for both in seen) <= CROWD


async def test_streams_go_on_while_their_table_changes(
    postgresql: Cluster, url: str, here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    """What a newer version's migrations do to a server of this one: columns that it does not know, which may
    be empty or have a default of the database's own, and tables and indexes beside them."""
    name = url.rpartition("/")[2]
    reading = [asyncio.create_task(whole(here, there)) for _ in range(10)]
    for command in (
        "ALTER TABLE streaming_streamtask ADD COLUMN next_nullable integer NULL",
        "ALTER TABLE streaming_streamtask ADD COLUMN next_default varchar(40) DEFAULT '' NOT NULL",
        "ALTER TABLE streaming_segment ADD COLUMN next_default integer DEFAULT 0 NOT NULL",
        "ALTER TABLE streaming_process ADD COLUMN next_default integer DEFAULT 0 NOT NULL",
        "CREATE TABLE streaming_next (id bigint PRIMARY KEY)",
        "CREATE INDEX CONCURRENTLY streaming_next_index ON streaming_streamtask (next_nullable)",
        "ALTER TABLE streaming_streamtask DROP COLUMN next_nullable",
    ):
        await asyncio.sleep(0.15)
        await asyncio.to_thread(postgresql.execute, command, name)
    ended = [task_id for pair in await asyncio.gather(*reading) for task_id in pair]
    async with asyncio.timeout(20):
        for task_id in ended:
            record = (await there.get(f"/streams/{task_id}")).json()
            assert (record["state"], record["text"]) == ("complete", text(60))


async def whole(here: httpx2.AsyncClient, there: httpx2.AsyncClient) -> list[str]:
    """The ids of one stream that is begun before the tables change, and of one that is begun meanwhile; both
    read through the other process, exact."""
    ids = []
    for _ in range(2):
        ids.append(await begin(here, {"tokens": 60, "interval": 0.01}))
        reading = await read_stream(there, "GET", f"/streams/{ids[-1]}/events")
        assert (reading.end.name, reading.text) == ("complete", text(60))
    return ids


def text(tokens: int) -> str:
    return "".join(f"{k} " for k in range(tokens))


async def begin(http: httpx2.AsyncClient, options: Mapping[str, float]) -> str:
    response = await http.post(LATER, json=brief(options=options))
    assert response.status_code == 202, response.text
    return str(response.json()["task_id"])


async def follow(server: Server, ids: list[str]) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Readers of all of these at once, when their answers have begun; bare sockets, as there are hundreds."""

    async def begin(task_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET /streams/{task_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        async with asyncio.timeout(60):
            assert b" 200 " in await reader.readline()
        return reader, writer

    return await asyncio.gather(*map(begin, ids))
