"""The answer in one piece, and the promise of one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2
import pytest

from tests.support.client import STREAM, brief, eventually, generate, read_stream, row
from tests.support.servers import Server

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

QUICK = {"tokens": 5, "interval": 0.005}
SLOW = {"tokens": 2000, "interval": 0.02}
WHOLE = "/content/generate"
LATER = "/content/generate/async"


# Whole


async def test_members_of_the_whole_answer(http: httpx2.AsyncClient) -> None:
    response = await http.post(WHOLE, json=brief(options=QUICK))
    body = response.json()
    assert set(body) == {
        "task_id",
        "text",
        "finish_reason",
        "content_length",
        "chunks",
        "usage",
        "model",
        "cached",
        "timing",
    }
    assert (body["text"], body["content_length"], body["finish_reason"]) == ("0 1 2 3 4 ", 10, "stop")


async def test_headers_of_the_whole_answer(http: httpx2.AsyncClient) -> None:
    response = await http.post(WHOLE, json=brief(options=QUICK))
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-stream-id"] == response.json()["task_id"]
    assert response.headers["x-stream-route"] == "direct"


async def test_the_whole_answer_has_a_record(http: httpx2.AsyncClient) -> None:
    body = (await http.post(WHOLE, json=brief(options=QUICK))).json()
    record = (await http.get(f"/streams/{body['task_id']}")).json()
    assert (record["state"], record["text"]) == ("complete", body["text"])
    assert record["timing"] == body["timing"]


async def test_the_whole_answer_can_be_replayed_as_a_stream(http: httpx2.AsyncClient) -> None:
    body = (await http.post(WHOLE, json=brief(options=QUICK))).json()
    assert (await read_stream(http, "GET", f"/streams/{body['task_id']}/events")).text == body["text"]


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_failed_whole_answer_is_a_bad_gateway(http: httpx2.AsyncClient, blocking: bool) -> None:
    response = await http.post(WHOLE, json=brief(options=QUICK | {"fail_after": 2, "blocking": blocking}))
    problem = response.json()
    assert (response.status_code, problem["code"]) == (502, "producer_failed")
    assert response.headers["content-type"] == "application/problem+json"
    assert (problem["retryable"], problem["status"]) == (False, 502)
    assert (await http.get(f"/streams/{problem['task_id']}")).json()["state"] == "error"


async def test_a_cancelled_whole_answer_is_a_conflict(http: httpx2.AsyncClient, server: Server) -> None:
    user = "cancelled-whole"
    call = asyncio.create_task(http.post(WHOLE, json=brief(user_id=user, options=SLOW)))
    task_id = await id_of(server, user)
    await http.delete(f"/streams/{task_id}")
    response = await call
    assert (response.status_code, response.json()["code"]) == (409, "task_cancelled")
    assert (response.json()["task_id"], response.json()["reason"]) == (task_id, "client")


async def test_a_caller_who_leaves_cancels_the_whole_answer(http: httpx2.AsyncClient, server: Server) -> None:
    user = "impatient"
    call = asyncio.create_task(http.post(WHOLE, json=brief(user_id=user, options=SLOW)))
    await id_of(server, user)
    call.cancel()

    async def cancelled() -> Any:
        found = row(server, "end_user", user)
        return found is not None and found["state"] == "cancelled"

    assert await eventually(cancelled)


async def id_of(server: Server, user: str) -> str:
    """The id of the task that runs for `user`, once it has its record."""

    async def found() -> Any:
        return row(server, "end_user", user)

    record = await eventually(found)
    assert record is not None
    return str(record["id"])


# For later


async def test_the_promise(http: httpx2.AsyncClient) -> None:
    response = await http.post(LATER, json=brief(options=QUICK))
    body = response.json()
    assert response.status_code == 202
    place = f"/streams/{body['task_id']}"
    assert response.headers["location"] == place
    assert response.headers["x-stream-id"] == body["task_id"]
    assert body["urls"] == {"record": place, "events": f"{place}/events"}
    assert body["state"] in ("queued", "running")


async def test_the_record_is_durable_before_the_answer(http: httpx2.AsyncClient, server: Server) -> None:
    for _ in range(5):
        task_id = (await http.post(LATER, json=brief(options=SLOW))).json()["task_id"]
        kept = row(server, "id", task_id)
        assert kept is not None
        assert (kept["state"], kept["end_user"]) == ("running", "tester")
        await http.delete(f"/streams/{task_id}")


async def test_the_promise_does_not_wait_for_a_batch(http: httpx2.AsyncClient) -> None:
    """The writer collects for a quarter of a second, but not while somebody waits for the record."""
    seconds = []
    for _ in range(6):
        begun = time.monotonic()
        response = await http.post(LATER, json=brief(options=SLOW))
        seconds.append(time.monotonic() - begun)
        await http.delete(response.headers["location"])
    assert min(seconds) < 0.2


async def test_it_runs_unread(http: httpx2.AsyncClient) -> None:
    place = (await http.post(LATER, json=brief(options=QUICK))).headers["location"]

    async def complete() -> Any:
        record = (await http.get(place)).json()
        return record if record["state"] == "complete" else None

    record = await eventually(complete)
    assert record["text"] == "0 1 2 3 4 "


async def test_it_survives_a_reader_who_leaves(http: httpx2.AsyncClient) -> None:
    place = (await http.post(LATER, json=brief(options={"tokens": 30, "interval": 0.02}))).headers["location"]
    await read_stream(http, "GET", f"{place}/events", until=2)
    reading = await read_stream(http, "GET", f"{place}/events")
    assert reading.end.name == "complete"


async def test_its_end_is_durable_when_a_reader_sees_it(http: httpx2.AsyncClient, server: Server) -> None:
    reading = await generate(http, options=QUICK)
    kept = row(server, "id", reading.response.headers["x-stream-id"])
    assert kept is not None
    assert (kept["state"], kept["text"], kept["last_event_id"]) == ("complete", reading.text, reading.ids[-1])
    assert kept["content_length"] == len(reading.text)


# How it runs


@pytest.mark.parametrize(("path", "priority"), [(STREAM, 0), (WHOLE, 1), (LATER, 2)])
async def test_each_call_has_its_priority(
    http: httpx2.AsyncClient, server: Server, path: str, priority: int
) -> None:
    response = await http.post(path, json=brief(options=QUICK))
    assert await priority_of(server, response.headers["x-stream-id"]) == priority


@pytest.mark.parametrize(("name", "priority"), [("interactive", 0), ("normal", 1), ("batch", 2)])
async def test_the_brief_may_choose_another(
    http: httpx2.AsyncClient, server: Server, name: str, priority: int
) -> None:
    response = await http.post(WHOLE, json=brief(options=QUICK, priority=name))
    assert await priority_of(server, response.headers["x-stream-id"]) == priority


async def priority_of(server: Server, task_id: str) -> int:
    async def found() -> Any:
        return row(server, "id", task_id)

    return int((await eventually(found))["priority"])
