"""What the processes of an installation share by way of Redis, for one of them: where REDIS_URL names one."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from streaming import conf
from streaming.core.errors import StorageUnavailable
from streaming.core.quota import QuotaLimits
from streaming.runtime.journals.memory import MemoryJournal
from streaming.runtime.journals.redis_streams import StreamReader, StreamWriter
from streaming.runtime.ports import Recorder
from streaming.runtime.redis.connection import SharedRedis
from streaming.runtime.redis.pools import SharedPools
from streaming.runtime.redis.quotas import SharedQuotas
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import CancelReason

from .flights import Flights
from .mirror import MirroringRecorder
from .processes import Registry
from .replicas import Feed, Replicas
from .shared_queue import Publish, SharedQueue

logger = logging.getLogger(__name__)

CLOSING: Final = 1.0
"""Seconds that events have to reach Redis when the process goes down; they are in the database, too."""


class Sharing:
    """One process among those of a Redis. `slots`: by pool, how many tasks at once it runs as a worker."""

    def __init__(self, url: str, process_id: str, slots: Mapping[str, int]) -> None:
        config = conf.cluster()
        self._process_id = process_id
        self._slots = slots
        self.redis = SharedRedis(url, prefix=config.prefix, timeout=config.redis_timeout)
        self.writer = StreamWriter(self.redis, conf.sse().replay_ttl, self._fenced)
        self.reader = StreamReader(self.redis, process_id, self._on_message)
        longest = max(pool.queue_timeout + pool.run_timeout for pool in conf.pools().values())
        self.flights = Flights(self.redis, math.ceil(longest + conf.reuse().ttl))
        self._max_running = config.max_running
        self._supervisor: Supervisor | None = None
        self._replicas: Replicas | None = None
        self._queue: SharedQueue | None = None

    @property
    def feed(self) -> Feed:
        """What brings the events of tasks that other processes run."""
        return _Feed(self.redis, self.reader)

    def mirroring(self, recorder: Recorder) -> Recorder:
        """`recorder`, which also has events written for the others."""
        self._recorder = MirroringRecorder(recorder, self.writer)
        return self._recorder

    def queue(self, supervisor: Supervisor, replicas: Replicas, registry: Registry) -> SharedQueue:
        """The queue that all share, as this process takes part in it."""
        self._supervisor, self._replicas = supervisor, replicas
        pools = SharedPools(
            self.redis,
            self._process_id,
            conf.pools(),
            max_running=self._max_running,
            slots=self._slots,
        )
        self._queue = SharedQueue(
            supervisor,
            replicas,
            registry,
            pools,
            self._tell,
            _publish(),
            is_worker=bool(self._slots),
        )
        self._recorder.on_start = self._queue.tickets.begun
        self.redis.subscribe_to_return(self._queue.redis_is_back)
        return self._queue

    def quotas(self, limits: QuotaLimits) -> SharedQuotas:
        """What owners use, counted for all."""
        longest = max((pool.queue_timeout for pool in conf.pools().values()), default=0.0)
        return SharedQuotas(self.redis, limits, longest)

    def start(self) -> None:
        """Listen to the others."""
        self.reader.start()
        if self._queue is not None:
            self._queue.start()

    async def trouble(self) -> StorageUnavailable | None:
        """Why Redis takes nothing at the moment, within its limit of time; None if it does."""
        try:
            await self.redis.execute("SET", self.redis.key("ready"), 1, "PX", 10_000)
        except StorageUnavailable as error:
            return error
        return None

    async def drop_events(self, task_id: str) -> None:
        """Delete the task's stream. While Redis is away it stays for its lifetime; nobody is sent to it."""
        with suppress(StorageUnavailable):
            await self.redis.execute("DEL", self.redis.key("s", task_id))

    def statistics(self) -> dict[str, Any]:
        """`shared`: by pool, the line of all processes, a second old; `redis`: what this process has to do
        with it, in numbers."""
        written, read = self.writer.statistics(), self.reader.statistics()
        return {
            "shared": {} if self._queue is None else self._queue.lines,
            "redis": {
                "away": int(self.redis.away),
                "failures": self.redis.failures,
                "commands": self.redis.commands,
                "late_seconds": round(written["late"], 3),
                "written_events": written["frames"],
                "written_bytes": written["bytes"],
                "resent_events": written["resent"],
                "refused_writes": written["refused"],
                "fenced_tasks": written["fenced"],
                "followed_streams": read["streams"],
                "read_events": read["frames"],
                "foreign_entries": read["poison"],
            },
        }

    async def close(self) -> None:
        """Write what is left, and let go of all connections."""
        await self.writer.close(CLOSING)
        await self.reader.close()
        await self.redis.close()

    async def _tell(self, message: Mapping[str, Any]) -> None:
        await self.reader.post("*", dict(message))

    def _on_message(self, message: dict[str, Any]) -> None:
        """Another process says something. Unknown messages are of a newer version than this."""
        assert self._supervisor is not None
        assert self._replicas is not None
        assert self._queue is not None
        match message:
            case {"type": "look", "task": str(task_id)}:
                self._replicas.look(task_id)
            case {"type": "waiting", "pool": str(pool)}:
                self._queue.serve(pool)
            case {"type": "cancel", "task": str(task_id), "reason": str(reason)}:
                task = self._supervisor.tasks.own(task_id)
                if task is not None and reason in set(CancelReason):
                    self._supervisor.cancel(task, CancelReason(reason))
            case _:
                logger.warning("a message that nobody here knows: %.100r", message.get("type"))

    def _fenced(self, task_id: str, epoch: int) -> None:
        assert self._supervisor is not None
        logger.warning("task %s: another process has taken it over", task_id)
        self._supervisor.abandon(task_id, epoch)


class _Feed:
    """See `replicas.Feed`."""

    def __init__(self, redis: SharedRedis, reader: StreamReader) -> None:
        self._redis = redis
        self._reader = reader

    @property
    def away(self) -> bool:
        return self._redis.away

    async def open(self, task_id: str, journal: MemoryJournal) -> bool:
        self._reader.start()
        if await self._reader.open(task_id, journal):
            return True
        self._reader.watch(task_id, journal)
        return False

    def watch(self, task_id: str, journal: MemoryJournal) -> None:
        self._reader.start()
        self._reader.watch(task_id, journal)

    def leave(self, task_id: str) -> None:
        self._reader.close_stream(task_id)


def _publish() -> Publish | None:
    if conf.stream_engine() != "celery":
        return None
    from streaming.worker.publishing import publish

    return publish
