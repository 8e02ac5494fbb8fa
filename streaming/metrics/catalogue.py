"""What `/metrics` tells: every metric of the service, with its meaning. docs/metrics.md says more.

Labels are bounded: pools are those of THREAD_CONFIG, classes those of PRIORITIES, kinds the registered
producers; owners, tasks and paths are no labels.
"""

from __future__ import annotations

from typing import Final

from streaming.core.metering import Kind, Merge, Metric
from streaming.runtime import loop_lag
from streaming.runtime.measures import DURATIONS, FIRST_CONTENT, WAITS
from streaming.runtime.task import GAPS

_COUNTER, _GAUGE, _HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

_ALL: Final = (
    # What is let in
    Metric(
        "sluice_route_decisions_total",
        "What became of calls that ask for a task, and why.",
        _COUNTER,
        ("pool", "route", "reason"),
    ),
    Metric("sluice_tasks_running", "Tasks that hold a permit.", _GAUGE, ("pool",)),
    Metric("sluice_tasks_waiting", "Tasks that wait for a permit.", _GAUGE, ("pool", "class")),
    Metric("sluice_tasks_away", "Of those that wait, the ones that nobody reads now.", _GAUGE, ("pool",)),
    Metric("sluice_pool_workers", "Tasks that may run at once.", _GAUGE, ("pool",)),
    Metric("sluice_pool_places", "Tasks that may wait at once.", _GAUGE, ("pool",)),
    Metric(
        "sluice_oldest_wait_seconds",
        "How long the task that has waited longest has waited.",
        _GAUGE,
        ("pool",),
        merge=Merge.MAX,
    ),
    Metric(
        "sluice_stuck_producers",
        "Producers that hold a permit although their task has ended.",
        _GAUGE,
        ("pool",),
    ),
    Metric(
        "sluice_queue_wait_seconds",
        "Waits of queued tasks, from admission to permit.",
        _HISTOGRAM,
        ("pool", "class"),
        WAITS,
    ),
    # What comes out
    Metric(
        "sluice_first_content_seconds",
        "From admission to the first text, waiting included.",
        _HISTOGRAM,
        ("pool", "kind", "route"),
        FIRST_CONTENT,
    ),
    Metric(
        "sluice_event_gap_seconds",
        "Between two neighbouring events of text of a task.",
        _HISTOGRAM,
        ("pool",),
        GAPS,
    ),
    Metric("sluice_content_parts_total", "Parts that producers gave.", _COUNTER, ("pool",)),
    Metric("sluice_content_events_total", "Events of text that became of them.", _COUNTER, ("pool",)),
    Metric(
        "sluice_task_duration_seconds",
        "From admission to the end.",
        _HISTOGRAM,
        ("pool", "kind", "outcome"),
        DURATIONS,
    ),
    Metric(
        "sluice_task_ends_total", "Ends of tasks, and why.", _COUNTER, ("pool", "kind", "outcome", "code")
    ),
    Metric(
        "sluice_quota_charged_total",
        "What owners were charged against quotas that are set: tokens, bytes, seconds of kernels.",
        _COUNTER,
        ("quota",),
    ),
    # Who reads
    Metric("sluice_tickets_total", "Tickets, and what became of them.", _COUNTER, ("result",)),
    Metric("sluice_followers", "Readers that are connected.", _GAUGE),
    Metric("sluice_sent_bytes_total", "Bytes of events handed to readers, before compression."),
    Metric("sluice_status_messages_total", "Status events sent."),
    Metric("sluice_resumes_total", "Readers that came back, or joined."),
    Metric("sluice_disconnects_total", "Readers that left before the end."),
    Metric("sluice_slow_readers_closed_total", "Readers that were closed because they did not read."),
    Metric("sluice_readers_revoked_total", "Readers that were ended because they lost the right to read."),
    # What is kept
    Metric("sluice_journal_bytes", "Bytes of all events in memory.", _GAUGE),
    Metric("sluice_journal_limit_bytes", "Bytes that they may take.", _GAUGE),
    Metric("sluice_journal_evictions_total", "Ended tasks that left memory early, for want of room."),
    Metric("sluice_journal_trims_total", "Running tasks that lost their oldest events, for want of room."),
    Metric("sluice_late_commits_total", "Ends that were sent before they were durable."),
    Metric("sluice_records_pending", "Tasks with news that are not written yet.", _GAUGE),
    Metric(
        "sluice_records_behind_seconds",
        "For how long the oldest unwritten news has waited.",
        _GAUGE,
        merge=Merge.MAX,
    ),
    Metric("sluice_record_failures_total", "Writes to the database that failed and were tried again."),
    Metric("sluice_records_dropped_total", "Records that were never written."),
    Metric("sluice_events_dropped_total", "Events that were never written."),
    # What several processes share; each tells the same of the line
    Metric(
        "sluice_shared_tasks_waiting",
        "Tasks that wait for a permit of any process.",
        _GAUGE,
        ("pool", "class"),
        merge=Merge.MAX,
    ),
    Metric(
        "sluice_shared_oldest_wait_seconds",
        "How long the one of them that has waited longest has waited.",
        _GAUGE,
        ("pool",),
        merge=Merge.MAX,
    ),
    Metric("sluice_redis_away", "Processes that get no answers from Redis.", _GAUGE),
    Metric("sluice_redis_failures_total", "Questions to which Redis gave no answer."),
    Metric("sluice_redis_commands_total", "Commands that Redis was given."),
    Metric(
        "sluice_redis_late_seconds",
        "For how long the oldest event that Redis does not have has waited.",
        _GAUGE,
        merge=Merge.MAX,
    ),
    Metric("sluice_redis_events_total", "Events written to Redis."),
    Metric("sluice_redis_resent_events_total", "Of them, those that Redis had lost."),
    Metric("sluice_redis_refused_writes_total", "Writes that Redis refused for want of memory."),
    Metric("sluice_redis_followed_streams", "Tasks of other processes that are read here.", _GAUGE),
    # The processes
    Metric(
        "sluice_loop_lag_seconds", "How late the event loop's timer was.", _HISTOGRAM, (), loop_lag.BOUNDS
    ),
    Metric("sluice_loop_stalls_total", "How often the event loop stood still for longer than it may."),
    Metric("sluice_processes", "Server processes that live and share this port.", _GAUGE),
    Metric("sluice_process_starts_total", "Server processes that were started."),
    Metric("sluice_processes_draining", "Of those that live, the ones that go down.", _GAUGE),
    Metric("sluice_build_info", "Always 1.", _GAUGE, ("version", "python", "django"), merge=Merge.MAX),
    Metric("process_cpu_seconds_total", "Processor time, user and system."),
    Metric("process_resident_memory_bytes", "Memory that is in use.", _GAUGE),
    Metric("process_virtual_memory_bytes", "Addresses that are in use.", _GAUGE),
    Metric("process_open_fds", "Open files and connections.", _GAUGE),
    Metric("process_max_fds", "Of them, how many each process may have.", _GAUGE, merge=Merge.MIN),
    Metric(
        "process_start_time_seconds",
        "When the oldest process started, since the epoch.",
        _GAUGE,
        merge=Merge.MIN,
    ),
)

METRICS: Final = {metric.name: metric for metric in _ALL}
"""By name."""
