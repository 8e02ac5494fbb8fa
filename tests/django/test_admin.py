"""The admin: every page renders for every kind of row, nothing can be changed, no query per row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from streaming.admin import duration
from streaming.models import Refusal, StreamTask

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)

LIST = "/admin/streaming/streamtask/"


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
        page = boss.get(f"{LIST}{row.pk}/change/")
        assert page.status_code == 200, row.state
        assert (
            b"<script>" not in page.content.replace(b"<script src", b"")[-20_000:] or row.state != "complete"
        )
        assert row.pk in page.content.decode()


@pytest.mark.parametrize(
    "query",
    [
        "state__exact=complete",
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


def test_a_filter_filters(boss: Client, rows: list[StreamTask]):
    page = boss.get(f"{LIST}?state__exact=error")
    assert [row.state for row in page.context["cl"].result_list] == ["error"]


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
    listed = [sql for sql in statements if "ORDER BY" in sql and "LIMIT 5" in sql]
    assert all('"text"' not in sql for sql in listed), "the list needs no texts"
    return len(seen)


def test_refusals_are_listed(boss: Client):
    Refusal.objects.create(minute=NOW, pool="agent_pool", reason="queue_full", count=17)
    page = boss.get("/admin/streaming/refusal/")
    assert page.status_code == 200
    assert "17" in page.content.decode()
    assert boss.get("/admin/streaming/refusal/add/").status_code == 403


def test_a_stranger_sees_nothing(client: Client, rows: list[StreamTask]):
    assert client.get(LIST).status_code == 302


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(None, "-"), (0, "0.0 ms"), (0.84, "0.8 ms"), (350, "350 ms"), (2410, "2.41 s"), (185_000, "3 min 5 s")],
)
def test_durations_are_for_people(milliseconds: float | None, text: str):
    assert duration(milliseconds) == text
