"""Row S7: what is another's looks absent, on every route, by every method, on every socket.

The routes are those of the URLconf: one that is new and not in these tables fails the first test.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from websockets.exceptions import InvalidStatus

from streaming.websocket.routing import routes
from tests.support.catalogue import PATIENCE
from tests.support.client import brief
from tests.support.routes import ABSENT
from tests.support.servers import Server
from tests.support.sockets import opened

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

Headers = dict[str, str]

OWNED: Final = {
    "streams/<task_id>": "task",
    "streams/<task_id>/rendered": "task",
    "streams/<str:task_id>/events": "task",
    "streams/<str:task_id>/view": "task",
    "notebooks/<str:notebook_id>": "notebook",
    "notebooks/<str:notebook_id>.ipynb": "notebook",
    "notebook/<str:notebook_id>/": "notebook",
}
"""Routes that name a thing of somebody's, and what."""

NAMES_NOTHING: Final = {
    "": "the page, and the description's root",
    "content/generate": "starts a task of the caller's",
    "content/generate/async": "starts a task of the caller's",
    "content/generate/stream/async": "starts a task of the caller's",
    "send_operation": "names a notebook: test_an_operation_is_about_the_caller_s_own_notebook",
    "streams": "a list: test_a_page_of_the_list_begins_nowhere_at_another_s_task",
    "streams/probe": "numbers without an owner",
    "streams/probe/report": "numbers without an owner",
    "tickets": "names a task: test_a_foreign_stream_and_an_absent_one_get_none",
    "notebook/": "the caller's own list",
    "notebook/frame": "an empty document for foreign HTML",
    "notebook/new": "makes one of the caller's",
    "stats": "sums, for operators",
    "metrics": "sums, for who has the token",
    "healthz": "this process",
    "readyz": "this process",
    "docs": "for everybody",
    "openapi.json": "for everybody",
    "jsi18n/": "words",
    "content/jsi18n/": "words",
    "notebooks/jsi18n/": "words",
    "i18n/setlang/": "the caller's own language",
    "accounts/login/": "signs the caller in",
    "accounts/logout/": "signs the caller out",
    "accounts/signin/<str:token>/": "whoever has the link is who it is for",
}

SOCKETS: Final = {
    "ws/streams/<str:task_id>/": "names a task",
    "ws/generate/": "`follow` names a task",
    "ws/notebooks/<str:notebook_id>/": "names the caller's own notebook; `follow` names a task",
}

METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE", "PUT", "TRACE")

OTHERS: Final = ("bob", "operator", "nobody")


@dataclass(frozen=True)
class Things:
    """Alice's, and names of the same length that stand for nothing."""

    running: str
    ended: str
    notebook: str = "alices"

    ABSENT_NOTEBOOK = "nobody"

    def pairs(self, kind: str) -> Iterator[tuple[str, str]]:
        """What is hers, and what is nobody's."""
        if kind == "notebook":
            yield self.notebook, self.ABSENT_NOTEBOOK
        else:
            yield self.running, ABSENT
            yield self.ended, ABSENT


@pytest.fixture
def others(people: dict[str, Headers]) -> dict[str, Headers]:
    return {name: people.get(name, {}) for name in OTHERS}


@pytest.fixture
async def things(http: httpx2.AsyncClient, people: dict[str, Headers]) -> Any:
    """They are there, and untouched at the end."""
    alice = people["alice"]

    async def task(tokens: int) -> str:
        options = {"tokens": tokens, "interval": 0.02}
        answer = await http.post("/content/generate/async", json=brief(options=options), headers=alice)
        return str(answer.json()["task_id"])

    made = Things(await task(3000), await task(1))
    notebook = {"title": "hers", "cells": [{"cell_id": "a", "source": "secret"}]}
    assert (await http.put(f"/notebooks/{made.notebook}", json=notebook, headers=alice)).is_success
    yield made
    for task_id in (made.running, made.ended):
        record = await http.get(f"/streams/{task_id}", headers=alice)
        assert record.json()["state"] in ("running", "complete")
    shown = await http.get(f"/notebooks/{made.notebook}", headers=alice)
    assert shown.json()["cells"][0]["source"] == "secret"
    assert (await http.delete(f"/streams/{made.running}", headers=alice)).json()["state"] == "cancelled"


def _routes(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    for each in resolver.url_patterns:
        place = prefix + str(each.pattern)
        if isinstance(each, URLPattern):
            yield place
        elif place != "admin/":
            yield from _routes(each, place)


def test_every_route_says_whose_things_it_names() -> None:
    """The admin's are for staff with permissions: see test_admin.py and test_content_roles.py."""
    assert set(_routes(get_resolver())) == set(OWNED) | set(NAMES_NOTHING)
    assert {str(route.pattern) for route in routes()} == set(SOCKETS)


@pytest.mark.parametrize("who", OTHERS)
@pytest.mark.parametrize("route", OWNED)
async def test_what_is_another_s_looks_absent(
    http: httpx2.AsyncClient, others: dict[str, Headers], things: Things, route: str, who: str
) -> None:
    for hers, absent in things.pairs(OWNED[route]):
        for method in METHODS:
            answers = [await _told(http, method, route, name, others[who]) for name in (hers, absent)]
            assert answers[0] == answers[1], method
        for query in ("?purge=true", "?after=1", "?timing=1"):
            method = "DELETE" if "purge" in query else "GET"
            answers = [await _told(http, method, route + query, name, others[who]) for name in (hers, absent)]
            assert answers[0] == answers[1], query
        if OWNED[route] == "task":
            assert (await _told(http, "GET", route, hers, others[who]))[0] == 404


async def _told(
    http: httpx2.AsyncClient, method: str, route: str, name: str, headers: Headers
) -> tuple[int, Headers, str]:
    """Status, head and body, with the name and what is random taken out. What was put is taken away again."""
    place = "/" + re.sub(r"<[^>]*>", name, route)
    body: dict[str, Any] | None = {"cells": []} if method == "PUT" else None
    answer = await http.request(method, place, headers=headers, json=body)
    if method == "PUT" and answer.is_success:
        assert (await http.delete(f"/notebooks/{name}", headers=headers)).status_code == 204
    random = r'(csrfmiddlewaretoken" value=|nonce=|"updated_at":)"[^"]*"'
    text = re.sub(random, r"\1", answer.text).replace(name, "NAME")
    ignored = ("date", "x-request-id", "set-cookie", "etag", "content-security-policy")
    head = {key: value.replace(name, "NAME") for key, value in answer.headers.items() if key not in ignored}
    assert "secret" not in text
    return answer.status_code, head, text


@pytest.mark.parametrize("who", ["bob", "operator"])
async def test_a_page_of_the_list_begins_nowhere_at_another_s_task(
    http: httpx2.AsyncClient, others: dict[str, Headers], things: Things, who: str
) -> None:
    places = [f"/streams?before={task_id}" for task_id in (things.ended, ABSENT)]
    answers = [await http.get(place, headers=others[who]) for place in places]
    assert (answers[0].status_code, answers[0].content) == (answers[1].status_code, answers[1].content)


@pytest.mark.parametrize("who", ["bob", "operator"])
async def test_an_operation_is_about_the_caller_s_own_notebook(
    http: httpx2.AsyncClient, others: dict[str, Headers], things: Things, who: str
) -> None:
    for kind in ("list", "status", "interrupt", "shutdown"):
        answers = [
            await http.post(
                "/send_operation",
                json={"notebook_id": name, "operation": {"type": kind}, "lang": "en"},
                headers=others[who],
            )
            for name in (things.notebook, things.ABSENT_NOTEBOOK)
        ]
        assert answers[0].status_code == answers[1].status_code
        assert "secret" not in answers[0].text


@pytest.mark.parametrize("who", OTHERS)
@pytest.mark.parametrize("route", SOCKETS)
async def test_what_is_another_s_looks_absent_on_sockets(
    server: Server, others: dict[str, Headers], things: Things, route: str, who: str
) -> None:
    headers = others[who]
    for hers, absent in things.pairs("task"):
        told = [await _messages(server, route, task_id, headers) for task_id in (hers, absent)]
        assert told[0] == told[1]
        assert "'code': 'not_found'" in told[0]


async def _messages(server: Server, route: str, task_id: str, headers: Headers) -> str:
    """What a socket says to who asks there for the task, to be compared."""
    place = "/" + re.sub(r"<str:task_id>", task_id, route).replace("<str:notebook_id>", "alices")
    options: dict[str, Any] = {"additional_headers": headers}
    if headers:
        options["origin"] = server.url
    try:
        async with asyncio.timeout(PATIENCE), opened(server, place, **options) as socket:
            if "task_id" in route:
                told = await socket.rest()
                return f"{told} {socket.connection.close_code}".replace(task_id, "NAME")
            await socket.say(type="follow", request_id="a", task_id=task_id)
            return str(await socket.next()).replace(task_id, "NAME")
    except InvalidStatus as refused:
        return f"{refused.response.status_code} {refused.response.body!r}".replace(task_id, "NAME")
