"""Events of dead processes that Redis has and the database has not: the last quarter second, mostly."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from streaming.runtime.journals.redis_streams import APPEND, FENCE_LIFE

logger = logging.getLogger(__name__)

CONNECTIONS: Final = 2

PATIENCE: Final = 5.0
"""Seconds for which Redis is not asked after it has not answered."""

T = TypeVar("T")


class RedisSurvivors:
    """See `survivors.Survivors`. `prefix`: before all keys, without its colon; `timeout`: seconds that Redis
    has for an answer; `lifetime`: seconds that a stream stays after its end. Connects when it is asked
    something."""

    def __init__(self, url: str, *, prefix: str, timeout: float, lifetime: float) -> None:
        self._prefix = prefix
        self._lifetime = max(1, round(lifetime))
        self._away_until = 0.0
        self._redis: redis.Redis = redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            max_connections=CONNECTIONS,
        )

    def fence(self, task_id: str, epoch: int) -> None:
        """Refuse older writers."""
        self._append(task_id, epoch, 1, ())

    def _asked(self, ask: Callable[[], T], otherwise: T) -> T:
        """The answer. After none came in time, none is asked for a while: who takes over has many tasks to
        see to, and a sign of life to give."""
        if time.monotonic() < self._away_until:
            return otherwise
        try:
            return ask()
        except (redis.RedisError, OSError) as error:
            # The database decides who has a task; here an older writer would only be noticed later.
            self._away_until = time.monotonic() + PATIENCE
            logger.warning("Redis does not tell what it has of tasks whose process is gone: %s", error)
            return otherwise

    def tail(self, task_id: str, after_id: int) -> list[bytes]:
        """What is there behind the id."""
        key = self._key("s", task_id)

        def ask() -> Any:
            return self._redis.xrange(key, min=f"({after_id}-0")

        found: list[Any] = self._asked(ask, [])
        return [fields[b"f"] for _, fields in found if b"f" in fields]

    def ended(self, task_id: str, frame: bytes, event_id: int, epoch: int) -> None:
        """Readers who follow by Redis get the end from there."""
        self._append(task_id, epoch, event_id, (frame,))

    def _append(self, task_id: str, epoch: int, first_id: int, frames: tuple[bytes, ...]) -> None:
        keys = self._key("s", task_id), self._key("e", task_id)
        numbers = epoch, 0, first_id, 1, self._lifetime, self._lifetime + FENCE_LIFE
        self._asked(lambda: self._redis.eval(APPEND.text, len(keys), *keys, *numbers, "", *frames), None)

    def _key(self, kind: str, task_id: str) -> str:
        return f"{self._prefix}:{kind}:{task_id}"
