"""A project without django-unfold and accounts: its settings and, run as a program, a look at its admin."""

from __future__ import annotations

from settings.settings import *  # noqa: F403
from settings.settings import INSTALLED_APPS as ALL_APPS

INSTALLED_APPS = [name for name in ALL_APPS if not name.startswith(("unfold", "accounts", "contentgen"))]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
LOGIN_URL = "admin:login"
ROOT_URLCONF = "tests.django.plain_admin_urls"


def look() -> None:
    """Check the project and visit every page; raises where something is wrong."""
    import django
    from django.test.utils import setup_test_environment

    django.setup()
    setup_test_environment()
    from django.contrib.admin.sites import site
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.test import Client
    from django.utils import timezone

    from streaming.models import ApiKey, StreamTask

    call_command("migrate", verbosity=0)
    call_command("check", fail_level="WARNING", verbosity=0)
    assert type(site._registry[StreamTask]).__mro__[2].__module__ == "django.contrib.admin.options"
    boss = Client()
    user = get_user_model().objects.create_superuser("boss", password="correct horse")
    boss.force_login(user)
    row = StreamTask.objects.create(
        id="1" * 32,
        kind="content",
        pool="agent_pool",
        priority=0,
        state="complete",
        route="direct",
        reason="worker_free",
        created_at=timezone.now(),
        total_ms=61_000.0,
        text="<script>alert(1)</script>",
    )
    form = boss.get("/admin/streaming/apikey/add/").content.decode()
    mark = form.split('name="form_mark" value="')[1].split('"')[0]
    sent = {"user": user.pk, "name": "n", "scopes": ["read"], "form_mark": mark}
    assert b"sluice_" in boss.post("/admin/streaming/apikey/add/", sent).content
    assert boss.post("/admin/streaming/apikey/add/", sent).status_code == 302
    pages = {
        "/admin/streaming/streamtask/": b"stream-label-success",
        "/admin/streaming/streamtask/?state=complete&accepted=day": b"1 min 1 s",
        f"/admin/streaming/streamtask/{row.pk}/change/": b"&lt;script&gt;alert(1)",
        "/admin/streaming/apikey/": b"stream-label-success",
        f"/admin/streaming/apikey/{ApiKey.objects.get().pk}/change/": b"Revoke the key",
        "/admin/streaming/refusal/": b"efusals",
        "/admin/streaming/statistics/": b"data-statistics",
        "/admin/": b"/admin/streaming/statistics/",
    }
    for place, expected in pages.items():
        page = boss.get(place)
        assert page.status_code == 200, place
        assert expected in page.content, place
        assert "unsafe" not in page["Content-Security-Policy"], place
        assert b"unfold" not in page.content, place


if __name__ == "__main__":
    look()
    print("plain")  # noqa: T201
