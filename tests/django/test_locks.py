"""How long threads wait for somebody else's lock."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import sync_to_async
from django.db import connection

from streaming.readiness import _of_records
from streaming.storage.locks import hurry
from streaming.threads import borrowed_thread

POSTGRESQL = {"ENGINE": "django.db.backends.postgresql", "NAME": "never-opened"}


def opened_with(vendor: str, found: dict[str, Any]) -> dict[str, Any]:
    """The options of a connection with these settings in a thread that shall hurry."""
    asked = mock.Mock(vendor=vendor, settings_dict=found)
    with mock.patch("streaming.storage.locks.connections.all", return_value=[asked]):
        hurry()
    options: dict[str, Any] = asked.settings_dict["OPTIONS"]
    return options


@pytest.mark.parametrize(
    ("found", "timeout"), [({"timeout": 20}, 1.5), ({"timeout": 0.5}, 0.5), ({}, 1.5), (None, 1.5)]
)
def test_sqlite_has_a_timeout(found: dict[str, Any] | None, timeout: float) -> None:
    assert opened_with("sqlite", {"OPTIONS": found})["timeout"] == timeout


def test_postgresql_has_one_beside_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGOPTIONS", raising=False)
    ours = "-c lock_timeout=1500"
    assert opened_with("postgresql", POSTGRESQL) == {"options": ours}
    given = {**POSTGRESQL, "OPTIONS": {"options": "-c work_mem=1MB", "sslmode": "require"}}
    assert opened_with("postgresql", given) == {"options": f"-c work_mem=1MB {ours}", "sslmode": "require"}
    monkeypatch.setenv("PGOPTIONS", "-c geqo=off")
    assert opened_with("postgresql", POSTGRESQL) == {"options": f"-c geqo=off {ours}"}


def test_postgresql_has_none_where_somebody_else_says_or_it_would_be_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PGOPTIONS", raising=False)
    pooled = {**POSTGRESQL, "DISABLE_SERVER_SIDE_CURSORS": True}
    assert opened_with("postgresql", pooled) == {}, "PgBouncer"
    assert opened_with("postgresql", {**POSTGRESQL, "OPTIONS": {"pool": True}}) == {"pool": True}
    own = {"options": "-c lock_timeout=9s"}
    assert opened_with("postgresql", {**POSTGRESQL, "OPTIONS": own}) == own
    monkeypatch.setenv("PGOPTIONS", "-c lock_timeout=9s")
    assert opened_with("postgresql", POSTGRESQL) == {}, "it is taken from there"


async def test_threads_of_requests_hurry_and_others_do_not() -> None:
    def settings() -> dict[str, Any]:
        found: dict[str, Any] = connection.settings_dict
        return found

    with ThreadPoolExecutor(1) as other:
        usual = await asyncio.get_running_loop().run_in_executor(other, settings)
    async with borrowed_thread():
        hurried = await sync_to_async(settings)()
    assert hurried["OPTIONS"] != usual["OPTIONS"]
    assert {**hurried, "OPTIONS": None} == {**usual, "OPTIONS": None}


@pytest.mark.parametrize(
    ("behind", "stalled", "state"),
    [
        (0.3, 0.6, "ok"),
        (2.5, 0.1, "warning"),
        (0.0, 2.5, "warning"),
        (0.0, 5.5, "failed"),
        (5.5, 0.0, "failed"),
    ],
)
def test_readiness_tells_of_both(behind: float, stalled: float, state: str) -> None:
    assert _of_records(behind, stalled).state == state
