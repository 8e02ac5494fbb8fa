"""The Celery application of workers: `celery -A settings worker`, or better `manage.py worker`."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Final

from celery import Celery, signals
from celery.exceptions import Reject
from django.conf import settings
from kombu.entity import Exchange, Queue

from streaming import conf

from .consuming import end_of_consuming
from .host import HOST
from .messages import TASK, is_signed, pool_of, queue_of
from .slots import SLOTS

logger = logging.getLogger(__name__)

CONNECTIONS: Final = 4
"""To the broker, of those who publish in a process."""

RECEIVE_TIMEOUT: Final = 0.25
"""Seconds that one look at the broker takes at most: as long may a message for a pool that was full until now
wait in a worker that has room in another one."""

HEALTH_CHECK: Final = 3
"""Seconds without an answer after which the connection to the broker is made anew."""

SPARE_TIME: Final = 600.0
"""Seconds beyond the longest run of a task after which the broker hands a message out again that nobody has
acknowledged. Only what is lost otherwise needs it: a dead worker's tasks are found by its lease."""


def broker_options() -> dict[str, Any]:
    """Of the connection, for workers and for those who publish."""
    longest = max(pool.run_timeout for pool in conf.pools().values())
    patience = conf.cluster().redis_timeout
    return {
        "visibility_timeout": longest + SPARE_TIME,
        "socket_connect_timeout": patience,
        "socket_timeout": max(patience, 4 * RECEIVE_TIMEOUT),
        "socket_keepalive": True,
        "health_check_interval": HEALTH_CHECK,
        "retry_on_timeout": False,
        "global_keyprefix": f"{conf.cluster().prefix}:celery:",
        "queue_order_strategy": "streaming.worker.consuming:QueuesWithRoom",
        "polling_interval": RECEIVE_TIMEOUT,
        # One list for each queue: the order was decided before.
        "priority_steps": [0],
    }


def _make() -> Celery:
    made = Celery("sluice", set_as_current=False, broker=str(getattr(settings, "CELERY_BROKER_URL", "")))
    names = [queue_of(pool) for pool in conf.pools()]
    made.conf.update(
        # Nothing but JSON is read: other formats run what a stranger wrote.
        accept_content=["json"],
        task_serializer="json",
        event_serializer="json",
        task_queues=[Queue(name, Exchange("", type="direct"), routing_key=name) for name in names],
        task_default_queue=names[0],
        task_create_missing_queues=False,
        # How a task ends stands in the database.
        result_backend=None,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # A message lives until its task has ended. Whoever dies meanwhile is found by the others (its lease),
        # who see to its tasks; so a message that comes again finds nothing to do.
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_enable_prefetch_count_reduction=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_pool="streaming.worker.consuming:Pool",
        worker_consumer="streaming.worker.consuming:Consumer",
        worker_concurrency=sum(pool.max_workers for pool in conf.pools().values()),
        # Nobody gives orders to workers over the broker, and they do not talk to each other there.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        # Our lines, in our format.
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry=True,
        # A Redis without memory refuses what Celery notes of a message: no reason for a worker to end.
        broker_channel_error_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=conf.cluster().redis_timeout,
        broker_pool_limit=CONNECTIONS,
        broker_pool_acquire_timeout=conf.cluster().redis_timeout,
        broker_transport_options=broker_options(),
        enable_utc=True,
    )
    return made


app: Final = _make()


@app.task(name=TASK, bind=False, shared=False)
def run(*message: object, **others: object) -> None:
    """Run the task of the message (pool, task id, signature) here, and come back when it has ended, or when
    it is somebody else's. A message that is none of ours runs nothing.

    A process that goes down runs nothing new: the message goes back to the queue.
    """
    match message:
        case (str(pool), str(task_id), *signed) if not others and pool in conf.pools():
            if conf.cluster().signed and not is_signed(pool, task_id, str(*signed[:1])):
                logger.error("a message for pool %s was not signed by one of ours; nothing was run", pool)
                return
            if SLOTS.closed:
                raise Reject("going down", requeue=True)
            HOST.run(pool, task_id)
        case _:
            logger.error("a message that is none of ours was thrown away")


@signals.worker_init.connect
def _start(**kwargs: Any) -> None:
    if not SLOTS.offered:
        SLOTS.offer({name: pool.max_workers for name, pool in conf.pools().items()})
    HOST.start()


@signals.worker_ready.connect
def _ready(sender: Any, **kwargs: Any) -> None:
    HOST.take_signals(partial(end_of_consuming, sender.pool))
    HOST.announce([pool_of(name) for name in sender.app.amqp.queues.consume_from])


@signals.worker_shutdown.connect
def _end(**kwargs: Any) -> None:
    HOST.finish()
