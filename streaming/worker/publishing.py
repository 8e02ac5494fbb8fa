"""Telling a worker that a task is for it."""

from __future__ import annotations

from celery.exceptions import CeleryError
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from streaming.core.errors import StorageUnavailable

from .app import app
from .messages import TASK, queue_of, signature


def publish(pool: str, task_id: str) -> None:
    """Have a worker of the pool run the task. Blocks, for about CLUSTER's `redis_timeout` at most.

    Raises `StorageUnavailable` when the broker does not answer, or has no room. The message may have been
    sent all the same, and does no harm then.
    """
    try:
        app.send_task(
            TASK,
            (pool, task_id, signature(pool, task_id)),
            queue=queue_of(pool),
            retry=False,
            ignore_result=True,
        )
    except (OperationalError, KombuError, CeleryError, RedisError, OSError) as error:
        raise StorageUnavailable(task_id) from error
