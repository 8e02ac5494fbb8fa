"""Which way a task goes: a pure decision from one look at the pool.

Each rule answers or passes; the first answer counts, a default closes the chain. Acting on the answer
is the ledger's work, in the same step in which it took the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec


class Route(StrEnum):
    """The ways a task can go."""

    DIRECT = "direct"
    QUEUED = "queued"
    REJECTED = "rejected"


class Reason(StrEnum):
    """Why it goes that way."""

    WORKER_FREE = "worker_free"
    CACHED = "cached"
    NO_WORKER_NEEDED = "no_worker_needed"
    EARLIER_ONE_ACTIVE = "earlier_one_active"
    WORKERS_BUSY = "workers_busy"
    OTHERS_WAITING = "others_waiting"
    QUEUE_FULL = "queue_full"
    OWNER_LIMIT = "owner_limit"
    DRAINING = "draining"
    QUOTA_STREAMS = "quota_streams"
    QUOTA_PLACES = "quota_places"
    QUOTA_TOKENS = "quota_tokens"
    QUOTA_BYTES = "quota_bytes"
    QUOTA_KERNEL_SECONDS = "quota_kernel_seconds"


QUOTAS: Final = tuple(reason for reason in Reason if reason.value.startswith("quota_"))
"""Those that are not the pool's: a quota of the owner over all pools is spent (see `core/quota.py`)."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a pool, as the router saw it; kept with the task so that the decision can be explained.

    Counts of tasks; `oldest_wait_seconds` in seconds; `owner_active`: running and waiting tasks of the
    owner who asks, against its limit `per_owner`. `eligible`: those of the waiting that a permit could go
    to, which leaves out those whose readers are away (0 in what was stored before there were such tasks).
    `earlier`: tasks of the same series that are not over. `ahead`: for a task that is to wait, those of the
    eligible that are of its class or a higher one; the decision does not need it.
    """

    pool: str
    running: int
    waiting: int
    max_workers: int
    queue_size: int
    owner_active: int
    per_owner: int
    oldest_wait_seconds: float
    draining: bool = False
    eligible: int = 0
    earlier: int = 0
    ahead: int | None = None


class Decision(msgspec.Struct, frozen=True):
    """The router's answer."""

    route: Route
    reason: Reason


Rule = Callable[[Snapshot], Decision | None]


def _refuse_while_draining(load: Snapshot) -> Decision | None:
    return Decision(Route.REJECTED, Reason.DRAINING) if load.draining else None


def _refuse_over_owner_limit(load: Snapshot) -> Decision | None:
    if load.owner_active >= load.per_owner:
        return Decision(Route.REJECTED, Reason.OWNER_LIMIT)
    return None


def _run_if_idle(load: Snapshot) -> Decision | None:
    if load.running < load.max_workers and not load.eligible and not load.earlier:
        return Decision(Route.DIRECT, Reason.WORKER_FREE)
    return None


def _wait_if_there_is_room(load: Snapshot) -> Decision | None:
    if load.waiting >= load.queue_size:
        return None
    if load.earlier:
        return Decision(Route.QUEUED, Reason.EARLIER_ONE_ACTIVE)
    reason = Reason.WORKERS_BUSY if load.running >= load.max_workers else Reason.OTHERS_WAITING
    return Decision(Route.QUEUED, reason)


RULES: Final[tuple[Rule, ...]] = (
    _refuse_while_draining,
    _refuse_over_owner_limit,
    _run_if_idle,
    _wait_if_there_is_room,
)


def decide(load: Snapshot) -> Decision:
    """The route for one more task, and why. Total: every snapshot has an answer."""
    for rule in RULES:
        decision = rule(load)
        if decision is not None:
            return decision
    return Decision(Route.REJECTED, Reason.QUEUE_FULL)
