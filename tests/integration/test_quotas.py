"""Quotas of owners, seen from outside: what is refused, what is told, and who is not held up by it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.client import STREAM, brief, client, eventually, read_stream
from tests.support.notebooks import OPERATION, Headers
from tests.support.redis import RedisServer
from tests.support.servers import ROOT, Server, environment, migrate, side_by_side, started
from tests.support.sockets import opened

from .test_notebooks import MAKE_RUNNERS

pytestmark = pytest.mark.server

LATER = "/content/generate/async"
WHOLE = "/content/generate"
PATIENT = {"tokens": 1000, "interval": 0.02}

OWNERS = {"ALLOW_ANONYMOUS": "true", "TRUSTED_PROXIES": "127.0.0.1"}
"""Each address that the test's own proxy tells of is an owner."""

ITEM = re.compile(r'"([a-z_]+)"((?:;[a-z]+=(?:\d+|"[a-z-]+"))*)')

_addresses = count(1)
_topics = count(1)


def runners(server: Server) -> dict[str, Headers]:
    """Accounts that may run code: the headers that speak for them."""
    env = environment(server.database.parent, DJANGO_SETTINGS_MODULE="settings.settings")
    done = subprocess.run(
        [sys.executable, "-c", MAKE_RUNNERS], cwd=ROOT, env=env, check=True, capture_output=True, timeout=60
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: {"Authorization": f"Bearer {key}"} for name, key in found.items()}


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Server]:
    quotas = {
        "QUOTA_STREAMS": "4",
        "QUOTA_PLACES": "2",
        "QUOTA_TOKENS_PER_MINUTE": "50",
        "QUOTA_BYTES_PER_MINUTE": "20000",
        "AGENT_POOL_MAX_WORKERS": "3",
        "AGENT_POOL_PER_OWNER": "50",
        "CACHE_SCOPE": "owner",
        "METRICS_ACCESS": "true",
        "CORS_ALLOWED_ORIGINS": "https://app.example",
    }
    folder = tmp_path_factory.mktemp("quotas")
    shutil.copy(migrated, folder)
    with started("serve", folder, environment(folder, **OWNERS | quotas)) as made:
        yield made


@asynccontextmanager
async def somebody(server: Server, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
    """An owner of its own."""
    forwarded = {"X-Forwarded-For": f"203.0.113.{next(_addresses)}", "X-Forwarded-Proto": "http"}
    async with client(server.url, headers=forwarded | headers) as made:
        yield made


@pytest.fixture
async def owner(metered: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with somebody(metered) as made:
        yield made


def items(header: str) -> dict[str, dict[str, str]]:
    """The list of a structured field, by name."""
    found = {}
    for each in header.split(", "):
        match = ITEM.fullmatch(each)
        assert match, each
        parameters = [pair.split("=") for pair in match[2].split(";")[1:]]
        found[match[1]] = {name: value.strip('"') for name, value in parameters}
    return found


def remaining(response: httpx2.Response) -> dict[str, int]:
    return {name: int(each["r"]) for name, each in items(response.headers["ratelimit"]).items()}


def work(user_id: str = "tester", **options: Any) -> dict[str, Any]:
    """A brief for what nobody has asked for before."""
    return brief(user_id=user_id, topic=f"topic {next(_topics)}", options=options or PATIENT)


async def spend(owner: httpx2.AsyncClient, tokens: int) -> httpx2.Response:
    reading = await read_stream(owner, "POST", STREAM, json=work(tokens=tokens, interval=0))
    assert reading.end.name == "complete"
    return reading.response


def check_refused(response: httpx2.Response, quota: str) -> None:
    assert response.status_code == 429
    problem = response.json()
    assert (problem["code"], problem["quota"]) == ("quota_exceeded", quota)
    assert int(response.headers["retry-after"]) >= 1
    assert remaining(response)[quota] == 0
    assert int(items(response.headers["ratelimit-policy"])[quota]["q"]) == problem["limit"]
    assert "x-stream-id" not in response.headers


async def test_answers_tell_the_quotas_and_what_is_left_through_both_doors(owner: httpx2.AsyncClient):
    # The first call through Django's chain at most; its like come in through the hot door.
    for used in (0, 5, 10):
        response = await spend(owner, 5)
        assert items(response.headers["ratelimit-policy"]) == {
            "streams": {"q": "4", "qu": "concurrent-requests"},
            "places": {"q": "2", "qu": "concurrent-requests"},
            "tokens": {"q": "50", "w": "60"},
            "bytes": {"q": "20000", "w": "60", "qu": "content-bytes"},
        }
        left = remaining(response)
        assert (left["streams"], left["places"], left["tokens"]) == (3, 2, 50 - used)
        assert 0 < int(items(response.headers["ratelimit"])["tokens"]["t"]) <= 62
    assert 0 < left["bytes"] < 20000, "bytes are charged, too"


async def test_spent_tokens_refuse_new_work_of_every_kind_and_of_that_owner_alone(
    metered: Server, owner: httpx2.AsyncClient
):
    before = await spend(owner, 70)
    assert remaining(before)["tokens"] == 50, "what was let in goes on to its end"
    for path in (STREAM, LATER, WHOLE):
        refused = await owner.post(path, json=work())
        check_refused(refused, "tokens")
        # The window is a minute, and what went beyond the quota is waited for besides.
        assert 20 <= int(refused.headers["retry-after"]) <= 62
    inventive = await owner.post(STREAM, json=work(user_id="somebody else"))
    check_refused(inventive, "tokens")
    forwarded = owner.headers["x-forwarded-for"]
    async with opened(metered, additional_headers={"X-Forwarded-For": forwarded}) as socket:
        await socket.start("one", options=PATIENT)
        told = await socket.next()
        assert (told["type"], told["code"], told["quota"]) == ("problem", "quota_exceeded", "tokens")
        assert told["retry_after"] >= 20
        assert told["request_id"] == "one"
    again = await owner.get(f"{before.headers['location']}/events", headers={"Last-Event-ID": "0"})
    assert (again.status_code, "ratelimit" in again.headers) == (200, False)
    async with somebody(metered) as other:
        assert (await spend(other, 5)).status_code == 200


async def test_the_same_call_again_is_no_new_work(owner: httpx2.AsyncClient):
    key = {"Idempotency-Key": "once"}
    body = work(tokens=60, interval=0)
    first = await owner.post(STREAM, json=body, headers=key)
    assert first.status_code == 200
    assert "ratelimit" in first.headers
    replayed = await owner.post(STREAM, json=body, headers=key)
    assert (replayed.status_code, replayed.headers["idempotent-replayed"]) == (200, "true")
    assert replayed.headers["x-stream-id"] == first.headers["x-stream-id"]
    assert "ratelimit" not in replayed.headers
    for path in (STREAM, LATER, WHOLE):
        fresh = await owner.post(path, json=work(), headers={"Idempotency-Key": "new"})
        check_refused(fresh, "tokens")


async def test_streams_count_running_and_waiting_ones_and_places_the_waiting(owner: httpx2.AsyncClient):
    async with AsyncExitStack() as stack:
        places = [await begun(owner, stack) for _ in range(3)]
        waiting = await owner.post(LATER, json=work())
        assert (waiting.status_code, waiting.json()["route"]) == (202, "queued")
        assert (remaining(waiting)["streams"], remaining(waiting)["places"]) == (0, 1)
        check_refused(await owner.post(STREAM, json=work()), "streams")
        await owner.delete(places[0])
        await owner.delete(waiting.headers["location"])
        refilled = await owner.post(LATER, json=work())
        assert refilled.status_code == 202
        assert remaining(refilled)["streams"] == 1
        for place in (*places, refilled.headers["location"]):
            await owner.delete(place)


async def begun(owner: httpx2.AsyncClient, stack: AsyncExitStack) -> str:
    request = owner.stream("POST", STREAM, json=work())
    response = await stack.enter_async_context(request)
    assert response.status_code == 200
    return str(response.headers["location"])


async def test_places_are_refused_while_a_stream_would_be_left(metered: Server, owner: httpx2.AsyncClient):
    async with somebody(metered) as other, AsyncExitStack() as stack:
        running_ones = [await begun(other, stack) for _ in range(3)]
        waiting = [await owner.post(LATER, json=work()) for _ in range(3)]
        assert [each.status_code for each in waiting] == [202, 202, 429]
        check_refused(waiting[2], "places")
        for place in running_ones:
            await other.delete(place)
        for each in waiting[:2]:
            await owner.delete(each.headers["location"])


async def test_a_burst_gets_no_more_than_the_quota(owner: httpx2.AsyncClient):
    calls = (owner.post(LATER, json=work()) for _ in range(40))
    answers = await asyncio.gather(*calls)
    taken = [each for each in answers if each.status_code == 202]
    assert len(taken) == 4
    assert {each.json()["code"] for each in answers if each.status_code != 202} == {"quota_exceeded"}
    for each in taken:
        await owner.delete(each.headers["location"])


async def test_a_cached_answer_costs_bytes_and_no_tokens(owner: httpx2.AsyncClient):
    body = work(tokens=60, interval=0)
    made = await read_stream(owner, "POST", STREAM, json=body)
    check_refused(await owner.post(STREAM, json=work()), "tokens")
    copied = await read_stream(owner, "POST", STREAM, json=body)
    assert copied.text == made.text
    left = remaining(copied.response)
    assert set(left) == {"streams", "bytes"}
    after = remaining((await read_stream(owner, "POST", STREAM, json=body)).response)
    assert after["bytes"] < left["bytes"]


async def test_many_at_once_of_one_owner_do_not_hold_up_another(metered: Server, owner: httpx2.AsyncClient):
    await spend(owner, 60)

    async def modest() -> list[str]:
        async with somebody(metered) as other:
            return [(await spend(other, 2)).headers["x-stream-route"] for _ in range(5)]

    flood = asyncio.gather(*(owner.post(STREAM, json=work()) for _ in range(200)))
    routes, answers = await asyncio.gather(modest(), flood)
    assert routes == ["direct"] * 5, "nobody waits for who is refused"
    assert {each.json()["code"] for each in answers} == {"quota_exceeded"}


async def test_refusals_are_counted_and_charges_measured(metered: Server, owner: httpx2.AsyncClient):
    await spend(owner, 60)
    async with client(metered.url) as here:
        before = await number(here, "sluice_route_decisions_total", 'reason="quota_tokens"')
        charged = await number(here, "sluice_quota_charged_total", 'quota="tokens"')
        assert charged >= 60
        check_refused(await owner.post(LATER, json=work()), "tokens")
        assert await number(here, "sluice_route_decisions_total", 'reason="quota_tokens"') == before + 1


async def number(http: httpx2.AsyncClient, metric: str, label: str) -> float:
    lines = (await http.get("/metrics")).text.splitlines()
    values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric) and label in line]
    return sum(values)


async def test_pages_of_other_origins_may_read_the_headers(metered: Server):
    async with somebody(metered, Origin="https://app.example") as page:
        response = await spend(page, 1)
    exposed = response.headers["access-control-expose-headers"].lower().split(", ")
    assert {"ratelimit", "ratelimit-policy"} <= set(exposed)


@pytest.mark.long
async def test_what_was_used_can_be_used_again_after_a_minute(owner: httpx2.AsyncClient):
    await spend(owner, 50)
    refused = await owner.post(STREAM, json=work())
    check_refused(refused, "tokens")
    await asyncio.sleep(int(refused.headers["retry-after"]))
    assert (await spend(owner, 1)).status_code == 200


async def test_without_quotas_nothing_is_told(http: httpx2.AsyncClient):
    response = await http.post(LATER, json=brief(options={"tokens": 1}))
    assert response.status_code == 202
    assert not [name for name in response.headers if name.lower().startswith("ratelimit")]


@pytest.fixture(scope="module")
def pair(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """Two processes with one worker each that share a Redis, and so the quotas."""
    settings = {
        "QUOTA_STREAMS": "4",
        "QUOTA_PLACES": "1",
        "QUOTA_TOKENS_PER_MINUTE": "50",
        "AGENT_POOL_MAX_WORKERS": "1",
        "AGENT_POOL_PER_OWNER": "50",
    }
    folder = tmp_path_factory.mktemp("pair")
    env = environment(folder, **OWNERS | settings, REDIS_URL=redis_server.url())
    migrate(env)
    with side_by_side(folder, env) as servers:
        yield servers


@asynccontextmanager
async def one_owner(servers: tuple[Server, Server]) -> AsyncIterator[list[httpx2.AsyncClient]]:
    address = f"198.51.100.{next(_addresses)}"
    async with somebody(servers[0]) as here, somebody(servers[1]) as there:
        for each in (here, there):
            each.headers["X-Forwarded-For"] = address
        yield [here, there]


async def test_two_processes_with_redis_share_one_quota(pair: tuple[Server, Server]):
    async with one_owner(pair) as (here, there):
        response = await spend(here, 30)
        assert remaining(response)["tokens"] == 50

        async def told() -> bool:
            probe = await there.post(WHOLE, json=work(tokens=1, interval=0))
            assert probe.status_code == 200
            return remaining(probe)["tokens"] <= 20

        assert await eventually(told, 10)
        await spend(there, 30)
        check_refused(await there.post(STREAM, json=work()), "tokens")

        async def told_back() -> httpx2.Response | None:
            answer = await here.post(LATER, json=work(tokens=1, interval=0))
            return answer if answer.status_code == 429 else None

        refused = await eventually(told_back, 10)
        assert refused is not None
        check_refused(refused, "tokens")
        async with somebody(pair[0]) as other:
            assert (await spend(other, 1)).status_code == 200


@pytest.mark.long
async def test_streams_and_places_are_counted_over_both_and_come_back(pair: tuple[Server, Server]):
    async with one_owner(pair) as owners, AsyncExitStack() as stack:
        slow: dict[str, Any] = {"tokens": 30, "interval": 1}
        running_ones = [
            (await stack.enter_async_context(each.stream("POST", STREAM, json=work(**slow))))
            for each in owners
        ]
        assert [each.headers["x-stream-route"] for each in running_ones] == ["direct", "direct"]
        waiting = await owners[0].post(LATER, json=work(**slow))
        assert waiting.json()["route"] == "queued"
        assert remaining(waiting) == {"streams": 1, "places": 0, "tokens": remaining(waiting)["tokens"]}
        check_refused(await owners[1].post(LATER, json=work(**slow)), "places")
        # One ends: what waits runs, wherever a permit is free, and its place is free again.
        await owners[1].delete(running_ones[1].headers["location"])

        async def accepted() -> httpx2.Response | None:
            answer = await owners[1].post(LATER, json=work(**slow))
            return answer if answer.status_code == 202 else None

        again = await eventually(accepted, 20)
        assert again is not None
        for each in (running_ones[0], waiting, again):
            await owners[0].delete(each.headers["location"])

        async def all_back() -> bool:
            probe = await owners[0].post(WHOLE, json=work(tokens=1, interval=0))
            return probe.status_code == 200 and remaining(probe)["streams"] == 3

        assert await eventually(all_back, 20)


@pytest.mark.long
async def test_what_a_worker_elsewhere_runs_for_somebody_unknown_is_charged_to_its_address(
    pair: tuple[Server, Server],
):
    async with one_owner(pair) as (here, there), AsyncExitStack() as stack:
        busy = [
            await stack.enter_async_context(each.stream("POST", STREAM, json=work()))
            for each in await _two_others(pair, stack)
        ]
        waiting = await here.post(LATER, json=work(tokens=60, interval=0))
        assert waiting.json()["route"] == "queued"
        # It runs in the other process, which learns whom to charge from Redis.
        await busy[1].aclose()
        others = await _two_others(pair, stack)
        await others[1].delete(busy[1].headers["location"])

        async def over() -> bool:
            record = await here.get(waiting.headers["location"])
            return bool(record.json()["state"] == "complete")

        assert await eventually(over, 20)

        async def charged() -> bool:
            return (await there.post(LATER, json=work(tokens=1, interval=0))).status_code == 429

        assert await eventually(charged, 10)
        await others[0].delete(busy[0].headers["location"])


async def _two_others(pair: tuple[Server, Server], stack: AsyncExitStack) -> list[httpx2.AsyncClient]:
    return [await stack.enter_async_context(somebody(server)) for server in pair]


@pytest.mark.long
async def test_kernel_seconds_refuse_code_and_let_it_be_stopped(tmp_path: Path, migrated: Path):
    settings = {
        "KERNELS_ENABLED": "true",
        "KERNELS_WITHOUT_SANDBOX": "true",
        "QUOTA_KERNEL_SECONDS_PER_HOUR": "2",
        "QUOTA_TOKENS_PER_MINUTE": "1000",
    }
    shutil.copy(migrated, tmp_path)
    with started("serve", tmp_path, environment(tmp_path, **settings)) as house:
        runner = runners(house)["ada"]
        async with client(house.url, headers=runner) as ada:

            def call(kind: str, **members: Any) -> dict[str, Any]:
                return {"notebook_id": "book", "operation": {"type": kind, **members}}

            slept = await ada.post(OPERATION, json=call("execute", code="import time; time.sleep(2.5)"))
            assert remaining(slept) == {"kernel_seconds": 2}
            refused = await ada.post(OPERATION, json=call("execute", code="1"))
            check_refused(refused, "kernel_seconds")
            written = await ada.post(OPERATION, json=call("generate", prompt="a loop"))
            assert (written.status_code, set(remaining(written))) == (200, {"tokens"})
            for kind in ("status", "interrupt", "shutdown"):
                answer = await ada.post(OPERATION, json=call(kind))
                assert (answer.status_code, "ratelimit" in answer.headers) == (200, False)
