"""Somebody else holds the database's lock: a backup, a migration, an admin's forgotten transaction. Who has
to write is told so soon, who reads does not wait, and streams go on."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.client import STREAM, brief, client, eventually, read_stream
from tests.support.postgresql import Cluster
from tests.support.programs import programs
from tests.support.servers import Server, environment, migrate, started
from tests.support.sockets import opened

from .conftest import TOKEN, assert_clean

pytestmark = pytest.mark.server

LATER = "/content/generate/async"

SOON = 10.0
"""Seconds for any answer, on a busy machine; without a limit of their own calls wait for 20, or for ever."""

SHORT = {"tokens": 3, "interval": 0}
TEXT = "0 1 2 "

NOBODY = {"Accept": "text/html", "Cookie": f"csrftoken={TOKEN}", "X-CSRFToken": TOKEN}
"""Who is not signed in."""

MAKE_PEOPLE = """
import django, json
django.setup()
from django.contrib.auth import get_user_model
from django.test import Client
boss = get_user_model().objects.create_superuser("boss", password="correct horse")
caller = Client()
caller.force_login(boss)
print(json.dumps(caller.cookies["sessionid"].value))
"""

WRITTEN = ("streaming_streamtask", "streaming_process", "streaming_ticket", "streaming_idempotencykey")
OF_DJANGO = ("django_session", "auth_user", "auth_group")


@dataclass
class House:
    """A server, the session of its superuser, and its database's lock. `write_locked`: others may read;
    `wholly_locked`: they may not, where the database knows that."""

    server: Server
    headers: dict[str, str]
    write_locked: Callable[[], AbstractContextManager[None]]
    wholly_locked: Callable[[], AbstractContextManager[None]]

    @asynccontextmanager
    async def asking(self, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
        async with client(self.server.url, headers={**self.headers, **headers}, timeout=SOON) as http:
            yield http


@contextmanager
def sqlite_locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=SOON)) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            database.execute("ROLLBACK")


@contextmanager
def tables_locked(url: str, mode: str) -> Iterator[None]:
    with psycopg.connect(url) as connection:
        connection.execute(f"LOCK TABLE {', '.join(WRITTEN + OF_DJANGO)} IN {mode} MODE")
        try:
            yield
        finally:
            connection.rollback()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("locked")
    env = environment(folder, AGENT_POOL_MAX_WORKERS="20", AGENT_POOL_PER_OWNER="20")
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgresql")
        url = env["DATABASE_URL"] = cluster.migrated()
        locks = (partial(tables_locked, url, "EXCLUSIVE"), partial(tables_locked, url, "ACCESS EXCLUSIVE"))
    else:
        migrate(env)
        locks = (partial(sqlite_locked, folder / "test.sqlite3"),) * 2
    with started("serve", folder, env) as server, programs(env) as console:
        session = json.loads(console.code(MAKE_PEOPLE))
        headers = {"Cookie": f"sessionid={session}; csrftoken={TOKEN}", "X-CSRFToken": TOKEN}
        yield House(server, headers, *locks)
        assert_clean(server)


async def ended(http: httpx2.AsyncClient) -> str:
    """The id of a task that has ended, and is written."""
    task_id = str((await http.post(LATER, json=brief(options=SHORT))).json()["task_id"])

    async def complete() -> bool:
        return bool((await http.get(f"/streams/{task_id}")).json()["state"] == "complete")

    assert await eventually(complete)
    assert (await http.get("/streams")).json()["items"]
    return task_id


async def readiness(http: httpx2.AsyncClient) -> tuple[int, dict[str, str]]:
    answer = await http.get("/readyz")
    return answer.status_code, {check["name"]: check["state"] for check in answer.json()["checks"]}


async def unready(http: httpx2.AsyncClient) -> dict[str, str]:
    """The checks, as soon as one has failed."""
    status, checks = await readiness(http)
    return checks if status == 503 else {}


def writes(http: httpx2.AsyncClient, task_id: str) -> dict[str, Coroutine[Any, Any, httpx2.Response]]:
    """Calls that cannot be answered without writing."""
    work = brief(options=SHORT)
    people = {"username": "boss", "password": "correct horse"}
    return {
        "ticket": http.post("/tickets", json={"socket": "/ws/generate/"}),
        "202": http.post(LATER, json=work),
        "202 with a key": http.post(LATER, json=work, headers={"Idempotency-Key": "later"}),
        "stream with a key": http.post(STREAM, json=work, headers={"Idempotency-Key": "stream"}),
        "sign-in": http.post("/accounts/login/", data=people, headers=NOBODY),
        "admin": http.post("/admin/auth/group/add/", data={"name": "new"}, headers={"Accept": "text/html"}),
        "purge": http.delete(f"/streams/{task_id}", params={"purge": "true"}),
    }


def reads(http: httpx2.AsyncClient, task_id: str) -> dict[str, Coroutine[Any, Any, httpx2.Response]]:
    """Calls that can."""
    return {
        "list": http.get("/streams"),
        "record": http.get(f"/streams/{task_id}"),
        "journal": http.get(f"/streams/{task_id}/events", headers={"Accept": "application/x-ndjson"}),
        "home": http.get("/", headers={"Accept": "text/html"}),
        "sign-in": http.get("/accounts/login/", headers=NOBODY),
        "admin": http.get("/admin/streaming/streamtask/", headers={"Accept": "text/html"}),
    }


async def test_who_writes_is_told_and_who_reads_is_served_and_streams_go_on(house: House) -> None:
    long = {"tokens": 450, "interval": 0.02}
    async with house.asking() as http:
        task_id = await ended(http)
        following = asyncio.create_task(read_stream(http, "POST", STREAM, json=brief(options=long)))
        with house.write_locked():
            begun = await read_stream(http, "POST", STREAM, json=brief(options=SHORT))
            assert (begun.end.name, begun.text) == ("complete", TEXT), "needs no database to begin"
            assert (await readiness(http))[0] == 200, "a lock of a moment is none's affair"
            asked = writes(http, task_id)
            for name, answer in zip(asked, await asyncio.gather(*asked.values()), strict=True):
                assert answer.status_code == 503, (name, answer.status_code, answer.text[:500])
                assert int(answer.headers["Retry-After"]) > 0, name
                if answer.headers["content-type"] == "application/problem+json":
                    assert answer.json()["code"] == "storage_unavailable", name
                else:
                    assert name in ("sign-in", "admin")
                    assert "The database does not answer" in answer.text
            checks = await eventually(lambda: unready(http), 2 * SOON)
            assert (checks["records"], checks["database"]) == ("failed", "ok")
            waits = asyncio.create_task(http.post("/tickets", json={"socket": "/ws/generate/"}))
            asked = reads(http, task_id)
            for name, answer in zip(asked, await asyncio.gather(*asked.values()), strict=True):
                assert answer.status_code == 200, (name, answer.status_code, answer.text[:500])
            assert not waits.done(), "and none of them waits for the lock"
            assert (await waits).status_code == 503

        async def ready() -> bool:
            return (await readiness(http))[0] == 200

        assert await eventually(ready, 2 * SOON)
        reading = await following
        assert (reading.end.name, reading.text) == ("complete", " ".join(map(str, range(450))) + " ")
        assert reading.ids == list(range(1, len(reading.ids) + 1))
        asked = writes(http, task_id)
        asked.pop("purge").close()
        for name, answer in zip(asked, await asyncio.gather(*asked.values()), strict=True):
            assert answer.status_code < 400, (name, answer.text[:500])

        async def written() -> bool:
            items = (await http.get("/streams")).json()["items"]
            return {item["id"]: item["text"] for item in items}.get(begun_id) == TEXT

        begun_id = begun.response.headers["x-stream-id"]
        assert await eventually(written), "what happened meanwhile is not lost"


async def test_a_ticket_that_cannot_be_used_up_opens_nothing_and_is_good_afterwards(house: House) -> None:
    """Over HTTP and at a socket's handshake."""
    async with house.asking() as http:
        task_id = await ended(http)
        url, other = [
            str((await http.post("/tickets", json={"stream_id": task_id})).json()["url"]) for _ in range(2)
        ]
        socket = f"/ws/streams/{task_id}/?{other.partition('?')[2]}"
        with house.write_locked():
            refused = await http.get(url, headers={"Cookie": ""})
            assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
            with pytest.raises(InvalidStatus) as handshake:
                async with opened(house.server, socket):
                    pass
            assert handshake.value.response.status_code == 503
        assert (await read_stream(http, "GET", url, headers={"Cookie": ""})).text == TEXT
        async with opened(house.server, socket) as reader:
            assert (await reader.rest())[-1]["type"] == "complete"


async def test_readiness_notices_it_where_nothing_happens(house: House) -> None:
    async with house.asking() as http:
        with house.write_locked():
            checks = await eventually(lambda: unready(http), 2 * SOON)
            assert checks["records"] == "failed"


async def test_tables_that_nobody_may_read_hold_nobody_either(house: House) -> None:
    """A migration that rewrites a table, or `VACUUM FULL`. (SQLite lets read.)"""
    async with house.asking() as http:
        task_id = await ended(http)
        with house.wholly_locked():
            asked = reads(http, task_id) | {
                "record of a stranger's": http.get(f"/streams/{'2' * 32}"),
                "ticket": http.post("/tickets", json={"socket": "/ws/generate/"}),
            }
            for name, answer in zip(asked, await asyncio.gather(*asked.values()), strict=True):
                assert answer.status_code in (200, 404, 503), (name, answer.status_code, answer.text[:500])
                if answer.status_code == 503:
                    assert int(answer.headers["Retry-After"]) > 0, name
