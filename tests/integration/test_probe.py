"""`GET /streams/probe`: a stream of known pace that costs no permit and leaves no trace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack

import httpx2
import pytest

from tests.support.client import STREAM, brief, client, eventually, read_stream
from tests.support.servers import Server, running

pytestmark = [pytest.mark.server, pytest.mark.asyncio]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {"AGENT_POOL_MAX_WORKERS": "1", "AGENT_POOL_QUEUE_SIZE": "0"}
    with running("serve", tmp_path_factory.mktemp("probe"), **limits) as made:
        yield made
        assert "Traceback" not in made.log()


async def test_a_probe_is_numbered_and_timed_and_looks_like_every_stream(server: Server) -> None:
    async with client(server.url) as http:
        real = await read_stream(http, "POST", STREAM, json=brief(options={"tokens": 1}))
        seen = await read_stream(http, "GET", "/streams/probe?count=5&interval=20")
    same = ("content-type", "cache-control", "x-accel-buffering", "content-encoding", "connection")
    assert [seen.response.headers.get(name) for name in same] == [
        real.response.headers.get(name) for name in same
    ]
    first, *results, end = seen.events
    assert (first.name, end.name) == ("status", "complete")
    data = [each.data["data"] for each in results]
    assert [each["sequence"] for each in data] == [1, 2, 3, 4, 5, 6]
    assert {each["of"] for each in data} == {6}
    sent = [each.data["sent_at"] for each in seen.events]
    assert sent == sorted(sent)
    assert len(data[-1]["padding"]) > 10_000
    assert len(seen.comments) == 1
    assert seen.comments[0].startswith("heartbeat")


async def test_it_needs_no_permit_and_is_neither_recorded_nor_counted(server: Server) -> None:
    async with client(server.url) as http:
        before = (await http.get("/stats")).json()
        async with http.stream("POST", STREAM, json=brief(options={"hang_after": 0})) as holds_the_permit:
            seen = await read_stream(http, "GET", "/streams/probe?count=1&interval=10")
            assert seen.end.name == "complete"
            task = seen.response.headers["x-stream-id"]
            assert (await http.get(f"/streams/{task}")).status_code == 404
            after = (await http.get("/stats")).json()
            assert after["routes"]["direct"] == before["routes"]["direct"] + 1
            assert after["ends"] == before["ends"]
            assert await eventually(lambda: _in_memory(http, before["tasks"]["in_memory"] + 1))
            await http.delete(f"/streams/{holds_the_permit.headers['x-stream-id']}")


async def _in_memory(http: httpx2.AsyncClient, expected: int) -> bool:
    return bool((await http.get("/stats")).json()["tasks"]["in_memory"] == expected)


async def test_who_leaves_a_probe_ends_it(server: Server) -> None:
    async with client(server.url) as http:
        await read_stream(http, "GET", "/streams/probe?count=100&interval=1000", until=2)

        async def nothing_active() -> bool:
            return bool((await http.get("/stats")).json()["tasks"]["active"] == 0)

        assert await eventually(nothing_active)


async def test_probes_at_a_time_are_bounded(server: Server) -> None:
    async with client(server.url) as http, AsyncExitStack() as held:
        path = "/streams/probe?count=100&interval=1000"
        for _ in range(4):
            assert (await held.enter_async_context(http.stream("GET", path))).status_code == 200
        refused = await http.get(path)
        assert refused.status_code == 429
        assert refused.json()["code"] == "too_many_probes"
        assert refused.headers["retry-after"] == "2"
    async with client(server.url) as http:
        # Those who left have made room.
        assert await eventually(lambda: _answers(http))


async def _answers(http: httpx2.AsyncClient) -> bool:
    return bool((await http.get("/streams/probe?count=1&interval=10")).status_code == 200)


@pytest.mark.parametrize(
    "query", ["count=0", "count=101", "interval=9", "interval=1001", "count=x", "count="]
)
async def test_what_is_out_of_bounds_is_refused(server: Server, query: str) -> None:
    async with client(server.url) as http:
        answer = await http.get(f"/streams/probe?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_query")


async def test_it_asks_who_calls_as_streams_do(server: Server) -> None:
    async with client(server.url, headers={"X-Forwarded-For": "192.0.2.1"}) as http:
        for path in ("/streams/probe", "/streams/probe/report"):
            assert (await http.get(path)).status_code == 401


async def test_the_report_is_for_monitors(server: Server) -> None:
    async with client(server.url) as http:
        good = await http.get("/streams/probe/report?limit=60000")
        late = await http.get("/streams/probe/report?limit=1")
        head = await http.head("/streams/probe/report?limit=60000")
    assert (good.status_code, good.json()["status"], good.json()["events"]) == (200, "ok", 11)
    assert 0 < good.json()["first_event_ms"] < 60_000
    # uvloop wakes up in whole milliseconds, so a limit of one is passed over ten events.
    worst = max(late.json()["first_event_ms"], late.json()["worst_late_ms"])
    assert late.status_code == (503 if worst > 1 else 200)
    assert (head.status_code, head.content) == (200, b"")


async def test_any_number_of_monitors_may_ask_for_the_report_at_once(server: Server) -> None:
    async with client(server.url) as http:
        path = "/streams/probe/report?limit=60000"
        answers = await asyncio.gather(*(http.get(path) for _ in range(12)))
        # Who hangs up takes nothing from the others.
        hasty = asyncio.create_task(http.get(path))
        patient = asyncio.create_task(http.get(path))
        await asyncio.sleep(0.05)
        hasty.cancel()
        answers.append(await patient)
        again = await http.get(path)
    assert [each.status_code for each in answers] == [200] * 13
    assert all(each.json()["events"] == 11 for each in answers)
    assert len({each.content for each in answers[:12]}) <= 2
    assert again.content not in {each.content for each in answers}


async def test_a_probe_speaks_ndjson(server: Server) -> None:
    async with client(server.url, headers={"Accept": "application/x-ndjson"}) as http:
        answer = await http.get("/streams/probe?count=2&interval=10")
    lines = [json.loads(line) for line in answer.text.splitlines() if line]
    assert [line["type"] for line in lines] == ["status", "result", "result", "result", "complete"]
    assert all("sent_at" in line for line in lines)
