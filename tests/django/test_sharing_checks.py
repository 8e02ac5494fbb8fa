"""Rows E4 and S22: what is no address of a Redis, a Redis that anybody could reach, and what goes with it."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from streaming import sharing_checks
from streaming.checks import ensure_sound
from streaming.sharing_checks import check_redis, check_sharing

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _a_database_that_machines_can_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.postgresql")


def ids(**changes: Any) -> list[str]:
    with override_settings(**changes):
        found = check_sharing(None)
    assert all(each.hint for each in found)
    assert SECRET not in str(found)
    return [each.id or "" for each in found]


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:6379",
        "redis",
        "redis:",
        "redis://",
        f"http://:{SECRET}@127.0.0.1:6379/0",
        f"redis://:{SECRET}@127.0.0.1:70000/0",
        f"redis://:{SECRET}@127.0.0.1:port/0",
        f"redis://:{SECRET}@[::1/0",
        f"redis://:{SECRET}@127.0.0.1/0?db=first",
        f"redis://:{SECRET}@127.0.0.1/0?socket_timeout=soon",
        " redis://127.0.0.1",
    ],
)
def test_e4_what_is_no_address_of_a_redis_stops_every_start(url: str):
    assert ids(REDIS_URL=url) == ["streaming.E014"]
    with override_settings(REDIS_URL=url):
        with pytest.raises(ImproperlyConfigured, match="REDIS_URL") as refusal:
            ensure_sound()
        assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis://127.0.0.1",
        "redis://localhost:6379/3",
        "redis://[::1]:6379/0",
        "unix:///run/redis.sock",
        f"rediss://user:{SECRET}@redis.example:6380/0",
    ],
)
def test_s22_what_nobody_else_reaches_or_has_a_password_is_sound(url: str):
    assert ids(REDIS_URL=url) == []


@pytest.mark.parametrize(
    "url", ["redis://redis.example", "rediss://192.0.2.1:6380/0", "redis://user@[2001:db8::1]/0"]
)
def test_s22_a_bare_redis_is_told(url: str):
    assert ids(REDIS_URL=url) == ["streaming.W020"]


def test_workers_need_their_queue():
    assert ids(REDIS_URL="", STREAM_ENGINE="celery") == ["streaming.E013"]


def test_several_machines_need_a_database_that_they_share(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.sqlite3")
    with override_settings(REDIS_URL="redis://127.0.0.1"):
        assert [each.id for each in check_sharing(None)] == ["streaming.W021"]


def test_r15_a_redis_that_drops_what_it_is_given_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sharing_checks, "_faults", lambda url: iter([("evicts", "Do not.")]))
    with override_settings(REDIS_URL="redis://127.0.0.1"):
        assert [each.id for each in check_redis(None)] == ["streaming.E015"]


def test_e4_a_redis_that_is_away_stops_no_start():
    """Work is refused until it is there, see `/readyz`."""
    with override_settings(REDIS_URL="redis://127.0.0.1:1"):
        assert check_redis(None) == []
