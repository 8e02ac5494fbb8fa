"""Who is next, and whom a busy neighbour disturbs: seen from outside, on uvicorn and on Daphne."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from itertools import pairwise
from typing import Any

import httpx2
import pytest

from tests.support.client import STREAM, Reading, brief, client, generate, read_stream
from tests.support.scale import TOGETHER
from tests.support.servers import Server, environment, migrate, started

pytestmark = [pytest.mark.server, pytest.mark.load]

AGEING = 1.2
"""Seconds of waiting that lift a task by one class, on the servers with one worker."""

Order = dict[str, list[str]]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """A server of each kind with one worker."""
    folder = tmp_path_factory.mktemp("fairness")
    env = environment(
        folder,
        AGENT_POOL_MAX_WORKERS="1",
        AGENT_POOL_PER_OWNER="20",
        AGENT_POOL_AGING_SECONDS=str(AGEING),
    )
    migrate(env)
    with ExitStack() as stack:
        yield [stack.enter_context(started(kind, folder, env)) for kind in TOGETHER]


@pytest.fixture(scope="module")
def orders(narrow: list[Server]) -> dict[str, Order]:
    """In which order tasks got the one permit, for each kind and story."""

    async def one(server: Server) -> Order:
        async with client(server.url) as http:
            return {
                "classes": await _order_of(http, [("a", "batch"), ("b", "normal"), ("c", "interactive")]),
                "owners": await _order_of(http, [("greedy", None)] * 4 + [("modest", None)]),
                "aged": await _order_of(http, [("a", "batch"), 3.5 * AGEING, ("b", "interactive")]),
            }

    async def all_kinds() -> list[Order]:
        async with asyncio.timeout(100):
            return await asyncio.gather(*(one(server) for server in narrow))

    return dict(zip(TOGETHER, asyncio.run(all_kinds()), strict=True))


@pytest.fixture(params=TOGETHER)
def order(request: pytest.FixtureRequest, orders: dict[str, Order]) -> Order:
    return orders[request.param]


async def _order_of(
    http: httpx2.AsyncClient, arrivals: Sequence[tuple[str, str | None] | float]
) -> list[str]:
    """Let tasks queue up behind a busy worker (a number: seconds of pause), then let it go; the user ids
    in the order in which the tasks were started."""
    holder = asyncio.create_task(
        generate(http, until=2, user_id="holder", on_disconnect="continue", options={"hang_after": 1})
    )
    held = (await holder).response.headers["X-Stream-Id"]
    waiting: list[tuple[str, str]] = []
    for arrival in arrivals:
        if isinstance(arrival, float):
            await asyncio.sleep(arrival)
            continue
        user, priority = arrival
        # Long enough for the moments of two starts to differ.
        members = brief(user_id=user, options={"tokens": 2, "interval": 0.1})
        if priority is not None:
            members["priority"] = priority
        answer = await http.post("/content/generate/async", json=members)
        assert answer.status_code == 202, answer.text
        waiting.append((user, answer.json()["task_id"]))
    await http.delete(f"/streams/{held}")
    started_at = []
    for user, task_id in waiting:
        record: dict[str, Any] = {}
        for _ in range(500):
            record = (await http.get(f"/streams/{task_id}")).json()
            if record["state"] == "complete":
                break
            await asyncio.sleep(0.02)
        started_at.append((datetime.fromisoformat(record["started_at"]), record["finished_at"], user))
    return [user for _, _, user in sorted(started_at)]


# --- Who is next --------------------------------------------------------------------------------------


def test_the_higher_class_goes_first(order: Order):
    assert order["classes"] == ["c", "b", "a"]


def test_owners_take_turns_within_a_class(order: Order):
    """Four tasks of one, then one of another, which need not wait for all four."""
    assert order["owners"].index("modest") <= 1


def test_who_waited_long_enough_passes_a_higher_class(order: Order):
    assert order["aged"] == ["a", "b"]


# --- Whom a neighbour disturbs ------------------------------------------------------------------------


async def test_a_producer_that_never_pauses_lets_others_run(server: Server):
    """No `await` of it ever suspends; the server still answers, and another stream keeps its pace."""
    async with client(server.url) as http, asyncio.TaskGroup() as group:
        options = {"tokens": 400_000, "interval": 0}
        greedy = group.create_task(generate(http, until=5_000, user_id="greedy", options=options))
        beside = group.create_task(_timed(http, tokens=40, interval=0.05))
        answers = []
        while not beside.done():
            begin = time.monotonic()
            assert (await http.get("/healthz")).status_code == 200
            answers.append(time.monotonic() - begin)
            await asyncio.sleep(0.05)
        assert statistics.median(answers) < 0.5
        assert statistics.median(_gaps(beside.result())) < 0.25
        assert (await greedy).events[-1].name in ("content", "complete")


async def test_five_busy_blocking_producers_leave_an_async_stream_its_pace(server: Server):
    """The figure itself is benchmarks/blocking_producers.py; here only that nothing is badly wrong."""
    async with client(server.url) as http, asyncio.TaskGroup() as group:
        options = {"tokens": 100_000, "interval": 0.005, "burn": 1, "blocking": True}
        neighbours = [
            group.create_task(
                generate(http, user_id=f"blocking {k}", on_disconnect="cancel", options=options)
            )
            for k in range(5)
        ]
        await _until_running(http, 5)
        reading = await _timed(http, tokens=60, interval=0.03)
        for neighbour in neighbours:
            neighbour.cancel()
    assert reading.text == "".join(f"{k} " for k in range(60))
    assert statistics.median(_gaps(reading)) < 0.25


async def _timed(http: httpx2.AsyncClient, **options: Any) -> Reading:
    return await read_stream(
        http, "POST", STREAM + "?timing=1", json=brief(user_id="beside", options=options)
    )


def _gaps(reading: Reading) -> list[float]:
    """Seconds between the moments at which the server handed content over."""
    moments = [event.data["sent_at"] for event in reading.named("content")]
    return [later - earlier for earlier, later in pairwise(moments)]


async def _until_running(http: httpx2.AsyncClient, wanted: int) -> None:
    running = -1
    for _ in range(500):
        running = (await http.get("/stats")).json()["pools"]["agent_pool"]["running"]
        if running >= wanted:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{running} run, not {wanted}")
