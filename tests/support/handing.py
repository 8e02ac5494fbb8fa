"""Hands waiting tasks to workers, as a web process does; run by itself: `python -m tests.support.handing`.

Each line of input is an order, `{"make": {options of the scripted provider}}`, `{"publish": id}`,
`{"forge": id}` or `{"row": id}`, and is answered by a line.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.support.servers import ROOT

POOL = "agent_pool"


class Handing:
    """The process, from the test's side."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def make(self, **options: Any) -> str:
        """A task that waits for a process; its id."""
        return str(self._ask(make=options)["id"])

    def publish(self, task_id: str) -> dict[str, Any]:
        """`error`, empty if it went well, and `seconds` that it took."""
        return self._ask(publish=task_id)

    def forge(self, task_id: str) -> None:
        """A message with a signature of somebody who does not know the key."""
        self._ask(forge=task_id)

    def row(self, task_id: str) -> dict[str, Any]:
        """The task's `state`, `text`, `process`, `epoch`, `error_code`; `events`: names of the stored."""
        return self._ask(row=task_id)

    def _ask(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def handing(env: Mapping[str, str]) -> Iterator[Handing]:
    """A process that hands tasks, with the settings of a worker."""
    command = [sys.executable, "-m", "tests.support.handing"]
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Handing(process)
        finally:
            process.kill()


def _make(options: dict[str, Any]) -> dict[str, Any]:
    from django.utils import timezone

    from streaming.models import StreamTask

    brief = {
        "user_id": "test_user",
        "category": "food",
        "topic": "a new café",
        "tone": "lively",
        "length": "short",
        "language": "en",
        "provider": "scripted",
        "options": options,
    }
    snapshot = {
        "pool": POOL,
        "running": 5,
        "waiting": 0,
        "max_workers": 5,
        "queue_size": 30,
        "owner_active": 0,
        "per_owner": 3,
        "oldest_wait_seconds": 0.0,
    }
    row = StreamTask.objects.create(
        id=secrets.token_hex(16),
        kind="content",
        pool=POOL,
        priority=2,
        state="queued",
        process="",
        route="queued",
        reason="workers_busy",
        language="en",
        created_at=timezone.now(),
        arguments=brief,
        snapshot=snapshot,
    )
    return {"id": row.pk}


def _publish(task_id: str) -> dict[str, Any]:
    from streaming.core.errors import StorageUnavailable
    from streaming.worker.publishing import publish

    begin, error = time.monotonic(), ""
    try:
        publish(POOL, task_id)
    except StorageUnavailable as raised:
        error = repr(raised.__cause__)
    return {"error": error, "seconds": time.monotonic() - begin}


def _forge(task_id: str) -> dict[str, Any]:
    from streaming.worker.app import app
    from streaming.worker.messages import TASK, queue_of, signature

    signed = signature(POOL, task_id, secret="somebody else's")
    app.send_task(TASK, (POOL, task_id, signed), queue=queue_of(POOL), retry=False)
    return {}


def _row(task_id: str) -> dict[str, Any]:
    from streaming.core import sse
    from streaming.models import StreamTask
    from streaming.storage.stored import stored_events

    columns = ("state", "text", "process", "epoch", "error_code")
    found = StreamTask.objects.values(*columns).get(pk=task_id)
    return {**found, "events": [sse.name(each) for _, batch in stored_events(task_id) for each in batch]}


def _main() -> None:
    import os

    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings.settings")
    django.setup()
    orders: dict[str, Callable[[Any], dict[str, Any]]] = {
        "make": _make,
        "publish": _publish,
        "forge": _forge,
        "row": _row,
    }
    for line in sys.stdin:
        ((name, argument),) = json.loads(line).items()
        sys.stdout.write(json.dumps(orders[name](argument)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
