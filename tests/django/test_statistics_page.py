"""The statistics page and the list as a file, in one process: who sees what, which numbers, at what cost.

The page in a browser, over real load: `tests/browser/test_statistics_page.py`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.db import OperationalError, connection
from django.http import QueryDict
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.html import escape

from streaming.admin import export, live, report
from streaming.admin.report import Choice, report_of
from streaming.models import Alert, Refusal, StreamTask
from streaming.storage.rollups import backfill_some, rebuild
from streaming.storage.statistics import OWNERS

from .test_admin import LIST, staff

pytestmark = pytest.mark.django_db

PAGE = "/admin/streaming/statistics/"
BUSY = {"running": 5, "max_workers": 5, "waiting": 2, "queue_size": 30, "eligible": 2, "ahead": 2}


def row(number: int, state: str = "complete", **values: Any) -> StreamTask:
    """A task that ended some minutes ago."""
    at = timezone.now() - timedelta(minutes=number)
    defaults: dict[str, Any] = {
        "id": f"{number:032x}",
        "kind": "content",
        "pool": "agent_pool",
        "priority": 0,
        "state": state,
        "route": "direct",
        "reason": "worker_free",
        "created_at": at,
        "started_at": None if state == "queued" else at,
        "finished_at": at,
        "queued_ms": 1.0,
        "first_content_ms": 400.0,
        "total_ms": 2_000.0,
        "status_messages": 3,
        "resumes": 1,
    }
    return StreamTask.objects.create(**defaults | values)


def count_all() -> None:
    rebuild()
    while backfill_some():
        pass


@pytest.fixture
def boss() -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create(username="boss", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def mixed() -> StreamTask:
    """Ten tasks of two kinds, three refusals; the slowest of them."""
    owner = get_user_model().objects.create(username="writer")
    for number in range(1, 7):
        row(number, owner=owner)
    row(7, "error", error_code="upstream_timeout")
    row(8, "cancelled", cancel_reason="admin")
    row(9, kind="summary", pool="kernel_pool", owner=owner)
    slow = row(
        10,
        owner=owner,
        route="queued",
        reason="workers_busy",
        snapshot=BUSY,
        queued_ms=8_000.0,
        first_content_ms=9_000.0,
        total_ms=61_000.0,
    )
    minute = timezone.now().replace(second=0, microsecond=0)
    Refusal.objects.create(minute=minute, pool="agent_pool", reason="queue_full", count=3)
    count_all()
    return slow


def text_of(client: Client, query: str = "", status: int = 200) -> str:
    page = client.get(f"{PAGE}{query}")
    assert page.status_code == status
    return re.sub(r"\s+", " ", page.content.decode())


def tiles(**filters: str) -> dict[str, tuple[str, str]]:
    values = QueryDict(mutable=True)
    values.update(filters)
    return {tile.name: (tile.value, tile.note) for tile in report_of(Choice.of(values)).tiles}


# --- Who sees it --------------------------------------------------------------------------------------


def test_who_may_see_tasks_may_see_their_numbers_and_nobody_else():
    assert "data-statistics" in text_of(staff("view_streamtask"))
    clerk = staff("view_refusal", name="other")
    text_of(clerk, status=403)
    assert "statistics/" not in clerk.get("/admin/").content.decode()
    assert Client().get(PAGE).status_code == 302, "to the sign-in page"


def test_it_is_reached_from_the_index(boss: Client):
    index = boss.get("/admin/").content.decode()
    assert index.count(f'href="{PAGE}"') >= 1


@pytest.mark.django_db(transaction=True)
def test_the_live_numbers_are_for_the_same_people():
    async def status(user: Any) -> tuple[int, str]:
        client = AsyncClient()
        if user is not None:
            await client.aforce_login(user)
        answer = await client.get(f"{PAGE}live/")
        return answer.status_code, answer["Content-Type"]

    nobody = get_user_model().objects.create(username="reader")
    clerk = get_user_model().objects.create(username="clerk", is_staff=True)
    refused = (403, "application/problem+json")
    for user in (None, nobody, clerk):
        assert async_to_sync(status)(user) == refused


def test_ids_of_anonymous_tasks_are_no_links_for_who_may_not_read_them(boss: Client, mixed: StreamTask):
    StreamTask.objects.filter(pk=mixed.pk).update(owner=None)
    clerk = staff("view_streamtask")
    assert mixed.pk[:8] in text_of(clerk)
    assert mixed.pk not in text_of(clerk)
    assert mixed.pk in text_of(boss)


# --- What it says -------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_tasks(mixed: StreamTask):
    found = tiles()
    assert found["Tasks"] == ("13", "10 ended")
    assert found["At once"] == ("69 %", "9")
    assert found["Via the queue"] == ("7.7 %", "1")
    assert found["Refused"] == ("23 %", "3")
    assert found["Failed"] == ("10 %", "1")
    assert found["Queue wait (p95)"][0] == "8.00 s"
    assert found["Status messages"] == ("3.0", "per task, 30 in all")
    assert found["Resumes"][0] == "10"


def test_the_slowest_is_a_link_with_the_reason_why_it_waited(boss: Client, mixed: StreamTask):
    text = text_of(boss)
    assert f'<a href="{LIST}{mixed.pk}/change/">{mixed.pk[:8]}</a>' in text
    why = "5 of 5 workers were busy. 2 tasks of the same or a higher class stood in line before it."
    assert why in text
    page = boss.get(f"{LIST}{mixed.pk}/change/").content.decode()
    assert "Why was this queued?" in page
    assert why in page


def test_a_wait_in_vain_is_not_the_longest_wait_and_a_slow_provider_no_wait(boss: Client, mixed: StreamTask):
    left = row(
        11,
        "cancelled",
        cancel_reason="disconnect",
        route="queued",
        reason="workers_busy",
        snapshot=BUSY,
        started_at=None,
        grace=30.0,
        queued_ms=36_500.0,
        first_content_ms=None,
        total_ms=36_500.0,
    )
    late = row(12, first_content_ms=12_000.0, total_ms=12_100.0, snapshot=BUSY | {"running": 0})
    count_all()
    lists = {each.title: each.tasks for each in report_of(Choice.of(QueryDict())).slow}
    assert [each.row.pk for each in lists["Longest in the queue"]] == [mixed.pk]
    assert [each.row.pk for each in lists["In the queue in vain"]] == [left.pk]
    assert tiles()["Queue wait (p95)"][0] == "8.00 s"
    assert lists["Latest first content"][0].row.pk == late.pk
    for task, why in (
        (left, "its reader left after about 6.50 s"),
        (late, "It did not wait for a worker. The provider took 12.00 s until its first words."),
    ):
        assert why in text_of(boss)
        assert why in boss.get(f"{LIST}{task.pk}/change/").content.decode()
    assert "Only 0 of" not in text_of(boss)


def test_open_alerts_stand_above_for_who_may_see_them(boss: Client, mixed: StreamTask):
    values = {
        "kind": "error_share",
        "value": 0.2,
        "worst": 0.3,
        "threshold": 0.1,
        "raised_at": timezone.now(),
    }
    said = "20 % of the tasks <end> with an error."
    Alert.objects.create(rule="mild", severity="warning", sentence="Somebody waits.", **values)
    bad = Alert.objects.create(rule="bad", severity="critical", sentence=said, **values)
    Alert.objects.create(rule="old", resolved_at=timezone.now(), sentence="It is over.", **values)
    text = text_of(boss)
    assert f'<a href="/admin/streaming/alert/{bad.pk}/change/">{escape(said)}</a>' in text
    assert re.findall(r"<strong>(\w+)</strong> <a", text) == ["critical", "warning"], (
        "in words, the worst first"
    )
    assert text.index("Open alerts") < text.index("stats-tiles")
    assert "It is over." not in text
    clerk = text_of(staff("view_streamtask"))
    assert "Open alerts" not in clerk
    assert "Somebody waits." not in clerk
    Alert.objects.all().delete()
    text = text_of(boss)
    assert "Open alerts" not in text
    assert '<div data-swap="alerts"> </div>' in text, "where the next one will be put"


def test_every_chart_has_its_table_and_the_tables_are_right(boss: Client, mixed: StreamTask):
    text = text_of(boss)
    found = re.search(r'<script id="stats-drawn" type="application/json">(.*?)</script>', text)
    assert found is not None
    drawn = json.loads(found[1])
    assert list(drawn["charts"]) == re.findall(r'data-chart="([\w-]+)"', text)
    assert list(drawn["charts"]) == re.findall(r'data-swap="table-([\w-]+)"', text)
    assert len(drawn["starts"]) == 60
    done, cancelled, failed = (each["values"] for each in drawn["charts"]["tasks"]["series"])
    assert (sum(done), sum(cancelled), sum(failed)) == (8, 1, 1)
    assert sum(drawn["charts"]["refusals"]["series"][0]["values"]) == 3
    shown = report_of(Choice.of(QueryDict())).charts[0]
    assert len(shown.rows) == 11, "minutes in which nothing was are left out"
    assert shown.rows == sorted(shown.rows, key=lambda each: each.start, reverse=True)


def test_lists_count_what_happened(boss: Client, mixed: StreamTask):
    text = text_of(boss)
    for words in (
        "upstream_timeout",
        "1 (100 %)",
        "an operator",
        "queue full",
        "writer",
        "anonymous callers",
    ):
        assert words in text
    assert "8 (80 %)" in text, "of the owner's tasks"
    assert "At least so many" not in text


def test_who_asks_seldom_is_among_the_others(boss: Client, mixed: StreamTask):
    for number in range(20, 20 + OWNERS):
        row(number, owner=get_user_model().objects.create(username=f"user {number}"))
    count_all()
    found = {count.name: count.in_words for count in report_of(Choice.of(QueryDict())).owners}
    assert found["writer"].startswith("8 ")
    assert list(found)[-1] == "all others"
    assert len(found) == OWNERS + 1


def test_owners_are_those_of_the_filter(mixed: StreamTask):
    values = QueryDict("pool=kernel_pool")
    assert [each.number for each in report_of(Choice.of(values)).owners] == [1]


def test_a_rate_is_over_the_time_since_something_happened():
    row(3, usage={"completion_tokens": 400})
    count_all()
    assert 400 / 250 < float(tiles()["Tokens per second"][0]) < 400 / 170, "of an hour it would be 0.11"


def test_filters_choose_a_pool_and_a_kind(mixed: StreamTask):
    assert tiles(pool="kernel_pool")["Tasks"] == ("1", "1 ended")
    assert tiles(kind="content")["Tasks"] == ("9", "9 ended"), "refusals are of no kind"
    assert tiles(pool="agent_pool")["Tasks"] == ("12", "9 ended")


def test_ranges_look_back_as_far_as_they_say(boss: Client):
    row(200)
    count_all()
    assert "data-empty" in text_of(boss)
    assert "data-empty" not in text_of(boss, "?range=day")
    week = text_of(boss, "?range=week&pool=agent_pool")
    assert re.search(r'<a href="\?range=week&amp;pool=agent_pool" aria-current="page">', week)


@pytest.mark.parametrize("query", ["?range=year", "?range=&pool=&kind=", "?kind=%00&pool=%3Cb%3E", "?x=1"])
def test_a_wrong_address_shows_what_it_can(boss: Client, query: str):
    assert "<b>" not in text_of(boss, query)


def test_a_service_without_tasks_says_so(boss: Client):
    text = text_of(boss)
    assert "No tasks in this time" in text
    assert "data-chart" not in text


def test_without_the_database_it_says_so(boss: Client):
    with mock.patch.object(report, "parts_between", side_effect=OperationalError("gone")):
        text = text_of(boss, status=503)
    assert "The numbers cannot be read now" in text


def test_kinds_and_names_of_strangers_are_text(boss: Client):
    wild = "<script>alert(1)</script>"
    owner = get_user_model().objects.create(username=wild)
    row(1, kind=wild, pool=wild, owner=owner, error_code="", state="complete")
    count_all()
    text = text_of(boss)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_the_cost_does_not_grow_with_the_tasks(boss: Client, mixed: StreamTask):
    def queries() -> list[str]:
        with CaptureQueriesContext(connection) as seen:
            text_of(boss)
        return [each["sql"] for each in seen]

    few = queries()
    for number in range(20, 50):
        row(number)
    count_all()
    more = queries()
    assert len(more) == len(few) <= 12, few
    scans = [sql for sql in more if '"streaming_streamtask"' in sql and "WHERE" not in sql]
    assert scans == []


# --- The numbers of this moment -----------------------------------------------------------------------


def test_live_numbers_are_those_of_all_pools():
    pool = {
        "running": 2,
        "waiting": 1,
        "away": 0,
        "max_workers": 5,
        "queue_size": 30,
        "stuck": 0,
        "oldest_wait_seconds": 1.5,
        "oldest_wait_by_class": {"0": 1.5},
        "mean_service_seconds": None,
    }
    told = {
        "pools": {"agent_pool": pool},
        "routes": {"direct": 3, "rejected": 1},
        "ends": {"complete": 2},
        "followers": 4,
        "processes": [{}, {}],
    }
    found = live.pools_and_totals(told)
    assert found["pools"]["agent_pool"]["classes"] == {"interactive": 1500, "normal": None, "batch": None}
    assert (found["followers"], found["processes"], found["counted"]) == (4, 2, 6)
    assert live.pools_and_totals({"processes": []})["pools"] == {}, "where none lives"


# --- The list as a file -------------------------------------------------------------------------------


def exported(client: Client, ending: str, query: str = "") -> str:
    answer: Any = client.get(f"{LIST}export.{ending}{query}")
    assert answer.status_code == 200
    assert answer["Content-Disposition"].startswith('attachment; filename="tasks-')
    return b"".join(answer.streaming_content).decode("utf-8-sig")


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def steps_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "STEP", 2)
    monkeypatch.setattr(export, "STEP_WITH_TEXTS", 2)


def test_the_file_has_all_rows_of_the_list_once_newest_first(boss: Client, steps_of_two: None):
    same = timezone.now()
    for number in range(1, 8):
        row(number, created_at=same if number < 5 else same - timedelta(hours=number))
    found = [each["id"] for each in rows_of(exported(boss, "csv"))]
    assert found == [each.pk for each in StreamTask.objects.order_by("-created_at", "-id")]
    assert [each["id"] for each in json.loads(exported(boss, "json"))] == found


def test_the_file_is_filtered_and_searched_as_the_list_is(boss: Client, mixed: StreamTask):
    assert {each["state"] for each in rows_of(exported(boss, "csv", "?state=error"))} == {"error"}
    assert len(json.loads(exported(boss, "json", "?q=writer&kind=summary"))) == 1
    assert json.loads(exported(boss, "json", "?state=queued")) == []
    assert rows_of(exported(boss, "csv", "?state=queued")) == []


def test_prompts_and_texts_need_their_permission(boss: Client):
    row(1, text="a secret text", arguments={"topic": "a secret topic"}, error_message="a secret error")
    clerk = staff("view_streamtask")
    for ending in ("csv", "json"):
        assert "secret" not in exported(clerk, ending)
        assert exported(boss, ending).count("secret") == 3
    with CaptureQueriesContext(connection) as seen:
        exported(clerk, "csv")
    assert not any('"text"' in each["sql"] for each in seen), "not read at all"


def test_the_load_at_the_decision_is_in_the_file(boss: Client, mixed: StreamTask):
    """Why a task was queued can be told from the file alone."""
    (found,) = json.loads(exported(boss, "json", "?route=queued"))
    assert found["snapshot"] == BUSY
    (found,) = rows_of(exported(boss, "csv", "?route=queued"))
    assert json.loads(found["snapshot"]) == BUSY


def test_who_may_not_see_tasks_gets_no_file():
    assert staff("view_refusal").get(f"{LIST}export.csv").status_code == 403


def test_ids_of_anonymous_tasks_are_cut(boss: Client):
    mine, nobodys = row(1, owner=get_user_model().objects.create(username="o")), row(2)
    found = {each["id"] for each in json.loads(exported(staff("view_streamtask"), "json"))}
    assert found == {mine.pk, nobodys.pk[:8]}
    assert {each["id"] for each in json.loads(exported(boss, "json"))} == {mine.pk, nobodys.pk}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝", " ="])
def test_no_text_is_a_formula(boss: Client, start: str):
    evil = f"{start}HYPERLINK(1)"
    row(1, end_user=evil, first_content_ms=-1.0)
    (found,) = rows_of(exported(boss, "csv"))
    assert found["end_user"].strip("\r\n ") == f"'{evil}".strip("\r\n ")
    assert found["first_content_ms"] == "-1.0", "a number is none"
    assert json.loads(exported(boss, "json"))[0]["end_user"] == evil, "JSON runs nothing"


def test_exports_are_logged(boss: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    import logging

    monkeypatch.setattr(logging.getLogger("streaming"), "propagate", True)
    with caplog.at_level("INFO", "streaming"):
        exported(boss, "csv", "?state=error")
    assert any(
        "exports tasks as csv, with prompts and texts: state=error" in each for each in caplog.messages
    )


def test_the_list_has_links_to_its_files(boss: Client):
    page = boss.get(f"{LIST}?state=error").content.decode()
    assert f'href="{LIST}export.csv?state=error"' in page
    assert f'href="{LIST}export.json?state=error"' in page


# --- Another class ------------------------------------------------------------------------------------


def test_the_class_of_a_task_is_changed_by_who_may(boss: Client):
    task = row(1, "queued", finished_at=None)
    clerk = staff("view_streamtask", "read_content")
    place = f"{LIST}{task.pk}/priority/"
    assert clerk.post(place, {"priority": "batch"}).status_code == 403
    assert place not in clerk.get(f"{LIST}{task.pk}/change/").content.decode()
    assert place in boss.get(f"{LIST}{task.pk}/change/").content.decode()
    assert boss.get(place).status_code == 405
    page = boss.post(place, {"priority": "nonsense"}, follow=True)
    assert "Choose a priority class." in page.content.decode()
    done = row(2)
    assert f"{done.pk}/priority/" not in boss.get(f"{LIST}{done.pk}/change/").content.decode()


def test_each_outcome_of_a_wish_for_another_class_has_its_own_words(boss: Client):
    """Of chosen tasks, where no streams are: those who run them are asked."""
    nobodys, same, done = (row(number, "queued", finished_at=None, priority=1) for number in (1, 2, 3))
    elsewhere = row(4, "queued", finished_at=None, priority=1, process="b" * 32)
    StreamTask.objects.filter(pk=same.pk).update(priority=0)
    StreamTask.objects.filter(pk=done.pk).update(state="running")
    chosen = [each.pk for each in (nobodys, same, done, elsewhere)]
    form = {"action": "prioritise_interactive", "_selected_action": chosen}
    page = boss.post(LIST, form, follow=True).content.decode()
    for words in (
        "1 waits in the class interactive now.",
        "1 waits in another process, which was asked for the class interactive and has not done it yet.",
        "1 was of the class interactive already.",
        "1 waits no longer; its class was not changed.",
    ):
        assert words in page
    rows = StreamTask.objects.in_bulk(chosen)
    assert [rows[pk].priority for pk in chosen] == [0, 0, 1, 1]
    assert rows[elsewhere.pk].priority_requested == 0
    page = boss.post(LIST, form | {"_selected_action": [elsewhere.pk]}, follow=True).content.decode()
    assert "1 waits in another process" in page


def test_only_who_may_change_classes_is_offered_to(boss: Client):
    row(1, "queued", finished_at=None)
    offered = "prioritise_interactive"
    assert offered in boss.get(LIST).content.decode()
    assert (
        offered
        not in staff("view_streamtask", "read_content", "cancel_streamtask").get(LIST).content.decode()
    )
