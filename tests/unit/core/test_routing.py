"""The router as a decision table, and what holds for every snapshot."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.routing import Decision, Reason, Route, Snapshot, decide

from .test_sse import fast

counts = st.integers(0, 8)
snapshots = st.builds(
    Snapshot,
    pool=st.just("agent_pool"),
    running=counts,
    waiting=counts,
    max_workers=counts,
    queue_size=counts,
    owner_active=counts,
    per_owner=counts,
    oldest_wait_seconds=st.floats(0, 1000),
    draining=st.booleans(),
    eligible=counts,
).filter(lambda load: load.eligible <= load.waiting)
# What each reason says about the pool that gave it.
MEANING = {
    Reason.DRAINING: lambda load: load.draining,
    Reason.OWNER_LIMIT: lambda load: load.owner_active >= load.per_owner,
    Reason.WORKER_FREE: lambda load: load.running < load.max_workers and not load.eligible,
    Reason.WORKERS_BUSY: lambda load: room(load) and load.running >= load.max_workers,
    Reason.OTHERS_WAITING: lambda load: room(load) and load.running < load.max_workers and load.eligible,
    Reason.QUEUE_FULL: lambda load: not room(load),
}
ROUTES = {
    Reason.DRAINING: Route.REJECTED,
    Reason.OWNER_LIMIT: Route.REJECTED,
    Reason.WORKER_FREE: Route.DIRECT,
    Reason.WORKERS_BUSY: Route.QUEUED,
    Reason.OTHERS_WAITING: Route.QUEUED,
    Reason.QUEUE_FULL: Route.REJECTED,
}


def room(load: Snapshot) -> bool:
    return load.waiting < load.queue_size


def snapshot(**changes: object) -> Snapshot:
    """An idle pool of two workers and two places, three tasks an owner."""
    idle = Snapshot(
        pool="agent_pool",
        running=0,
        waiting=0,
        max_workers=2,
        queue_size=2,
        owner_active=0,
        per_owner=3,
        oldest_wait_seconds=0.0,
    )
    return msgspec.structs.replace(idle, **changes)


@pytest.mark.parametrize(
    ("changes", "route", "reason"),
    [
        ({}, "direct", "worker_free"),
        ({"running": 1}, "direct", "worker_free"),
        ({"running": 2}, "queued", "workers_busy"),
        ({"running": 2, "waiting": 1}, "queued", "workers_busy"),
        ({"running": 2, "waiting": 2}, "rejected", "queue_full"),
        ({"running": 1, "waiting": 1, "eligible": 1}, "queued", "others_waiting"),
        ({"running": 1, "waiting": 2, "eligible": 2}, "rejected", "queue_full"),
        ({"running": 1, "waiting": 2, "eligible": 1}, "rejected", "queue_full"),
        ({"running": 1, "waiting": 2, "eligible": 0}, "direct", "worker_free"),
        ({"running": 2, "waiting": 2, "eligible": 0}, "rejected", "queue_full"),
        ({"running": 3}, "queued", "workers_busy"),
        ({"running": 2, "waiting": 3}, "rejected", "queue_full"),
        ({"owner_active": 2}, "direct", "worker_free"),
        ({"owner_active": 3}, "rejected", "owner_limit"),
        ({"running": 2, "waiting": 2, "owner_active": 3}, "rejected", "owner_limit"),
        ({"draining": True}, "rejected", "draining"),
        ({"draining": True, "owner_active": 3}, "rejected", "draining"),
        ({"queue_size": 0, "running": 1}, "direct", "worker_free"),
        ({"queue_size": 0, "running": 2}, "rejected", "queue_full"),
        ({"per_owner": 0}, "rejected", "owner_limit"),
        ({"max_workers": 0}, "queued", "workers_busy"),
    ],
)
def test_the_table(changes, route, reason):
    assert decide(snapshot(**changes)) == Decision(Route(route), Reason(reason))


@fast
@given(snapshots)
def test_every_snapshot_has_a_decision_whose_reason_is_true(load):
    decision = decide(load)
    assert MEANING[decision.reason](load)
    assert decision.route is ROUTES[decision.reason]


@fast
@given(snapshots)
def test_a_free_worker_and_an_empty_line_mean_direct_to_everyone_who_is_let_in(load):
    free = load.running < load.max_workers and not load.eligible
    admitted = not load.draining and load.owner_active < load.per_owner
    assert (decide(load).route is Route.DIRECT) == (free and admitted)


@fast
@given(snapshots)
def test_nobody_overtakes_a_line(load):
    if load.eligible:
        assert decide(load).route is not Route.DIRECT


@fast
@given(snapshots)
def test_taking_what_was_decided_breaks_no_bound(load):
    decision = decide(load)
    if decision.route is Route.DIRECT:
        assert load.running + 1 <= load.max_workers
    if decision.route is Route.QUEUED:
        assert load.waiting + 1 <= load.queue_size
    if decision.route is not Route.REJECTED:
        assert load.owner_active + 1 <= load.per_owner


@fast
@given(snapshots, st.floats(0, 1000))
def test_how_long_others_waited_decides_nothing(load, seconds):
    assert decide(load) == decide(msgspec.structs.replace(load, oldest_wait_seconds=seconds))


def test_a_snapshot_can_be_kept_with_its_task():
    load = snapshot(running=2, waiting=1)
    assert msgspec.json.decode(msgspec.json.encode(load), type=Snapshot) == load


def test_a_snapshot_from_before_there_was_anybody_away_can_be_read():
    stored = msgspec.to_builtins(snapshot(running=2, waiting=1))
    del stored["eligible"]
    assert msgspec.convert(stored, Snapshot).eligible == 0


def test_a_snapshot_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        snapshot().running = 5  # type: ignore[misc]
