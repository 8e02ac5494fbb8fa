"""Modules that say what several processes do to one database, again on PostgreSQL: in a process of their own,
as Django knows its database from the start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.postgresql import Cluster
from tests.support.scale import ALL
from tests.support.servers import ROOT

MODULES = (
    *(["test_alerts.py"] if ALL else []),
    "test_journal_stores.py",
    "test_lost.py",
    "test_processes.py",
    "test_rollups.py",
    "test_several_processes.py",
)

WITHOUT_DATABASE = (
    "test_a_mail_server_that_is_down_is_shown_without_its_words",
    "test_a_mail_server_that_may_hang_is_warned_of",
    "test_a_name_cannot_add_a_header",
    "test_a_rule_about_an_unknown_pool_is_warned_of",
    "test_a_wrong_receiver_is_named_without_its_secret",
    "test_a_wrong_rule_is_named",
    "test_an_end_is_told_in_one_sentence",
    "test_the_file_has_the_rules_of_the_app",
)
"""Tests of these modules about words and settings: the same over any database."""


@pytest.mark.server
@pytest.mark.timeout(300)
def test_processes_and_journals_on_postgresql(postgresql: Cluster):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            # Connections of the tests' own threads are closed when those are collected, whenever that is.
            *("-W", "default::ResourceWarning"),
            *(f"tests/django/{name}" for name in MODULES),
            *("-k", f"not ({' or '.join(WITHOUT_DATABASE)})"),
        ],
        cwd=ROOT,
        # Histories are drawn at full number on SQLite.
        env={**os.environ, "DATABASE_URL": postgresql.database(), "HISTORIES": "12"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
