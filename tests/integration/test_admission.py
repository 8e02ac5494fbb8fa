"""Who gets in, who waits, who is refused: a pool's promises over HTTP, on uvicorn and on Daphne.

What takes long (a burst, silence, time-outs) runs once, on all servers at the same time; the tests look
at what was seen then.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import httpx2
import pytest

from tests.support.client import (
    STREAM,
    Reading,
    Received,
    brief,
    client,
    eventually,
    generate,
    read_events,
    read_stream,
)
from tests.support.scale import TOGETHER
from tests.support.servers import Server, running

pytestmark = [pytest.mark.server, pytest.mark.load]

WORKERS, PLACES = 5, 30
BURST = 100
BURST_TOKENS, BURST_INTERVAL = 20, 0.1

QUEUE_TIMEOUT, RUN_TIMEOUT = 3, 14


@dataclass
class Evidence:
    """What was seen on one kind of server."""

    streams: list[Reading] = field(default_factory=list)
    refused_at: list[float] = field(default_factory=list)
    most_running: int = 0
    most_waiting: int = 0
    looks: int = 0
    statistics: dict[str, Any] = field(default_factory=dict)
    silent: Reading | None = None
    hung: Reading | None = None
    starved: Reading | None = None
    blocking: Reading | None = None


@dataclass
class Pair:
    """`small`: the default pool. `impatient`: four workers, short time-outs."""

    small: Server
    impatient: Server


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    small = {
        "AGENT_POOL_MAX_WORKERS": str(WORKERS),
        "AGENT_POOL_QUEUE_SIZE": str(PLACES),
        "AGENT_POOL_PER_OWNER": "3",
    }
    impatient = {
        "AGENT_POOL_MAX_WORKERS": "4",
        "AGENT_POOL_QUEUE_TIMEOUT": str(QUEUE_TIMEOUT),
        "AGENT_POOL_RUN_TIMEOUT": str(RUN_TIMEOUT),
    }
    with ExitStack() as stack:

        def alone(kind: str, limits: dict[str, str]) -> Server:
            """With a database of its own: servers that share one show their numbers together."""
            return stack.enter_context(running(kind, tmp_path_factory.mktemp("admission"), **limits))

        yield {kind: Pair(alone(kind, small), alone(kind, impatient)) for kind in TOGETHER}


@pytest.fixture(scope="module")
def evidence(pairs: dict[str, Pair]) -> dict[str, Evidence]:
    seen = {kind: Evidence() for kind in TOGETHER}

    async def look() -> None:
        async with asyncio.timeout(100), asyncio.TaskGroup() as group:
            for kind, pair in pairs.items():
                group.create_task(_burst(pair.small, seen[kind]))
                group.create_task(_wait(pair.impatient, seen[kind]))

    asyncio.run(look())
    return seen


@pytest.fixture(params=TOGETHER)
def seen(request: pytest.FixtureRequest, evidence: dict[str, Evidence]) -> Evidence:
    return evidence[request.param]


@pytest.fixture(params=TOGETHER)
def server(request: pytest.FixtureRequest, pairs: dict[str, Pair]) -> Server:
    return pairs[request.param].small


async def _burst(server: Server, seen: Evidence) -> None:
    async with client(server.url) as http, client(server.url) as other:
        looking = asyncio.create_task(_look_often(other, seen))
        options = {"tokens": BURST_TOKENS, "interval": BURST_INTERVAL}

        async def one(number: int) -> None:
            reading = await generate(http, user_id=f"user {number}", options=options)
            if reading.response.status_code != 200:
                seen.refused_at.append(time.monotonic())
            seen.streams.append(reading)

        await asyncio.gather(*(one(number) for number in range(BURST)))
        looking.cancel()
        seen.statistics = (await other.get("/stats")).json()


async def _look_often(http: httpx2.AsyncClient, seen: Evidence) -> None:
    while True:
        pool = (await http.get("/stats")).json()["pools"]["agent_pool"]
        seen.most_running = max(seen.most_running, pool["running"])
        seen.most_waiting = max(seen.most_waiting, pool["waiting"])
        seen.looks += 1
        await asyncio.sleep(0.05)


async def _wait(server: Server, seen: Evidence) -> None:
    """Four workers: a silent task, one that hangs, one that stays, one that soon makes room for a queued
    blocking one; while that runs, another waits in vain."""
    async with client(server.url) as http, asyncio.TaskGroup() as group:
        silent = group.create_task(
            generate(http, user_id="a", options={"start_delay": 10, "tokens": 3, "interval": 1})
        )
        hung = group.create_task(generate(http, user_id="b", options={"hang_after": 2}))
        group.create_task(generate(http, user_id="c", options={"tokens": 90, "interval": 0.1}))
        await _until(http, running=3)
        group.create_task(generate(http, user_id="d", options={"tokens": 10, "interval": 0.1}))
        await _until(http, running=4)
        options = {"blocking": True, "tokens": 3, "interval": 2}
        blocking = group.create_task(
            read_stream(http, "POST", STREAM + "?timing=1", json=brief(user_id="e", options=options))
        )
        await _until(http, running=4, waiting=1)
        await _until(http, running=4, waiting=0)
        seen.starved = await generate(http, user_id="f")
        seen.silent, seen.hung, seen.blocking = await silent, await hung, await blocking


async def _until(http: httpx2.AsyncClient, **wanted: int) -> None:
    """Look until the pool's numbers are as wanted."""
    pool: dict[str, Any] = {}
    for _ in range(200):
        pool = (await http.get("/stats")).json()["pools"]["agent_pool"]
        if all(pool[name] == value for name, value in wanted.items()):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{wanted} never came: {pool}")


# --- The burst ----------------------------------------------------------------------------------------


def test_a_burst_never_exceeds_workers_and_places(seen: Evidence):
    assert seen.most_running == WORKERS
    assert seen.most_waiting == PLACES
    assert seen.looks > 20


def test_a_burst_is_routed_exactly(seen: Evidence):
    routes = Counter(each.response.headers.get("X-Stream-Route", "refused") for each in seen.streams)
    assert routes == {"direct": WORKERS, "queued": PLACES, "refused": BURST - WORKERS - PLACES}
    assert seen.statistics["routes"] == {
        "direct": WORKERS,
        "queued": PLACES,
        "rejected": BURST - WORKERS - PLACES,
    }


def test_a_burst_is_refused_at_once_with_a_time_to_come_back(seen: Evidence):
    refused = [each.response for each in seen.streams if each.response.status_code != 200]
    for response in refused:
        problem = response.json()
        assert response.status_code == 503
        assert response.headers["Content-Type"] == "application/problem+json"
        assert int(response.headers["Retry-After"]) >= 1
        assert (problem["code"], problem["running"], problem["waiting"]) == ("queue_full", WORKERS, PLACES)
    # Who had waited for a place, and got none, would have come after those who got one.
    served = [each.events[-1].at for each in seen.streams if each.response.status_code == 200]
    assert max(seen.refused_at) < statistics.median(served)


def test_a_burst_is_completed_with_exact_text(seen: Evidence):
    text = "".join(f"{k} " for k in range(BURST_TOKENS))
    accepted = [each for each in seen.streams if each.response.status_code == 200]
    assert len(accepted) == WORKERS + PLACES
    for reading in accepted:
        assert reading.text == text
        assert reading.end.name == "complete"
        assert reading.end.data["content_length"] == len(text)
        assert reading.ids == list(range(1, len(reading.ids) + 1))
        assert sum(event.name in ("complete", "error", "cancelled") for event in reading.events) == 1


def test_a_queued_task_is_told_its_place_and_then_its_start(seen: Evidence):
    queued = [each for each in seen.streams if each.response.headers.get("X-Stream-Route") == "queued"]
    first_positions = []
    for reading in queued:
        statuses = [event.data for event in reading.named("status")]
        names = [status["status"] for status in statuses]
        assert names[0] == "queued"
        assert names[-1] == "started"
        assert names.count("started") == 1
        waiting = statuses[: names.index("started")]
        positions = [status["position"] for status in waiting]
        assert positions == sorted(positions, reverse=True), "everybody only moves forward"
        assert all(status["eta_seconds"] > 0 for status in waiting)
        assert all(status["route"] == "queued" and status["reason"] for status in statuses)
        first_positions.append(positions[0])
        content = next(index for index, event in enumerate(reading.events) if event.name == "content")
        started_at = max(index for index, event in enumerate(reading.events) if event.name == "status")
        assert started_at < content
    assert sorted(first_positions) == list(range(1, PLACES + 1))


def test_the_queue_moves_without_a_flood_of_messages(seen: Evidence):
    for reading in seen.streams:
        statuses = reading.named("status")
        if not statuses:
            continue
        gaps = [later.at - earlier.at for earlier, later in pairwise(statuses)]
        seconds = reading.end.at - reading.events[0].at
        assert len(statuses) <= 3 + seconds, "at most one a second, one at once, one at the start"
        assert all(gap > 0.2 for gap in gaps[:-1])


def test_nothing_is_left_of_a_burst(seen: Evidence):
    pool = seen.statistics["pools"]["agent_pool"]
    assert (pool["running"], pool["waiting"]) == (0, 0)
    assert seen.statistics["followers"] == 0
    assert seen.statistics["ends"] == {"complete": WORKERS + PLACES}


# --- Silence and time-outs ----------------------------------------------------------------------------


def test_ten_silent_seconds_give_two_or_three_status_messages(seen: Evidence):
    assert seen.silent is not None
    first = next(index for index, event in enumerate(seen.silent.events) if event.name == "content")
    before = seen.silent.events[:first]
    assert 2 <= len(before) <= 3
    assert {event.name for event in before} == {"status"}
    assert before[0].data["status"] == "started"
    assert {event.data["status"] for event in before[1:]} == {"processing"}
    assert seen.silent.end.data["timing"]["status_messages"] <= 3
    assert seen.silent.comments == [], "a status message is a sign of life"


def test_the_first_text_after_silence_leaves_at_once(seen: Evidence):
    assert seen.silent is not None
    first, second = seen.silent.named("content")[:2]
    assert first.data["delta"] == "0 ", "not held back to be merged with what comes a second later"
    assert second.at - first.at > 0.5
    assert seen.silent.end.data["timing"]["first_content_ms"] < 11_000


def test_the_first_status_is_immediate(seen: Evidence):
    assert seen.silent is not None
    assert seen.silent.events[0].data["elapsed_seconds"] < 1.0
    assert seen.silent.retry == 2000


def test_a_wait_that_takes_too_long_ends_as_queue_timeout(seen: Evidence):
    assert seen.starved is not None
    assert seen.starved.events[0].data["status"] == "queued"
    assert seen.starved.end.name == "error"
    assert seen.starved.end.data["code"] == "queue_timeout"
    assert seen.starved.end.data["retryable"] is True
    waited = seen.starved.end.at - seen.starved.events[0].at
    assert QUEUE_TIMEOUT - 0.5 < waited < QUEUE_TIMEOUT + 3
    assert seen.starved.text == ""


def test_a_run_that_takes_too_long_ends_as_run_timeout(seen: Evidence):
    assert seen.hung is not None
    assert seen.hung.end.data["code"] == "run_timeout"
    assert seen.hung.text == "0 1 "
    ran = seen.hung.end.at - seen.hung.events[0].at
    assert RUN_TIMEOUT - 0.5 < ran < RUN_TIMEOUT + 4


def test_a_queued_blocking_producer_streams_truly(seen: Evidence):
    """Two seconds lie between its parts: each must be there before the next one is made."""
    assert seen.blocking is not None
    assert seen.blocking.response.headers["X-Stream-Route"] == "queued"
    assert seen.blocking.text == "0 1 2 "
    parts = seen.blocking.named("content")
    started_at = seen.blocking.named("status")[-1]
    assert [part.data["delta"] for part in parts] == ["0 ", "1 ", "2 "]
    assert started_at.data["status"] == "started"
    assert parts[0].at - started_at.at < 1.5, "not kept until the second was made"
    for earlier, later in pairwise(parts):
        assert later.at - earlier.at > 1.0
        assert later.data["sent_at"] - earlier.data["sent_at"] > 1.0


# --- One owner ----------------------------------------------------------------------------------------


async def test_an_owner_beyond_the_limit_gets_429_with_own_numbers(
    server: Server, evidence: dict[str, Evidence]
):
    async with client(server.url) as http, asyncio.TaskGroup() as group:
        options = {"tokens": 15, "interval": 0.1}
        mine = [group.create_task(generate(http, user_id="greedy", options=options)) for _ in range(3)]
        await _until(http, running=3)
        refused = await http.post(STREAM, json=brief(user_id="greedy"))
        other = await generate(http, user_id="modest", options={"tokens": 1})
        for reading in [await each for each in mine]:
            assert reading.end.name == "complete"
    problem = refused.json()
    assert refused.status_code == 429
    assert (problem["code"], problem["active"], problem["limit"]) == ("owner_limit", 3, 3)
    assert int(refused.headers["Retry-After"]) >= 1
    assert other.end.name == "complete"


async def test_an_owner_within_the_limit_again_is_served(server: Server, evidence: dict[str, Evidence]):
    async with client(server.url) as http:
        for _ in range(5):
            reading = await generate(http, user_id="patient", options={"tokens": 2, "interval": 0})
            assert reading.end.name == "complete"


async def test_waiting_tasks_count_for_the_owner(server: Server, evidence: dict[str, Evidence]):
    async with client(server.url) as http:
        async with asyncio.TaskGroup() as group:
            options = {"tokens": 10, "interval": 0.1}
            for number in range(WORKERS):
                group.create_task(generate(http, user_id=f"early {number}", options=options))
            await _until(http, running=WORKERS)
            waiting = [
                group.create_task(generate(http, user_id="late", options={"tokens": 1})) for _ in range(3)
            ]
            await _until(http, waiting=3)
            refused = await http.post(STREAM, json=brief(user_id="late"))
            assert (refused.status_code, refused.json()["active"]) == (429, 3)
        assert all(each.result().end.name == "complete" for each in waiting)


async def test_who_leaves_the_queue_gives_the_place_back(server: Server, evidence: dict[str, Evidence]):
    async with client(server.url) as http, asyncio.TaskGroup() as group:
        options = {"tokens": 20, "interval": 0.1}
        for number in range(WORKERS):
            group.create_task(generate(http, user_id=f"holder {number}", options=options))
        await _until(http, running=WORKERS)
        async with http.stream(
            "POST", STREAM, json=brief(user_id="leaver", on_disconnect="cancel")
        ) as response:
            events = cast("AsyncGenerator[Received]", read_events(response))
            first = await anext(events)
            assert first.data["status"] == "queued"
            await _until(http, waiting=1)
            await events.aclose()
        await _until(http, running=WORKERS, waiting=0)

        async def ended() -> Any:
            record = (await http.get(f"/streams/{first.data['task_id']}")).json()
            return record if record["finished_at"] else None

        # The place is free at once, the end is told when its record is durable.
        record = await eventually(ended)
        assert (record["state"], record["started_at"]) == ("cancelled", None)
