"""Tickets on real servers: what a page gets with one, and where none is ever written down."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.client import STREAM, Reading, brief, check_replay, client, generate, lines_of, read_stream
from tests.support.programs import Programs, programs
from tests.support.routes import ABSENT
from tests.support.servers import Server, environment, running
from tests.support.sockets import GENERATE, opened

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

QUICK = {"tokens": 5, "interval": 0.005}
TEXT = "0 1 2 3 4 "
LINES = {"Accept": "application/x-ndjson"}

Headers = dict[str, str]


@pytest.fixture(scope="module")
def console(server: Server, people: dict[str, Headers]) -> Iterator[Programs]:
    """A process on the server's database that runs commands."""
    with programs(environment(server.database.parent)) as made:
        yield made


@pytest.fixture(scope="module")
def alice(console: Programs) -> Headers:
    return {"Authorization": f"Bearer {console.command('create_api_key', 'alice')}"}


@pytest.fixture
async def mine(http: httpx2.AsyncClient, alice: Headers) -> Reading:
    """A stream of hers that has ended."""
    return await read_stream(http, "POST", STREAM, json=brief(options=QUICK), headers=alice)


def id_of(reading: Reading) -> str:
    return str(reading.response.headers["x-stream-id"])


async def make(http: httpx2.AsyncClient, headers: Headers, **wanted: Any) -> dict[str, Any]:
    """A ticket, as it is answered."""
    answer = await http.post("/tickets", json=wanted, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    made: dict[str, Any] = answer.json()
    return made


async def code_of(server: Server, url: str, **options: Any) -> tuple[int, str]:
    """How a socket is refused at the handshake; 101 for not at all."""
    try:
        async with opened(server, url, **options):
            return 101, ""
    except InvalidStatus as refusal:
        body = refusal.response.body or b""
        return refusal.response.status_code, body.decode()


# What one opens


@pytest.mark.every_variant
async def test_it_opens_an_event_stream_once_and_resuming_takes_another(
    http: httpx2.AsyncClient, alice: Headers, mine: Reading
) -> None:
    made = await make(http, alice, stream_id=id_of(mine))
    assert made == {
        "ticket": made["ticket"],
        "expires_in": 60,
        "url": f"/streams/{id_of(mine)}/events?ticket={made['ticket']}",
    }
    assert (await read_stream(http, "GET", made["url"])).text == TEXT
    refused = await http.get(made["url"])
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_ticket")
    assert made["ticket"] not in refused.text + str(refused.headers)
    again = await make(http, alice, stream_id=id_of(mine))
    resumed = await read_stream(http, "GET", f"{again['url']}&after=1")
    check_replay(resumed.durable, mine.durable, 1)


async def test_what_becomes_of_tickets_is_counted(
    http: httpx2.AsyncClient, alice: Headers, mine: Reading
) -> None:
    async def counts() -> dict[str, float]:
        text = (await http.get("/metrics")).text
        found = re.findall(r'^sluice_tickets_total\{result="(\w+)"\} (\S+)$', text, re.MULTILINE)
        return {result: float(number) for result, number in found}

    before = await counts()
    made = [await make(http, alice, stream_id=id_of(mine)) for _ in range(3)]
    assert (await http.get(made[0]["url"], headers=LINES)).status_code == 200
    assert (await http.get(made[0]["url"])).status_code == 401
    assert (await http.get(made[1]["url"].replace(id_of(mine), ABSENT))).status_code == 401
    after = await counts()
    assert {result: number - before[result] for result, number in after.items()} == {
        "issued": 3,
        "limited": 0,
        "redeemed": 1,
        "refused": 2,
    }


async def test_it_opens_lines_as_well(http: httpx2.AsyncClient, alice: Headers, mine: Reading) -> None:
    made = await make(http, alice, stream_id=id_of(mine))
    lines = lines_of((await http.get(made["url"], headers=LINES)).content)
    assert "".join(line["delta"] for line in lines if line["type"] == "content") == TEXT


@pytest.mark.every_variant
async def test_it_opens_the_socket_of_a_stream(
    http: httpx2.AsyncClient, server: Server, alice: Headers, mine: Reading
) -> None:
    made = await make(http, alice, stream_id=id_of(mine))
    url = f"/ws/streams/{id_of(mine)}/?ticket={made['ticket']}"
    async with opened(server, url, origin=server.url) as socket:
        told = await socket.rest()
    assert "".join(each["delta"] for each in told if each["type"] == "content") == TEXT
    status, body = await code_of(server, url)
    assert status == 403
    assert "invalid_ticket" in body or server.kind == "daphne"
    assert (await http.get(made["url"])).status_code == 401, "it was used there"


async def test_with_one_for_reading_nothing_is_cancelled(
    http: httpx2.AsyncClient, server: Server, alice: Headers
) -> None:
    slow = {"tokens": 2000, "interval": 0.02}
    started = await http.post("/content/generate/async", json=brief(options=slow), headers=alice)
    task_id = started.json()["task_id"]
    made = await make(http, alice, stream_id=task_id)
    async with opened(server, f"/ws/streams/{task_id}/?ticket={made['ticket']}") as socket:
        await socket.say(type="cancel")
        assert (await socket.next("problem"))["code"] == "insufficient_scope"
    assert (await http.delete(f"/streams/{task_id}", headers=alice)).json()["state"] == "cancelled"


async def test_on_a_socket_of_several_streams_it_is_its_maker_who_speaks(
    http: httpx2.AsyncClient, server: Server, alice: Headers, people: dict[str, Headers]
) -> None:
    made = await make(http, alice, socket=GENERATE)
    assert made["url"] == f"{GENERATE}?ticket={made['ticket']}"
    # The cookie of somebody else, whom the ticket keeps out of it.
    async with opened(
        server, made["url"], origin=server.url, additional_headers={"Cookie": people["bob"]["Cookie"]}
    ) as socket:
        await socket.start("a", options=QUICK)
        task_id = (await socket.next("opened"))["task_id"]
        await socket.next("complete")
    assert (await http.get(f"/streams/{task_id}", headers=alice)).status_code == 200
    assert (await http.get(f"/streams/{task_id}", headers=people["bob"])).status_code == 404
    assert (await code_of(server, made["url"]))[0] == 403


# What none opens


async def test_a_foreign_stream_and_an_absent_one_get_none(
    http: httpx2.AsyncClient, people: dict[str, Headers], mine: Reading
) -> None:
    answers = [
        await http.post("/tickets", json={"stream_id": each}, headers=headers)
        for each in (id_of(mine), ABSENT, "no id \u0000 at all")
        for headers in ({}, people["bob"])
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1


async def test_it_opens_nothing_else(
    http: httpx2.AsyncClient, server: Server, alice: Headers, mine: Reading
) -> None:
    ticket = (await make(http, alice, socket=GENERATE))["ticket"]
    other = id_of(await generate(http, options=QUICK))
    for path in (f"/streams/{id_of(mine)}/events", f"/streams/{other}/events"):
        refused = await http.get(f"{path}?ticket={ticket}")
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_ticket"), path
        assert refused.headers["www-authenticate"].startswith("Bearer")
    # What takes no tickets does not look at them.
    assert (await http.get(f"/streams/{id_of(mine)}?ticket={ticket}")).status_code == 404
    for path in (f"/ws/streams/{id_of(mine)}/", "/ws/notebooks/a/"):
        assert (await code_of(server, f"{path}?ticket={ticket}"))[0] == 403
    twice = await http.get(f"/streams/{other}/events?ticket={ticket}&ticket={ticket}")
    assert (twice.status_code, twice.json()["code"]) == (400, "bad_query")
    assert (await code_of(server, f"{GENERATE}?ticket={ticket}&ticket={ticket}"))[0] in (400, 403)
    wrong = {"Authorization": "Bearer sluice_" + "a" * 43}
    assert (await http.get(f"/streams/{other}/events?ticket={ticket}", headers=wrong)).status_code == 401
    evil = await code_of(server, f"{GENERATE}?ticket={ticket}", origin="https://evil.example")
    assert evil[0] == 403
    assert await code_of(server, f"{GENERATE}?ticket={ticket}") == (101, ""), "none of that has used it up"


async def test_a_key_that_is_revoked_takes_its_tickets_with_it(
    http: httpx2.AsyncClient, server: Server, console: Programs, mine: Reading
) -> None:
    key = await asyncio.to_thread(console.command, "create_api_key", "alice")
    headers = {"Authorization": f"Bearer {key}"}
    made = await make(http, headers, stream_id=id_of(mine))
    socket = await make(http, headers, socket=GENERATE)
    await asyncio.to_thread(console.command, "revoke_api_key", key)
    assert (await http.get(made["url"])).status_code == 401
    assert (await code_of(server, socket["url"]))[0] == 403


WRONG: list[tuple[Any, str]] = [
    ({}, "missing_field"),
    ({"stream_id": None}, "missing_field"),
    ({"stream_id": 7}, "wrong_type"),
    ({"stream_id": ABSENT, "socket": GENERATE}, "not_a_choice"),
    ({"socket": "/ws/nothing/"}, "not_a_choice"),
    ({"socket": f"/ws/streams/{ABSENT}/"}, "not_a_choice"),
    ({"socket": "/ws/notebooks/a?b/"}, "not_a_choice"),
    ({"socket": "/ws/notebooks/%00/"}, "not_a_choice"),
    ({"socket": "https://evil.example/ws/generate/"}, "not_a_choice"),
    ({"socket": "/" + "x" * 200}, "too_long"),
    ({"socket": "/ws/generate/", "ttl": 3600}, "unknown_field"),
]


@pytest.mark.parametrize(("wanted", "code"), WRONG)
async def test_what_it_is_for_has_to_be_said_rightly(
    http: httpx2.AsyncClient, wanted: dict[str, Any], code: str
) -> None:
    refused = await http.post("/tickets", json=wanted)
    assert (refused.status_code, refused.json()["code"]) == (422, code)


async def test_a_stranger_gets_none(http: httpx2.AsyncClient) -> None:
    refused = await http.post("/tickets", json={"socket": GENERATE}, headers={"X-Forwarded-For": "192.0.2.7"})
    assert (refused.status_code, refused.json()["code"]) == (401, "not_authenticated")


async def test_a_session_needs_its_csrf_token(http: httpx2.AsyncClient, people: dict[str, Headers]) -> None:
    cookie = {"Cookie": people["bob"]["Cookie"]}
    refused = await http.post("/tickets", json={"socket": GENERATE}, headers=cookie)
    assert (refused.status_code, refused.json()["code"]) == (403, "csrf_failed")
    await make(http, people["bob"], socket=GENERATE)


# Many at once


@pytest.mark.every_variant
async def test_of_twenty_at_once_one_gets_in(http: httpx2.AsyncClient, alice: Headers, mine: Reading) -> None:
    made = await make(http, alice, stream_id=id_of(mine))
    answers = await asyncio.gather(*(http.get(made["url"]) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200, *[401] * 19]


# Where none is written down


async def leave_traces(http: httpx2.AsyncClient, server: Server) -> list[str]:
    """Tickets that were used in every way in which somebody might log them."""
    stream = id_of(await generate(http, options=QUICK))
    used = [await make(http, {}, stream_id=stream) for _ in range(3)]
    used.append(await make(http, {}, socket=GENERATE))
    for made in used[:2]:
        await http.get(made["url"])
        await http.get(made["url"])
    await http.get(used[2]["url"], headers={"Accept": "image/png"})
    for path in ("/nowhere", "/content/generate", "/streams", "/admin/", "/ws/generate/"):
        await http.get(f"{path}?ticket={used[0]['ticket']}")
        await http.post(f"{path}?%74icket={used[0]['ticket']}", json={})
    for _ in range(2):
        await code_of(server, used[3]["url"])
    await code_of(server, f"/ws/nowhere/?ticket={used[3]['ticket']}")
    await http.get("/metrics")
    return [made["ticket"].removeprefix("sluice_ticket_") for made in used]


def has_any(text: str, tickets: list[str]) -> bool:
    assert len(tickets) == 4
    return any(ticket in text for ticket in tickets)


@pytest.mark.every_variant
async def test_no_ticket_gets_into_the_log(http: httpx2.AsyncClient, server: Server) -> None:
    tickets = await leave_traces(http, server)
    assert (await http.get("/healthz")).status_code == 200
    assert not has_any(server.log(), tickets)
    assert not has_any((await http.get("/metrics")).text, tickets)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["uvicorn with its access log", "runserver"])
async def test_nor_into_that_of_another_server(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path, DEBUG="true") as server:
        async with client(server.url) as http:
            tickets = await leave_traces(http, server)
        assert server.stop() is not None
        assert "/events" in server.log(), "it logs requests"
        assert not has_any(server.log(), tickets)
