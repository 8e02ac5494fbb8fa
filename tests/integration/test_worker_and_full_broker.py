"""A worker whose broker has no memory left: it neither ends nor piles up connections, and works again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.cluster import Node
from tests.support.programs import programs
from tests.support.redis import INSTALL, find_redis, redis_server
from tests.support.servers import environment, migrate

pytestmark = pytest.mark.server

PUBLISH = """
import sys
from streaming.worker.publishing import publish
for number in range(30):
    publish("agent_pool", f"{number:032x}")
"""


def until(check: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not check() and time.monotonic() < deadline:
        time.sleep(0.05)
    return check()


def test_a_worker_outlives_a_broker_without_memory(tmp_path: Path):
    if find_redis() is None:
        pytest.skip(INSTALL)
    with redis_server() as redis:
        env = environment(
            tmp_path, REDIS_URL=redis.url(0), CELERY_BROKER_URL=redis.url(1), STREAM_ENGINE="celery"
        )
        migrate(env)
        worker = Node("worker 1", ["manage.py", "worker"], tmp_path, env, 0)
        worker.start()
        try:
            files = psutil.Process(worker.process.pid).num_fds()
            worker.freeze()
            with programs(env) as manage:
                manage.code(PUBLISH)
            broker = redis.client(1)
            broker.config_set("maxmemory", 1)
            worker.thaw()
            assert until(lambda: worker.log().count("used memory > 'maxmemory'") >= 2), "it tries again"
            assert psutil.Process(worker.process.pid).num_fds() < files + 10
            broker.config_set("maxmemory", 0)
            # Nobody has such tasks: their messages are taken, and that is all.
            assert until(lambda: broker.llen("sluice:celery:sluice.agent_pool") == 0)
            assert worker.lives
        finally:
            worker.kill()
