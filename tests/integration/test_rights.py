"""Whoever loses the right to read is cut off in mid-stream, on every transport, and not let in again; nobody
else notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.client import (
    STREAM,
    Reading,
    brief,
    client,
    eventually,
    frozen,
    is_blocked,
    lines_of,
    read_stream,
)
from tests.support.programs import Programs, programs
from tests.support.servers import Server, environment
from tests.support.sockets import opened

from .conftest import TOKEN

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

PATIENCE = 15
"""Seconds until a reader must have been cut off: less than the recheck interval of the server, so this is
what was announced; and less than the streams last."""

LONG = {"tokens": 1500, "interval": 0.02}
QUICK = {"tokens": 3, "interval": 0.001}

MUCH = {"tokens": 1_000_000, "interval": 0}
"""More than the kernel takes for a reader that reads nothing."""

Headers = dict[str, str]

MAKE = """
import json, sys
from django.contrib.auth import get_user_model
from django.test import Client
from streaming import keys
user, _ = get_user_model().objects.get_or_create(username=sys.argv[1])
browser = Client()
browser.force_login(user)
print(json.dumps([keys.issue(user)[1], browser.cookies["sessionid"].value]))
"""

DO = """
import sys
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from streaming.models import ApiKey
user = get_user_model().objects.get(username=sys.argv[1])
"""


@pytest.fixture(scope="module")
def console(server: Server) -> Iterator[Programs]:
    """Another process on the server's database."""
    with programs(environment(server.database.parent)) as made:
        yield made


class Person:
    """Somebody with a key and a session."""

    def __init__(self, console: Programs, name: str) -> None:
        self.console, self.name = console, name
        self.key, self.session = json.loads(console.code(MAKE, name))
        self.by = {
            "key": {"Authorization": f"Bearer {self.key}"},
            "session": {
                "Cookie": f"sessionid={self.session}; csrftoken={TOKEN}",
                "X-CSRFToken": TOKEN,
            },
        }

    def do(self, code: str) -> None:
        """Change something in the other process."""
        self.console.code(DO + code, self.name, self.session)


async def revoke(person: Person, http: httpx2.AsyncClient) -> None:
    await asyncio.to_thread(person.console.command, "revoke_api_key", person.key)


async def log_out(person: Person, http: httpx2.AsyncClient) -> None:
    assert (await http.post("/accounts/logout/", headers=person.by["session"])).status_code == 302


def changing(code: str) -> Callable[[Person, httpx2.AsyncClient], Awaitable[None]]:
    async def change(person: Person, http: httpx2.AsyncClient) -> None:
        await asyncio.to_thread(person.do, code)

    return change


DEACTIVATE = "user.is_active = False; user.save()"

LOSSES: dict[str, tuple[str, Callable[[Person, httpx2.AsyncClient], Awaitable[None]]]] = {
    "revoked": ("key", revoke),
    "deleted": ("key", changing("ApiKey.objects.filter(user=user).first().delete()")),
    "deactivated": ("key", changing(DEACTIVATE)),
    "logged-out": ("session", log_out),
    "session-deleted": ("session", changing("Session.objects.get(pk=sys.argv[2]).delete()")),
    "new-password": ("session", changing("user.set_unusable_password(); user.save()")),
    "user-deleted": ("session", changing("user.delete()")),
}


def check_cut(last: dict[str, Any]) -> None:
    assert (last["type"], last["code"], last["retryable"]) == ("error", "access_revoked", False)
    assert last["message"]
    assert "id" not in last


async def post(http: httpx2.AsyncClient, headers: Headers, begun: asyncio.Event) -> Reading:
    body = brief(options=LONG)
    return await read_stream(http, "POST", STREAM, json=body, headers=headers, accepted=begun)


async def ndjson(http: httpx2.AsyncClient, place: str, headers: Headers) -> list[dict[str, Any]]:
    accept = {"Accept": "application/x-ndjson"}
    answer = await http.get(f"{place}/events", headers=headers | accept)
    return lines_of(answer.content)


async def socket(server: Server, path: str, headers: Headers) -> tuple[list[dict[str, Any]], int | None]:
    """Its last messages, and how it was closed."""
    origin = {"Origin": server.url.rstrip("/")} if "Cookie" in headers else {}
    async with opened(server, path, additional_headers=headers | origin) as made:
        if path == "/ws/generate/":
            await made.start("mine", options=LONG)
        told = await made.rest()
        return told[-2:], made.connection.close_code


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(loss, marks=pytest.mark.every_variant if loss in ("revoked", "logged-out") else ())
        for loss in LOSSES
    ],
)
async def test_every_open_stream_of_a_credential_ends_when_it_is_void_and_no_other_one(
    server: Server, http: httpx2.AsyncClient, console: Programs, loss: str
) -> None:
    way, lose = LOSSES[loss]
    person = await asyncio.to_thread(Person, console, f"{server.kind}-{loss}")
    other = await asyncio.to_thread(Person, console, f"{server.kind}-bystander")
    mine, theirs = person.by[way], other.by["session" if way == "key" else "key"]
    async with client(server.url) as quick, asyncio.timeout(PATIENCE + 30):
        # The first call teaches the hot door its route.
        await read_stream(quick, "POST", STREAM, json=brief(options=QUICK), headers=mine)
        source = await http.post("/content/generate/async", json=brief(options=LONG), headers=mine)
        place = source.headers["location"]
        begun, undisturbed = asyncio.Event(), asyncio.Event()
        bystander = asyncio.create_task(post(http, theirs, undisturbed))
        started = asyncio.create_task(post(http, mine, begun))
        lines = asyncio.create_task(ndjson(http, place, mine))
        one = asyncio.create_task(socket(server, f"/ws{place}/", mine))
        several = asyncio.create_task(socket(server, "/ws/generate/", mine))
        whole = asyncio.create_task(http.post("/content/generate", json=brief(options=LONG), headers=mine))
        await asyncio.gather(begun.wait(), undisturbed.wait())
        await asyncio.sleep(0.5)
        cut: list[asyncio.Task[Any]] = [started, lines, one, several, whole]
        assert not any(task.done() for task in (*cut, bystander))
        await lose(person, quick)
        _done, late = await asyncio.wait(cut, timeout=PATIENCE)
        assert not late, f"of {cut.index(late.pop())}"

        sse = started.result()
        check_cut(sse.end.data)
        assert sse.end.id == sse.events[-2].id, "it has no id of its own"
        assert sse.retry is not None
        check_cut(lines.result()[-1])
        for last, code in (one.result(), several.result()):
            assert (last[-1]["type"], last[-1]["status"], last[-1]["code"]) == (
                "problem",
                401,
                "access_revoked",
            )
            assert code == 4401
        assert (whole.result().status_code, whole.result().json()["code"]) == (401, "access_revoked")
        assert not bystander.done()
        bystander.cancel()

        again = await quick.get(f"{place}/events", headers=mine)
        # Who has no session is nobody, and nobody may call from this machine.
        assert again.status_code == (401 if way == "key" else 404)


async def test_a_task_goes_on_without_the_reader_and_is_another_keys_to_go_on_with(
    http: httpx2.AsyncClient, server: Server, console: Programs
) -> None:
    person = await asyncio.to_thread(Person, console, f"{server.kind}-two-keys")
    before = (await http.get("/stats")).json()["readers_revoked"]
    begun = asyncio.Event()
    reading = asyncio.create_task(post(http, person.by["key"], begun))
    await begun.wait()
    await revoke(person, http)
    async with asyncio.timeout(PATIENCE):
        cut = await reading
    check_cut(cut.end.data)
    place = cut.response.headers["location"]
    other = (await asyncio.to_thread(Person, console, f"{server.kind}-two-keys")).by["key"]
    record = (await http.get(place, headers=other)).json()
    assert record["state"] == "running"
    rest = await read_stream(
        http, "GET", f"{place}/events", until=3, headers=other | {"Last-Event-ID": cut.end.id}
    )
    # What was written meanwhile comes in one event, which has the last of their ids.
    assert int(rest.durable[0].id) > int(cut.durable[-2].id)
    assert rest.named("gap") == []
    await http.delete(place, headers=other)
    assert (await http.get("/stats")).json()["readers_revoked"] == before + 1


async def test_who_reads_nothing_is_cut_off_too_and_no_log_calls_it_an_error(
    http: httpx2.AsyncClient, server: Server, console: Programs
) -> None:
    """Its window is full, so it gets no last event."""
    person = await asyncio.to_thread(Person, console, f"{server.kind}-frozen")
    source = await http.post("/content/generate/async", json=brief(options=MUCH), headers=person.by["key"])
    place, before = source.headers["location"], len(server.log())

    async def followers() -> int:
        return int((await http.get("/stats")).json()["followers"])

    others = await followers()

    async def follows() -> bool:
        return await followers() == others + 1

    async def left() -> bool:
        return await followers() == others

    with closing(frozen(server, place, **person.by["key"])) as connection:
        assert await eventually(follows)
        assert await eventually(lambda: is_blocked(connection))
        await revoke(person, http)
        assert await eventually(left, PATIENCE)
        assert (await asyncio.to_thread(connection.recv, 20)).startswith(b"HTTP/1.1 200")
    log = server.log()[before:]
    assert "a reader that did not read was closed" in log
    assert "ERROR" not in log


async def test_what_has_ended_is_not_replayed_to_a_revoked_key(
    http: httpx2.AsyncClient, server: Server, console: Programs
) -> None:
    person = await asyncio.to_thread(Person, console, f"{server.kind}-replay")
    mine = person.by["key"] | {"Idempotency-Key": "once"}
    body = brief(options=QUICK)
    first = await read_stream(http, "POST", STREAM, json=body, headers=mine)
    assert first.end.name == "complete"
    place = first.response.headers["location"]
    again = await read_stream(http, "POST", STREAM, json=body, headers=mine)
    assert again.response.headers["idempotent-replayed"] == "true"
    await revoke(person, http)
    refused = [
        await http.get(f"{place}/events", headers=mine),
        await http.get(f"{place}/events?after=1", headers=mine | {"Accept": "application/x-ndjson"}),
        await http.get(place, headers=mine),
        await http.post(STREAM, json=body, headers=mine),
        await http.post(STREAM, json=body, headers=mine | {"Last-Event-ID": "1"}),
        await http.post("/content/generate", json=body, headers=mine),
    ]
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(401, "invalid_key")}
    for path in (f"/ws{place}/", "/ws/generate/"):
        with pytest.raises(InvalidStatus) as no_socket:
            async with opened(server, path, additional_headers=person.by["key"]):
                pass
        assert no_socket.value.response.status_code == 401


# What nobody announces


@pytest.fixture(scope="module")
def tight_console(tight: Server) -> Iterator[Programs]:
    with programs(environment(tight.database.parent)) as made:
        yield made


@pytest.fixture
async def swift(tight: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(tight.url) as made:
        yield made


BY_HAND = {
    "key": "ApiKey.objects.filter(user=user).update(revoked_at='2026-01-01T00:00Z')",
    "session": "Session.objects.filter(pk=sys.argv[2]).update(expire_date='2026-01-01T00:00Z')",
    "user": "get_user_model().objects.filter(pk=user.pk).update(is_active=False)",
}


@pytest.mark.parametrize("what", BY_HAND)
async def test_what_is_changed_by_hand_holds_within_the_interval(
    swift: httpx2.AsyncClient, tight_console: Programs, what: str
) -> None:
    person = await asyncio.to_thread(Person, tight_console, f"by-hand-{what}")
    begun = asyncio.Event()
    headers = person.by["session" if what == "session" else "key"]
    reading = asyncio.create_task(post(swift, headers, begun))
    await begun.wait()
    await asyncio.to_thread(person.do, BY_HAND[what])
    cut = await reading
    # Without it the server's `run_timeout` would end the stream.
    check_cut(cut.end.data)

    async def empty() -> bool:
        await swift.delete(cut.response.headers["location"])
        return bool((await swift.get("/stats")).json()["pools"]["agent_pool"]["running"] == 0)

    assert await eventually(empty)
