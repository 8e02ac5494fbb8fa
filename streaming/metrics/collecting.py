"""The numbers of this process, from the service that has them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import django
from prometheus_client import ProcessCollector

from streaming import access_tickets, conf, producers
from streaming.core.distribution import Distribution, microseconds
from streaming.core.errors import generation_errors
from streaming.core.metering import OTHER, Samples
from streaming.core.routing import Reason, Route
from streaming.core.states import State
from streaming.runtime.measures import Measures
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import CancelReason

from .apps import app_samples
from .catalogue import METRICS

if TYPE_CHECKING:
    from streaming.service import Service

_PROCESS: Final = ProcessCollector(registry=None)


def kind_label(kind: str) -> str:
    """The label of a task's kind: a registered producer, or `other`, because a view may name its streams
    as it likes."""
    return kind if producers.is_registered(kind) else OTHER


def samples_of(service: Service) -> Samples:
    """What `service` has counted, and what apps have. Called on its loop; `process_samples` are the rest."""
    found: Samples = {}
    supervisor = service.supervisor
    measures = supervisor.measures.now(supervisor.tasks.active.values(), supervisor.followers)
    _add_decisions(found, measures)
    _add_pools(found, supervisor, measures)
    _add_ends(found, measures)
    _add_totals(found, service, measures)
    if service.sharing is not None:
        _add_sharing(found, service.sharing.statistics())
    return found | app_samples()


def process_samples() -> Samples:
    """What the operating system says of this process. May take milliseconds where many files are open."""
    return {
        (each.name, ()): [microseconds(each.value) if each.name.endswith("_seconds_total") else each.value]
        for family in _PROCESS.collect()
        for each in family.samples
        if each.name in METRICS
    }


def _add_decisions(found: Samples, measures: Measures) -> None:
    # From the beginning, because a rate does not see the first step of a number that was not there.
    for pool in conf.pools():
        for reason in Reason:
            found["sluice_route_decisions_total", (pool, _route_of(reason).value, reason.value)] = [0]
    for labels, count in measures.decisions.items():
        found["sluice_route_decisions_total", labels] = [count]


def _route_of(reason: Reason) -> Route:
    match reason:
        case Reason.WORKER_FREE | Reason.CACHED | Reason.NO_WORKER_NEEDED:
            return Route.DIRECT
        case Reason.EARLIER_ONE_ACTIVE | Reason.WORKERS_BUSY | Reason.OTHERS_WAITING:
            return Route.QUEUED
    return Route.REJECTED


def _add_pools(found: Samples, supervisor: Supervisor, measures: Measures) -> None:
    names = _class_names(conf.priorities())
    for pool, workers in supervisor.pools.items():
        numbers = workers.ledger.statistics()
        found["sluice_tasks_running", (pool,)] = [numbers.running]
        found["sluice_tasks_away", (pool,)] = [numbers.away]
        found["sluice_pool_workers", (pool,)] = [numbers.max_workers]
        found["sluice_pool_places", (pool,)] = [numbers.queue_size]
        found["sluice_oldest_wait_seconds", (pool,)] = [numbers.oldest_wait_seconds]
        found["sluice_stuck_producers", (pool,)] = [supervisor.stuck_in(pool)]
        for name in names.values():
            found["sluice_tasks_waiting", (pool, name)] = [0]
        for number, count in numbers.waiting_by_class.items():
            found["sluice_tasks_waiting", (pool, names.get(number, OTHER))] = [count]
        found["sluice_content_parts_total", (pool,)] = [measures.parts[pool]]
        found["sluice_content_events_total", (pool,)] = [measures.events[pool]]
        found["sluice_event_gap_seconds", (pool,)] = measures.gaps[pool].values
    waits: dict[tuple[str, str], Distribution] = {}
    for (pool, number), wait in measures.queue_waits.items():
        waits.setdefault((pool, names.get(number, OTHER)), Distribution(wait.bounds)).add(wait)
    found.update((("sluice_queue_wait_seconds", labels), each.values) for labels, each in waits.items())


def _class_names(priorities: Mapping[str, int]) -> dict[int, str]:
    """Names of classes by number; of several names the first."""
    return {number: name for name, number in reversed(list(priorities.items()))}


def _add_ends(found: Samples, measures: Measures) -> None:
    for labels, each in measures.first_contents.items():
        found["sluice_first_content_seconds", labels] = each.values
    for labels, each in measures.durations.items():
        found["sluice_task_duration_seconds", labels] = each.values
    known = _known_ends()
    # From the beginning, as decisions are: the first error of its kind shall be seen, too.
    ends: dict[tuple[str, ...], int] = {
        (pool, kind, *end): 0
        for pool in conf.pools()
        for kind in (*producers.registered_names(), OTHER)
        for end in known
    }
    for (pool, kind, outcome, code), count in measures.ends.items():
        end = (pool, kind, outcome, code if (outcome, code) in known else OTHER)
        ends[end] = ends.get(end, 0) + count
    found.update((("sluice_task_ends_total", end), [count]) for end, count in ends.items())


@cache
def _known_ends() -> frozenset[tuple[str, str]]:
    """How a task may end: outcome, and code or who cancelled."""
    errors = ((State.ERROR.value, error.code) for error in generation_errors())
    cancels = ((State.CANCELLED.value, reason.value) for reason in CancelReason)
    return frozenset([(State.COMPLETE.value, ""), *errors, *cancels])


def _add_totals(found: Samples, service: Service, measures: Measures) -> None:
    supervisor, recorder, counters = service.supervisor, service.recorder, service.supervisor.counters
    totals: dict[str, float] = {
        "sluice_followers": len(supervisor.followers),
        "sluice_sent_bytes_total": measures.sent_bytes,
        "sluice_status_messages_total": measures.status_messages,
        "sluice_resumes_total": measures.resumes,
        "sluice_disconnects_total": measures.disconnects,
        "sluice_slow_readers_closed_total": counters.slow_readers_closed,
        "sluice_readers_revoked_total": counters.readers_revoked,
        "sluice_journal_bytes": supervisor.tasks.ended.journal_bytes,
        "sluice_journal_limit_bytes": supervisor.limits.journal_memory,
        "sluice_journal_evictions_total": counters.evicted_journals,
        "sluice_journal_trims_total": counters.trimmed_journals,
        "sluice_late_commits_total": counters.late_commits,
        "sluice_records_pending": recorder.pending,
        "sluice_records_behind_seconds": recorder.behind,
        "sluice_record_failures_total": recorder.failed_writes,
        "sluice_records_dropped_total": recorder.dropped,
        "sluice_events_dropped_total": recorder.dropped_events,
        "sluice_loop_stalls_total": service.loop_guard.stalls,
        "sluice_processes": 1,
        "sluice_process_starts_total": 1,
        "sluice_processes_draining": int(supervisor.draining),
    }
    found.update(((name, ()), [value]) for name, value in totals.items())
    for quota, amount in service.quotas.charged.items():
        found["sluice_quota_charged_total", (quota.value,)] = [round(amount, 3)]
    for result, number in access_tickets.COUNTS.items():
        found["sluice_tickets_total", (result,)] = [number]
    found["sluice_loop_lag_seconds", ()] = service.loop_lag.distribution.values
    found["sluice_build_info", _build()] = [1]


def _add_sharing(found: Samples, numbers: Mapping[str, Any]) -> None:
    names = _class_names(conf.priorities())
    for pool, line in numbers["shared"].items():
        found["sluice_shared_oldest_wait_seconds", (pool,)] = [line["oldest_wait_seconds"]]
        for name in names.values():
            found["sluice_shared_tasks_waiting", (pool, name)] = [0]
        for number, count in line["waiting_by_class"].items():
            found["sluice_shared_tasks_waiting", (pool, names.get(int(number), OTHER))] = [count]
    redis = numbers["redis"]
    totals = {
        "sluice_redis_away": redis["away"],
        "sluice_redis_failures_total": redis["failures"],
        "sluice_redis_commands_total": redis["commands"],
        "sluice_redis_late_seconds": redis["late_seconds"],
        "sluice_redis_events_total": redis["written_events"],
        "sluice_redis_resent_events_total": redis["resent_events"],
        "sluice_redis_refused_writes_total": redis["refused_writes"],
        "sluice_redis_followed_streams": redis["followed_streams"],
    }
    found.update(((name, ()), [value]) for name, value in totals.items())


@cache
def _build() -> tuple[str, str, str]:
    try:
        own = version("sluice")
    except PackageNotFoundError:
        # From a checkout that was not installed.
        own = ""
    return own, platform.python_version(), django.get_version()
