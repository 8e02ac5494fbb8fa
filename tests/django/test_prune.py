"""Retention: what ended long ago goes, with its events; what is young, waits or runs stays."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any
from unittest import mock

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.utils import timezone

from streaming.models import Refusal, Segment, StreamTask
from streaming.storage import pruning
from streaming.storage.pruning import prune

pytestmark = pytest.mark.django_db

NOW = timezone.now()


def task(number: int, state: str = "complete", days: float | None = 40, **values: Any) -> StreamTask:
    """A task that ended `days` ago, with one segment of events."""
    finished = None if days is None else NOW - timedelta(days=days)
    made = StreamTask.objects.create(
        id=f"{number:032x}",
        kind="test",
        pool="agent_pool",
        priority=0,
        state=state,
        created_at=NOW - timedelta(days=(days or 0) + 1),
        finished_at=finished,
        **values,
    )
    Segment.objects.create(task=made, first_id=1, last_id=1, frames=b"x")
    return made


def left() -> list[int]:
    return [int(row.id, 16) for row in StreamTask.objects.order_by("id")]


def say(*arguments: str) -> str:
    out = StringIO()
    call_command("prune", *arguments, stdout=out)
    return out.getvalue()


def test_old_ended_tasks_go_with_their_events():
    for number, state in enumerate(("complete", "error", "cancelled"), 1):
        task(number, state)
    task(4, days=10)
    assert "Deleted 3 tasks" in say()
    assert left() == [4]
    assert Segment.objects.count() == 1


def test_what_waits_or_runs_stays_however_old():
    task(1, "running", days=None)
    task(2, "queued", days=None)
    say("--days", "0")
    assert left() == [1, 2]


def test_the_age_is_a_setting_and_an_option():
    task(1, days=3)
    task(2, days=5)
    with override_settings(SSE_CONFIG={"retention_days": 4}):
        say()
    assert left() == [1]
    say("--days", "2.5")
    assert left() == []


def test_a_dry_run_deletes_nothing():
    task(1)
    assert "Would delete 1 tasks" in say("--dry-run")
    assert left() == [1]


@pytest.mark.parametrize("days", ["-1", "x", "nan", "1e9"])
def test_a_wrong_age_is_refused(days: str):
    with pytest.raises(CommandError, match="no number of days"):
        say("--days", days)


def test_many_go_in_short_transactions():
    for number in range(7):
        task(number)
    with mock.patch.object(pruning, "CHUNK", 3):
        assert prune(NOW).tasks == 7
    assert left() == []


def test_old_counts_of_refusals_go_too():
    for days in (1, 50):
        Refusal.objects.create(
            minute=NOW - timedelta(days=days), pool="agent_pool", reason="queue_full", count=2
        )
    assert "1 counts of refusals" in say()
    assert Refusal.objects.count() == 1
