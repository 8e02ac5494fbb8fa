"""What readers, callers and slow senders meet at a server with short limits."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from typing import Any

import httpx2
import pytest

from tests.support.client import (
    STREAM,
    brief,
    check_replay,
    eventually,
    exchange,
    generate,
    lines_of,
    read_stream,
)
from tests.support.servers import Server

pytestmark = pytest.mark.server

NDJSON = {"Accept": "application/x-ndjson"}
LONG = {"tokens": 100, "interval": 0.02}
STUCK = {"hang_after": 0}


# Signs of life

SILENT = {"tokens": 2, "start_delay": 0.8, "interval": 0}


async def test_heartbeats_are_comments(tight_http: httpx2.AsyncClient) -> None:
    reading = await generate(tight_http, options=SILENT)
    assert reading.comments
    assert re.fullmatch(r" ?heartbeat \S+T\S+ running [\d.]+", reading.comments[0])
    assert reading.end.name == "complete"


async def test_heartbeats_as_events(tight_http: httpx2.AsyncClient) -> None:
    reading = await read_stream(tight_http, "POST", f"{STREAM}?heartbeat=event", json=brief(options=SILENT))
    ping = reading.named("ping")[0]
    assert set(ping.data) == {"type", "state", "elapsed_seconds", "timestamp"}
    assert (ping.id, ping.data["state"], reading.comments) == ("", "running", [])


async def test_heartbeats_are_empty_lines_in_ndjson(tight_http: httpx2.AsyncClient) -> None:
    response = await tight_http.post(STREAM, json=brief(options=SILENT), headers=NDJSON)
    assert b"" in response.content[:-1].split(b"\n")
    assert lines_of(response.content)[-1]["type"] == "complete"


# A full house


async def busy(http: httpx2.AsyncClient, **members: Any) -> str:
    """Occupy the only worker; where its record is."""
    response = await http.post("/content/generate/async", json=brief(options=LONG, **members))
    assert response.status_code == 202
    return str(response.headers["location"])


async def test_a_queued_stream_says_so_and_then_runs(tight_http: httpx2.AsyncClient) -> None:
    first = asyncio.create_task(generate(tight_http, options={"tokens": 20, "interval": 0.02}))
    await asyncio.sleep(0.1)
    reading = await generate(tight_http, user_id="next", options={"tokens": 3, "interval": 0.01})
    await first
    assert reading.response.headers["x-stream-route"] == "queued"
    assert [event.data["status"] for event in reading.named("status")][:2] == ["queued", "started"]
    status = reading.events[0].data
    assert (status["route"], status["reason"], status["position"]) == ("queued", "workers_busy", 1)
    assert status["eta_seconds"] >= 0
    assert (reading.text, reading.end.data["timing"]["route"]) == ("0 1 2 ", "queued")


@pytest.mark.parametrize("path", [STREAM, "/content/generate", "/content/generate/async"])
async def test_a_full_queue_refuses_with_retry_after(tight_http: httpx2.AsyncClient, path: str) -> None:
    places = [await busy(tight_http, user_id=name) for name in ("one", "two")]
    response = await tight_http.post(path, json=brief(user_id="three"))
    assert (response.status_code, response.json()["code"]) == (503, "queue_full")
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert response.headers["content-type"] == "application/problem+json"
    for place in places:
        await tight_http.delete(place)


@pytest.mark.parametrize("path", [STREAM, "/content/generate", "/content/generate/async"])
async def test_the_callers_own_limit_refuses_with_retry_after(
    tight_http: httpx2.AsyncClient, path: str
) -> None:
    places = [await busy(tight_http, user_id="greedy") for _ in range(2)]
    response = await tight_http.post(path, json=brief(user_id="greedy"))
    assert (response.status_code, response.json()["code"]) == (429, "owner_limit")
    assert 1 <= int(response.headers["retry-after"]) <= 60
    for place in places:
        await tight_http.delete(place)


async def test_refusals_are_counted(tight_http: httpx2.AsyncClient) -> None:
    places = [await busy(tight_http, user_id=name) for name in ("one", "two")]
    before = (await tight_http.get("/stats")).json()
    await tight_http.post(STREAM, json=brief(user_id="three"))
    after = (await tight_http.get("/stats")).json()
    assert after["routes"]["rejected"] == before["routes"]["rejected"] + 1
    assert after["routes"]["direct"] == before["routes"]["direct"]
    assert after["pools"]["agent_pool"]["waiting"] == 1
    for place in places:
        await tight_http.delete(place)


async def test_cancelling_a_waiting_task(tight_http: httpx2.AsyncClient) -> None:
    places = [await busy(tight_http, user_id=name) for name in ("one", "two")]
    waiting = (await tight_http.get(places[1])).json()
    record = (await tight_http.delete(places[1])).json()
    assert (waiting["state"], waiting["started_at"]) == ("queued", None)
    assert (record["state"], record["text"]) == ("cancelled", "")
    assert (await tight_http.get("/stats")).json()["pools"]["agent_pool"]["waiting"] == 0
    await tight_http.delete(places[0])


async def test_whole_answers_map_time_outs_to_503_and_504(tight_http: httpx2.AsyncClient) -> None:
    runs, waits = await asyncio.gather(
        tight_http.post("/content/generate", json=brief(user_id="runs", options=STUCK)),
        later(tight_http.post("/content/generate", json=brief(user_id="waits", options=STUCK))),
    )
    assert (runs.status_code, runs.json()["code"]) == (504, "run_timeout")
    assert (waits.status_code, waits.json()["code"]) == (503, "queue_timeout")
    assert int(waits.headers["retry-after"]) >= 1
    assert waits.json()["retryable"] is True


async def later(call: Any) -> httpx2.Response:
    await asyncio.sleep(0.3)
    response: httpx2.Response = await call
    return response


async def test_one_reader_too_many_is_sent_away_to_come_back(tight_http: httpx2.AsyncClient) -> None:
    place = await busy(tight_http)
    readers = [asyncio.create_task(read_stream(tight_http, "GET", f"{place}/events")) for _ in range(3)]
    await asyncio.sleep(0.3)
    sent_away = await read_stream(tight_http, "GET", f"{place}/events?after=0")
    assert sent_away.response.status_code == 200
    assert sent_away.retry is not None
    assert 2000 <= sent_away.retry <= 4000
    assert [(event.name, event.data) for event in sent_away.events] == [
        ("reconnect", {"type": "reconnect", "after": 0, "retry": sent_away.retry})
    ]
    await tight_http.delete(place)
    assert {(await reader).end.name for reader in readers} == {"cancelled"}


# After the log expired


async def left_memory(http: httpx2.AsyncClient) -> None:
    """Wait until no task is in the server's memory."""

    async def empty() -> bool:
        return bool((await http.get("/stats")).json()["tasks"]["in_memory"] == 0)

    assert await eventually(empty, 20)


async def test_what_left_memory_is_replayed_from_the_database(tight_http: httpx2.AsyncClient) -> None:
    reading = await generate(tight_http, options={"tokens": 40, "interval": 0.01})
    place = reading.response.headers["location"]
    fresh = (await tight_http.get(place)).json()
    for after in (0, 1, len(reading.ids) // 2, len(reading.ids) - 1):
        await left_memory(tight_http)
        again = await read_stream(tight_http, "GET", f"{place}/events?after={after}")
        check_replay(again.durable, reading.durable, after)
    await left_memory(tight_http)
    assert (await tight_http.get(f"{place}/events?after={reading.ids[-1]}")).status_code == 204
    ahead = await tight_http.get(f"{place}/events?after={reading.ids[-1] + 1}")
    assert (ahead.status_code, ahead.json()["code"]) == (409, "ahead_of_stream")
    timing = ("status_messages", "resumes", "blocked_ms")
    kept = (await tight_http.get(place)).json()
    for each in (kept, fresh):
        each["timing"] = {key: value for key, value in each["timing"].items() if key not in timing}
    assert kept == fresh


async def test_a_failed_record_from_the_database_equals_the_one_from_memory(
    tight_http: httpx2.AsyncClient,
) -> None:
    reading = await generate(tight_http, options={"tokens": 3, "fail_after": 1})
    place = reading.response.headers["location"]
    fresh = (await tight_http.get(place)).json()

    await left_memory(tight_http)
    assert (await tight_http.get(place)).json()["error"] == fresh["error"]


# Slow bodies

HEAD = f"POST {STREAM} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + "Content-Length: 500\r\n\r\n{",
        HEAD + "Content-Length: 500\r\n\r\n",
        HEAD + "Content-Length: 500\r\nExpect: 100-continue\r\n\r\n",
        HEAD + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
)
def test_a_body_that_never_ends_times_out(tight: Server, request_: str) -> None:
    begun = time.monotonic()
    response, body = exchange(tight, request_.encode())
    assert (response.status, json.loads(body)["code"]) == (408, "body_timeout")
    assert response.getheader("connection") == "close"
    assert time.monotonic() - begun < 10


def test_a_byte_at_a_time_times_out(tight: Server) -> None:
    with socket.create_connection(("127.0.0.1", tight.port), timeout=10) as connection:
        connection.sendall((HEAD + "Content-Length: 500\r\n\r\n").encode())
        connection.settimeout(0.1)
        answer = b""
        for _ in range(90):
            try:
                answer = connection.recv(65536)
                break
            except TimeoutError:
                connection.sendall(b" ")
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_slow_bodies_start_nothing(tight_http: httpx2.AsyncClient, tight: Server) -> None:
    before = (await tight_http.get("/stats")).json()["routes"]
    await asyncio.to_thread(exchange, tight, (HEAD + "Content-Length: 500\r\n\r\n{").encode())
    assert (await tight_http.get("/stats")).json()["routes"] == before
