"""Workers (`manage.py worker`) over a real Redis: what is handed to one runs there, once; the broker may go
away and come back; a worker that is told to end ends what it has."""

from __future__ import annotations

import base64
import json
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import REDIS_OPTIONS, Node
from tests.support.handing import POOL, Handing, handing
from tests.support.redis import INSTALL, RedisServer, find_redis, redis_server
from tests.support.servers import environment, migrate

pytestmark = pytest.mark.server

PATIENCE = 20.0
SLOTS = 2
QUEUE = f"sluice:celery:sluice.{POOL}"
UNACKNOWLEDGED = "sluice:celery:unacked"


@dataclass
class Works:
    """A worker, who hands it tasks, and the broker between them."""

    worker: Node
    handing: Handing
    redis: RedisServer

    def hand(self, **options: Any) -> str:
        """Make a task and publish it; its id."""
        task_id = self.handing.make(**options)
        assert self.handing.publish(task_id)["error"] == ""
        return task_id

    def end_of(self, task_id: str) -> dict[str, Any]:
        """The row when it has ended, or as it is after a while."""
        until(lambda: self.handing.row(task_id)["state"] not in ("queued", "running"))
        return self.handing.row(task_id)

    def messages(self) -> tuple[int, int]:
        """How many wait at the broker, and how many a worker has not acknowledged."""
        with self.redis.client(1) as client:
            return int(client.llen(QUEUE)), int(client.hlen(UNACKNOWLEDGED))


def until(check: Callable[[], object]) -> None:
    """Ask again until it is true, or PATIENCE is over."""
    deadline = time.monotonic() + PATIENCE
    while not check() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Works]:
    if find_redis() is None:
        pytest.skip(INSTALL)
    folder = tmp_path_factory.mktemp("worker")
    with redis_server(**REDIS_OPTIONS) as broker:
        env = environment(
            folder,
            REDIS_URL=broker.url(0),
            CELERY_BROKER_URL=broker.url(1),
            STREAM_ENGINE="celery",
            CLUSTER_SIGNED="true",
            SSE_DRAIN_GRACE="0.5",
        )
        migrate(env)
        command = ["manage.py", "worker", "--concurrency", str(SLOTS), "--pools", POOL]
        worker = Node("worker 1", command, folder, env, 0)
        worker.launch()
        try:
            with handing(env) as hands:
                worker.wait()
                yield Works(worker, hands, broker)
        finally:
            worker.kill()


def test_what_is_published_runs_at_the_worker(works):
    tasks = [works.hand(tokens=3, blocking=blocking) for blocking in (False, True)]
    for task_id in tasks:
        row = works.end_of(task_id)
        assert (row["state"], row["text"]) == ("complete", "0 1 2 ")
        assert row["process"]
        assert row["events"].count("complete") == 1
        assert row["events"][-1] == "complete"
    until(lambda: works.messages() == (0, 0))
    assert works.messages() == (0, 0)


def test_what_comes_twice_runs_once(works):
    task_id = works.hand(tokens=3, interval=0.1)
    assert works.handing.publish(task_id)["error"] == ""
    row = works.end_of(task_id)
    assert works.handing.publish(task_id)["error"] == ""
    until(lambda: works.messages() == (0, 0))
    assert works.messages() == (0, 0)
    assert works.handing.row(task_id) == row
    assert (row["state"], row["text"], row["epoch"]) == ("complete", "0 1 2 ", 2)


def test_no_more_messages_are_taken_than_there_are_slots(works):
    tasks = [works.hand(tokens=2, interval=0.2) for _ in range(2 * SLOTS + 1)]
    most = 0
    while any(works.handing.row(task_id)["state"] in ("queued", "running") for task_id in tasks):
        most = max(most, works.messages()[1])
    assert most == SLOTS
    assert [works.end_of(task_id)["text"] for task_id in tasks] == ["0 1 "] * len(tasks)


def test_what_we_have_not_signed_is_not_run(works):
    before = works.worker.log().count("was not signed")
    works.handing.forge("0" * 32)
    until(lambda: works.worker.log().count("was not signed") > before)
    assert works.worker.log().count("was not signed") == before + 1
    until(lambda: works.messages() == (0, 0))
    assert works.messages() == (0, 0)


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_opened(works, tmp_path):
    trap = tmp_path / "opened"
    pickle.loads(pickle.dumps(Trap(trap)))  # noqa: S301 (it is ours)
    assert trap.exists(), "the trap must work"
    trap.unlink()
    works.redis.client(1).lpush(QUEUE, _message(pickle.dumps(Trap(trap)), "application/x-python-serialize"))
    works.end_of(works.hand(tokens=1))
    until(lambda: works.messages() == (0, 0))
    assert works.messages() == (0, 0)
    assert not trap.exists()
    assert works.worker.lives


def _message(body: bytes, content_type: str) -> str:
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "binary",
            "content-type": content_type,
            "headers": {"lang": "py", "task": "sluice.run", "id": "x", "root_id": "x", "argsrepr": ""},
            "properties": {
                "correlation_id": "x",
                "delivery_info": {"exchange": "", "routing_key": f"sluice.{POOL}"},
                "delivery_mode": 2,
                "delivery_tag": "x",
                "priority": 0,
                "body_encoding": "base64",
            },
        }
    )


def test_the_broker_freezes_and_dies_and_comes_back(works):
    """Who publishes is told soon; a worker takes messages again by itself; what runs goes on."""
    running = works.hand(tokens=2, interval=2)
    works.redis.freeze()
    try:
        told = works.handing.publish("0" * 32)
    finally:
        works.redis.thaw()
    assert "Timeout" in told["error"]
    assert told["seconds"] < 10, "a second is promised"
    assert works.end_of(works.hand(tokens=1))["text"] == "0 "
    works.redis.kill()
    assert works.handing.publish("0" * 32)["error"]
    works.redis.start()
    assert works.end_of(works.hand(tokens=1))["text"] == "0 "
    row = works.end_of(running)
    assert (row["state"], row["text"], row["epoch"]) == ("complete", "0 1 ", 2)
    with works.redis.client(1) as client:
        # What was acknowledged in the last second before the crash may be there again, and does no harm.
        client.delete(UNACKNOWLEDGED)


def test_a_worker_that_is_told_to_end_ends_what_it_has(works):
    task_id = works.hand(tokens=1000, interval=0.05)
    until(lambda: works.handing.row(task_id)["state"] == "running")
    assert works.worker.stop(signal.SIGTERM) == 0
    row = works.handing.row(task_id)
    assert (row["state"], row["error_code"]) == ("error", "interrupted")
    assert row["events"][-1] == "error"
    assert works.messages() == (0, 0)


@pytest.mark.long
def test_a_second_signal_does_not_wait(works):
    works.worker.start(SSE_DRAIN_GRACE="300")
    task_id = works.hand(tokens=1000, interval=0.05)
    until(lambda: works.handing.row(task_id)["state"] == "running")
    works.worker.process.terminate()
    until(lambda: works.worker.log().count("draining") == 2)
    assert works.worker.lives
    assert works.worker.stop(signal.SIGTERM) == 0
    assert works.handing.row(task_id)["error_code"] == "interrupted"
