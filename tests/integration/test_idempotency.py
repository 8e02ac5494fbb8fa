"""`Idempotency-Key` on real servers: a call that is repeated is one task, on every route, over a restart and
over two processes."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.integration.conftest import idle
from tests.support.client import (
    STREAM,
    Reading,
    Received,
    brief,
    check_replay,
    client,
    eventually,
    read_stream,
    row,
)
from tests.support.scale import SERVERS
from tests.support.servers import Server, environment, migrate, started

pytestmark = pytest.mark.server

QUICK = {"tokens": 20, "interval": 0.002}
SLOW = {"tokens": 2000, "interval": 0.02}
TEXT = "".join(f"{k} " for k in range(20))
WHOLE = "/content/generate"
LATER = "/content/generate/async"


@pytest.fixture
def http(http: httpx2.AsyncClient, clean_log: None) -> httpx2.AsyncClient:
    """A client of the server, whose log is clean. (As a mark of the module, `clean_log` would run the tests
    of other servers twice.)"""
    return http


def key(value: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": value or str(uuid4())}


def durable(reading: Reading) -> list[Received]:
    return [event for event in reading.events if event.name in ("content", "complete")]


def count(server: Server, user: str) -> int:
    """The tasks of an end user that have a record."""
    with closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True, timeout=20)) as database:
        query = "SELECT count(*) FROM streaming_streamtask WHERE end_user = ?"
        return int(database.execute(query, (user,)).fetchone()[0])


async def stream(http: httpx2.AsyncClient, headers: dict[str, str], **members: Any) -> Reading:
    until = members.pop("until", None)
    body = brief(**{"options": QUICK} | members)
    return await read_stream(http, "POST", STREAM, until=until, json=body, headers=headers)


# A stream


async def test_a_repeated_call_replays_the_same_stream(http: httpx2.AsyncClient, server: Server) -> None:
    name, user = key(), str(uuid4())
    first = await stream(http, name, user_id=user)
    again = await stream(http, name, user_id=user)
    assert first.text == TEXT
    check_replay(durable(again), durable(first), 0)
    assert "idempotent-replayed" not in first.response.headers
    assert again.response.headers["idempotent-replayed"] == "true"
    for header in ("x-stream-id", "x-stream-route", "location", "content-type"):
        assert again.response.headers[header] == first.response.headers[header]
    assert count(server, user) == 1


async def test_a_call_that_was_cut_goes_on_with_the_same_task(http: httpx2.AsyncClient) -> None:
    name = key()
    options = {"tokens": 60, "interval": 0.01}
    cut = await stream(http, name, until=4, options=options)
    rest = await stream(http, name | {"Last-Event-ID": str(cut.ids[-1])}, options=options)
    assert rest.ids[0] > cut.ids[-1]
    assert cut.text + rest.text == "".join(f"{k} " for k in range(60))


async def test_at_the_end_there_is_nothing_more(http: httpx2.AsyncClient) -> None:
    name = key()
    first = await stream(http, name)
    response = await http.post(
        STREAM, json=brief(options=QUICK), headers=name | {"Last-Event-ID": str(first.ids[-1])}
    )
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["idempotent-replayed"] == "true"


async def test_the_record_is_durable_before_the_first_byte(http: httpx2.AsyncClient, server: Server) -> None:
    for _ in range(5):
        async with http.stream("POST", STREAM, json=brief(options=SLOW), headers=key()) as response:
            kept = row(server, "id", response.headers["x-stream-id"])
            assert kept is not None
        await http.delete(response.headers["location"])


@pytest.mark.parametrize("path", [STREAM, WHOLE, LATER])
async def test_twice_at_once_is_one_task(http: httpx2.AsyncClient, server: Server, path: str) -> None:
    name, user = key(), str(uuid4())
    body = brief(user_id=user, options=QUICK)
    answers = await asyncio.gather(*(http.post(path, json=body, headers=name) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202 if path == LATER else 200}
    assert len({answer.headers["x-stream-id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 7
    assert count(server, user) == 1


@pytest.mark.parametrize("path", [STREAM, WHOLE, LATER])
async def test_another_body_is_a_conflict(http: httpx2.AsyncClient, path: str) -> None:
    name = key()
    await http.post(path, json=brief(options=QUICK), headers=name)
    other = await http.post(path, json=brief(topic="another", options=QUICK), headers=name)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


@pytest.mark.parametrize("value", ["k" * 10_240, "k" * 256, "a b", "k\xe9"])
@pytest.mark.parametrize("path", [STREAM, WHOLE, LATER])
async def test_what_is_no_key(http: httpx2.AsyncClient, path: str, value: str) -> None:
    headers = {"Idempotency-Key": value.encode("latin-1")}
    refused = await http.post(path, json=brief(options=QUICK), headers=headers)  # type: ignore[arg-type]
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_idempotency_key")


async def test_another_user_or_route_has_a_task_of_its_own(
    http: httpx2.AsyncClient, people: dict[str, dict[str, str]]
) -> None:
    name, body = key(), brief(options=QUICK)
    callers: list[dict[str, str]] = [{}, people["alice"], people["bob"]]
    answers = [await http.post(STREAM, json=body, headers=name | caller) for caller in callers]
    answers.append(await http.post(STREAM, json=body | {"user_id": "other"}, headers=name))
    answers.append(await http.post(WHOLE, json=body, headers=name))
    assert len({answer.headers["x-stream-id"] for answer in answers}) == 5
    assert not any("idempotent-replayed" in answer.headers for answer in answers)


async def test_a_refusal_stores_no_key(tight_http: httpx2.AsyncClient) -> None:
    name = key()
    busy = [
        (await tight_http.post(LATER, json=brief(user_id=f"b{n}", options=SLOW))).headers["location"]
        for n in range(2)
    ]
    refused = await tight_http.post(LATER, json=brief(options=QUICK), headers=name)
    assert refused.status_code == 503
    invalid = await tight_http.post(LATER, json=brief(options=QUICK, frob=1), headers=name)
    assert invalid.status_code == 422
    for place in busy:
        await tight_http.delete(place)
    accepted = await tight_http.post(LATER, json=brief(topic="now another", options=QUICK), headers=name)
    assert accepted.status_code == 202
    assert "idempotent-replayed" not in accepted.headers


async def test_a_queued_task_keeps_its_route(tight_http: httpx2.AsyncClient) -> None:
    name = key()
    busy = (await tight_http.post(LATER, json=brief(user_id="busy", options=SLOW))).headers["location"]
    waiting = await stream(tight_http, name, until=1)
    assert waiting.response.headers["x-stream-route"] == "queued"
    await tight_http.delete(busy)
    again = await stream(tight_http, name)
    assert again.response.headers["x-stream-route"] == "queued"
    assert again.response.headers["idempotent-replayed"] == "true"
    assert again.text == TEXT


async def test_after_a_retryable_end_the_call_starts_anew(tight_http: httpx2.AsyncClient) -> None:
    """The queue's time-out is retryable; who goes on with what it has gets that end, again."""
    name = key()
    busy = (await tight_http.post(LATER, json=brief(user_id="busy", options=SLOW))).headers["location"]
    failed = await stream(tight_http, name)
    assert (failed.end.data["code"], failed.end.data["retryable"]) == ("queue_timeout", True)
    await tight_http.delete(busy)
    resumed = await stream(tight_http, name | {"Last-Event-ID": "0"})
    assert resumed.response.headers["x-stream-id"] == failed.response.headers["x-stream-id"]
    assert resumed.end.data == failed.end.data
    anew = await stream(tight_http, name)
    assert anew.text == TEXT
    assert anew.response.headers["x-stream-id"] != failed.response.headers["x-stream-id"]
    assert "idempotent-replayed" not in anew.response.headers
    again = await stream(tight_http, name)
    assert again.response.headers["x-stream-id"] == anew.response.headers["x-stream-id"]


async def test_a_fault_for_good_is_replayed(http: httpx2.AsyncClient) -> None:
    name = key()
    first = await stream(http, name, options=QUICK | {"fail_after": 3})
    again = await stream(http, name, options=QUICK | {"fail_after": 3})
    assert again.end.data == first.end.data
    assert again.response.headers["x-stream-id"] == first.response.headers["x-stream-id"]


async def test_a_purged_task_s_key_is_free(http: httpx2.AsyncClient) -> None:
    name = key()
    first = await stream(http, name)
    await http.delete(f"{first.response.headers['location']}?purge=true")
    second = await stream(http, name)
    assert second.text == TEXT
    assert second.response.headers["x-stream-id"] != first.response.headers["x-stream-id"]


# Whole, and for later


async def test_a_repeated_whole_call_has_the_same_answer(http: httpx2.AsyncClient) -> None:
    name = key()
    first = await http.post(WHOLE, json=brief(options=QUICK), headers=name)
    again = await http.post(WHOLE, json=brief(options=QUICK), headers=name)
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_whole_answer_that_got_lost_can_be_fetched(http: httpx2.AsyncClient, server: Server) -> None:
    """Without a key a caller who leaves ends the task; with one it may come back."""
    name, user = key(), str(uuid4())
    body = brief(user_id=user, options={"tokens": 50, "interval": 0.01})
    lost = asyncio.create_task(http.post(WHOLE, json=body, headers=name))

    async def begun() -> Any:
        return row(server, "end_user", user)

    assert await eventually(begun)
    lost.cancel()
    answer = await http.post(WHOLE, json=body, headers=name)
    assert (answer.status_code, answer.json()["text"]) == (200, "".join(f"{k} " for k in range(50)))
    assert answer.headers["idempotent-replayed"] == "true"


async def test_a_failed_whole_answer_is_repeated_as_it_was(http: httpx2.AsyncClient) -> None:
    name = key()
    body = brief(options=QUICK | {"fail_after": 2})
    first = await http.post(WHOLE, json=body, headers=name)
    again = await http.post(WHOLE, json=body, headers=name)
    assert first.status_code == again.status_code == 502
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_repeated_promise_is_the_same_promise(http: httpx2.AsyncClient) -> None:
    name = key()
    first = await http.post(LATER, json=brief(options=SLOW), headers=name)
    again = await http.post(LATER, json=brief(options=SLOW), headers=name)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true"
    await http.delete(first.headers["location"])


# Over processes


@pytest.mark.long
@pytest.mark.parametrize("kind", SERVERS)
async def test_after_a_restart_the_key_still_stands_for_its_task(kind: str, tmp_path: Path) -> None:
    env = environment(tmp_path)
    migrate(env)
    stream_key, whole_key, later_key = key(), key(), key()
    with started(kind, tmp_path, env) as first:
        async with client(first.url) as http:
            read = await stream(http, stream_key)
            whole = await http.post(WHOLE, json=brief(options=QUICK), headers=whole_key)
            later = await http.post(LATER, json=brief(options=QUICK), headers=later_key)
        first.stop()
    with started(kind, tmp_path, env) as second:
        async with client(second.url) as http:
            again = await stream(http, stream_key)
            check_replay(durable(again), durable(read), 0)
            rest = await stream(http, stream_key | {"Last-Event-ID": "3"})
            check_replay(durable(rest), durable(read), 3)
            assert (
                await http.post(WHOLE, json=brief(options=QUICK), headers=whole_key)
            ).json() == whole.json()
            promise = await http.post(LATER, json=brief(options=QUICK), headers=later_key)
            assert promise.json()["task_id"] == later.json()["task_id"]
            for answer in (again.response, promise):
                assert answer.headers["idempotent-replayed"] == "true"
        assert count(second, "tester") == 3


async def test_after_a_crash_the_same_call_starts_anew(tmp_path: Path) -> None:
    env = environment(tmp_path)
    migrate(env)
    name = key()
    with started("serve", tmp_path, env) as first:
        async with client(first.url) as http:
            # For long enough that its beginning is stored: else the other process would begin it anew.
            cut = await stream(http, name, until=30, options=SLOW)
        first.stop(signal.SIGKILL)
    place = cut.response.headers["location"]
    with started("serve", tmp_path, env) as second:
        async with client(second.url) as http:

            async def interrupted() -> bool:
                return bool((await http.get(place)).json()["state"] == "error")

            assert await eventually(interrupted)
            rest = await stream(http, name | {"Last-Event-ID": "1"}, options=SLOW)
            assert (rest.end.name, rest.end.data["code"]) == ("error", "interrupted")
            anew = await stream(http, name, until=3, options=SLOW)
            assert anew.response.headers["x-stream-id"] != cut.response.headers["x-stream-id"]
            await http.delete(anew.response.headers["location"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Two processes on one database."""
    folder = tmp_path_factory.mktemp("pair")
    env = environment(folder)
    migrate(env)
    with started("serve", folder, env) as first, started("serve", folder, env) as second:
        yield first, second
        assert "Traceback" not in first.log() + second.log()


@pytest.mark.parametrize("path", [STREAM, WHOLE, LATER])
async def test_twice_at_once_on_two_processes_is_one_task(path: str, pair: tuple[Server, Server]) -> None:
    async with client(pair[0].url) as one, client(pair[1].url) as other:
        for _ in range(5):
            name, user = key(), str(uuid4())
            body = brief(user_id=user, options=QUICK)
            answers = await asyncio.gather(
                *(http.post(path, json=body, headers=name) for http in (one, other, one, other))
            )
            assert {answer.status_code for answer in answers} == {202 if path == LATER else 200}
            assert len({answer.headers["x-stream-id"] for answer in answers}) == 1
            assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
            assert count(pair[0], user) == 1
        for http in (one, other):
            await idle(http)
