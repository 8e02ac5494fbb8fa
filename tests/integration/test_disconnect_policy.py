"""What becomes of tasks whose readers left, seen from outside: passed by, resumed, dropped, replaced."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from tests.support.client import STREAM, brief, client, eventually, generate, read_stream
from tests.support.servers import Server, environment, started

from .conftest import assert_clean, idle

pytestmark = pytest.mark.server

SHORT = {"tokens": 3, "interval": 0.01}
TEXT = "0 1 2 "
HOLDER = {"hang_after": 1}
GRACE = 20.0
LITTLE = 0.3
"""Seconds of grace in tests that wait for its end."""

FLOOD = {"tokens": 5_000_000, "interval": 0}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Server]:
    """A server with one worker, two tasks an owner, little patience with slow readers, and room for more
    events than a socket takes."""
    limits = {
        "AGENT_POOL_MAX_WORKERS": "1",
        "AGENT_POOL_PER_OWNER": "2",
        "SSE_CONNECTION_TIMEOUT": "1",
        "SSE_HEARTBEAT_INTERVAL": "0.5",
        "SSE_MAX_JOURNAL_BYTES": "268435456",
    }
    folder = tmp_path_factory.mktemp("narrow")
    shutil.copy(migrated, folder)
    with started("serve", folder, environment(folder, **limits)) as made:
        yield made
        assert_clean(made)


@pytest.fixture
async def http(narrow: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(narrow.url) as made:
        yield made
        await idle(made)


async def hold(http: httpx2.AsyncClient, user: str = "holder") -> str:
    """Occupy the only worker; where its record is."""
    answer = await http.post("/content/generate/async", json=brief(user_id=user, options=HOLDER))
    return str(answer.headers["location"])


async def left(http: httpx2.AsyncClient, **members: Any) -> str:
    """A queued stream whose reader left after the first status; where its record is."""
    reading = await generate(http, until=1, **{"options": SHORT, "on_disconnect": GRACE, **members})
    assert reading.events[0].data["status"] == "queued"
    return str(reading.response.headers["location"])


async def pool(http: httpx2.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get("/stats")).json()["pools"]["agent_pool"]
    return found


async def away(http: httpx2.AsyncClient, count: int) -> None:
    async def as_many() -> bool:
        return bool((await pool(http))["away"] == count)

    assert await eventually(as_many)


async def state(http: httpx2.AsyncClient, place: str, wanted: str) -> dict[str, Any]:
    """The record, once it has the state."""

    async def reached() -> dict[str, Any] | None:
        found: dict[str, Any] = (await http.get(place)).json()
        return found if found["state"] == wanted else None

    record = await eventually(reached)
    assert record is not None, (await http.get(place)).json()
    return record


async def test_a_queued_stream_without_reader_is_passed_and_starts_when_one_is_back(
    http: httpx2.AsyncClient,
) -> None:
    holder = await hold(http)
    first = await left(http, user_id="first")
    await away(http, 1)
    second = asyncio.create_task(generate(http, user_id="second", options=SHORT))
    await http.delete(holder)
    assert (await second).text == TEXT
    assert (await http.get(first)).json()["state"] == "queued"
    resumed = await read_stream(http, "GET", f"{first}/events")
    assert (resumed.text, resumed.end.name) == (TEXT, "complete")


async def test_who_is_back_in_time_has_its_old_place(http: httpx2.AsyncClient) -> None:
    holder = await hold(http)
    first = await left(http, user_id="first")
    await away(http, 1)
    second = asyncio.create_task(generate(http, user_id="second", options=SHORT))

    async def waits() -> bool:
        return bool((await pool(http))["waiting"] == 2)

    assert await eventually(waits)
    back = asyncio.create_task(read_stream(http, "GET", f"{first}/events"))
    await away(http, 0)
    await http.delete(holder)
    returned, other = await asyncio.gather(back, second)
    positions = [reading.named("status")[0].data.get("position") for reading in (returned, other)]
    assert positions == [1, 1], "the second was first while the first was away"
    records = [(await http.get(place)).json() for place in (first, other.response.headers["location"])]
    assert records[0]["started_at"] < records[1]["started_at"]


async def test_a_queued_stream_is_dropped_at_the_end_of_its_grace(http: httpx2.AsyncClient) -> None:
    holder = await hold(http)
    place = await left(http, user_id="first", on_disconnect=LITTLE)
    record = await state(http, place, "cancelled")
    assert (record["started_at"], record["text"]) == (None, "")
    assert (await pool(http))["waiting"] == 0
    ended = await read_stream(http, "GET", f"{place}/events")
    assert ended.end.data == {"type": "cancelled", "reason": "disconnect"}
    await http.delete(holder)


async def test_continue_runs_in_turn(http: httpx2.AsyncClient) -> None:
    holder = await hold(http)
    place = await left(http, user_id="first", on_disconnect="continue")
    assert (await pool(http))["away"] == 0
    await http.delete(holder)
    assert (await state(http, place, "complete"))["text"] == TEXT


async def test_the_grace_of_a_202_begins_with_its_answer(http: httpx2.AsyncClient) -> None:
    holder = await hold(http)
    body = brief(user_id="later", options=SHORT)
    answers = [
        await http.post("/content/generate/async", json=body | {"on_disconnect": policy})
        for policy in (LITTLE, "continue")
    ]
    assert [answer.status_code for answer in answers] == [202, 202]
    await state(http, answers[0].headers["location"], "cancelled")
    await http.delete(holder)
    await state(http, answers[1].headers["location"], "complete")


async def test_the_grace_begins_when_a_reader_is_closed_as_slow(
    http: httpx2.AsyncClient, narrow: Server
) -> None:
    body = msgspec.json.encode(brief(user_id="frozen", options=FLOOD, on_disconnect=LITTLE))
    head = (
        f"POST {STREAM} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    before = (await http.get("/stats")).json()
    with socket.socket() as frozen:
        frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        frozen.connect(("127.0.0.1", narrow.port))
        frozen.sendall(head.encode() + body)

        async def given_up() -> bool:
            stats = (await http.get("/stats")).json()
            return bool(stats["ends"].get("cancelled", 0) > before["ends"].get("cancelled", 0))

        assert await eventually(given_up, 20)
    after = (await http.get("/stats")).json()
    assert after["slow_readers_closed"] == before["slow_readers_closed"] + 1


@pytest.mark.parametrize("policy", ["continue", GRACE])
@pytest.mark.parametrize("queued", [False, True])
async def test_an_explicit_stop_cancels_at_once_whoever_reads(
    http: httpx2.AsyncClient, policy: str | float, queued: bool
) -> None:
    holder = await hold(http) if queued else None
    reading = await generate(
        http, until=1, user_id="stopped", on_disconnect=policy, options={"tokens": 9, "hang_after": 1}
    )
    place = reading.response.headers["location"]
    if queued and policy == GRACE:
        await away(http, 1)
    record = (await http.delete(place)).json()
    assert record["state"] == "cancelled"
    ended = await read_stream(http, "GET", f"{place}/events")
    assert ended.end.data["reason"] == "client"
    if holder is not None:
        await http.delete(holder)


async def test_before_a_caller_gets_its_429_its_oldest_unread_task_makes_room(
    http: httpx2.AsyncClient,
) -> None:
    holder = await hold(http)
    unread = [await left(http, user_id="again") for _ in range(2)]
    await away(http, 2)
    refused = (await http.get("/stats")).json()["refusals"].get("owner_limit", 0)
    places = [await left(http, user_id="again", on_disconnect="continue") for _ in range(2)]
    for place in unread:
        assert (await http.get(place)).json()["state"] == "cancelled"
    answer = await http.post(STREAM, json=brief(user_id="again"))
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (429, "owner_limit")
    assert (problem["active"], problem["limit"]) == (2, 2), "the caller's own numbers, not the pool's"
    assert not {"running", "waiting"} & set(problem)
    assert int(answer.headers["retry-after"]) >= 1
    assert (await http.get("/stats")).json()["refusals"]["owner_limit"] == refused + 1
    for place in [holder, *places]:
        await http.delete(place)


async def test_a_running_task_in_grace_makes_room_for_each_kind_of_call(http: httpx2.AsyncClient) -> None:
    for path in (STREAM, "/content/generate", "/content/generate/async"):
        options = {"tokens": 9, "hang_after": 1}
        unread = [
            await generate(http, until=1, user_id="again", on_disconnect=GRACE, options=options)
            for _ in range(2)
        ]
        await away(http, 1)
        answer = await http.post(path, json=brief(user_id="again", options=SHORT))
        assert answer.status_code in (200, 202), answer.text
        first, second = (reading.response.headers["location"] for reading in unread)
        assert (await http.get(first)).json()["state"] == "cancelled"
        await http.delete(second)
        await idle(http)
