"""What the app needs of the project around it, and how the system checks name it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.conf import settings
from django.test import Client, override_settings
from django.utils.decorators import sync_and_async_middleware

from streaming.installation import check_apps, check_middleware

OURS = list(settings.MIDDLEWARE)


def _replaced(ours: str, other: str | None) -> list[str]:
    """MIDDLEWARE with `other` in the place of one of ours; without either if it is None."""
    found = [other if path == f"streaming.middleware.{ours}" else path for path in OURS]
    return [path for path in found if path is not None]


def _told() -> list[tuple[str, str]]:
    return [(str(message.id), message.msg) for message in (*check_middleware(None), *check_apps(None))]


def _function_middleware(get_response: Any) -> Any:
    return get_response


@sync_and_async_middleware
def _asynchronous_middleware(get_response: Any) -> Any:
    return get_response


def test_nothing_is_missing_here():
    assert _told() == []


@pytest.mark.parametrize("name", ["SessionMiddleware", "CsrfViewMiddleware"])
def test_missing_middleware_is_named(name: str):
    with override_settings(MIDDLEWARE=_replaced(name, None)):
        ((number, text),) = _told()
    assert number == "streaming.W008"
    assert text.startswith(name)


def test_djangos_own_will_do_and_is_named_as_slower():
    own = "django.contrib.sessions.middleware.SessionMiddleware"
    with override_settings(MIDDLEWARE=_replaced("SessionMiddleware", own)):
        ((number, text),) = _told()
    assert number == "streaming.W009"
    assert own in text


def test_what_is_synchronous_only_is_named():
    slow = f"{__name__}._function_middleware"
    with override_settings(MIDDLEWARE=[*OURS, slow]):
        ((number, text),) = _told()
    assert number == "streaming.W019"
    assert text.startswith(f"{slow}: synchronous only")


@pytest.mark.parametrize("other", [f"{__name__}._asynchronous_middleware", "nowhere.at_all.Middleware"])
def test_what_is_no_class_or_not_there_is_left_to_others(other: str):
    with override_settings(MIDDLEWARE=[*OURS, other]):
        assert _told() == []


def test_the_api_page_needs_its_files():
    with override_settings(INSTALLED_APPS=[name for name in settings.INSTALLED_APPS if name != "ninja"]):
        assert [number for number, _ in _told()] == ["streaming.W010"]


@pytest.mark.parametrize("place", ["nowhere", "/nowhere/", "/accounts/nowhere/?x=1"])
def test_a_sign_in_page_that_is_not_there_is_named(place: str):
    with override_settings(LOGIN_URL=place):
        ((number, text),) = _told()
    assert number == "streaming.W011"
    assert place in text


@pytest.mark.parametrize("place", ["admin:login", "/admin/login/", "https://id.example.org/login?for=us"])
def test_a_sign_in_page_may_be_anywhere(place: str):
    with override_settings(LOGIN_URL=place):
        assert _told() == []


@override_settings(ROOT_URLCONF="tests.django.bare_urls", ALLOW_ANONYMOUS="true")
def test_under_wsgi_nothing_starts_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """Django's synchronous test client is such a server: the event loop ends with the view."""
    monkeypatch.setattr(logging.getLogger("streaming"), "propagate", True)
    answer = Client(raise_request_exception=False).get("/letters")
    assert (answer.status_code, answer.json()["code"]) == (500, "server_error")
    assert "X-Stream-Id" not in answer.headers
    assert "a stream needs an ASGI server: manage.py serve" in caplog.text
