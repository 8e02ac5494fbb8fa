"""API keys on real servers: what they open, what they do not, and whose streams are whose."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from tests.support.client import STREAM, brief, check_replay, exchange, generate, read_stream
from tests.support.programs import Programs, programs
from tests.support.routes import ABSENT
from tests.support.servers import ROOT, Server, environment

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

QUICK = {"tokens": 5, "interval": 0.005}
SLOW = {"tokens": 2000, "interval": 0.02}

Headers = dict[str, str]


def manage(server: Server, *words: str) -> str:
    """What a command on the server's database prints to standard output."""
    done = subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=ROOT,
        env=environment(server.database.parent),
        check=True,
        capture_output=True,
        timeout=60,
        text=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def console(server: Server, people: dict[str, Headers]) -> Iterator[Programs]:
    """A process on the server's database that runs commands."""
    with programs(environment(server.database.parent)) as made:
        yield made


@pytest.fixture(scope="module")
def keys(server: Server, console: Programs) -> dict[str, Headers]:
    """Headers with a key, by the name of its user: the first as `KEY=$(manage.py create_api_key USER)` makes
    it."""
    made = {"alice": manage(server, "create_api_key", "alice").removesuffix("\n")}
    made |= {name: console.command("create_api_key", name) for name in ("bob", "operator")}
    return {name: {"Authorization": f"Bearer {key}"} for name, key in made.items()}


# What a key opens


async def test_a_key_starts_reads_lists_and_ends_streams(
    http: httpx2.AsyncClient, keys: dict[str, Headers]
) -> None:
    reading = await read_stream(http, "POST", STREAM, json=brief(options=QUICK), headers=keys["alice"])
    assert (reading.response.status_code, reading.text) == (200, "0 1 2 3 4 ")
    place = reading.response.headers["location"]
    record = await http.get(place, headers=keys["alice"])
    assert (record.status_code, record.json()["state"]) == (200, "complete")
    again = await read_stream(http, "GET", f"{place}/events?after=1", headers=keys["alice"])
    check_replay(again.durable, reading.durable, 1)
    listed = (await http.get("/streams", headers=keys["alice"])).json()["items"]
    assert listed[0]["id"] == record.json()["id"]
    assert (await http.delete(place, headers=keys["alice"])).status_code == 200
    assert (await http.delete(f"{place}?purge=true", headers=keys["alice"])).status_code == 204


@pytest.mark.parametrize("path", ["/content/generate", "/content/generate/async"])
async def test_a_key_starts_the_other_calls(
    http: httpx2.AsyncClient, keys: dict[str, Headers], path: str
) -> None:
    answer = await http.post(path, json=brief(options=QUICK), headers=keys["alice"])
    assert answer.status_code in (200, 202)
    record = f"/streams/{answer.json()['task_id']}"
    assert (await http.get(record, headers=keys["alice"])).status_code == 200
    assert (await http.get(record)).status_code == 404


async def test_a_key_works_where_a_stranger_may_not_come(
    http: httpx2.AsyncClient, keys: dict[str, Headers]
) -> None:
    forwarded = {"X-Forwarded-For": "192.0.2.7"}
    assert (await http.get("/streams", headers=forwarded)).status_code == 401
    assert (await http.get("/streams", headers=forwarded | keys["alice"])).status_code == 200


async def test_statistics_are_for_keys_of_staff(http: httpx2.AsyncClient, keys: dict[str, Headers]) -> None:
    assert (await http.get("/stats", headers=keys["operator"])).status_code == 200
    refused = await http.get("/stats", headers=keys["alice"])
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")


async def test_a_revoked_key_opens_nothing_more(http: httpx2.AsyncClient, console: Programs) -> None:
    key = await asyncio.to_thread(console.command, "create_api_key", "bob")
    headers = {"Authorization": f"Bearer {key}"}
    assert (await http.get("/streams", headers=headers)).status_code == 200
    await asyncio.to_thread(console.command, "revoke_api_key", key)
    refused = await http.get("/streams", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_key")


# What does not


CALLS: list[tuple[str, str]] = [
    ("POST", STREAM),
    ("POST", "/content/generate"),
    ("POST", "/content/generate/async"),
    ("GET", "/streams"),
    ("GET", f"/streams/{ABSENT}"),
    ("GET", f"/streams/{ABSENT}/events"),
    ("DELETE", f"/streams/{ABSENT}"),
    ("DELETE", f"/streams/{ABSENT}?purge=true"),
    ("GET", "/stats"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_a_wrong_key_is_refused_on_every_route_although_anonymous_use_is_on(
    http: httpx2.AsyncClient, method: str, path: str
) -> None:
    body = brief(options=QUICK) if method == "POST" else None
    headers = {"Authorization": "Bearer sluice_" + "a" * 43}
    refused = await http.request(method, path, headers=headers, json=body)
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_key")
    assert refused.headers["www-authenticate"] == 'Bearer realm="sluice", error="invalid_token"'
    assert refused.headers["content-type"] == "application/problem+json"


async def test_a_wrong_key_starts_nothing(http: httpx2.AsyncClient) -> None:
    before = (await http.get("/stats")).json()["routes"]
    headers = {"Authorization": "Bearer sluice_" + "a" * 43}
    await http.post(STREAM, json=brief(options=QUICK), headers=headers)
    assert (await http.get("/stats")).json()["routes"] == before


@pytest.mark.parametrize(
    "line", ["Bearer {}  ", "Bearer {}\t", "Bearer   {}", "bearer {} \t ", " \tBearer {}"]
)
def test_blanks_around_a_key_are_none_of_it(server: Server, keys: dict[str, Headers], line: str) -> None:
    key = keys["alice"]["Authorization"].removeprefix("Bearer ")
    head = f"GET /streams HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization:{line.format(key)}\r\n\r\n"
    response, body = exchange(server, head.encode())
    assert response.status == 200, body


LINES: list[bytes] = [
    b"Authorization:",
    b"Authorization: Bearer",
    b"Authorization: Bearer ",
    b"Authorization: Basic YTpi",
    b"Authorization: Bearer \xc3\xa9",
    b"Authorization: Bearer \xff\xfe",
    b"Authorization: Bearer sluice_" + b"a" * 43 + b"\r\nAuthorization: Bearer sluice_" + b"b" * 43,
]


@pytest.mark.parametrize("line", LINES)
def test_h4_a_malformed_header(server: Server, line: bytes) -> None:
    response, body = exchange(server, b"GET /streams HTTP/1.1\r\nHost: 127.0.0.1\r\n" + line + b"\r\n\r\n")
    assert response.status == 401, body


def test_h4_two_valid_keys_are_refused(server: Server, keys: dict[str, Headers]) -> None:
    lines = "".join(f"Authorization: {keys[name]['Authorization']}\r\n" for name in ("alice", "bob"))
    response, _ = exchange(server, f"GET /streams HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode())
    assert response.status == 401


@pytest.mark.every_variant
def test_h4_a_header_of_a_megabyte(server: Server) -> None:
    head = b"GET /streams HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "
    if server.kind == "daphne":
        # Twisted closes the connection, which may cut what we still send.
        with pytest.raises(ConnectionError):
            exchange(server, head + b"x" * 1_000_000 + b"\r\n\r\n")
    else:
        response, _ = exchange(server, head + b"x" * 1_000_000 + b"\r\n\r\n")
        assert response.status == 401
    after, _ = exchange(server, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert after.status == 200


# Owners

FOREIGN_CALLS = [
    ("GET", "/streams/{}"),
    ("GET", "/streams/{}/events"),
    ("DELETE", "/streams/{}"),
    ("DELETE", "/streams/{}?purge=true"),
]
WAYS = ("key", "session")


@pytest.fixture(scope="module")
def speaking(keys: dict[str, Headers], people: dict[str, Headers]) -> Callable[[str, str], Headers]:
    """Headers of somebody by one of WAYS; of nobody, none."""

    def headers(name: str, way: str) -> Headers:
        return {} if name == "nobody" else (keys if way == "key" else people)[name]

    return headers


@pytest.mark.parametrize(("method", "path"), FOREIGN_CALLS)
@pytest.mark.parametrize("owner_way", WAYS)
@pytest.mark.parametrize(
    ("other", "way"), [("bob", "key"), ("bob", "session"), ("operator", "key"), ("nobody", "")]
)
async def test_a_foreign_stream_looks_absent_whichever_way_one_signs_in(
    http: httpx2.AsyncClient,
    speaking: Callable[[str, str], Headers],
    method: str,
    path: str,
    owner_way: str,
    other: str,
    way: str,
) -> None:
    mine = speaking("alice", owner_way)
    started = await http.post("/content/generate/async", json=brief(options=SLOW), headers=mine)
    task_id = started.json()["task_id"]
    foreign = await http.request(method, path.format(task_id), headers=speaking(other, way))
    absent = await http.request(method, path.format(ABSENT), headers=speaking(other, way))
    assert foreign.status_code == absent.status_code == 404
    assert foreign.content == absent.content
    assert _told(foreign) == _told(absent)
    ended = await http.delete(f"/streams/{task_id}", headers=mine)
    assert ended.json()["state"] == "cancelled", "it ran until its owner ended it"


def _told(response: httpx2.Response) -> Headers:
    return {name: value for name, value in response.headers.items() if name not in ("date", "x-request-id")}


async def test_a_list_holds_nothing_foreign(
    http: httpx2.AsyncClient, keys: dict[str, Headers], people: dict[str, Headers]
) -> None:
    for name in ("alice", "bob"):
        await http.post("/content/generate", json=brief(options=QUICK), headers=keys[name])
    ids = {
        name: {
            item["id"] for item in (await http.get("/streams?limit=100", headers=keys[name])).json()["items"]
        }
        for name in ("alice", "bob")
    }
    assert ids["alice"]
    assert ids["bob"]
    assert not ids["alice"] & ids["bob"]
    assert (await http.get("/streams")).json()["items"] == []


async def test_keys_and_sessions_of_one_user_see_the_same_streams(
    http: httpx2.AsyncClient, keys: dict[str, Headers], people: dict[str, Headers]
) -> None:
    by_key = await http.post("/content/generate", json=brief(options=QUICK), headers=keys["bob"])
    by_session = await http.post("/content/generate", json=brief(options=QUICK), headers=people["bob"])
    for answer in (by_key, by_session):
        for headers in (keys["bob"], people["bob"]):
            record = await http.get(f"/streams/{answer.json()['task_id']}", headers=headers)
            assert record.status_code == 200
    pages = [(await http.get("/streams", headers=headers)).json() for headers in (keys["bob"], people["bob"])]
    assert pages[0] == pages[1]


async def test_an_anonymous_stream_can_be_read_with_a_key(
    http: httpx2.AsyncClient, keys: dict[str, Headers]
) -> None:
    place = (await generate(http, options=QUICK)).response.headers["location"]
    assert (await http.get(place, headers=keys["alice"])).status_code == 200


# The rest


async def test_the_description_offers_both_ways(http: httpx2.AsyncClient) -> None:
    described: dict[str, Any] = (await http.get("/openapi.json")).json()
    schemes = described["components"]["securitySchemes"]
    assert (schemes["key"]["type"], schemes["key"]["scheme"]) == ("http", "bearer")
    assert (schemes["session"]["type"], schemes["session"]["in"], schemes["session"]["name"]) == (
        "apiKey",
        "cookie",
        "sessionid",
    )
    assert described["security"] == [{"key": []}, {"session": []}, {}]


async def test_no_key_gets_into_the_log(
    http: httpx2.AsyncClient, server: Server, keys: dict[str, Headers]
) -> None:
    await http.get("/streams/nowhere", headers=keys["alice"])
    await http.post(STREAM, content=json.dumps("no object"), headers=keys["alice"])
    assert keys["alice"]["Authorization"].removeprefix("Bearer ") not in server.log()
