"""The cache on real servers: an identical brief is a task of its own that nobody had to write again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.integration.conftest import assert_clean, idle
from tests.support.client import STREAM, Reading, brief, client, eventually, read_stream, row
from tests.support.scale import SERVERS
from tests.support.servers import Server, environment, migrate, running, started

pytestmark = pytest.mark.server

TEXT = "".join(f"{k} " for k in range(40))
WHOLE = "/content/generate"
LATER = "/content/generate/async"
LIMITS = {"AGENT_POOL_MAX_WORKERS": "1", "AGENT_POOL_QUEUE_SIZE": "0", "AGENT_POOL_PER_OWNER": "1"}


@pytest.fixture(scope="module", params=SERVERS)
def sharing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that shares work between all callers and has room for one task."""
    folder = tmp_path_factory.mktemp("sharing")
    with running(request.param, folder, CACHE_SCOPE="all", **LIMITS) as made:
        yield made
        assert_clean(made)


@pytest.fixture
async def http(sharing: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(sharing.url) as made:
        yield made
        await idle(made)


def work(**members: Any) -> dict[str, Any]:
    """A brief that nobody else sends."""
    return brief(**{"topic": str(uuid4()), "options": {"tokens": 40, "interval": 0.01}} | members)


def chunks(reading: Reading) -> list[tuple[int, str]]:
    return [(int(event.id), event.data["delta"]) for event in reading.named("content")]


async def stream(http: httpx2.AsyncClient, asked: dict[str, Any], **options: Any) -> Reading:
    return await read_stream(http, "POST", STREAM, json=asked, **options)


async def test_the_same_brief_is_a_task_of_its_own_with_the_same_chunks(http: httpx2.AsyncClient) -> None:
    asked = work()
    first = await stream(http, asked)
    again = await stream(http, asked | {"user_id": "somebody else", "on_disconnect": "cancel"})
    assert first.text == again.text == TEXT
    assert chunks(again) == chunks(first)
    assert (first.end.data["cached"], again.end.data["cached"]) == (False, True)
    for name in ("model", "usage", "finish_reason", "content_length", "chunks"):
        assert again.end.data[name] == first.end.data[name]
    status = again.named("status")[0].data
    assert (status["route"], status["reason"]) == ("direct", "cached")
    one, two = (reading.response.headers["x-stream-id"] for reading in (first, again))
    assert one != two
    record = (await http.get(f"/streams/{two}")).json()
    assert (record["state"], record["text"], record["reason"]) == ("complete", TEXT, "cached")


async def test_at_once_one_writes_and_none_is_refused(http: httpx2.AsyncClient) -> None:
    """The pool has one permit, no place, and a limit of one for each owner."""
    asked = work()
    before = (await http.get("/stats")).json()["refusals"]
    readings = await asyncio.gather(*(stream(http, asked) for _ in range(20)))
    assert {reading.text for reading in readings} == {TEXT}
    assert len({reading.response.headers["x-stream-id"] for reading in readings}) == 20
    assert sorted(reading.end.data["cached"] for reading in readings) == [False] + [True] * 19
    assert len({str(chunks(reading)) for reading in readings}) == 1
    assert (await http.get("/stats")).json()["refusals"] == before


async def test_a_copy_can_be_resumed(http: httpx2.AsyncClient) -> None:
    asked = work()
    running = asyncio.create_task(stream(http, asked))
    await asyncio.sleep(0.1)
    cut = await stream(http, asked, until=5)
    place = f"{cut.response.headers['location']}/events"
    rest = await read_stream(http, "GET", f"{place}?after={cut.ids[-1]}")
    assert cut.text + rest.text == TEXT
    assert (await running).text == TEXT


async def test_cancelling_a_copy_leaves_its_source(http: httpx2.AsyncClient) -> None:
    asked = work(options={"tokens": 100, "interval": 0.01})
    source = asyncio.create_task(stream(http, asked))
    await asyncio.sleep(0.2)
    copy = await stream(http, asked, until=3)
    ended = (await http.delete(copy.response.headers["location"])).json()
    assert ended["state"] == "cancelled"
    assert (await source).end.name == "complete"


async def test_cancelling_the_source_interrupts_its_copies(http: httpx2.AsyncClient) -> None:
    asked = work(options={"tokens": 10_000, "interval": 0.01})
    source = await stream(http, asked, until=3)
    copy = asyncio.create_task(stream(http, asked))
    await asyncio.sleep(0.2)
    await http.delete(source.response.headers["location"])
    end = (await copy).end
    assert (end.name, end.data["code"], end.data["retryable"]) == ("error", "interrupted", True)


async def test_a_reader_of_the_copy_keeps_the_source(http: httpx2.AsyncClient) -> None:
    asked = work(options={"tokens": 100, "interval": 0.01}, on_disconnect="cancel")
    async with http.stream("POST", STREAM, json=asked) as source:
        await anext(source.aiter_raw())
        copy = asyncio.create_task(stream(http, asked))
        await asyncio.sleep(0.2)
    assert (await copy).end.name == "complete"


@pytest.mark.parametrize(
    "other", [{"tone": "dry"}, {"options": {"tokens": 41, "interval": 0.01}}, {"length": "short"}]
)
async def test_another_brief_is_other_work(http: httpx2.AsyncClient, other: dict[str, Any]) -> None:
    asked = work()
    await stream(http, asked)
    assert (await stream(http, asked | other)).end.data["cached"] is False


async def test_every_call_shares(http: httpx2.AsyncClient, sharing: Server) -> None:
    asked = work()
    whole = (await http.post(WHOLE, json=asked)).json()
    assert (whole["text"], whole["cached"]) == (TEXT, False)
    assert (await http.post(WHOLE, json=asked)).json()["cached"] is True
    promise = await http.post(LATER, json=asked)
    reading = await read_stream(http, "GET", f"{promise.headers['location']}/events")
    assert (reading.text, reading.end.data["cached"]) == (TEXT, True)
    kept = row(sharing, "id", promise.json()["task_id"])
    assert kept is not None
    assert kept["fingerprint"] == ""


async def test_a_failed_text_is_written_anew(http: httpx2.AsyncClient) -> None:
    asked = work(options={"tokens": 40, "interval": 0.001, "fail_after": 5})
    ends = [(await stream(http, asked)).named("status")[0].data["reason"] for _ in range(2)]
    assert ends == ["worker_free", "worker_free"]


async def test_a_purged_text_is_written_anew(http: httpx2.AsyncClient) -> None:
    asked = work()
    first = await stream(http, asked)
    assert (await http.delete(f"{first.response.headers['location']}?purge=true")).status_code == 204
    assert (await stream(http, asked)).end.data["cached"] is False


async def test_a_key_and_the_cache_together(http: httpx2.AsyncClient) -> None:
    asked = work()
    await stream(http, asked)
    key = {"Idempotency-Key": str(uuid4())}
    first = await stream(http, asked, headers=key)
    again = await stream(http, asked, headers=key)
    assert first.end.data["cached"] is True
    assert again.end.data == first.end.data
    assert again.response.headers["idempotent-replayed"] == "true"


async def test_it_is_off_by_default(server: Server) -> None:
    asked = work()
    async with client(server.url) as http:
        ends = [(await stream(http, asked)).end.data["cached"] for _ in range(2)]
    assert ends == [False, False]


async def test_owners_share_with_themselves_and_over_a_restart(tmp_path: Path) -> None:
    env = environment(tmp_path, CACHE_SCOPE="owner")
    migrate(env)
    asked = work()
    with started("serve", tmp_path, env) as first:
        async with client(first.url) as http:
            written = await stream(http, asked)
            other = await stream(http, asked | {"user_id": "somebody else"})
            assert (written.end.data["cached"], other.end.data["cached"]) == (False, False)
        first.stop()
    with started("serve", tmp_path, env) as second:
        async with client(second.url) as http:
            again = await stream(http, asked)
            assert again.end.data["cached"] is True
            assert chunks(again) == chunks(written)


async def test_what_another_process_is_writing_is_not_written_again(tmp_path: Path) -> None:
    env = environment(tmp_path, CACHE_SCOPE="all", **LIMITS)
    migrate(env)
    with started("serve", tmp_path, env) as one, started("serve", tmp_path, env) as other:
        async with client(one.url) as here, client(other.url) as there:
            asked = work(options={"tokens": 40, "interval": 0.1})
            first = asyncio.create_task(stream(here, asked))

            async def runs() -> bool:
                # The others' numbers come with their beat: by then the record is in the database.
                return bool((await there.get("/stats")).json()["pools"]["agent_pool"]["running"] == 1)

            assert await eventually(runs)
            copy = await stream(there, asked)
            assert copy.end.data["cached"] is True
            assert copy.text == (await first).text == TEXT
            assert copy.response.headers["x-stream-id"] != (await first).response.headers["x-stream-id"]
        assert_clean(other)
