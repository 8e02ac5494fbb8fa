"""Servers and callers that the modules of the HTTP suite share."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path

import httpx2
import pytest

from tests.support.client import client, eventually
from tests.support.servers import ROOT, Server, environment, started
from tests.support.servers import migrated as migrated_once

TOKEN = "c" * 32
"""A CSRF token, as cookie and as header."""

MAKE_PEOPLE = """
import django, json
django.setup()
from django.contrib.auth import get_user_model
from django.test import Client
User = get_user_model()
keys = {}
for name in ("alice", "bob", "operator"):
    caller = Client()
    caller.force_login(User.objects.create(username=name, is_staff=name == "operator"))
    keys[name] = caller.cookies["sessionid"].value
User.objects.create_superuser("root", password="correct horse")
print(json.dumps(keys))
"""


HARMLESS = re.compile(
    r"^.*ResourceWarning: (unclosed file <_io\.BufferedReader name='[^']*/static/|Enable tracemalloc).*$",
    re.MULTILINE,
)
"""A client that leaves with the last byte of a static file cancels servestatic while it closes the file,
which is then closed with its last reference."""


def assert_clean(server: Server, since: int = 0) -> None:
    """Nothing unforeseen happened in the server, from the character `since` of its log on."""
    log = HARMLESS.sub("", server.log()[since:])
    for word in ("Traceback", "Warning", "never awaited"):
        assert word not in log, log[max(0, log.index(word) - 2000) :][:6000]


@pytest.fixture(scope="module")
def clean_log(server: Server) -> Iterator[None]:
    """A module's tests add no traceback and no warning of Python's to the server's log."""
    before = len(server.log())
    yield
    assert_clean(server, before)


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the server."""
    async with client(server.url) as made:
        yield made


@pytest.fixture
async def here(pair: tuple[Server, Server]) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the first of the module's two servers (`pair`)."""
    async with client(pair[0].url) as made:
        yield made


@pytest.fixture
async def there(pair: tuple[Server, Server]) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the other one."""
    async with client(pair[1].url) as made:
        yield made


@pytest.fixture(scope="session")
def migrated() -> Path:
    """A database with tables and without rows, to be copied."""
    return migrated_once()


@pytest.fixture(scope="session")
def tight(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Server]:
    """A server with one worker, one place in the queue, and short limits everywhere."""
    limits = {
        "AGENT_POOL_MAX_WORKERS": "1",
        "AGENT_POOL_QUEUE_SIZE": "1",
        "AGENT_POOL_PER_OWNER": "2",
        "AGENT_POOL_QUEUE_TIMEOUT": "2",
        "AGENT_POOL_RUN_TIMEOUT": "3",
        "SERVER_BODY_TIMEOUT": "0.5",
        "ACCESS_RECHECK_INTERVAL": "1",
        "SSE_CLEANUP_INTERVAL": "0.5",
        "SSE_HEARTBEAT_INTERVAL": "0.3",
        "SSE_MAX_FOLLOWERS": "3",
        "SSE_REPLAY_TTL": "1",
        "SSE_STATUS_MESSAGE_INTERVAL": "0",
    }
    folder = tmp_path_factory.mktemp("tight")
    shutil.copy(migrated, folder)
    with started("serve", folder, environment(folder, **limits)) as made:
        yield made
        assert_clean(made)


@pytest.fixture
async def tight_http(tight: Server) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the small server, which it leaves idle."""
    async with client(tight.url) as made:
        yield made
        await idle(made)


async def idle(http: httpx2.AsyncClient) -> None:
    """Wait until the pool is empty, so that the next test finds it so."""

    async def empty() -> bool:
        pool = (await http.get("/stats")).json()["pools"]["agent_pool"]
        return bool(pool["running"] == pool["waiting"] == 0)

    assert await eventually(empty, 20)


@pytest.fixture(scope="session")
def people(server: Server) -> dict[str, dict[str, str]]:
    """Signed-in callers by name: the headers that speak for them. `operator` is staff."""
    return _make_people(server.database.parent)


@cache
def _make_people(folder: Path) -> dict[str, dict[str, str]]:
    """Once for each database: `server` alternates between two."""
    done = subprocess.run(
        [sys.executable, "-c", MAKE_PEOPLE],
        cwd=ROOT,
        env=environment(folder, DJANGO_SETTINGS_MODULE="settings.settings"),
        check=True,
        capture_output=True,
        timeout=60,
    )
    keys = json.loads(done.stdout)
    return {
        name: {"Cookie": f"sessionid={key}; csrftoken={TOKEN}", "X-CSRFToken": TOKEN}
        for name, key in keys.items()
    }
