"""`/readyz`: 503 with a reason while a process should get no work, within two seconds whatever happens."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx2
import pytest

from tests.support.client import STREAM, brief, client, eventually, generate, read_stream
from tests.support.postgresql import Cluster
from tests.support.servers import Server, environment, migrate, serving, started

pytestmark = pytest.mark.server

PROMISE = 2.0
"""Seconds within which there is an answer."""

NAMES = ["database", "migrations", "records", "pool agent_pool", "pool kernel_pool", "loop", "draining"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A pool of one worker."""
    folder = tmp_path_factory.mktemp("ready")
    env = environment(folder, AGENT_POOL_MAX_WORKERS="1", AGENT_POOL_RUN_TIMEOUT="1")
    migrate(env)
    with started("serve", folder, env) as made:
        yield made


@asynccontextmanager
async def asking(server: Server) -> AsyncIterator[httpx2.AsyncClient]:
    """A client whose patience is what is promised, and a bit for a busy machine."""
    async with client(server.url, timeout=2 * PROMISE) as http:
        yield http


async def states(http: httpx2.AsyncClient) -> tuple[int, dict[str, str]]:
    response = await http.get("/readyz")
    checks = response.json()["checks"]
    assert [check["name"] for check in checks] == NAMES
    assert all(check["message"] for check in checks)
    failed = any(check["state"] == "failed" for check in checks)
    assert response.status_code == (503 if failed else 200)
    return response.status_code, {check["name"]: check["state"] for check in checks}


async def until(http: httpx2.AsyncClient, status: int, **wanted: str) -> dict[str, str]:
    """Ask until the answer has that status, and these checks these states; returns all states."""

    async def so() -> dict[str, str]:
        found, checks = await states(http)
        return checks if found == status and wanted.items() <= checks.items() else {}

    checks = await eventually(so, 20)
    assert checks, (await http.get("/readyz")).text
    return checks


async def test_a_server_that_is_well_is_ready(small: Server):
    async with asking(small) as http:
        response = await http.get("/readyz")
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        assert response.json()["status"] == "ready"
        assert set((await states(http))[1].values()) == {"ok"}
        assert (await http.head("/readyz")).status_code == 200
        chinese = await http.get("/readyz", headers={"Accept-Language": "zh-hans"})
        assert chinese.json()["checks"] != [], "in the reader's words, where they are translated"


async def test_a_producer_that_does_not_come_back_is_shown(small: Server):
    """It sleeps in its thread, whatever its task's time limit says; then it comes back."""
    async with asking(small) as http:
        script = {"tokens": 2, "interval": 0.01, "start_delay": 4, "blocking": True}
        reading = await generate(http, options=script)
        assert reading.end.data["code"] == "run_timeout"
        checks = await until(http, 503, **{"pool agent_pool": "failed"})
        assert checks["pool kernel_pool"] == "ok"
        problem = (await http.get("/readyz")).json()
        assert (problem["code"], problem["status"]) == ("not_ready", 503)
        assert "1 of 1" in problem["detail"]
        await until(http, 200, **{"pool agent_pool": "ok"})


async def test_a_server_that_goes_down_is_not_ready(tmp_path: Path):
    """While streams get their grace, it still answers."""
    env = environment(tmp_path, SSE_DRAIN_GRACE="20")
    migrate(env)
    async with serving("serve", tmp_path, env) as server, asking(server) as http:
        script = {"tokens": 400, "interval": 0.02}
        reading = asyncio.create_task(read_stream(http, "POST", STREAM, json=brief(options=script)))

        async def runs() -> bool:
            return bool((await http.get("/stats")).json()["pools"]["agent_pool"]["running"])

        assert await eventually(runs)
        server.process.send_signal(signal.SIGTERM)
        checks = await until(http, 503, draining="failed")
        assert checks["database"] == "ok"
        assert (await http.get("/healthz")).status_code == 200, "it lives"
        reading.cancel()


async def test_a_migration_that_is_not_applied_is_told(tmp_path: Path):
    env = environment(tmp_path)
    migrate(env)
    last = "app = 'streaming' AND name = (SELECT MAX(name) FROM django_migrations WHERE app = 'streaming')"
    with closing(sqlite3.connect(tmp_path / "test.sqlite3")) as database:
        # As a release with a new migration finds it.
        (row,) = database.execute(f"SELECT * FROM django_migrations WHERE {last}").fetchall()  # noqa: S608
        database.execute(f"DELETE FROM django_migrations WHERE {last}")  # noqa: S608
        database.commit()
        async with serving("serve", tmp_path, env) as server, asking(server) as http:
            checks = await until(http, 503, migrations="failed")
            assert checks["database"] == "ok"
            detail = (await http.get("/readyz")).json()["detail"]
            assert detail.startswith("1 migration is not applied")
            database.execute("INSERT INTO django_migrations VALUES (?, ?, ?, ?)", row)
            database.commit()
            await until(http, 200, migrations="ok")


async def test_a_database_that_hangs_or_is_gone_is_told_in_time(tmp_path: Path, postgresql: Cluster):
    env = environment(tmp_path, DATABASE_URL=postgresql.migrated())
    async with serving("serve", tmp_path, env) as server, asking(server) as http:
        await until(http, 200)
        postgresql.process.send_signal(signal.SIGSTOP)
        try:
            # New connections hang from now on.
            checks = await until(http, 503, database="failed")
            assert checks["migrations"] == "failed"
            began = time.monotonic()
            answers = await asyncio.gather(*(http.get("/readyz") for _ in range(20)))
            assert time.monotonic() - began < 10 * PROMISE
            assert {answer.status_code for answer in answers} == {503}
            assert all(str(postgresql.port) not in answer.text for answer in answers), "no internals"
        finally:
            postgresql.process.send_signal(signal.SIGCONT)
        await until(http, 200, database="ok")
        await asyncio.to_thread(postgresql.stop)
        try:
            checks = await until(http, 503, database="failed")
            assert (await http.get("/healthz")).status_code == 200
            somebody = {"Cookie": f"sessionid={'x' * 32}", "Accept": "text/html"}
            page = await http.get("/admin/", headers=somebody)
            assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
            assert "The database does not answer" in page.text
        finally:
            await asyncio.to_thread(postgresql.start)
        await until(http, 200, database="ok", records="ok")
