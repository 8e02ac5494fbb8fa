"""The admin in one process: every page renders for every kind of row, who sees what, who may do what, no
query per row. What needs a running server is in `tests/integration/test_admin.py`."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from streaming.admin.words import decision, duration, moment
from streaming.core import sse
from streaming.models import ApiKey, Refusal, Segment, StreamTask
from streaming.producers import producer

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)

LIST = "/admin/streaming/streamtask/"
KEYS = "/admin/streaming/apikey/"
USERS = "/admin/auth/user/"
ROOT = Path(__file__).resolve().parents[2]


@producer("admin-test")
def known_producer(arguments: dict[str, Any]):
    """A producer that a record can name; these tests never run it."""
    yield "text"


def _row(number: int, state: str, **values: Any) -> StreamTask:
    return StreamTask.objects.create(
        id=f"{number:032x}",
        kind="content",
        pool="agent_pool",
        priority=number % 3,
        state=state,
        route="direct" if number % 2 else "queued",
        reason="capacity",
        end_user=f"用户 {number} <b>",
        created_at=NOW + timedelta(seconds=number),
        **values,
    )


@pytest.fixture
def rows() -> list[StreamTask]:
    owner = get_user_model().objects.create(username="owner")
    return [
        _row(1, "queued"),
        _row(2, "running", started_at=NOW, owner=owner),
        _row(
            3,
            "complete",
            finished_at=NOW,
            text="完成 <script>",
            total_ms=61_000.0,
            queued_ms=3.2,
            owner=owner,
        ),
        _row(4, "error", error_code="producer_failed", error_message="no", first_content_ms=350.0),
        _row(
            5,
            "cancelled",
            cancel_reason="client",
            arguments={"topic": "<i>"},
            usage={"n": 1},
            timing={"x": 1},
        ),
    ]


@pytest.fixture
def boss() -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create(username="boss", is_staff=True, is_superuser=True))
    return client


def staff(*permissions: str, name: str = "clerk") -> Client:
    """A member of the staff with just these permissions."""
    user = get_user_model().objects.create(username=name, is_staff=True)
    found = Permission.objects.filter(codename__in=permissions)
    assert len(found) == len(permissions)
    user.user_permissions.set(found)
    client = Client()
    client.force_login(user)
    return client


def page_of(client: Client, row: StreamTask) -> str:
    """A task's page."""
    page = client.get(f"{LIST}{row.pk}/change/")
    assert page.status_code == 200
    return page.content.decode()


def told(client: Client, path: str, data: dict[str, Any] | None = None) -> str:
    """What the page says after a POST and its redirect."""
    page = client.post(path, data or {}, follow=True)
    assert page.redirect_chain, "an action answers with a redirect"
    return " | ".join(str(message) for message in page.context["messages"])


def test_the_list_shows_every_state(boss: Client, rows: list[StreamTask]):
    page = boss.get(LIST)
    assert page.status_code == 200
    text = page.content.decode()
    for row in rows:
        assert row.get_state_display() in text
    assert "&lt;b&gt;" in text
    assert "用户 1 <b>" not in text, "escaped"
    assert "1 min 1 s" in text
    assert "3.2 ms" in text
    assert "350 ms" in text


def test_each_detail_page_renders(boss: Client, rows: list[StreamTask]):
    for row in rows:
        text = page_of(boss, row)
        assert row.pk in text
        assert str(row.get_state_display()) in text


def test_what_models_and_strangers_wrote_is_text(boss: Client):
    wild = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    row = _row(
        9,
        "error",
        text=f"{wild}\u202e",
        arguments={"topic": wild},
        usage={wild: {"n": wild}},
        model=wild,
        error_message=wild,
        snapshot={"pool": wild},
        finish_reason="<script>alert(1)</script>",
    )
    text = page_of(boss, row)
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 7
    prose = re.search(r'<pre class="stream-text stream-prose" dir="auto" tabindex="0">([^<]*)</pre>', text)
    assert prose is not None, "in its own direction"
    listed = boss.get(LIST).content.decode()
    assert "<script>alert" not in listed


def test_a_long_text_is_cut_and_said_to_be(boss: Client):
    text = page_of(boss, _row(9, "complete", text="é" * 200_003))
    assert text.count("é") == 200_000
    assert "3 more code points are not shown." in text


def test_the_page_explains_the_decision_and_the_times(boss: Client):
    snapshot = {"running": 5, "max_workers": 5, "waiting": 3, "queue_size": 30, "oldest_wait_seconds": 2.0}
    times = {"queued_ms": 500.0, "first_content_ms": 750.0, "total_ms": 2000.0}
    row = _row(
        9, "complete", snapshot=snapshot, usage={"tokens": {"in": 7}}, timing={"blocked_ms": 3}, **times
    )
    row.route, row.reason = "queued", "workers_busy"
    row.save()
    assert decision(row) == (
        "running 5 of 5, waiting 3 of 30, longest wait 2.00 s → via the queue: workers busy"
    )
    text = page_of(boss, row)
    assert decision(row) in text
    assert "&quot;oldest_wait_seconds&quot;: 2.0" in text, "the record itself"
    assert "Tokens.in" in text
    widths = re.findall(r'<rect class="stream-\w+" x="([\d.]+)%" width="([\d.]+)%"', text)
    assert widths == [("0.00", "25.00"), ("25.00", "12.50"), ("37.50", "62.50")]
    for words in ("500 ms", "250 ms", "1.25 s", "2.00 s", "3.0 ms"):
        assert words in text


def test_the_newest_stored_events_are_shown_in_order(boss: Client, rows: list[StreamTask]):
    for first_id in range(1, 301, 50):
        frames = [sse.frame(k, "content", b'{"delta":"part %d"}' % k) for k in range(first_id, first_id + 50)]
        Segment.objects.create(
            task=rows[2], first_id=first_id, last_id=first_id + 49, frames=b"".join(frames)
        )
    text = page_of(boss, rows[2])
    shown = [int(number) for number in re.findall(r"part (\d+)", text)]
    assert shown == list(range(101, 301))
    assert "100 earlier events are not shown." in text


def test_that_no_event_is_stored_is_said(boss: Client, rows: list[StreamTask]):
    assert "Its events were deleted, or none is written yet." in page_of(boss, rows[2])


# Who sees what

SECRETS = ("secret-prompt", "secret-text", "secret-error", "secret-detail")


def _owner() -> Any:
    return get_user_model().objects.get_or_create(username="owner")[0]


def _secret_row(**values: Any) -> StreamTask:
    contents = {
        "text": "secret-text",
        "arguments": {"topic": "secret-prompt"},
        "error_message": "secret-error",
        "error_detail": "secret-detail",
    }
    return _row(9, "error", **{"owner": _owner(), **contents, **values})


def test_contents_need_their_permission():
    row = _secret_row()
    text = page_of(staff("view_streamtask"), row)
    assert not [secret for secret in SECRETS if secret in text]
    assert "streaming.read_content" in text, "says what is missing"
    text = page_of(staff("view_streamtask", "read_content", name="reader"), row)
    assert [secret for secret in SECRETS if secret in text] == list(SECRETS)


def test_contents_are_not_even_read_from_the_database_without_it():
    row = _secret_row()
    clerk = staff("view_streamtask")
    with CaptureQueriesContext(connection) as seen:
        page_of(clerk, row)
    read = [each["sql"] for each in seen.captured_queries if "streaming_streamtask" in each["sql"]]
    assert read
    contents = ('"text"', '"arguments"', '"error_message"', '"error_detail"')
    assert not [sql for sql in read if any(column in sql for column in contents)]


@pytest.mark.parametrize(
    "lookup",
    [
        "text__contains=secret",
        "arguments__topic__contains=secret",
        "error_message__startswith=secret",
        "fingerprint__startswith=a",
    ],
)
def test_contents_cannot_be_guessed_by_searching(lookup: str):
    _secret_row()
    clerk = staff("view_streamtask")
    assert clerk.get(f"{LIST}?{lookup}").status_code == 400
    for secret in SECRETS:
        assert clerk.get(f"{LIST}?q={secret}").context["cl"].result_count == 0


# Anonymous tasks: whoever knows the id of one can read it over the API


def test_ids_of_anonymous_tasks_are_not_told_to_who_may_not_read_them():
    hidden, shown = _row(8, "complete", text="x"), _secret_row()
    operator = staff("view_streamtask", "cancel_streamtask", "retry_streamtask")
    listed = operator.get(LIST).content.decode()
    assert hidden.pk[:8] in listed
    assert hidden.pk not in listed, "neither as a link nor to be chosen"
    assert f'href="{LIST}{shown.pk}/change/' in listed
    assert f'value="{shown.pk}"' in listed
    reader = staff("view_streamtask", "read_content", "cancel_streamtask", name="reader")
    listed = reader.get(LIST).content.decode()
    assert f'href="{LIST}{hidden.pk}/change/' in listed
    assert f'value="{hidden.pk}"' in listed


@pytest.mark.parametrize("verb", ["change", "history", "cancel", "retry"])
def test_pages_of_anonymous_tasks_are_for_who_may_read_them(verb: str):
    row = _row(8, "complete", text="x")
    operator = staff("view_streamtask", "cancel_streamtask", "retry_streamtask")
    call = operator.post if verb in ("cancel", "retry") else operator.get
    page = call(f"{LIST}{row.pk}/{verb}/", headers={"accept": "text/html"})
    assert page.status_code == 403
    assert "streaming.read_content" in page.content.decode(), "says why"


def test_ids_of_anonymous_tasks_cannot_be_found_digit_by_digit():
    row = StreamTask.objects.get(pk=_row(0xABCDEF12, "complete").pk)
    clerk, reader = staff("view_streamtask"), staff("view_streamtask", "read_content", name="reader")
    beginning = row.pk[:31]
    for client, found in ((clerk, 0), (reader, 1)):
        assert client.get(f"{LIST}?q={beginning}").context["cl"].result_count == found
        assert client.get(f"{LIST}?q={row.pk}").context["cl"].result_count == 1, "who has it knows it"
    for lookup in ("id__startswith", "pk__startswith", "id__gte", "id"):
        assert clerk.get(f"{LIST}?{lookup}={beginning}").status_code == 400
    assert reader.get(f"{LIST}?id__startswith={beginning}").context["cl"].result_count == 1


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What the app logs."""
    monkeypatch.setattr(logging.getLogger("streaming"), "propagate", True)
    caplog.set_level(logging.INFO, "streaming")
    return caplog


def test_reading_what_others_wrote_is_logged(log: pytest.LogCaptureFixture):
    row = _secret_row()
    reader = staff("view_streamtask", "read_content", name="reader")
    page_of(staff("view_streamtask"), row)
    assert "reads" not in log.text, "nothing was shown"
    page_of(reader, row)
    user = get_user_model().objects.get(username="reader")
    assert f"task {row.pk}: user {user.pk} reads its prompt and text" in log.text
    log.clear()
    StreamTask.objects.filter(pk=row.pk).update(owner=user)
    page_of(reader, row)
    assert "reads" not in log.text, "one's own"


def test_a_role_without_permissions_sees_no_task(rows: list[StreamTask]):
    clerk = staff()
    assert clerk.get(LIST).status_code == 403
    assert clerk.get(f"{LIST}{rows[2].pk}/change/").status_code == 403


# What one can do about tasks


def test_buttons_and_actions_are_for_those_who_may(boss: Client):
    ended = _row(9, "complete", arguments={}, owner=_owner())
    StreamTask.objects.update(kind="admin-test")
    clerk = staff("view_streamtask")
    assert "Start again" in page_of(boss, ended)
    assert "Start again" not in page_of(clerk, ended)
    assert "retry_tasks" in boss.get(LIST).content.decode()
    listed = clerk.get(LIST).content.decode()
    assert "retry_tasks" not in listed
    assert "cancel_tasks" not in listed


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_doing_needs_a_post_a_token_and_the_permission(boss: Client, rows: list[StreamTask], verb: str):
    place = f"{LIST}{rows[2].pk}/{verb}/"
    assert boss.get(place).status_code == 405
    assert staff("view_streamtask", "read_content").post(place).status_code == 403
    blind = staff(f"{verb}_streamtask", name="blind")
    assert blind.post(place).status_code == 403, "who may not see a task can do nothing about it"
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(get_user_model().objects.get(username="boss"))
    assert strict.post(place).status_code == 403
    assert Client().post(place).status_code == 302, "to the sign-in page"
    assert boss.post(f"{LIST}{'0' * 32}/{verb}/").status_code == 404


def test_an_action_without_permission_does_nothing(rows: list[StreamTask]):
    clerk = staff("view_streamtask")
    for action in ("cancel_tasks", "retry_tasks"):
        page = clerk.post(LIST, {"action": action, "_selected_action": [rows[2].pk]}, follow=True)
        assert "started again" not in page.content.decode().casefold()
    assert not LogEntry.objects.exists()


def test_the_process_that_runs_a_task_is_asked_to_cancel_it(boss: Client, rows: list[StreamTask]):
    said = told(boss, f"{LIST}{rows[1].pk}/cancel/")
    assert said == "1 has been asked to end and has not yet."
    rows[1].refresh_from_db()
    assert rows[1].cancel_requested == "admin"


def test_the_list_action_counts_what_became_of_each(boss: Client, rows: list[StreamTask]):
    said = told(boss, LIST, {"action": "cancel_tasks", "_selected_action": [row.pk for row in rows]})
    assert said == "3 had ended already, 2 have been asked to end and have not yet."


@pytest.mark.parametrize(
    ("state", "values", "why"),
    [
        ("running", {"arguments": {}}, "it has not ended yet"),
        ("complete", {"arguments": None, "purged_at": NOW}, "its prompt was deleted"),
        ("complete", {"arguments": None}, "it came from a view's own code"),
        ("complete", {"arguments": {}, "pool": "gone"}, "this server has no pool of that name"),
        ("complete", {"arguments": {}, "kind": "gone"}, "this server has no producer of its kind"),
        ("complete", {"arguments": {}}, "this process serves no streams"),
    ],
)
def test_what_cannot_be_started_again_is_told_to_be(
    boss: Client, state: str, values: dict[str, Any], why: str
):
    row = _row(9, state)
    StreamTask.objects.filter(pk=row.pk).update(**{"kind": "admin-test"} | values)
    assert why in told(boss, f"{LIST}{row.pk}/retry/")
    assert StreamTask.objects.count() == 1


def test_many_at_once_are_refused_as_a_whole(boss: Client):
    made = [_row(number, "complete") for number in range(101)]
    said = told(boss, LIST, {"action": "retry_tasks", "_selected_action": [row.pk for row in made]})
    assert said == "Nothing was done: choose at most 100 tasks at once."


@pytest.mark.parametrize(
    "query",
    [
        "state__exact=complete",
        "state=complete",
        "route=direct",
        "reason=capacity",
        "pool=agent_pool",
        "kind=content",
        "priority=0",
        "error_code=producer_failed",
        "created_at__gte=2026-01-01+00:00:00%2B00:00",
        "created_at__year=2026",
        "o=1.2.7.8.9.10",
        "q=owner",
        "q=producer_failed",
        "q=" + "0" * 31 + "3",
        "q=用户",
    ],
)
def test_filters_searches_and_orders_work(boss: Client, rows: list[StreamTask], query: str):
    page = boss.get(f"{LIST}?{query}")
    assert page.status_code == 200
    assert page.context["cl"].result_count >= 1


def test_what_one_looks_for_comes_first(boss: Client, rows: list[StreamTask]):
    page = boss.get(LIST)
    first = ["short_id", "state_in_words", "who", "accepted", "queued", "first_content", "total"]
    assert [name for name in page.context["cl"].list_display if name != "action_checkbox"][:7] == first
    assert "at once: capacity" in page.content.decode(), "the way and its reason share a column"


def test_a_filter_filters(boss: Client, rows: list[StreamTask]):
    page = boss.get(f"{LIST}?state=error")
    assert [row.state for row in page.context["cl"].result_list] == ["error"]


def test_the_period_filter_counts_from_now(boss: Client, rows: list[StreamTask]):
    StreamTask.objects.filter(pk=rows[0].pk).update(created_at=datetime.now(UTC) - timedelta(minutes=5))
    StreamTask.objects.filter(pk=rows[1].pk).update(created_at=datetime.now(UTC) - timedelta(days=3))
    for period, count in (("hour", 1), ("day", 1), ("week", 2)):
        assert boss.get(f"{LIST}?accepted={period}").context["cl"].result_count == count


def test_an_empty_list_is_a_page(boss: Client):
    assert boss.get(LIST).status_code == 200


def test_nothing_can_be_changed(boss: Client, rows: list[StreamTask]):
    row = rows[2]
    assert boss.get(f"{LIST}add/").status_code == 403
    assert boss.post(f"{LIST}add/", {"id": "x"}).status_code == 403
    assert boss.post(f"{LIST}{row.pk}/change/", {"state": "error"}).status_code == 403
    assert boss.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    boss.post(LIST, {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
    row.refresh_from_db()
    assert row.state == "complete"


@pytest.mark.usefixtures("rows")
def test_a_list_of_many_costs_as_many_queries_as_one_of_few(boss: Client):
    few = _queries(boss)
    owners = [get_user_model().objects.create(username=f"owner {number}") for number in range(20)]
    for number in range(10, 50):
        _row(number, "complete", owner=owners[number % 20], text="x" * 10_000)
    assert _queries(boss) == few


def _queries(boss: Client) -> int:
    with CaptureQueriesContext(connection) as seen:
        assert boss.get(LIST).status_code == 200
    statements = [each["sql"] for each in seen.captured_queries if "streaming_streamtask" in each["sql"]]
    listed = [sql for sql in statements if sql.startswith('SELECT "streaming_streamtask"."id"')]
    assert listed
    heavy = ('"text"', '"arguments"', '"snapshot"', '"error_message"')
    assert not [sql for sql in listed for column in heavy if column in sql], "the list needs no texts"
    return len(seen)


def test_refusals_are_listed(boss: Client):
    Refusal.objects.create(minute=NOW, pool="agent_pool", reason="queue_full", count=17)
    page = boss.get("/admin/streaming/refusal/")
    assert page.status_code == 200
    assert "17" in page.content.decode()
    assert boss.get("/admin/streaming/refusal/add/").status_code == 403


def test_a_stranger_sees_nothing(client: Client, rows: list[StreamTask]):
    assert client.get(LIST).status_code == 302


# Keys


def key_form(client: Client, user: Any, name: str = "nightly") -> dict[str, Any]:
    """The form for a new key, filled in."""
    form_mark = mark_of(client.get(f"{KEYS}add/"))
    return {"user": user.pk, "name": name, "scopes": ["read", "generate"], "form_mark": form_mark}


def mark_of(page: Any) -> str:
    """What tells the page's form from others."""
    found = re.search(r'<input type="hidden" name="form_mark" value="([\w-]+)">', page.content.decode())
    assert found is not None
    return found.group(1)


def make_key(client: Client, user: Any, name: str = "nightly") -> Any:
    """The answer to the form."""
    return client.post(f"{KEYS}add/", key_form(client, user, name))


def test_a_key_is_shown_once_and_kept_nowhere(boss: Client, log: pytest.LogCaptureFixture):
    user = get_user_model().objects.get(username="boss")
    page = make_key(boss, user)
    assert page.status_code == 200, "the answer itself, no redirect that would have to keep the key"
    assert "no-store" in page["Cache-Control"]
    found = re.search(r'value="(sluice_[\w-]{43})"', page.content.decode())
    assert found is not None
    text = found.group(1)
    key = ApiKey.objects.get()
    assert (key.user, key.name, text.startswith(key.prefix)) == (user, "nightly", True)
    assert text not in log.text
    assert text not in str(page.cookies)
    assert text not in str(dict(boss.session))
    assert not [
        entry for entry in LogEntry.objects.all() if text in f"{entry.object_repr}{entry.change_message}"
    ]
    for place in (KEYS, f"{KEYS}{key.pk}/change/", f"{KEYS}{key.pk}/history/", "/admin/"):
        assert text not in boss.get(place).content.decode()


def test_a_reload_of_the_page_with_the_key_makes_no_second_one(boss: Client):
    form = key_form(boss, get_user_model().objects.get(username="boss"))
    assert boss.post(f"{KEYS}add/", form).status_code == 200
    assert told(boss, f"{KEYS}add/", form) == (
        "This form was sent already; the key was shown once. Make another one if you did not copy it."
    )
    assert ApiKey.objects.count() == 1
    assert boss.post(f"{KEYS}add/", form | {"form_mark": ""}).status_code == 302
    assert ApiKey.objects.count() == 1
    assert make_key(boss, get_user_model().objects.get(username="boss")).status_code == 200


def test_two_forms_at_once_make_two_keys(boss: Client):
    user = get_user_model().objects.get(username="boss")
    for form in (key_form(boss, user, "one"), key_form(boss, user, "two")):
        assert boss.post(f"{KEYS}add/", form).status_code == 200
    assert {key.name for key in ApiKey.objects.all()} == {"one", "two"}


def test_a_form_with_errors_can_be_sent_again(boss: Client):
    form = key_form(boss, get_user_model().objects.get(username="boss"))
    for _reload in range(2):
        page = boss.post(f"{KEYS}add/", form | {"user": ""})
        assert page.context["errors"]
    assert boss.post(f"{KEYS}add/", form | {"form_mark": mark_of(page)}).status_code == 200
    assert ApiKey.objects.count() == 1


def test_who_may_only_make_keys_is_sent_where_he_may_be(boss: Client):
    maker = staff("add_apikey")
    form = key_form(maker, get_user_model().objects.get(username="clerk"))
    assert maker.post(f"{KEYS}add/", form).status_code == 200
    assert "sent already" in told(maker, f"{KEYS}add/", form)


def test_only_superusers_make_keys_for_others(boss: Client):
    other = get_user_model().objects.create(username="other")
    clerk = staff("add_apikey", "view_apikey")
    assert "other" not in clerk.get(f"{KEYS}add/").content.decode()
    page = make_key(clerk, other)
    assert "user" in page.context["errors"].as_data()[0].message or page.context["adminform"].errors
    assert not ApiKey.objects.exists()
    assert make_key(clerk, get_user_model().objects.get(username="clerk")).status_code == 200
    assert make_key(boss, other).status_code == 200
    assert sorted(key.user.username for key in ApiKey.objects.all()) == ["clerk", "other"]


def _key(boss: Client) -> ApiKey:
    make_key(boss, get_user_model().objects.get(username="boss"))
    return ApiKey.objects.latest("id")


def test_of_a_key_only_the_name_can_change(boss: Client):
    key = _key(boss)
    before = ApiKey.objects.filter(pk=key.pk).values().get()
    other = get_user_model().objects.create(username="other")
    wishes = {"name": "renamed", "user": other.pk, "digest": "x", "prefix": "x", "revoked_at": "2026-01-01"}
    assert boss.post(f"{KEYS}{key.pk}/change/", wishes).status_code == 302
    assert ApiKey.objects.filter(pk=key.pk).values().get() == {**before, "name": "renamed"}
    assert boss.post(f"{KEYS}{key.pk}/delete/", {"post": "yes"}).status_code == 403
    assert key.digest not in boss.get(f"{KEYS}{key.pk}/change/").content.decode()


def test_keys_are_revoked_by_a_button_and_by_an_action(boss: Client):
    keys = [_key(boss), _key(boss)]
    page = boss.get(f"{KEYS}{keys[0].pk}/change/").content.decode()
    assert re.search(rf'<form [^>]*method="post" action="{KEYS}{keys[0].pk}/revoke/"', page), (
        "not in the name's form"
    )
    assert "formaction" not in page
    assert told(boss, f"{KEYS}{keys[0].pk}/revoke/") == "1 key revoked."
    chosen = {"action": "revoke_keys", "_selected_action": [key.pk for key in keys]}
    assert told(boss, KEYS, chosen) == "1 key revoked.", "the other one was revoked already"
    assert not ApiKey.objects.filter(revoked_at=None).exists()
    assert "/revoke/" not in boss.get(f"{KEYS}{keys[0].pk}/change/").content.decode()


def test_revoking_needs_a_post_and_the_permission(boss: Client):
    place = f"{KEYS}{_key(boss).pk}/revoke/"
    assert boss.get(place).status_code == 405
    viewer = staff("view_apikey")
    assert viewer.post(place).status_code == 403
    assert "/revoke/" not in viewer.get(place.replace("revoke", "change")).content.decode()
    assert boss.post(f"{KEYS}999999/revoke/").status_code == 404
    assert ApiKey.objects.get().revoked_at is None
    assert staff("view_apikey", "change_apikey", name="keeper").post(place).status_code == 302
    assert ApiKey.objects.get().revoked_at is not None


def test_a_key_is_made_for_the_scopes_that_are_ticked_and_until_its_end(boss: Client):
    user = get_user_model().objects.get(username="boss")
    page = boss.get(f"{KEYS}add/").content.decode()
    boxes = {
        value: re.search(r"\schecked(?=[\s=>])", box) is not None
        for box in re.findall(r'<input [^>]*name="scopes"[^>]*>', page)
        for value in re.findall(r'value="(\w+)"', box)
    }
    usual = dict.fromkeys(("generate", "read", "cancel", "notebooks"), True)
    assert boxes == {**usual, "operate": False}
    form = key_form(boss, user) | {"scopes": ["operate", "read"]}
    form |= {"expires_at_0": "2999-12-31", "expires_at_1": "12:00:00"}
    shown = boss.post(f"{KEYS}add/", form).content.decode()
    assert "It is for: read operate." in shown
    key = ApiKey.objects.get()
    assert key.scopes == "read operate"
    assert key.expires_at is not None
    assert key.expires_at.year == 2999


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"expires_at_0": "2020-01-01", "expires_at_1": "00:00"}, "expires_at"),
        ({"expires_at_0": "2999-01-01", "expires_at_1": "00:00"}, "expires_at"),
    ],
)
def test_a_key_that_cannot_be_is_not_made(boss: Client, settings: Any, wrong: dict[str, Any], field: str):
    settings.ACCESS_CONFIG = {"key_max_days": 90}
    form = key_form(boss, get_user_model().objects.get(username="boss")) | wrong
    page = boss.post(f"{KEYS}add/", form)
    assert list(page.context["adminform"].errors) == [field]
    assert not ApiKey.objects.exists()


def test_a_key_is_rotated_by_a_button_and_its_successor_shown_once(boss: Client):
    key = _key(boss)
    place = f"{KEYS}{key.pk}/rotate/"
    assert f'action="{place}"' in boss.get(f"{KEYS}{key.pk}/change/").content.decode()
    for wrong in ("", "-1", "1.5", "٣", "99999", "721"):
        assert "whole number of hours" in told(boss, place, {"hours": wrong})
    page = boss.post(place, {"hours": "2"})
    assert "no-store" in page["Cache-Control"]
    text = re.search(r'value="(sluice_[\w-]{43})"', page.content.decode())
    assert text is not None
    new = ApiKey.objects.get(replaces=key)
    assert text.group(1).startswith(new.prefix)
    key.refresh_from_db()
    assert key.expires_at is not None
    assert timedelta(hours=1) < key.expires_at - timezone.now() <= timedelta(hours=2)
    assert "already" in told(boss, place, {"hours": "2"}), "sent again, it makes no other one"
    assert ApiKey.objects.count() == 2
    assert str(new) in boss.get(f"{KEYS}{key.pk}/change/").content.decode()
    assert str(key) in boss.get(f"{KEYS}{new.pk}/change/").content.decode()
    assert text.group(1) not in boss.get(f"{KEYS}{new.pk}/history/").content.decode()
    assert boss.get(place).status_code == 405


def test_several_keys_are_rotated_by_an_action(boss: Client):
    old = [_key(boss), _key(boss)]
    chosen = {"action": "rotate_keys", "_selected_action": [key.pk for key in old]}
    page = boss.post(KEYS, chosen).content.decode()
    assert len(set(re.findall(r'value="(sluice_[\w-]{43})"', page))) == 2
    assert ApiKey.objects.exclude(replaces=None).count() == 2
    boss.post(KEYS, chosen)
    assert ApiKey.objects.count() == 4


def test_a_successor_is_for_who_may_make_keys_and_for_oneself(boss: Client):
    foreign = _key(boss)
    clerk = staff("view_apikey", "add_apikey", "change_apikey")
    make_key(clerk, get_user_model().objects.get(username="clerk"))
    own = ApiKey.objects.latest("id")
    viewer = staff("view_apikey", "change_apikey", name="viewer")
    for client, key, status in ((clerk, foreign, 403), (viewer, own, 403), (clerk, own, 200)):
        offered = "/rotate/" in client.get(f"{KEYS}{key.pk}/change/").content.decode()
        assert offered == (status == 200)
        assert client.post(f"{KEYS}{key.pk}/rotate/", {"hours": "0"}).status_code == status
    both = {"action": "rotate_keys", "_selected_action": [foreign.pk]}
    assert clerk.post(KEYS, both).status_code == 403
    assert ApiKey.objects.filter(replaces=foreign).count() == 0


def test_keys_are_listed_by_state(boss: Client):
    valid, expired, revoked = _key(boss), _key(boss), _key(boss)
    now = timezone.now()
    ApiKey.objects.filter(pk=expired.pk).update(expires_at=now)
    ApiKey.objects.filter(pk=revoked.pk).update(revoked_at=now, expires_at=now)
    ApiKey.objects.filter(pk=valid.pk).update(last_used_at=now)
    for state, key in (("valid", valid), ("expired", expired), ("revoked", revoked)):
        page = boss.get(f"{KEYS}?state={state}")
        assert [each.pk for each in page.context["cl"].result_list] == [key.pk]
        assert page.status_code == 200


# People


def test_users_and_groups_have_their_pages(boss: Client):
    user = get_user_model().objects.get(username="boss")
    pages = (USERS, f"{USERS}add/", f"{USERS}{user.pk}/change/", f"{USERS}{user.pk}/password/")
    for place in (*pages, "/admin/auth/group/", "/admin/auth/group/add/", "/admin/"):
        page = boss.get(place)
        assert page.status_code == 200, place
        assert "Sluice" in page.content.decode()


def test_who_is_no_superuser_cannot_become_one(boss: Client):
    clerk = staff("view_user", "add_user", "change_user", "delete_user")
    me = get_user_model().objects.get(username="clerk")
    superuser = get_user_model().objects.get(username="boss")
    form = {"username": "clerk", "is_active": "on", "is_staff": "on", "is_superuser": "on"}
    form |= {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    assert clerk.post(f"{USERS}{me.pk}/change/", {**form, "first_name": "C"}).status_code == 302
    me.refresh_from_db()
    assert (me.first_name, me.is_superuser) == ("C", False)
    assert clerk.post(f"{USERS}{superuser.pk}/change/", form).status_code == 403
    passwords = {"password1": "a new one 123", "password2": "a new one 123", "usable_password": "true"}
    assert clerk.post(f"{USERS}{superuser.pk}/password/", passwords).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [superuser.pk], "post": "yes"}
    clerk.post(USERS, chosen)
    assert get_user_model().objects.filter(pk=superuser.pk).exists()


def test_a_superuser_can_remove_a_user_with_everything(boss: Client, rows: list[StreamTask]):
    owner = get_user_model().objects.get(username="owner")
    make_key(boss, owner)
    assert boss.post(f"{USERS}{owner.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not get_user_model().objects.filter(username="owner").exists()
    assert StreamTask.objects.count() == 3
    assert not ApiKey.objects.exists()


# Words


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (None, "-"),
        (0, "0.0 ms"),
        (0.84, "0.8 ms"),
        (350, "350 ms"),
        (999.9, "1.00 s"),
        (59_999, "1 min 0 s"),
        (2410, "2.41 s"),
        (185_000, "3 min 5 s"),
    ],
)
def test_durations_are_for_people(milliseconds: float | None, text: str):
    assert duration(milliseconds) == text


def test_moments_are_for_people():
    assert ">just now<" in moment(NOW, NOW + timedelta(seconds=5))
    assert ">3\xa0minutes ago<" in moment(NOW, NOW + timedelta(minutes=3, seconds=5))
    assert ">05/04/2026 12:00:00 UTC<" in moment(NOW, NOW + timedelta(days=2))
    assert 'datetime="2026-05-04T12:00:00+00:00"' in moment(NOW, NOW)


# Chinese


class Words(HTMLParser):
    """What people read on a page, or hear: its text, and attributes that are text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.unread = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        spoken = ("title", "aria-label", "placeholder", "alt", "data-label")
        self.found |= {value for name, value in attrs if name in spoken and value}
        # The theme's icons are words of a font.
        self.unread = tag in ("script", "style", "pre") or "material-symbols" in (
            dict(attrs).get("class") or ""
        )

    def handle_endtag(self, tag: str) -> None:
        self.unread = False

    def handle_data(self, data: str) -> None:
        if not self.unread and data.strip():
            self.found.add(" ".join(data.split()))


NAMES = re.compile(r"[Ss]luice(_\S+)?|English|Owner|Content [0-9a-f]+")


@pytest.mark.parametrize(
    "place",
    [
        "/admin/login/?next=/admin/",
        "/admin/",
        LIST,
        f"{LIST}?q=nothing-of-that-name",
        f"{LIST}{3:032x}/change/",
        f"{LIST}{3:032x}/history/",
        "/admin/streaming/refusal/",
        KEYS,
        f"{KEYS}add/",
        USERS,
        f"{USERS}add/",
        "/admin/auth/group/add/",
        "owner",
        "key",
    ],
)
def test_chinese_pages_are_all_chinese(boss: Client, rows: list[StreamTask], place: str):
    key = _key(boss)
    addresses = {"owner": f"{USERS}{_owner().pk}/change/", "key": f"{KEYS}{key.pk}/change/"}
    client = Client() if "login" in place else boss
    page = client.get(addresses.get(place, place), headers={"accept-language": "zh-hans"})
    assert page.status_code == 200
    foreign = [
        words for words in Words(page.content.decode()).found if not re.search("[\u4e00-\u9fff]", words)
    ]
    # Sentences and words with a capital: values such as "agent_pool" have neither.
    assert [
        words for words in foreign if re.search(r"[A-Z][a-z]{2}|[a-z]{2} [a-z]{2}", NAMES.sub("", words))
    ] == []


# Django's own admin


def test_without_the_theme_the_same_pages_come_in_djangos_own():
    """In a process of its own: which theme is there is settled once."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.django.plain_admin"],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.django.plain_admin"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "plain"
