"""What a supervisor shows of itself: numbers, as JSON-able values."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .executor import WorkerPool
from .limits import Counters
from .table import TaskTable
from .task import Task


def statistics(
    pools: Mapping[str, WorkerPool],
    tasks: TaskTable,
    counters: Counters,
    *,
    lingering: Collection[Task],
    followers: int,
    draining: bool,
) -> dict[str, object]:
    """Pools, routes and totals. `lingering`: ended tasks whose producers still hold a permit."""
    routes = counters.routes
    return {
        "pools": {name: _pool(name, pool, lingering) for name, pool in pools.items()},
        "routes": {route: routes[route] for route in ("direct", "queued", "rejected")},
        "refusals": dict(counters.refusals),
        "tasks": {"active": len(tasks.active), "foreign": len(tasks.foreign), "in_memory": len(tasks)},
        "ends": dict(counters.ends),
        "followers": followers,
        "journal_bytes": tasks.ended.journal_bytes,
        "status_messages": counters.status_messages,
        "slow_readers_closed": counters.slow_readers_closed,
        "readers_revoked": counters.readers_revoked,
        "late_commits": counters.late_commits,
        "evicted_journals": counters.evicted_journals,
        "trimmed_journals": counters.trimmed_journals,
        "draining": draining,
    }


def _pool(name: str, pool: WorkerPool, lingering: Collection[Task]) -> dict[str, object]:
    numbers = pool.ledger.statistics()
    return {
        "running": numbers.running,
        "waiting": numbers.waiting,
        "away": numbers.away,
        "max_workers": numbers.max_workers,
        "queue_size": numbers.queue_size,
        "oldest_wait_seconds": numbers.oldest_wait_seconds,
        "mean_service_seconds": numbers.mean_service_seconds,
        "waiting_by_class": {str(key): count for key, count in numbers.waiting_by_class.items()},
        "oldest_wait_by_class": {str(key): wait for key, wait in numbers.oldest_wait_by_class.items()},
        "stuck": sum(task.stuck and task.spec.pool == name for task in lingering),
    }
