"""Server processes that share a database: a stream of one is followed, resumed and cancelled through any."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from tests.integration.conftest import assert_clean
from tests.integration.test_admin import MAKE_STAFF, operator_of
from tests.support.client import STREAM, brief, client, eventually, generate, read_stream
from tests.support.postgresql import Cluster
from tests.support.programs import Programs, programs
from tests.support.redis import RedisServer
from tests.support.scale import ALL
from tests.support.servers import Server, environment, migrate, side_by_side, started

pytestmark = pytest.mark.server

LATER = "/content/generate/async"
PATIENT = {"tokens": 10_000, "interval": 0.02}
LIMITS = {"AGENT_POOL_MAX_WORKERS": "2", "AGENT_POOL_PER_OWNER": "50", "SSE_RETRY": "0.2"}


def text_of_tokens(count: int) -> str:
    return "".join(f"{k} " for k in range(count))


SHARED = (
    *(["sqlite"] if ALL else []),
    pytest.param("postgresql", marks=pytest.mark.long),
    "redis",
)
"""What processes share: a database alone, or Redis, too (beside SQLite). In `make test` PostgreSQL alone has
what the mark `every_variant` chooses: what only the database carries from one process to the other."""


@pytest.fixture(scope="module", params=SHARED)
def database(request: pytest.FixtureRequest) -> Callable[[Path], dict[str, str]]:
    """Makes the environment of servers that share a new database."""

    def make(folder: Path, **overrides: str) -> dict[str, str]:
        if request.param == "postgresql":
            cluster: Cluster = request.getfixturevalue("postgresql")
            return environment(folder, **LIMITS | overrides, DATABASE_URL=cluster.migrated())
        if request.param == "redis":
            server: RedisServer = request.getfixturevalue("redis_server")
            overrides = {"REDIS_URL": server.url()} | overrides
        env = environment(folder, **LIMITS | overrides)
        migrate(env)
        return env

    return make


Database = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def shared(database: Database, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder and the environment of the pair."""
    folder = tmp_path_factory.mktemp("pair")
    return folder, database(folder)


@pytest.fixture(scope="module")
def pair(shared: tuple[Path, dict[str, str]]) -> Iterator[tuple[Server, Server]]:
    with side_by_side(*shared) as (one, other):
        yield one, other
        assert_clean(one)
        assert_clean(other)


@pytest.mark.every_variant
async def test_a_stream_is_followed_live_through_another_process(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    begun = await generate(here, until=3, options={"tokens": 60, "interval": 0.05})
    place = begun.response.headers["location"]
    whole = await read_stream(there, "GET", f"{place}/events")
    assert whole.end.name == "complete"
    assert whole.text == text_of_tokens(60)
    content = [event for event in whole.events if event.name == "content"]
    assert len(content) > 5, "it came piece by piece and not at the end"


@pytest.mark.every_variant
async def test_one_goes_on_in_another_process_from_the_last_event_that_was_seen(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    begun = await generate(here, until=20, options={"tokens": 80, "interval": 0.02})
    place, seen = begun.response.headers["location"], begun.ids[-1]
    rest = await read_stream(there, "GET", f"{place}/events", headers={"Last-Event-ID": str(seen)})
    assert [event for event in rest.events if event.name == "gap"] == []
    assert begun.text + rest.text == text_of_tokens(80)
    assert min(rest.ids) > seen


@pytest.mark.every_variant
async def test_a_cancel_reaches_the_process_that_runs_the_task(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    begun = await generate(here, until=5, options=PATIENT)
    place = begun.response.headers["location"]
    record = (await there.delete(place)).json()
    assert record["state"] == "cancelled"
    assert (await here.get(place)).json()["state"] == "cancelled"
    end = (await read_stream(there, "GET", f"{place}/events")).end
    assert (end.name, end.data["reason"]) == ("cancelled", "client")


@pytest.mark.every_variant
async def test_a_reader_in_another_process_keeps_a_task_alive_and_its_leaving_starts_the_grace(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    begun = await generate(here, until=5, options=PATIENT, on_disconnect=1)
    place = begun.response.headers["location"]
    kept = await read_stream(there, "GET", f"{place}/events", until=40)
    assert "gap" not in {event.name for event in kept.events}
    assert len(kept.text) > len(begun.text), "it outlived its grace, because it was read"

    async def dropped() -> bool:
        record = (await here.get(place)).json()
        return bool(record["state"] == "cancelled")

    assert await eventually(dropped, 20)


@pytest.mark.every_variant
async def test_a_record_of_a_task_elsewhere_has_its_text_so_far(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    begun = await generate(here, until=10, options=PATIENT)
    place = begun.response.headers["location"]

    async def has_text() -> bool:
        record = (await there.get(place)).json()
        return bool(record["text"] and record["last_event_id"])

    assert await eventually(has_text)
    await here.delete(place)


async def test_a_task_is_known_elsewhere_from_its_first_moment(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    for _ in range(5):
        begun = await generate(here, until=1, options={"tokens": 5, "interval": 0.05})
        assert (await there.get(begun.response.headers["location"])).status_code == 200


async def test_a_stream_of_nobody_stays_unknown(there: httpx2.AsyncClient):
    assert (await there.get(f"/streams/{'0' * 32}/events")).status_code == 404


async def test_what_was_purged_through_one_process_is_gone_in_the_other(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    done = await generate(here, options={"tokens": 5, "interval": 0})
    place = done.response.headers["location"]
    assert (await there.delete(f"{place}?purge=true")).status_code == 204

    async def gone() -> bool:
        return (await here.get(f"{place}/events")).status_code == 410

    assert await eventually(gone, 20)


@pytest.mark.every_variant
async def test_readers_in_either_process_see_the_end_of_what_is_purged_through_both(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, shared: tuple[Path, dict[str, str]]
):
    for _ in range(2):
        begun = await generate(here, until=3, options=PATIENT)
        place = begun.response.headers["location"]
        readers = [
            asyncio.create_task(read_stream(each, "GET", f"{place}/events")) for each in (here, there) * 3
        ]
        await asyncio.sleep(0.7)
        purges = (each.delete(f"{place}?purge=true") for each in (here, there) * 4)
        assert {answer.status_code for answer in await asyncio.gather(*purges)} == {204}
        assert {(await each.get(f"{place}/events")).status_code for each in (here, there)} == {410}
        readings = await asyncio.gather(*readers)
        for reading in readings:
            assert "gap" not in {event.name for event in reading.events}
            assert [event.name for event in reading.events][-1] == "cancelled"
            assert reading.text == readings[0].text != ""
        if url := shared[1].get("REDIS_URL"):
            # Of its events nothing is left there, but who may write some.
            with Redis.from_url(url) as redis:
                of_the_task = list(redis.scan_iter(f"*:{begun.response.headers['x-stream-id']}"))
                assert [redis.type(key) for key in of_the_task] == [b"string"]


@pytest.mark.every_variant
async def test_of_all_who_use_a_ticket_in_either_process_one_gets_in(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    begun = await generate(here, options={"tokens": 3, "interval": 0.01})
    wanted = {"stream_id": begun.response.headers["x-stream-id"]}
    for _ in range(3):
        url = (await here.post("/tickets", json=wanted)).json()["url"]
        answers = await asyncio.gather(*(one.get(url) for one in (there, here) * 5))
        assert sorted(answer.status_code for answer in answers) == [200, *[401] * 9]


async def test_statistics_are_those_of_both(here: httpx2.AsyncClient, there: httpx2.AsyncClient):
    begun = [await generate(each, until=2, options=PATIENT) for each in (here, there)]

    async def both_run() -> bool:
        told = (await here.get("/stats")).json()
        each = [one["statistics"]["pools"]["agent_pool"]["running"] for one in told["processes"]]
        return each == [1, 1] and told["pools"]["agent_pool"]["running"] == 2

    assert await eventually(both_run, 20)
    assert (await here.get("/stats")).json()["pools"]["agent_pool"]["max_workers"] == 4
    for each in begun:
        await here.delete(each.response.headers["location"])


# Who calls is remembered by each process


@pytest.fixture(scope="module")
def manage(shared: tuple[Path, dict[str, str]]) -> Iterator[Programs]:
    """A third process on the pair's database, which runs the project's programs."""
    with programs(shared[1]) as made:
        yield made


MAKE_USER = """
import sys
from django.contrib.auth import get_user_model
from django.test import Client
browser = Client()
browser.force_login(get_user_model().objects.create(username=sys.argv[1]))
print(browser.cookies["sessionid"].value)
"""
DO = (
    "import sys; from django.contrib.auth import get_user_model; "
    "from streaming.models import ApiKey; alice = get_user_model().objects.get(username=sys.argv[1]); "
)


async def statuses(headers: dict[str, str], *houses: httpx2.AsyncClient) -> set[int]:
    return {(await house.get("/streams", headers=headers)).status_code for house in houses}


@pytest.fixture
def strangers() -> dict[str, str]:
    """Headers of somebody from afar, who is let in for nothing."""
    return {"X-Forwarded-For": "203.0.113.9"}


async def test_a_key_that_the_command_revoked_is_refused_by_every_process_at_once(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, manage: Programs
):
    await asyncio.to_thread(manage.code, MAKE_USER, "karen")
    for _ in range(2):
        key = await asyncio.to_thread(manage.command, "create_api_key", "karen")
        headers = {"Authorization": f"Bearer {key}"}
        for _ in range(2):
            assert await statuses(headers, here, there) == {200}
        await asyncio.to_thread(manage.command, "revoke_api_key", key)
        assert await statuses(headers, here, there) == {401}


async def test_who_logs_out_in_one_process_is_refused_there_at_once_and_by_the_other_within_a_second(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, manage: Programs, strangers: dict[str, str]
):
    session = await asyncio.to_thread(manage.code, MAKE_USER, "lois")
    token = "c" * 32
    cookies = strangers | {"Cookie": f"sessionid={session}; csrftoken={token}", "X-CSRFToken": token}
    for _ in range(2):
        assert await statuses(cookies, here, there) == {200}
    assert (await here.post("/accounts/logout/", headers=cookies)).status_code == 302
    assert await statuses(cookies, here) == {401}
    await asyncio.sleep(1)
    assert await statuses(cookies, there) == {401}


CHANGES = {
    "deactivated": "alice.is_active = False; alice.save()",
    "deleted": "alice.delete()",
    "without announcement": "ApiKey.objects.filter(user=alice).update(revoked_at='2026-01-01T00:00Z')",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_any_program_changes_holds_in_every_process_within_seconds(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, manage: Programs, change: str
):
    name = change.split()[0]
    await asyncio.to_thread(manage.code, MAKE_USER, name)
    key = await asyncio.to_thread(manage.command, "create_api_key", name)
    headers = {"Authorization": f"Bearer {key}"}
    assert await statuses(headers, here, there) == {200}
    await asyncio.to_thread(manage.code, DO + CHANGES[change], name)

    async def gone() -> bool:
        return await statuses(headers, here, there) == {401}

    assert await eventually(gone, 20 if change == "without announcement" else 5)


@pytest.mark.every_variant
async def test_readers_in_every_process_end_when_their_key_is_revoked_in_a_third(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, manage: Programs
):
    await asyncio.to_thread(manage.code, MAKE_USER, "karl")
    key = await asyncio.to_thread(manage.command, "create_api_key", "karl")
    mine = {"Authorization": f"Bearer {key}"}
    begun = await here.post(LATER, json=brief(options=PATIENT), headers=mine)
    place = begun.headers["location"]
    accepted = [asyncio.Event(), asyncio.Event()]
    readings = [
        asyncio.create_task(read_stream(http, "GET", f"{place}/events", headers=mine, accepted=each))
        for http, each in zip((here, there), accepted, strict=True)
    ]
    await asyncio.gather(*(each.wait() for each in accepted))
    await asyncio.to_thread(manage.command, "revoke_api_key", key)
    async with asyncio.timeout(15):
        for cut in await asyncio.gather(*readings):
            assert (cut.end.name, cut.end.data["code"]) == ("error", "access_revoked")
    again = await asyncio.to_thread(manage.command, "create_api_key", "karl")
    mine = {"Authorization": f"Bearer {again}"}
    assert (await there.get(place, headers=mine)).json()["state"] == "running"
    await here.delete(place, headers=mine)


async def test_a_waiting_task_is_moved_to_another_class_through_another_process(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, manage: Programs
):
    ids = [(await here.post(LATER, json=brief(options=PATIENT))).json()["task_id"] for _ in range(5)]
    assert (await here.get(f"/streams/{ids[-1]}")).json()["state"] == "queued"
    session = json.loads(await asyncio.to_thread(manage.code, MAKE_STAFF))["boss"]
    page = await operator_of(there, session).press(
        f"/admin/streaming/streamtask/{ids[-1]}/priority/", priority="interactive"
    )
    assert "1 waits in the class interactive now." in page.text
    for task_id in reversed(ids):
        await here.delete(f"/streams/{task_id}")


@pytest.mark.every_variant
async def test_two_that_write_hard_never_fail_to_write(
    pair: tuple[Server, Server], here: httpx2.AsyncClient, there: httpx2.AsyncClient
):
    """Beating, pruning, taking over and following meanwhile. SQLite has one writer at a time."""
    options = {"tokens": 400, "interval": 0.001}
    begun = [await http.post(LATER, json=brief(options=options)) for http in (here, there) * 12]
    places = [f"/streams/{each.json()['task_id']}/events" for each in begun]
    # Each is read where it does not run.
    whole = await asyncio.gather(
        *(read_stream(http, "GET", place) for http, place in zip((there, here) * 12, places, strict=True))
    )
    assert {each.text for each in whole} == {text_of_tokens(400)}
    for server, http in zip(pair, (here, there), strict=True):
        each = (await http.get("/stats")).json()["processes"]
        records = [one["statistics"]["records"] for one in each]
        assert [(one["failed_writes"], one["dropped"]) for one in records] == [(0, 0), (0, 0)]
        assert "database is locked" not in server.log()
        assert "could not" not in server.log()


@pytest.mark.long
async def test_workers_of_one_port_are_one_service(tmp_path: Path):
    """On SQLite, which has one writer at a time; the pair is there on either database."""
    env = environment(tmp_path, **LIMITS)
    migrate(env)
    with started("uvicorn with two workers", tmp_path, env) as server:

        async def meet(method: str, path: str) -> httpx2.Response:
            """By a connection of its own, so by any of the two."""
            async with client(server.url) as http:
                return await http.request(method, path)

        async def both() -> bool:
            return len((await meet("GET", "/stats")).json()["processes"]) == 2

        assert await eventually(both, 20)
        async with client(server.url) as http:
            stopped = await generate(http, until=3, options=PATIENT)
            read = await generate(http, until=3, options={"tokens": 120, "interval": 0.02})
        place = read.response.headers["location"]
        met: set[int] = set()
        for _ in range(100):
            # The first of them is the one that answers.
            met.add((await meet("GET", "/stats")).json()["processes"][0]["pid"])
            assert (await meet("GET", place)).status_code == 200
            if len(met) == 2:
                break
        assert len(met) == 2

        async def follow() -> str:
            async with client(server.url) as http:
                return (await read_stream(http, "GET", f"{place}/events")).text

        assert set(await asyncio.gather(*(follow() for _ in range(12)))) == {text_of_tokens(120)}
        place = stopped.response.headers["location"]
        records = await asyncio.gather(*(meet("DELETE", place) for _ in range(6)))
        assert {each.json()["state"] for each in records} == {"cancelled"}
        assert server.stop() in (0, -signal.SIGTERM)
        assert "Traceback" not in server.log()


async def test_a_waiting_task_goes_on_in_another_process_when_its_own_goes_down(
    tmp_path: Path,
):
    env = environment(tmp_path, **LIMITS | {"SSE_DRAIN_GRACE": "0.5"})
    migrate(env)
    with side_by_side(tmp_path, env) as (first, second):
        async with client(first.url) as http:
            places = [
                (await http.post(LATER, json=brief(options=PATIENT))).json()["task_id"] for _ in range(2)
            ]
            waiting = asyncio.create_task(
                read_stream(http, "POST", STREAM, json=brief(options={"tokens": 30, "interval": 0.01}))
            )
            unread = (await http.post(LATER, json=brief(options={"tokens": 9, "interval": 0}))).json()

            async def queued() -> bool:
                return bool((await http.get("/stats")).json()["pools"]["agent_pool"]["waiting"] == 2)

            assert await eventually(queued)
            assert first.stop() == 0
            sent_away = await waiting
            assert sent_away.events[-1].name == "reconnect"
            task_id = sent_away.response.headers["x-stream-id"]
            async with client(second.url) as other:
                again = await read_stream(other, "GET", f"/streams/{task_id}/events")
                assert again.end.name == "complete"
                assert again.text == text_of_tokens(30)

                async def done() -> bool:
                    record = (await other.get(f"/streams/{unread['task_id']}")).json()
                    return bool(record["state"] == "complete" and record["text"] == text_of_tokens(9))

                assert await eventually(done, 20)
                for place in places:
                    record = (await other.get(f"/streams/{place}")).json()
                    assert (record["state"], record["error"]["code"]) == ("error", "interrupted")
            assert_clean(second)


@pytest.mark.long
async def test_a_waiting_task_goes_on_after_its_process_was_killed(tmp_path: Path):
    env = environment(tmp_path, **LIMITS | {"AGENT_POOL_QUEUE_SIZE": "3"})
    migrate(env)
    with side_by_side(tmp_path, env) as (first, second):
        async with client(first.url) as http:
            for _ in range(2):
                await http.post(LATER, json=brief(options=PATIENT))
            waiting = [
                (await http.post(LATER, json=brief(options={"tokens": 9, "interval": 0.05}))).json()[
                    "task_id"
                ]
                for _ in range(3)
            ]
        first.stop(signal.SIGKILL)
        async with client(second.url) as http:
            for task_id in waiting:
                whole = await read_stream(http, "GET", f"/streams/{task_id}/events")
                assert whole.end.name == "complete"
                assert whole.text == text_of_tokens(9)
                assert whole.ids[-1] < 100, "nothing was lost, as nothing had begun"
        assert_clean(second)
