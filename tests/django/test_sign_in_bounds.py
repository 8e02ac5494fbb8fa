"""What strangers may do at the pages that take a password: so many tries, so many at once, small forms."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth import get_user_model
from django.http.request import HttpRequest
from django.test import Client, override_settings

from accounts import doors
from accounts.attempts import AT_ONCE, TRIES, Checks
from streaming.forms import MAX_FORM

pytestmark = pytest.mark.django_db

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"
PAGES = ["/accounts/login/", "/admin/login/"]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    with override_settings(SESSION_COOKIE_SECURE=False, ALLOWED_HOSTS=["testserver"]):
        get_user_model().objects.create_superuser("alice", password="right")
        doors.FAILURES.clear()
        yield
        doors.FAILURES.clear()


def _try(page: str, name: str = "alice", password: str = "wrong", **options: Any) -> Any:
    form = urlencode({"username": name, "password": password})
    return Client().post(page, form, content_type=URLENCODED, **options)


@pytest.mark.parametrize("page", PAGES)
def test_after_so_many_failures_neither_that_name_nor_that_address_may_try(page: str):
    for number in range(TRIES):
        assert _try(page, REMOTE_ADDR=f"192.0.2.{number}").status_code == 200
    refused = _try(page, "ALICE ", "right", REMOTE_ADDR="192.0.2.99")
    assert refused.status_code == 429
    assert 1 <= int(refused["Retry-After"]) <= 60
    assert "no-store" in refused["Cache-Control"]
    assert b"too many failed sign-ins" in refused.content
    assert _try(page, "bob", REMOTE_ADDR="192.0.2.99").status_code == 200, "others may"

    doors.FAILURES.clear()
    for number in range(TRIES):
        _try(page, f"name{number}", REMOTE_ADDR="2001:db8::1")
    assert _try(page, "alice", "right", REMOTE_ADDR="2001:db8::2").status_code == 429, "the same network"
    assert _try(page, "alice", "right", REMOTE_ADDR="192.0.2.1").status_code == 302
    assert Client().get(page).status_code == 200


@pytest.mark.parametrize("page", PAGES)
def test_both_pages_count_together_and_success_costs_nothing(page: str):
    for _ in range(TRIES * 2):
        assert _try(page, password="right").status_code == 302
    for number in range(TRIES):
        _try(PAGES[number % 2])
    assert _try(page).status_code == 429


@pytest.mark.parametrize("page", PAGES)
def test_no_more_passwords_are_checked_at_once(page: str, monkeypatch: pytest.MonkeyPatch):
    checks = Checks(in_line=0)
    monkeypatch.setattr(doors, "CHECKS", checks)
    with ExitStack() as others:
        for _ in range(AT_ONCE):
            others.enter_context(checks.place())
        refused = _try(page, password="right")
        assert (refused.status_code, refused["Retry-After"]) == (503, str(doors.RETRY))
        assert b"Too many people are signing in" in refused.content
        assert Client().get(page).status_code == 200
    assert _try(page, password="right").status_code == 302


def test_a_failure_is_one_line_of_the_log_without_the_password(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "accounts"):
        _try("/accounts/login/", "al\nice\u2028" + "x" * 120, "s3cret-of-alice", REMOTE_ADDR="192.0.2.7")
    (record,) = [each for each in caplog.records if each.name == "accounts.doors"]
    line = record.getMessage()
    assert record.levelno == logging.WARNING
    assert "192.0.2.7" in line
    assert "al\\nice\\u2028" in line
    assert len(line) < 200
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("page", [*PAGES, "/i18n/setlang/"])
def test_forms_of_strangers_are_small_and_urlencoded(page: str, monkeypatch: pytest.MonkeyPatch):
    """Also where the CSRF check would read them first."""
    client = Client(enforce_csrf_checks=True)
    client.cookies["csrftoken"] = "c" * 32
    monkeypatch.setattr(HttpRequest, "_load_post_and_files", _not_read)
    for kind in (MULTIPART, "text/plain", "application/json"):
        answer = client.post(page, b"--b--\r\n", content_type=kind)
        assert (answer.status_code, answer["Accept"]) == (415, URLENCODED)
    assert client.post(page, b"a" * (MAX_FORM + 1), content_type=URLENCODED).status_code == 413


@pytest.mark.parametrize("page", ["/admin/", "/admin/auth/user/add/", "/accounts/logout/"])
def test_no_large_multipart_form_is_read_anywhere(page: str, monkeypatch: pytest.MonkeyPatch):
    client = Client(enforce_csrf_checks=True)
    client.cookies["csrftoken"] = "c" * 32
    monkeypatch.setattr(HttpRequest, "_load_post_and_files", _not_read)
    assert client.post(page, b"a" * (MAX_FORM + 1), content_type=MULTIPART).status_code == 413


def _not_read(request: HttpRequest) -> None:
    raise AssertionError("the form was parsed")
