"""Two webs, two workers, Redis, PostgreSQL, nginx: a stream goes on whoever starts, runs, reads or dies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2
import pytest

from tests.support.client import STREAM, Reading, brief, client, eventually, generate, read_stream
from tests.support.cluster import Cluster, Node, cluster, missing
from tests.support.postgresql import Cluster as PostgreSQL

pytestmark = pytest.mark.server

LATER = "/content/generate/async"
PATIENT = {"tokens": 10_000, "interval": 0.02}
LIMITS = {
    "AGENT_POOL_MAX_WORKERS": "1",
    "AGENT_POOL_PER_OWNER": "50",
    "SSE_RETRY": "0.2",
    "CLUSTER_ON_LOST": "restart",
}


def numbers(count: int) -> str:
    return "".join(f"{k} " for k in range(count))


@pytest.fixture(scope="module")
def house(postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if absent := missing():
        pytest.skip(absent)
    with cluster(tmp_path_factory.mktemp("cluster"), database=postgresql, overrides=LIMITS) as made:
        yield made


@asynccontextmanager
async def busy(node: Node) -> AsyncIterator[None]:
    """The web's own permit is taken while the block runs."""
    async with client(node.url) as http:
        begun = await generate(http, until=3, options=PATIENT, user_id="busy")
        assert begun.events[0].data["route"] == "direct"
        try:
            yield
        finally:
            await http.delete(begun.response.headers["location"])


@pytest.fixture
async def webs(house: Cluster) -> AsyncIterator[tuple[httpx2.AsyncClient, httpx2.AsyncClient]]:
    async with client(house.web[0].url) as one, client(house.web[1].url) as other:
        yield one, other


async def runner(house: Cluster, reading: Reading) -> Node:
    """The worker that runs the stream."""
    task_id = reading.response.headers["x-stream-id"]
    tables = "streaming_streamtask t JOIN streaming_process p ON p.id = t.process"
    query = f"SELECT p.pid FROM {tables} WHERE t.id = '{task_id}'"  # noqa: S608 (ours)
    name = house.env["DATABASE_URL"].rpartition("/")[2]

    async def found() -> Node | None:
        pids = {pid for (pid,) in house.postgresql.execute(query, name)}
        return next((worker for worker in house.workers if worker.process.pid in pids), None)

    worker = await eventually(found)
    assert worker is not None
    return worker


async def test_a_stream_outlives_the_web_that_shows_it_and_the_twin_of_the_worker_that_runs_it(
    house: Cluster, webs: tuple[httpx2.AsyncClient, httpx2.AsyncClient]
):
    one, other = webs
    async with busy(house.web[0]):
        begun = await generate(one, until=10, options={"tokens": 600, "interval": 0.02})
        assert begun.events[0].data["route"] == "queued"
        place = begun.response.headers["location"]
        worker = await runner(house, begun)
        (twin,) = (each for each in house.workers if each is not worker)
        seen = await read_stream(
            other, "GET", f"{place}/events", until=30, headers={"Last-Event-ID": str(begun.ids[-1])}
        )
        house.web[1].kill()
        twin.kill()
        rest = await read_stream(one, "GET", f"{place}/events", headers={"Last-Event-ID": str(seen.ids[-1])})
        house.web[1].start()
        twin.start()
    assert begun.text + seen.text + rest.text == numbers(600)
    assert rest.end.name == "complete"
    assert not [event for event in rest.events if event.name in ("gap", "restart")]


async def resumed(http: httpx2.AsyncClient, place: str, reading: Reading) -> Reading:
    """What follows, coming back until the end."""
    while reading.end.name not in ("complete", "error", "cancelled"):
        after = reading.ids[-1] if reading.ids else 0
        more = await read_stream(http, "GET", f"{place}/events", headers={"Last-Event-ID": str(after)})
        reading.events += more.events
    return reading


def told(reading: Reading) -> str:
    """The text that is left: what came before a `restart` is void."""
    text = ""
    for event in reading.events:
        if event.name == "restart":
            text = ""
        elif event.name == "content":
            text += event.data["delta"]
    return text


async def test_a_killed_worker_costs_its_streams_a_new_beginning(
    house: Cluster, webs: tuple[httpx2.AsyncClient, httpx2.AsyncClient]
):
    one, _ = webs
    async with busy(house.web[0]), busy(house.web[1]):
        begun = await generate(one, until=10, options={"tokens": 200, "interval": 0.02})
        place = begun.response.headers["location"]
        worker = await runner(house, begun)
        worker.kill()
        async with asyncio.timeout(60):
            whole = await resumed(one, place, begun)
        worker.start()
    assert whole.end.name == "complete"
    assert told(whole) == numbers(200)
    assert [event.data["attempt"] for event in whole.named("restart")] == [2]


@pytest.mark.long
async def test_both_workers_go_down_in_order_and_no_stream_is_lost(
    house: Cluster, webs: tuple[httpx2.AsyncClient, httpx2.AsyncClient]
):
    one, _ = webs
    async with busy(house.web[0]), busy(house.web[1]), AsyncExitStack() as stack:
        streams = [
            asyncio.create_task(generate(one, options={"tokens": 400, "interval": 0.02}, user_id=f"user {n}"))
            for n in range(4)
        ]
        stack.callback(lambda: [each.cancel() for each in streams])
        await asyncio.sleep(1.5)
        for worker in house.workers:
            await asyncio.to_thread(worker.stop, signal.SIGTERM)
            await asyncio.to_thread(worker.start)
        readings = await asyncio.gather(*streams)
        whole = [await resumed(one, each.response.headers["location"], each) for each in readings]
    assert [(each.end.name, told(each)) for each in whole] == [("complete", numbers(400))] * 4


async def test_a_burst_is_served_by_all_and_no_limit_is_exceeded(
    house: Cluster, webs: tuple[httpx2.AsyncClient, httpx2.AsyncClient]
):
    async def call(number: int) -> Reading:
        async with client(house.url) as http:
            return await read_stream(
                http,
                "POST",
                STREAM,
                json=brief(options={"tokens": 20, "interval": 0.02}, user_id=f"u{number}"),
            )

    readings = await asyncio.gather(*(call(number) for number in range(30)))
    assert {reading.response.status_code for reading in readings} == {200}
    assert {reading.text for reading in readings} == {numbers(20)}
