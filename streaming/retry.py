"""From the record of an ended task to a new task of the same kind."""

from __future__ import annotations

import math
from enum import StrEnum
from functools import partial

from streaming.core.states import State
from streaming.runtime.task import TaskSpec

from . import conf
from .access import Caller
from .messages import language_context
from .models import StreamTask
from .producers import is_registered, open_producer


class Obstacle(StrEnum):
    """Why a task cannot be started again."""

    NOT_ENDED = "not_ended"
    PURGED = "purged"
    NO_ARGUMENTS = "no_arguments"
    UNKNOWN_PRODUCER = "unknown_producer"
    UNKNOWN_POOL = "unknown_pool"


class NotRetryable(Exception):
    """The record does not say how to do it again; see `obstacle`."""

    def __init__(self, obstacle: Obstacle) -> None:
        super().__init__(obstacle.value)
        self.obstacle = obstacle


def obstacle_to_retry(row: StreamTask) -> Obstacle | None:
    """Why the task of this record cannot be started again; None if it can."""
    if not State(row.state).terminal:
        return Obstacle.NOT_ENDED
    if row.purged_at is not None:
        return Obstacle.PURGED
    if row.arguments is None:
        return Obstacle.NO_ARGUMENTS
    if not is_registered(row.kind):
        return Obstacle.UNKNOWN_PRODUCER
    if row.pool not in conf.pools():
        return Obstacle.UNKNOWN_POOL
    return None


def retry_spec(row: StreamTask) -> TaskSpec:
    """The same work again: for the same owner, counted against the same limits, and read by nobody yet, so
    it goes on unread. Raises `NotRetryable`."""
    obstacle = obstacle_to_retry(row)
    if obstacle is not None:
        raise NotRetryable(obstacle)
    return spec_again(row, grace=math.inf)


def spec_again(row: StreamTask, *, grace: float) -> TaskSpec:
    """What was asked for, of a registered producer, to be run by this process. `grace`: seconds that it
    outlives its last reader."""
    assert row.arguments is not None
    owner = None if row.owner_id is None else str(row.owner_id)
    return TaskSpec(
        kind=row.kind,
        pool=row.pool,
        priority=row.priority,
        owner=owner,
        # Of an anonymous caller no address is kept: such tasks share one.
        share_key=Caller(owner, address="").share_key(row.end_user),
        payer="" if owner is None else Caller(owner, address="").payer,
        end_user=row.end_user,
        grace=grace,
        language=row.language,
        open_source=partial(open_producer, row.kind, row.arguments),
        arguments=row.arguments,
        fingerprint=row.fingerprint,
        context=language_context(row.language),
    )
