"""The answer to "why was this queued?" in words."""

from __future__ import annotations

import pytest
from django.utils.translation import override

from streaming.admin.decisions import explanation
from streaming.core.routing import Reason

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
