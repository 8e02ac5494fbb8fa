"""How Celery takes messages here: no more of a pool than it has slots, and at once when one is free."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from celery.concurrency.thread import ApplyResult, TaskPool
from celery.exceptions import CPendingDeprecationWarning
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.utils.scheduling import round_robin_cycle

from .messages import pool_of
from .slots import SLOTS

logger = logging.getLogger(__name__)

RETRY: Final = 1.0
"""Seconds between two tries to reach a broker that is away (Celery: up to 30)."""

BREATH: Final = 0.25
"""Seconds before a connection that was lost is made anew: Celery takes five in a second for a fault, and logs
a traceback."""


class QueuesWithRoom(round_robin_cycle):
    """Only queues of pools that have a free slot here are asked for a message.

    Celery counts tasks of all pools together; so a worker whose slots of a pool are all taken would fetch
    messages for it that another worker could run at once.
    """

    def consume(self, n: int) -> list[str]:
        """Names of queues, at most `n`."""
        return [queue for queue in self.items[:n] if SLOTS.has_room(pool_of(queue))]


class Pool(TaskPool):  # type: ignore[misc]
    """Celery's threads. Each waits for the end of one task, which runs elsewhere in this process.

    When one comes back Celery's loop is woken: it would acknowledge, and fetch the next message, only at its
    next tick, up to ten seconds later.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ear, self._mouth = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **options: Any,
    ) -> ApplyResult:
        """Celery's, with a slot of the message's pool."""
        assert args is not None
        pool = pool_of(args[2]["delivery_info"]["routing_key"])
        SLOTS.take(pool)
        result = super().on_apply(target, args, kwargs, callback, accept_callback, **options)
        result.f.add_done_callback(partial(self._is_back, pool))
        return result

    def wake(self) -> None:
        """Have Celery's loop look at once. In any thread."""
        try:
            os.write(self._mouth, b"\0")
        except BlockingIOError:
            # It has been told often enough.
            return

    def register_with_event_loop(self, hub: Any) -> None:
        """Called for each connection to the broker."""
        hub.add_reader(self._ear, self._hear)

    def _hear(self) -> None:
        try:
            os.read(self._ear, 4096)
        except BlockingIOError:
            return

    def _is_back(self, pool: str, future: Any) -> None:
        SLOTS.give_back(pool)
        self.wake()


GARBAGE: Final = (ValueError, KeyError, TypeError, AttributeError)
"""What Celery's reading of a message raises that no program of ours has sent."""


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Celery's, which is soon back when the broker is, says it in one line, and outlives what strangers put
    into the queue."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The message is out of the queue by then, and the connection is made anew.
        self.connection_errors: tuple[type[BaseException], ...] = (*self.conninfo.connection_errors, *GARBAGE)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """With all sockets closed that were opened until then."""
        _hang_up(self._connecting)
        super().on_connection_error_before_connected(exc)
        # Redis may answer at once that it has no memory.
        time.sleep(RETRY)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Without the warning that a later Celery cancels running tasks then: ours go on."""
        if isinstance(exc, GARBAGE):
            logger.error("a message that is none of ours was thrown away (%s)", type(exc).__name__)
        _hang_up(self.connection)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)
        time.sleep(BREATH)

    def ensure_connected(self, conn: Any) -> Any:
        """Try until it answers, or the worker is to end."""
        self._connecting = conn
        conn.ensure_connection = partial(
            conn.ensure_connection, interval_start=RETRY, interval_step=0, interval_max=RETRY
        )
        return super().ensure_connected(conn)


def _hang_up(connection: Any) -> None:
    """Close the sockets of a connection; it cannot do so itself where Redis takes no last words."""
    transport = None if connection is None else connection._transport
    for channel in [] if transport is None else list(transport.channels):
        for pool in (channel.pool, channel.async_pool):
            pool.disconnect()


def end_of_consuming(pool: Any) -> None:
    """Have Celery's loop end, in any thread; what it has fetched is done by then."""
    state.should_stop = 0
    pool.wake()
