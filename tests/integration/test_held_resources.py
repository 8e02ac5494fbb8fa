"""What two hundred open streams hold of a server: no thread and no database connection each."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

import httpx2
import psutil
import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher

from tests.support.client import STREAM, Received, brief, client, read_events
from tests.support.scale import SERVERS
from tests.support.servers import Server, environment, migrate, started

pytestmark = [pytest.mark.server, pytest.mark.load]

STREAMS = 200
AT_ONCE = 40
"""Connections that are opened at the same moment: Daphne lets the system keep fifty."""

KEY = "sluice_" + "k" * 43
"""An API key of the same user as the session's."""

KEPT_THREADS = 8 + 4
"""Threads that may stay after logged-in starts: the lent ones that are kept, the writer of records, the
one in which responses are closed, and room for one that is just going."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("held")
    env = environment(
        folder,
        AGENT_POOL_MAX_WORKERS=str(STREAMS + 50),
        AGENT_POOL_PER_OWNER=str(STREAMS + 50),
        SECURE_COOKIES="false",
    )
    migrate(env)
    _add_user(folder / "test.sqlite3")
    return folder, env


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, house: tuple[Path, dict[str, str]]) -> Iterator[Server]:
    with started(request.param, *house) as made:
        yield made


async def test_anonymous_streams_hold_no_thread_and_no_connection(server: Server):
    process = psutil.Process(server.process.pid)
    async with client(server.url) as http:
        await http.get("/healthz")
        threads = process.num_threads()
        async with _open_streams(http, {}):
            assert process.num_threads() <= threads + 4
            assert _database_files(process) <= 2
            assert _sockets(process) >= STREAMS, "they are open"
            assert (await http.get("/stats")).json()["followers"] == STREAMS
            assert process.num_threads() <= threads + 4
    await _all_back(process, server)


@pytest.mark.parametrize("way", [pytest.param("session", marks=pytest.mark.long), "key"])
async def test_owned_streams_hold_no_thread_and_no_connection(server: Server, way: str):
    """A session or a key costs a read of the database at the start, so a thread and a connection, which must
    go back before the first byte. One after the other, so that none needs a second connection."""
    process = psutil.Process(server.process.pid)
    async with client(server.url) as http:
        headers = await _log_in(http) if way == "session" else {"Authorization": f"Bearer {KEY}"}
        threads = process.num_threads()
        async with asyncio.timeout(100), AsyncExitStack() as stack:
            for _ in range(STREAMS):
                await stack.enter_async_context(_one_stream(http, headers))
            assert process.num_threads() <= threads + 6
            assert _database_files(process) <= 6
            assert _sockets(process) >= STREAMS
            page = (await http.get("/streams?limit=100", headers=headers)).json()
            assert len(page["items"]) == 100, "they are the caller's own"
    await _all_back(process, server)


async def test_a_burst_of_logged_in_starts_gives_its_threads_back(server: Server):
    """Starts at the same moment need a thread and a connection each at that moment, and only then.

    Of connections only the most at one moment can be counted from outside: SQLite keeps the file of a
    closed one for the next while another (the writer's) is open, because closing it would drop its locks.
    """
    process = psutil.Process(server.process.pid)
    async with client(server.url) as http:
        headers = await _log_in(http)
        threads = process.num_threads()
        async with _open_streams(http, headers):
            await _until(lambda: process.num_threads() <= threads + KEPT_THREADS, "a thread for each stream")
            files = _database_files(process)
            for _ in range(5):
                async with _one_stream(http, headers):
                    assert _database_files(process) <= files, "none is left to be used again"
    await _all_back(process, server)
    assert process.num_threads() <= threads + KEPT_THREADS


@asynccontextmanager
async def _open_streams(http: httpx2.AsyncClient, headers: dict[str, str]) -> AsyncIterator[None]:
    """All streams open, each past its first bytes."""
    async with asyncio.timeout(100), AsyncExitStack() as stack:
        turn = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with turn:
                await stack.enter_async_context(_one_stream(http, headers))

        async with asyncio.TaskGroup() as group:
            for _ in range(STREAMS):
                group.create_task(one())
        yield


@asynccontextmanager
async def _one_stream(http: httpx2.AsyncClient, headers: dict[str, str]) -> AsyncIterator[None]:
    members = brief(on_disconnect="cancel", options={"tokens": 10_000, "interval": 0.5})
    async with http.stream("POST", STREAM, json=members, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        events = cast("AsyncGenerator[Received]", read_events(response))
        assert (await anext(events)).name == "status"
        yield
        await events.aclose()


async def _log_in(http: httpx2.AsyncClient) -> dict[str, str]:
    """Headers of a signed-in caller."""
    await http.get("/admin/login/")
    token = http.cookies["csrftoken"]
    form = {"username": "reader", "password": "secret", "csrfmiddlewaretoken": token, "next": "/healthz"}
    answer = await http.post("/admin/login/", data=form)
    assert answer.status_code == 302, answer.text
    return {"X-CSRFToken": http.cookies["csrftoken"]}


def _add_user(database: Path) -> None:
    password = PBKDF2PasswordHasher().encode("secret", "salt", iterations=1000)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "INSERT INTO auth_user (username, password, is_superuser, is_staff, is_active, first_name,"
            " last_name, email, date_joined)"
            " VALUES ('reader', ?, 1, 1, 1, '', '', '', '2026-01-01T00:00:00')",
            (password,),
        )
        connection.execute(
            "INSERT INTO streaming_apikey (user_id, name, prefix, digest, created_at)"
            " VALUES (1, '', 'sluice_k', ?, '2026-01-01T00:00:00')",
            (hashlib.sha256(KEY.encode()).hexdigest(),),
        )


async def _all_back(process: psutil.Process, server: Server) -> None:
    async with client(server.url) as http:
        numbers: dict[str, Any] = {}
        for _ in range(200):
            numbers = (await http.get("/stats")).json()
            if numbers["followers"] == 0 and numbers["pools"]["agent_pool"]["running"] == 0:
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError(f"something stays: {numbers}")
    await _until(lambda: _sockets(process) == 0, "sockets stay open")
    assert "Traceback" not in server.log(), server.log()[-3000:]


def _database_files(process: psutil.Process) -> int:
    """Open files of the database itself (its journal and shared memory are files of their own)."""
    return sum(each.path.endswith(".sqlite3") for each in process.open_files())


def _sockets(process: psutil.Process) -> int:
    return sum(each.status != psutil.CONN_LISTEN for each in process.net_connections("tcp"))


async def _until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)
