"""Row S23: what people wrote is on no page of the admin for who has not the permission to read it. Each page
of the admin, whatever it is, is tried by every role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import URLPattern, URLResolver

from streaming.models import StreamTask

pytestmark = pytest.mark.django_db

SECRET: Final = "secret-words"

ROLES: Final[dict[str, tuple[str, ...] | None]] = {
    "nobody": None,
    "staff": (),
    "operator": ("view_streamtask", "cancel_streamtask", "retry_streamtask", "view_refusal", "view_notebook"),
    "reader": ("view_streamtask", "read_content"),
}


def _patterns(patterns: list[Any], prefix: str = "/admin/") -> Iterator[str]:
    for each in patterns:
        place = prefix + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from _patterns(each.url_patterns, place)
        elif isinstance(each, URLPattern) and "^" not in place and "(?P" not in place:
            yield place


NUMBERS_ONLY: Final = "/admin/streaming/statistics/live/"
"""A stream without contents, which needs a server: see test_statistics_page.py."""

PLACES: Final = sorted(set(_patterns(admin.site.urls[0])) - {NUMBERS_ONLY})


@pytest.fixture
def task() -> StreamTask:
    return StreamTask.objects.create(
        id=f"{7:032x}",
        kind="content",
        pool="agent_pool",
        priority=0,
        state="error",
        route="direct",
        reason="capacity",
        created_at=datetime(2026, 5, 4, tzinfo=UTC),
        owner=get_user_model().objects.create(username="owner"),
        text=SECRET,
        arguments={"topic": SECRET},
        error_code="producer_failed",
        error_message=SECRET,
        error_detail=SECRET,
    )


def client_of(role: str) -> Client:
    client, permissions = Client(), ROLES[role]
    if permissions is not None:
        user = get_user_model().objects.create(username=role, is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client.force_login(user)
    return client


def test_the_admin_has_its_pages():
    assert len(PLACES) > 50
    assert "/admin/streaming/streamtask/export.csv" in PLACES


@pytest.mark.parametrize("role", ROLES)
def test_only_who_may_read_contents_is_shown_them(task: StreamTask, role: str):
    client = client_of(role)
    shown = set()
    for place in PLACES:
        answer = client.get(re.sub(r"<[^>]*>", task.pk, place))
        assert answer.status_code < 500, place
        body = b"".join(answer) if answer.streaming else answer.content
        if SECRET.encode() in body:
            shown.add(place)
        if role == "nobody":
            opened = answer.status_code == 200
            assert not opened or place in ("/admin/login/", "/admin/jsi18n/", "/admin/logout/"), place
    page = "/admin/streaming/streamtask/<path:object_id>/change/"
    if role == "reader":
        assert page in shown
    else:
        assert shown == set()
