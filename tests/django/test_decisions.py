"""The answer to "why was this queued?" in words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.utils.translation import override

from streaming.admin.decisions import account_of, course_of, explanation
from streaming.core.routing import Reason
from streaming.models import StreamTask

LOAD = {
    "running": 5,
    "waiting": 4,
    "max_workers": 5,
    "queue_size": 30,
    "owner_active": 1,
    "per_owner": 3,
    "oldest_wait_seconds": 12.5,
    "eligible": 4,
    "earlier": 2,
    "ahead": 3,
}


def test_a_queued_task_s_record_says_who_stood_before_it():
    with override("en"):
        assert explanation(LOAD, "workers_busy") == [
            "5 of 5 workers were busy.",
            "3 tasks of the same or a higher class stood in line before it.",
            "The longest had waited for 12.50 s.",
        ]
        assert explanation(LOAD | {"ahead": 1}, "workers_busy")[1].startswith("1 task of the same")


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("changes", [{}, {"eligible": 0}, {"eligible": 0, "waiting": 0}, {"ahead": None}])
def test_every_decision_has_whole_sentences(reason: Reason, changes: dict[str, int | None]):
    with override("en"):
        found = explanation(LOAD | changes, reason)
    assert found
    assert all(each.endswith(".") and "{" not in each for each in found)


def test_a_record_without_a_snapshot_says_nothing_wrong():
    assert explanation(None, "queue_full") == []
    assert explanation({}, "of_a_later_version") == []


ACCEPTED = datetime(2026, 11, 21, 12, tzinfo=UTC)


def task(**columns: Any) -> StreamTask:
    """One that has ended after waiting 8 s of 9."""
    values: dict[str, Any] = {
        "state": "complete",
        "route": "queued",
        "reason": "workers_busy",
        "snapshot": LOAD,
        "started_at": ACCEPTED,
        "queued_ms": 8_000.0,
        "first_content_ms": 8_400.0,
        "total_ms": 9_000.0,
    }
    return StreamTask(**values | columns)


DIRECT = {"route": "direct", "reason": "worker_free", "queued_ms": 0.3, "snapshot": LOAD | {"running": 0}}
IN_VAIN = {"state": "cancelled", "started_at": None, "first_content_ms": None}


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (task(), "It waited 8.00 s for a worker. 5 of 5 workers were busy."),
        (
            task(**DIRECT, first_content_ms=12_000.0, total_ms=12_500.0),
            "It did not wait for a worker. The provider took 12.00 s until its first words.",
        ),
        (
            task(**IN_VAIN, cancel_reason="disconnect", grace=30.0, queued_ms=36_500.0, total_ms=36_500.0),
            "It never got a worker: its reader left after about 6.50 s, and nobody came back within 30.00 s. "
            "5 of 5 workers were busy.",
        ),
        (
            task(**IN_VAIN, cancel_reason="client"),
            "It never got a worker: it was cancelled after 9.00 s. 5 of 5 workers were busy.",
        ),
        (
            task(first_content_ms=20_000.0, total_ms=21_000.0),
            "The provider took 12.00 s until its first words. It waited 8.00 s for a worker. 5 of 5",
        ),
        (
            task(total_ms=60_000.0),
            "Most of the time, 51.60 s, it was being written. It waited 8.00 s for a worker. 5 of 5",
        ),
    ],
)
def test_how_long_it_took_is_told_by_what_took_it(row: StreamTask, answer: str):
    with override("en"):
        assert " ".join(account_of(row)).startswith(answer)


def test_what_has_not_ended_has_no_course_yet():
    with override("en"):
        assert course_of(task(state="running", total_ms=None)) == []
        assert explanation(LOAD | {"running": 0}, "worker_free")[0] == "No worker was busy."
