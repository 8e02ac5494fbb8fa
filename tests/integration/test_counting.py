"""What the statistics count is what happened, whatever happens to processes."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from streaming.core.rollup import decode, merged
from tests.support.client import brief, client, eventually
from tests.support.scale import DATABASES
from tests.support.servers import environment, migrate, started

pytestmark = pytest.mark.server

LIMITS = {"AGENT_POOL_MAX_WORKERS": "3", "AGENT_POOL_QUEUE_SIZE": "2", "AGENT_POOL_PER_OWNER": "50"}


@pytest.fixture(params=DATABASES)
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of servers that share one database."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").migrated()
        return environment(tmp_path, DATABASE_URL=url, **LIMITS)
    made = environment(tmp_path, **LIMITS)
    migrate(made)
    return made


def ask(env: dict[str, str], query: str) -> list[tuple[Any, ...]]:
    url = env["DATABASE_URL"]
    if url.startswith("postgres"):
        with psycopg.connect(url) as connection:
            return connection.execute(query).fetchall()
    database = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


async def load(
    http: httpx2.AsyncClient, count: int, path: str = "/content/generate", **options: Any
) -> Counter[int]:
    """So many at once; how many were answered how."""
    script = {"tokens": 5, "interval": 0.01, **options}
    answers = await asyncio.gather(*(http.post(path, json=brief(options=script)) for _ in range(count)))
    return Counter(answer.status_code for answer in answers)


SAYING = """
SELECT COUNT(DISTINCT task_id) FROM streaming_segment
JOIN streaming_streamtask ON streaming_streamtask.id = task_id WHERE finished_at IS NULL
"""


async def test_each_task_and_refusal_is_counted_once_also_when_a_process_is_killed(
    env: dict[str, str], tmp_path: Path
) -> None:
    answers: Counter[int] = Counter()
    with started("serve", tmp_path, env) as first, started("serve", tmp_path, env) as second:
        async with client(first.url) as http, client(second.url) as other:
            for _ in range(3):
                for each in await asyncio.gather(load(http, 9), load(other, 9)):
                    answers += each
            answers += await load(http, 3, "/content/generate/async", tokens=10_000)

            async def begun() -> bool:
                # What has said nothing yet would begin again in the other process.
                return ask(env, SAYING) == [(3,)]

            assert await eventually(begun)
            # Refusals are written soon, and with a kill none of them would be missing but the latest.
            refused = answers[503]
            assert refused

            async def all_written() -> bool:
                return ask(env, "SELECT SUM(count) FROM streaming_refusal") == [(refused,)]

            assert await eventually(all_written)
        first.stop(signal.SIGKILL)
        async with client(second.url) as other:
            answers += await load(other, 4)

            async def all_ended() -> bool:
                return ask(env, "SELECT COUNT(*) FROM streaming_streamtask WHERE finished_at IS NULL") == [
                    (0,)
                ]

            assert await eventually(all_ended, 20)
            # Ends of tasks of the killed process are there; so is their count, as it is the same transaction.
            found = merged(decode(row[0]) for row in ask(env, "SELECT numbers FROM streaming_taskrollup"))
    routes = dict(ask(env, "SELECT route, COUNT(*) FROM streaming_streamtask GROUP BY route"))
    states = dict(ask(env, "SELECT state, COUNT(*) FROM streaming_streamtask GROUP BY state"))
    assert found.accepted == routes
    assert found.ends == states
    assert sum(routes.values()) == answers[200] + answers[202]
    assert found.errors == {"interrupted": 3}
    assert found.total.count == sum(states.values())
