"""Two servers that share a Redis: one queue, one set of limits, events at once, and what becomes of it all
while Redis is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.support.client import STREAM, Reading, brief, client, eventually, generate, read_stream
from tests.support.redis import INSTALL, RedisServer, find_redis, redis_server
from tests.support.servers import Server, environment, migrate, side_by_side

pytestmark = pytest.mark.server

LATER = "/content/generate/async"
QUICK = {"tokens": 5, "interval": 0.01}
PATIENT = {"tokens": 10_000, "interval": 0.02}


@contextmanager
def sharing(folder: Path, redis: RedisServer, **overrides: str) -> Iterator[tuple[Server, Server]]:
    """Two servers with one worker each, that share a database and a Redis."""
    limits = {"AGENT_POOL_MAX_WORKERS": "1", "AGENT_POOL_PER_OWNER": "50", "SSE_RETRY": "0.2"}
    env = environment(folder, **limits | {"REDIS_URL": redis.url()} | overrides)
    migrate(env)
    with side_by_side(folder, env) as servers:
        yield servers


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    """One that may be frozen and killed."""
    if find_redis() is None:
        pytest.skip(INSTALL)
    with redis_server(appendonly="yes") as made:
        yield made


@pytest.fixture(scope="module")
def pair(own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    with sharing(tmp_path_factory.mktemp("sharing"), own_redis) as servers:
        yield servers


@pytest.fixture(scope="module")
def narrow(
    own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """Two that take four tasks to wait, and of each owner three."""
    limits = {"AGENT_POOL_QUEUE_SIZE": "4", "AGENT_POOL_PER_OWNER": "3"}
    with sharing(tmp_path_factory.mktemp("narrow"), own_redis, **limits) as servers:
        yield servers


@pytest.fixture
async def here(pair: tuple[Server, Server]) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(pair[0].url) as made:
        yield made
        await idle(made)


@pytest.fixture
async def there(pair: tuple[Server, Server]) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(pair[1].url) as made:
        yield made


async def idle(http: httpx2.AsyncClient) -> None:
    """Cancel nothing; wait until nothing runs."""

    async def nothing_runs() -> bool:
        pool = (await http.get("/stats")).json()["pools"]["agent_pool"]
        return not pool["running"] and not pool["waiting"]

    assert await eventually(nothing_runs, 30)


@asynccontextmanager
async def busy(http: httpx2.AsyncClient) -> AsyncIterator[str]:
    """The server's only permit is taken while the block runs; the task's path."""
    begun = await generate(http, until=3, options=PATIENT, user_id="busy")
    assert begun.events[0].data["route"] == "direct"
    place = begun.response.headers["location"]
    try:
        yield place
    finally:
        await http.delete(place)


async def test_what_finds_no_permit_here_runs_where_one_is_free(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    async with busy(here):
        reading = await generate(here, options=QUICK)
        assert reading.events[0].data["route"] == "queued"
        assert (reading.text, reading.end.name) == ("0 1 2 3 4 ", "complete")
        assert [int(event.id) for event in reading.durable] == list(range(1, len(reading.durable) + 1))


async def test_text_of_another_process_comes_piece_by_piece(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    begun = await generate(here, until=3, options={"tokens": 60, "interval": 0.03})
    place = begun.response.headers["location"]
    whole = await read_stream(there, "GET", f"{place}/events?timing=1")
    assert whole.text == "".join(f"{k} " for k in range(60))
    gaps = [b.at - a.at for a, b in zip(whole.named("content"), whole.named("content")[1:], strict=False)]
    assert sorted(gaps)[len(gaps) // 2] < 0.2, "by the database it would come each quarter second"


async def test_an_owner_has_one_limit_in_all_processes(narrow: tuple[Server, Server]):
    async with client(narrow[0].url) as here, client(narrow[1].url) as there:
        answers = await asyncio.gather(
            *(http.post(LATER, json=brief(options=PATIENT)) for http in (here, there) for _ in range(6))
        )
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 9
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        for answer in answers:
            if answer.status_code == 202:
                await here.delete(answer.json()["urls"]["record"])
        await idle(here)


async def test_the_places_of_the_queue_are_those_of_all_processes(narrow: tuple[Server, Server]):
    async with client(narrow[0].url) as here, client(narrow[1].url) as there:
        answers = await asyncio.gather(
            *(
                http.post(LATER, json=brief(options=PATIENT, user_id=f"user {number}"))
                for http in (here, there)
                for number in range(10)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [202] * 6 + [503] * 14

        async def told() -> bool:
            # The other process's numbers are a second old.
            pool = (await there.get("/stats")).json()["pools"]["agent_pool"]
            return (pool["running"], pool["waiting"], pool["queue_size"]) == (2, 4, 4)

        assert await eventually(told)
        for answer in answers:
            if answer.status_code == 202:
                await there.delete(answer.json()["urls"]["record"])
        await idle(here)


async def test_a_waiting_task_is_cancelled_through_any_process(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    async with busy(here), busy(there):
        waiting = (await here.post(LATER, json=brief(options=QUICK))).json()
        reader = asyncio.create_task(read_stream(here, "GET", waiting["urls"]["events"]))
        record = (await there.delete(waiting["urls"]["record"])).json()
        assert record["state"] == "cancelled"
        assert (await reader).end.name == "cancelled"


async def test_whoever_waits_is_told_the_place_in_the_line_of_all(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    async with busy(here), busy(there):
        first = (await here.post(LATER, json=brief(options=QUICK, user_id="first"))).json()
        second = (await there.post(LATER, json=brief(options=QUICK, user_id="second"))).json()
        reading = await read_stream(here, "GET", second["urls"]["events"], until=2)
        assert reading.events[-1].data["position"] == 2
        for task in (first, second):
            await here.delete(task["urls"]["record"])


async def test_a_whole_answer_of_another_process_is_awaited_to_its_end(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    """Its end comes by Redis before the record tells it."""
    asked = brief(options={"tokens": 40, "interval": 0.02}, user_id="twice")
    key = {"Idempotency-Key": "whole"}
    answers = await asyncio.gather(
        *(http.post("/content/generate", json=asked, headers=key) for http in (here, there, there, here))
    )
    assert [answer.status_code for answer in answers] == [200] * 4
    assert {answer.json()["text"] for answer in answers} == {"".join(f"{k} " for k in range(40))}
    assert len({answer.json()["task_id"] for answer in answers}) == 1


async def test_while_redis_is_frozen_new_work_is_refused_and_what_runs_goes_on(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, own_redis: RedisServer
):
    running = asyncio.create_task(generate(here, options={"tokens": 150, "interval": 0.02}))
    await asyncio.sleep(0.5)
    own_redis.freeze()
    try:
        began = time.monotonic()
        refused = await there.post(STREAM, json=brief(options=QUICK))
        took = time.monotonic() - began
        ready = await there.get("/readyz")
    finally:
        own_redis.thaw()
    assert (refused.status_code, refused.json()["code"]) == (503, "redis_unavailable")
    assert "retry-after" in refused.headers
    assert took < 2
    assert ready.status_code == 503
    assert "Redis" in ready.json()["detail"]
    whole = await running
    assert whole.text == "".join(f"{k} " for k in range(150))

    async def works_again() -> bool:
        reading: Reading = await generate(there, options=QUICK)
        return reading.response.status_code == 200

    assert await eventually(works_again, 20)


async def test_a_redis_that_lost_everything_is_told_again(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, own_redis: RedisServer
):
    async with busy(here) as place, busy(there):
        waiting = (await here.post(LATER, json=brief(options=QUICK))).json()
        reader = asyncio.create_task(read_stream(there, "GET", f"{place}/events", until=100))
        await asyncio.sleep(0.3)
        own_redis.client().flushall()
        assert len((await reader).text) > 0
        task = await there.get(waiting["urls"]["record"])
        assert task.json()["state"] == "queued"
    whole = await read_stream(there, "GET", waiting["urls"]["events"])
    assert whole.end.name == "complete"
