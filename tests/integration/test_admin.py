"""The admin on real servers: its threads reach the tasks of the event loop, and what they do shows."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.integration.conftest import TOKEN
from tests.support.client import brief, client, eventually, row
from tests.support.servers import ROOT, Server, environment, running

pytestmark = pytest.mark.server

LIST = "/admin/streaming/streamtask/"
LATER = "/content/generate/async"

LONG = {"tokens": 100_000, "interval": 0.01}
SHORT = {"tokens": 3, "interval": 0}

MAKE_STAFF = """
import django, json, sys
django.setup()
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
User = get_user_model()
keys = {}
for name, rights in (("boss", None), ("clerk", ["view_streamtask", "cancel_streamtask", "retry_streamtask"])):
    user, _ = User.objects.get_or_create(username=f"admin-{name}", is_staff=True, is_superuser=rights is None)
    user.user_permissions.set(Permission.objects.filter(codename__in=rights or []))
    caller = Client()
    caller.force_login(user)
    keys[name] = caller.cookies["sessionid"].value
print(json.dumps(keys))
"""


@dataclass
class Operator:
    """Somebody of the staff with a browser's cookies."""

    http: httpx2.AsyncClient

    async def page(self, task_id: str) -> str:
        """A task's page."""
        answer = await self.http.get(f"{LIST}{task_id}/change/")
        assert answer.status_code == 200
        return answer.text

    async def press(self, path: str, **fields: Any) -> httpx2.Response:
        """A POST with its token, and where it leads."""
        answer = await self.http.post(path, data={"csrfmiddlewaretoken": TOKEN, **fields})
        assert answer.status_code == 302, answer.text
        assert answer.next_request is not None
        return await self.http.get(answer.next_request.url)

    async def start(self, **members: Any) -> str:
        """A task that runs in the background; its id."""
        answer = await self.http.post(LATER, json=brief(**members), headers={"X-CSRFToken": TOKEN})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])


def keep_cookies(http: httpx2.AsyncClient, answer: httpx2.Response) -> None:
    """As a browser does behind TLS: the cookies are marked for it, and the client heeds that."""
    for name, morsel in SimpleCookie("\r\n".join(answer.headers.get_list("set-cookie"))).items():
        http.cookies.set(name, morsel.value, domain="127.0.0.1")


def staff_of(server: Server) -> dict[str, str]:
    """Session keys by name."""
    env = environment(server.database.parent, DJANGO_SETTINGS_MODULE="settings.settings")
    command = [sys.executable, "-c", MAKE_STAFF]
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, timeout=60)
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def staff(server: Server, clean_log: None) -> dict[str, str]:
    """Session keys of the server's staff; its log is clean. (As a mark of the module, `clean_log` would run
    the tests of other servers twice.)"""
    return staff_of(server)


def operator_of(http: httpx2.AsyncClient, session: str) -> Operator:
    """The client, signed in."""

    async def keep(answer: httpx2.Response) -> None:
        keep_cookies(http, answer)

    http.event_hooks = {"response": [keep]}
    for name, value in (("sessionid", session), ("csrftoken", TOKEN)):
        http.cookies.set(name, value, domain="127.0.0.1")
    return Operator(http)


@pytest.fixture
async def boss(server: Server, staff: dict[str, str]) -> AsyncIterator[Operator]:
    """A superuser."""
    async with client(server.url) as http:
        yield operator_of(http, staff["boss"])


@pytest.fixture
async def clerk(server: Server, staff: dict[str, str]) -> AsyncIterator[Operator]:
    """Staff who may see, cancel and retry tasks, and not read what is in them."""
    async with client(server.url) as http:
        yield operator_of(http, staff["clerk"])


def messages(page: str) -> str:
    """The page without its tags, for what it says."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


async def ended(server: Server, task_id: str) -> dict[str, Any]:
    """The task's record once it has ended."""

    async def look() -> dict[str, Any] | None:
        found = row(server, "id", task_id)
        return found if found is not None and found["finished_at"] else None

    found = await eventually(look, 20)
    assert found is not None
    return found


async def has_text(operator: Operator, task_id: str) -> None:
    """Wait until the task has written something."""

    async def look() -> bool:
        return "<td>content</td>" in await operator.page(task_id)

    assert await eventually(look)


async def test_the_page_of_a_running_task_is_of_this_moment(server: Server, boss: Operator):
    task_id = await boss.start(
        options={**LONG, "text": "<script>alert(1)</script>" * 4000, "interval": 0.005}
    )
    await has_text(boss, task_id)
    page = await boss.page(task_id)
    assert "running" in page
    assert re.search(r'<pre class="stream-text stream-prose" dir="auto" tabindex="0">&lt;script&gt;', page)
    assert "<script>alert" not in page
    assert row(server, "id", task_id)["content_length"] == 0, "no number of these is in the record yet"  # type: ignore[index]
    assert f"{LIST}{task_id}/cancel/" in page
    await boss.press(f"{LIST}{task_id}/cancel/")


async def test_the_button_cancels_and_shows_it(server: Server, boss: Operator):
    task_id = await boss.start(options=LONG)
    await has_text(boss, task_id)
    answer = await boss.press(f"{LIST}{task_id}/cancel/")
    assert str(answer.url).endswith(f"{LIST}{task_id}/change/")
    assert "1 cancelled." in messages(answer.text)
    record = row(server, "id", task_id)
    assert record is not None
    assert (record["state"], record["cancel_reason"]) == ("cancelled", "admin"), "written before the answer"
    assert "an operator" in answer.text
    again = await boss.press(f"{LIST}{task_id}/cancel/")
    assert "1 had ended already." in messages(again.text)


async def test_the_action_cancels_what_runs_and_says_what_had_ended(server: Server, boss: Operator):
    over = await boss.start(options=SHORT)
    await ended(server, over)
    active = [await boss.start(options=LONG) for _ in range(2)]
    answer = await boss.press(LIST, action="cancel_tasks", _selected_action=[over, *active])
    assert "2 cancelled, 1 had ended already." in messages(answer.text)
    assert [row(server, "id", each)["state"] for each in active] == ["cancelled"] * 2  # type: ignore[index]
    history = (await boss.http.get(f"{LIST}{active[0]}/history/")).text
    assert "cancelled the task" in history
    assert re.search(rf"task {active[0]}: user \d+ cancelled the task", server.log())


async def test_a_bare_get_does_nothing(server: Server, boss: Operator):
    task_id = await boss.start(options=LONG)
    for verb in ("cancel", "retry"):
        assert (await boss.http.get(f"{LIST}{task_id}/{verb}/")).status_code == 405
        assert (await boss.http.post(f"{LIST}{task_id}/{verb}/")).status_code == 403, "no token"
    assert "running" in await boss.page(task_id)
    await boss.press(f"{LIST}{task_id}/cancel/")


async def test_a_task_is_started_again_for_its_owner(server: Server, boss: Operator, clerk: Operator):
    first = await boss.start(options=SHORT, user_id="end-user-7", priority="normal", language="zh")
    before = await ended(server, first)
    answer = await clerk.press(f"{LIST}{first}/retry/")
    assert "1 started again." in messages(answer.text)
    found = re.search(rf"{LIST}([0-9a-f]{{32}})/change/", str(answer.url))
    assert found is not None
    second = found.group(1)
    assert second != first
    after = await ended(server, second)
    same = ("kind", "owner_id", "end_user", "pool", "priority", "language", "arguments", "text", "state")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert after["text"] == "0 1 2 "
    assert (await boss.http.get(f"/streams/{second}")).status_code == 200, "the owner's own"


async def test_a_task_that_runs_is_not_started_again(boss: Operator):
    task_id = await boss.start(options=LONG)
    assert f"{LIST}{task_id}/retry/" not in await boss.page(task_id)
    answer = await boss.press(f"{LIST}{task_id}/retry/")
    assert "1 not started: it has not ended yet." in messages(answer.text)
    await boss.press(f"{LIST}{task_id}/cancel/")


async def test_a_refused_retry_tells_its_reason(tight: Server):
    async with client(tight.url) as http:
        boss = operator_of(http, staff_of(tight)["boss"])
        over = await boss.start(options=SHORT, user_id="one")
        await ended(tight, over)
        active = [await boss.start(options=LONG, user_id=name) for name in ("two", "three")]
        answer = await boss.press(f"{LIST}{over}/retry/")
        assert "1 not started: queue full." in messages(answer.text)
        await boss.press(LIST, action="cancel_tasks", _selected_action=active)


async def test_the_events_are_shown_while_they_are_in_memory(server: Server, boss: Operator, clerk: Operator):
    task_id = await boss.start(options={"text": "<i>" * 1500, "interval": 0})
    record = await ended(server, task_id)
    page = await boss.page(task_id)
    left = record["last_event_id"] - 200
    assert left > 1
    assert (
        f"{left:,} earlier events are not shown." in page or f"{left} earlier events are not shown." in page
    )
    assert page.count("<td>content</td>") == 199
    assert "<td>complete</td>" in page
    assert "&lt;i&gt;" in page
    blind = await clerk.page(task_id)
    assert blind.count("<td>content</td>") == 199
    assert "&lt;i&gt;" not in blind
    assert "delta" not in blind
    assert "streaming.read_content" in blind


@pytest.mark.usefixtures("clean_log")
async def test_messages_and_sessions_work_through_the_sign_in_page(server: Server, people: Any):
    async with client(server.url) as http:
        keep_cookies(http, await http.get("/admin/login/"))
        token = http.cookies["csrftoken"]
        data = {
            "username": "root",
            "password": "correct horse",
            "csrfmiddlewaretoken": token,
            "next": "/admin/",
        }
        answer = await http.post("/admin/login/", data=data)
        assert answer.status_code == 302
        keep_cookies(http, answer)
        assert (await http.get(LIST)).status_code == 200


@pytest.mark.parametrize("language", ["en", "zh-hans"])
async def test_both_languages_have_their_pages(boss: Operator, language: str):
    task_id = await boss.start(options=SHORT)
    headers = {"Accept-Language": language}
    for place in (LIST, f"{LIST}{task_id}/change/", "/admin/", "/admin/streaming/apikey/add/"):
        answer = await boss.http.get(place, headers=headers)
        assert answer.status_code == 200
        assert f'<html lang="{language}"' in answer.text
    listed = await boss.http.get(LIST, headers=headers)
    assert ("任务" in listed.text) == (language == "zh-hans")


async def test_what_is_refused_leaves_a_line_and_no_stack(server: Server, clerk: Operator):
    """`clean_log` looks for the stack."""
    before = len(server.log())
    assert (await clerk.http.get("/admin/streaming/refusal/")).status_code == 403
    for column in ("text", "fingerprint"):
        assert (await clerk.http.get(f"{LIST}?{column}__startswith=a")).status_code == 400

    async def told() -> bool:
        log = server.log()[before:]
        denied = "Forbidden (Permission denied): /admin/streaming/refusal/" in log
        return denied and log.count("django.security.DisallowedModelAdminLookup") == 2

    assert await eventually(told, 10)


async def test_two_clicks_at_once_make_one_key(boss: Operator):
    place = "/admin/streaming/apikey/add/"
    form = (await boss.http.get(place)).text
    sent = {"csrfmiddlewaretoken": TOKEN, "name": "clicked twice"}
    for name, pattern in (
        ("user", r'<option value="(\d+)" selected'),
        ("form_mark", r'name="form_mark" value="([^"]+)"'),
    ):
        found = re.search(pattern, form)
        assert found is not None, name
        sent[name] = found.group(1)
    answers = await asyncio.gather(*(boss.http.post(place, data=sent) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 302, 302, 302]


@pytest.mark.long
async def test_a_plain_uvicorn_serves_the_admin_the_same_tasks(tmp_path: Path):
    with running("uvicorn", tmp_path) as server:
        async with client(server.url) as http:
            boss = operator_of(http, staff_of(server)["boss"])
            task_id = await boss.start(options=LONG)
            answer = await boss.press(f"{LIST}{task_id}/cancel/")
            assert "1 cancelled." in messages(answer.text)
