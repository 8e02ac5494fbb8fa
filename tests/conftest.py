"""Fixtures that every kind of test may use."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import hypothesis
import pytest
from django.db import connections

from tests.support.jupyter import JupyterServer, jupyter_server
from tests.support.postgresql import INSTALL, Cluster, cluster, find_programs
from tests.support.redis import INSTALL as INSTALL_REDIS
from tests.support.redis import RedisServer, find_redis
from tests.support.redis import redis_server as make_redis_server
from tests.support.scale import ALL, LONG_FAULTS, SERVERS
from tests.support.servers import MIGRATED, Server, running

# A run says something about the code, not about its luck: the same examples each time. New ones are drawn by
# `make test-all ARGS="--hypothesis-profile default"`.
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    max_examples=100 if ALL else 40,
    # A busy machine draws slowly.
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """One migrated database for all processes of this run; see `tests.support.servers.migrated`."""
    if MIGRATED not in os.environ:
        folder = os.environ[MIGRATED] = tempfile.mkdtemp(prefix="migrated-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`make test` sees each behaviour once; what has the mark `long` is left to longer runs."""
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        (kept if _runs(item) else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _runs(item: pytest.Item) -> bool:
    if item.get_closest_marker("long") is None or item.get_closest_marker("every_variant") is not None:
        return True
    return LONG_FAULTS if "faults" in item.path.parts else ALL


@pytest.fixture(scope="session", autouse=True)
def _few_lines() -> None:
    """The lines of each task and request in this process would be all that one sees of a run."""
    for name in ("streaming.tasks", "streaming.access"):
        logging.getLogger(name).setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Starts a server of a kind, once: pytest would do so whenever the parameter of `server` changes."""
    with ExitStack() as stack:

        @cache
        def server(kind: str) -> Server:
            limits = {
                "AGENT_POOL_PER_OWNER": "50",
                "AGENT_POOL_MAX_WORKERS": "20",
                "SERVER_HOT_DOOR": "true" if kind == "serve" else "false",
            }
            return stack.enter_context(running(kind, tmp_path_factory.mktemp(kind), **limits))

        yield server


@pytest.fixture(scope="session", params=SERVERS)
def server(request: pytest.FixtureRequest, _servers: Callable[[str], Server]) -> Server:
    """The HTTP suite runs on uvicorn (as `manage.py serve` starts it), through the hot door, and on Daphne,
    through Django's chain alone; there in `make test` only what has the mark `every_variant`."""
    return _servers(request.param)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """A PostgreSQL of our own; `migrated()` is the DATABASE_URL of a new database with all tables."""
    if find_programs() is None:
        pytest.skip(INSTALL)
    with cluster() as made:
        yield made


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis of our own; `url()` is the REDIS_URL of a database that nobody else has."""
    if find_redis() is None:
        pytest.skip(INSTALL_REDIS)
    with make_redis_server() as made:
        yield made


@pytest.fixture(scope="session")
def jupyter() -> Iterator[JupyterServer]:
    """A Jupyter Server of our own."""
    with jupyter_server() as made:
        yield made


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In-process tests get a database in a file too: Django never closes a connection to one in memory, and
    every thread that we lend has a connection of its own."""
    database = connections["default"].settings_dict
    if database["ENGINE"] == "django.db.backends.sqlite3":
        database["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")
