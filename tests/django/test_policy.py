"""The Content Security Policy: which one comes with which page, and what a project changes about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import include, path

from notebooks.pages import FRAME_POLICY
from streaming import csp
from streaming.installation import check_policy

pytestmark = pytest.mark.django_db

HEADER = "Content-Security-Policy"
OURS = "streaming.middleware.ContentSecurityPolicyMiddleware"


def broken(request: HttpRequest) -> HttpResponse:
    """A view with a fault."""
    raise ZeroDivisionError


def own(request: HttpRequest) -> HttpResponse:
    """A page with a policy of its own."""
    return HttpResponse("<p>", headers={HEADER: "default-src 'self'"})


def picture(request: HttpRequest) -> HttpResponse:
    """A document that is no HTML."""
    return HttpResponse("<svg/>", content_type="image/svg+xml")


handler400 = "streaming.error_views.bad_request"
handler403 = "streaming.error_views.permission_denied"
handler404 = "streaming.error_views.page_not_found"
handler500 = "streaming.error_views.server_error"
urlpatterns = [
    path("broken/", broken),
    path("own/", own),
    path("picture/", picture),
    path("", include("settings.urls")),
]


@pytest.fixture(autouse=True)
def _project() -> Iterator[None]:
    plain = {"SESSION_COOKIE_SECURE": False, "CSRF_COOKIE_SECURE": False, "ALLOWED_HOSTS": ["testserver"]}
    with override_settings(ROOT_URLCONF=__name__, ALLOW_ANONYMOUS="true", **plain):
        yield


@pytest.fixture
def boss() -> Client:
    found = Client(raise_request_exception=False, headers={"accept": "text/html"})
    found.force_login(User.objects.create_superuser("boss"))
    return found


def policy_of(response: Any) -> dict[str, list[str]]:
    """Directives and their values."""
    parts = [part.split() for part in response[HEADER].split("; ")]
    found = {name: values for name, *values in parts}
    assert len(found) == len(parts)
    return found


def is_strict(response: Any) -> None:
    """Nothing inline, nothing evaluated, nothing from elsewhere, no frame around it, Trusted Types."""
    found = policy_of(response)
    assert found["default-src"] == found["object-src"] == found["base-uri"] == ["'none'"]
    assert found["frame-ancestors"] == ["'none'"]
    for name in ("script-src", "style-src", "connect-src", "form-action", "frame-src", "font-src"):
        assert found[name] == ["'self'"], name
    assert found["img-src"] == ["'self'", "data:"]
    assert found["require-trusted-types-for"] == ["'script'"]
    assert found["trusted-types"] == ["sluice"]


@pytest.mark.parametrize(
    ("place", "status"),
    [
        ("/", 200),
        ("/accounts/signin/nobody-knows-it/", 410),
        ("/notebook/", 200),
        ("/notebook/mine/", 200),
        ("/nowhere", 404),
        (f"/streams/{'0' * 32}/view", 404),
        ("/broken/", 500),
        ("/picture/", 200),
    ],
)
def test_each_page_has_the_strict_policy(boss: Client, place: str, status: int) -> None:
    answer = boss.get(place)
    assert answer.status_code == status
    is_strict(answer)
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == answer["Cross-Origin-Opener-Policy"] == "same-origin"
    if status < 500:
        assert answer["X-Frame-Options"] == "DENY"


def test_so_has_the_page_where_one_signs_in() -> None:
    is_strict(Client().get("/accounts/login/"))


def test_so_have_refusals_of_the_middleware(boss: Client) -> None:
    answer = boss.get("/", headers={"host": "evil.example"})
    assert answer.status_code == 400
    is_strict(answer)
    answer = Client(enforce_csrf_checks=True).post(
        "/accounts/login/", "", "application/x-www-form-urlencoded", headers={"accept": "text/html"}
    )
    assert answer.status_code == 403
    is_strict(answer)
    assert b"<style" not in answer.content


@pytest.mark.parametrize("place", ["/admin/", "/admin/login/", "/admin/streaming/statistics/", "/admin/x/"])
def test_the_admins_theme_gets_what_it_needs_and_no_more(boss: Client, place: str) -> None:
    found = policy_of(boss.get(place))
    assert found["script-src"] == ["'self'", "'unsafe-eval'"]
    assert found["style-src"] == ["'self'", "'unsafe-inline'"]
    same = {"default-src", "object-src", "base-uri", "form-action", "frame-ancestors", "connect-src"}
    assert {name: found[name] for name in same} == {name: [*csp.PAGES[name]] for name in same}  # type: ignore[misc]
    assert "require-trusted-types-for" not in found


def test_the_api_page_does_without_trusted_types_only(boss: Client) -> None:
    found = policy_of(boss.get("/docs"))
    assert found["script-src"] == found["style-src"] == ["'self'"]
    assert "require-trusted-types-for" not in found


def test_the_frame_of_foreign_html_runs_nothing_whoever_shows_it() -> None:
    answer = Client().get("/notebook/frame")
    assert answer[HEADER] == csp.header_of(FRAME_POLICY)
    found = policy_of(answer)
    assert "allow-scripts" not in found["sandbox"]
    assert found["default-src"] == ["'none'"]
    assert found["frame-ancestors"] == ["'self'"]
    assert answer["X-Frame-Options"] == "SAMEORIGIN"
    assert not answer.cookies


def test_what_is_no_document_has_none(boss: Client) -> None:
    for place in ("/streams", "/openapi.json", "/stats"):
        assert HEADER not in boss.get(place, headers={"accept": "application/json"}), place


def test_a_page_keeps_a_policy_of_its_own(boss: Client) -> None:
    assert boss.get("/own/")[HEADER] == "default-src 'self'"


def test_a_project_has_a_policy_of_its_own(boss: Client) -> None:
    mine: csp.Policy = {
        "default-src": ["'self'"],
        "script-src": "https://cdn.example",
        "img-src": {"b.example", "a.example"},
        "upgrade-insecure-requests": True,
        "style-src": None,
        "font-src": [],
    }
    with override_settings(SECURE_CSP=mine, SECURE_CSP_REPORT_ONLY=csp.PAGES):
        answer = boss.get("/accounts/login/")
        admin = policy_of(boss.get("/admin/"))
    assert answer[HEADER] == (
        "default-src 'self'; script-src https://cdn.example; img-src a.example b.example; "
        "upgrade-insecure-requests"
    )
    assert answer[f"{HEADER}-Report-Only"] == csp.header_of(csp.PAGES)
    assert admin["script-src"] == ["https://cdn.example", "'unsafe-eval'"]
    assert admin["style-src"] == ["'self'", "'unsafe-inline'"]


def test_the_pages_for_developers_are_left_alone(boss: Client) -> None:
    with override_settings(DEBUG=True):
        assert HEADER not in boss.get("/broken/")
        is_strict(boss.get("/"))


def test_pages_without_a_policy_are_told_before_a_deployment() -> None:
    assert check_policy() == []
    others = [each for each in settings.MIDDLEWARE if each != OURS]
    with override_settings(MIDDLEWARE=others):
        assert [message.id for message in check_policy()] == ["streaming.W029"]
    for known in ("django.middleware.csp.ContentSecurityPolicyMiddleware", "csp.middleware.CSPMiddleware"):
        with override_settings(MIDDLEWARE=[*others, known]):
            assert check_policy() == []
