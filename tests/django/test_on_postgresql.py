"""Modules that say what several processes do to one database, again on PostgreSQL: in a process of their own,
as Django knows its database from the start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.postgresql import Cluster
from tests.support.servers import ROOT

MODULES = (
    "test_alerts.py",
    "test_journal_stores.py",
    "test_processes.py",
    "test_rollups.py",
    "test_several_processes.py",
)


@pytest.mark.server
def test_processes_and_journals_on_postgresql(postgresql: Cluster):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            # Connections of the tests' own threads are closed when those are collected, whenever that is.
            *("-W", "default::ResourceWarning"),
            *(f"tests/django/{name}" for name in MODULES),
        ],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": postgresql.database()},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
