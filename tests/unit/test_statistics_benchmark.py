"""The figures of the statistics page that are in the repository reach the goal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.statistics import GOAL, RESULT

MEASURED: dict[str, Any] = json.loads(RESULT.read_text())["results"]


def test_both_databases_were_measured_with_a_million_tasks_of_many_owners():
    assert set(MEASURED) == {"SQLite", "PostgreSQL"}
    for database, figures in MEASURED.items():
        assert figures["tasks"] >= 1_000_000, database
        assert figures["owners"] >= 100_000, database
        assert figures["repetitions"] >= 3, database


@pytest.mark.parametrize("name", ["hour", "day", "week"])
def test_the_page_meets_its_goal(name: str):
    assert GOAL <= 1.0
    for database, figures in MEASURED.items():
        assert figures["ranges"][name]["together"] < GOAL, database


def test_no_plan_reads_all_tasks():
    for database, figures in MEASURED.items():
        for what, plan in figures["plans"].items():
            scans = [step for step in plan if "Seq Scan on streaming_streamtask" in step]
            scans += [step for step in plan if step.startswith("SCAN streaming_streamtask")]
            assert scans == [], (database, what)
