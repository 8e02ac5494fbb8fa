"""API keys on real servers: what they open, what they do not, and whose streams are whose."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from streaming.scopes import Scope
from tests.support.client import STREAM, brief, check_replay, eventually, exchange, generate, read_stream
from tests.support.programs import Programs, programs
from tests.support.routes import ABSENT
from tests.support.servers import ROOT, Server, environment
from tests.support.sockets import GENERATE, opened

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


def _scopes(*scopes: str) -> list[str]:
    """As `create_api_key` takes them."""
    return [f"--scope={scope}" for scope in scopes]


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
    made["bob"] = console.command("create_api_key", "bob")
    made["operator"] = console.command("create_api_key", "operator", *_scopes(*Scope))
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


# Scopes

NOTEBOOK = "/notebooks/-"
"""No name that a notebook can have: that is told to who may ask."""

DRAFT = {"title": "t", "cells": []}
FILE = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
ONE = {"tokens": 1, "interval": 0}


def _operation(kind: str, **members: Any) -> dict[str, Any]:
    return {"notebook_id": "absent", "operation": {"type": kind, **members}}


Call = tuple[str, str, Any, set[str]]
ROUTES: list[Call] = [
    ("POST", STREAM, brief(options=ONE), {"generate"}),
    ("POST", "/content/generate", brief(options=ONE), {"generate"}),
    ("POST", "/content/generate/async", brief(options=ONE), {"generate"}),
    ("GET", "/streams", None, {"read"}),
    ("GET", f"/streams/{ABSENT}", None, {"read"}),
    ("GET", f"/streams/{ABSENT}/events", None, {"read"}),
    ("GET", f"/streams/{ABSENT}/rendered", None, {"read"}),
    ("GET", f"/streams/{ABSENT}/view", None, {"read"}),
    ("POST", "/tickets", {"stream_id": ABSENT}, {"read"}),
    ("POST", "/tickets", {"socket": "/ws/generate/"}, set()),
    ("DELETE", f"/streams/{ABSENT}", None, {"cancel"}),
    ("DELETE", f"/streams/{ABSENT}?purge=true", None, {"cancel"}),
    ("GET", "/streams/probe?count=1&interval=10", None, {"read"}),
    ("GET", "/streams/probe/report", None, {"read"}),
    ("GET", NOTEBOOK, None, {"read"}),
    ("GET", f"{NOTEBOOK}.ipynb", None, {"read"}),
    ("PUT", NOTEBOOK, DRAFT, {"notebooks"}),
    ("PUT", f"{NOTEBOOK}.ipynb", FILE, {"notebooks"}),
    ("DELETE", NOTEBOOK, None, {"notebooks"}),
    ("GET", "/notebook/", None, {"read"}),
    ("GET", "/notebook/-/", None, {"read"}),
    ("GET", "/stats", None, {"operate"}),
    ("GET", "/", None, set()),
    ("GET", "/healthz", None, set()),
    ("GET", "/readyz", None, set()),
    ("GET", "/metrics", None, set()),
]
OPERATIONS: list[tuple[dict[str, Any], set[str]]] = [
    (_operation("ping"), set()),
    (_operation("list"), {"read"}),
    (_operation("status"), {"read"}),
    (_operation("generate", prompt="print 1"), {"generate"}),
    (_operation("execute", code="1"), {"generate", "notebooks"}),
    (_operation("complete", code="1"), {"generate", "notebooks"}),
    (_operation("inspect", code="1"), {"generate", "notebooks"}),
    (_operation("interrupt"), {"notebooks"}),
    (_operation("restart"), {"notebooks"}),
    (_operation("shutdown"), {"notebooks"}),
]
SINGLE = [{scope.value} for scope in Scope]
SETS = [{scope.value for scope in Scope}, *SINGLE, {"generate", "notebooks"}]


@pytest.fixture(scope="module")
def keys_for(console: Programs, people: dict[str, Headers]) -> Callable[[set[str]], Headers]:
    """Headers with a key of staff that is for these scopes."""

    @cache
    def made(scopes: frozenset[str]) -> Headers:
        key = console.command("create_api_key", "operator", *_scopes(*scopes))
        return {"Authorization": f"Bearer {key}"}

    return lambda scopes: made(frozenset(scopes))


def _lacks_scope(answer: httpx2.Response, needed: set[str]) -> bool:
    """Whether it was refused for want of a scope; then it says which."""
    if "problem+json" not in answer.headers["content-type"] or answer.json()["code"] != "insufficient_scope":
        assert answer.status_code != 401, answer.text
        return False
    told = " ".join(scope for scope in Scope if scope in needed)
    challenge = f'Bearer realm="sluice", error="insufficient_scope", scope="{told}"'
    assert (answer.status_code, answer.headers["www-authenticate"]) == (403, challenge)
    assert answer.json()["scope"] == told
    return True


async def test_each_call_needs_its_scope_and_no_other(
    http: httpx2.AsyncClient, keys_for: Callable[[set[str]], Headers]
) -> None:
    wrong: list[tuple[Any, ...]] = []
    for scopes in SETS:
        headers = keys_for(scopes)
        for method, path, body, needed in ROUTES:
            # A cookie keeps a call from the hot door; the first key has opened that for the others.
            for cookie in ({}, {"Cookie": "x=1"}) if path == STREAM else ({},):
                answer = await http.request(method, path, json=body, headers=headers | cookie)
                if _lacks_scope(answer, needed) == (needed <= scopes):
                    wrong.append((scopes, method, path, answer.status_code))
        for body, needed in OPERATIONS:
            answer = await http.post("/send_operation", json=body, headers=headers)
            if _lacks_scope(answer, needed) == (needed <= scopes):
                wrong.append((scopes, body["operation"], answer.status_code))
    assert wrong == []


async def test_the_description_names_the_scope_of_each_call(http: httpx2.AsyncClient) -> None:
    described = (await http.get("/openapi.json")).json()
    found = {
        (method.upper(), path): {
            scope for way in operation.get("security", described["security"]) for scope in way.get("key", ())
        }
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    }
    # What these need, their bodies decide.
    for path in ("/send_operation", "/tickets"):
        found.pop(("POST", path))
    table: dict[tuple[str, str], set[str]] = {}
    for method, path, _body, needed in ROUTES:
        path = (
            path.partition("?")[0].replace(ABSENT, "{task_id}").replace(NOTEBOOK, "/notebooks/{notebook_id}")
        )
        table[method, path] = needed
    assert {each: table[each] for each in found} == found


async def test_what_a_key_may_not_read_is_in_no_other_answer(
    http: httpx2.AsyncClient, keys_for: Callable[[set[str]], Headers]
) -> None:
    whole = keys_for(SETS[0])
    started = await http.post("/content/generate", json=brief(options=QUICK), headers=whole)
    place = f"/streams/{started.json()['task_id']}"
    ended = await http.delete(place, headers=keys_for({"cancel"}))
    assert (ended.status_code, ended.content) == (204, b"")
    assert (await http.delete(place, headers=whole)).json()["text"] == "0 1 2 3 4 "
    saved = await http.put("/notebooks/secret", json=DRAFT, headers=keys_for({"notebooks"}))
    assert (saved.status_code, saved.content) == (204, b"")
    assert saved.headers["etag"] == (await http.get("/notebooks/secret", headers=whole)).headers["etag"]
    await http.delete("/notebooks/secret", headers=whole)


SOCKETS = [
    (f"/ws/streams/{ABSENT}/", {"read"}),
    (GENERATE, {"generate", "read"}),
    ("/ws/notebooks/absent/", {"notebooks", "generate", "read"}),
]


async def test_a_socket_opens_with_a_scope_that_it_has_a_use_for(
    server: Server, keys_for: Callable[[set[str]], Headers]
) -> None:
    for path, one_of in SOCKETS:
        for scopes in SINGLE:
            headers = keys_for(scopes)
            if scopes & one_of:
                async with opened(server, path, additional_headers=headers) as socket:
                    await socket.say(type="ping")
                continue
            with pytest.raises(InvalidStatus) as refusal:
                async with opened(server, path, additional_headers=headers):
                    pass
            response = refusal.value.response
            assert response.status_code == 403, (path, scopes)
            if server.kind != "daphne":
                # That one cannot say why.
                assert json.loads(response.body)["code"] == "insufficient_scope"
                assert 'error="insufficient_scope"' in response.headers["WWW-Authenticate"]


async def test_each_message_of_a_socket_needs_its_scope(
    server: Server, http: httpx2.AsyncClient, keys_for: Callable[[set[str]], Headers]
) -> None:
    slow = await http.post(
        "/content/generate/async", json=brief(options=SLOW), headers=keys_for({"generate"})
    )
    task_id = slow.json()["task_id"]
    async with opened(server, additional_headers=keys_for({"read"})) as socket:
        await socket.start("a", options=ONE)
        refused = await socket.next("problem")
        assert (refused["request_id"], refused["status"], refused["code"]) == ("a", 403, "insufficient_scope")
        assert refused["scope"] == "generate"
        # Of a wrong brief it is told no more.
        await socket.say(type="start", request_id="a", brief={"frob": 1})
        assert (await socket.next("problem"))["code"] == "insufficient_scope"
        await socket.say(type="follow", request_id="a", task_id=task_id)
        assert (await socket.next())["type"] == "opened", "the id is still free"
        await socket.say(type="cancel", request_id="a")
        assert (await socket.next("problem"))["scope"] == "cancel"
    path = f"/ws/streams/{task_id}/"
    async with opened(server, path, additional_headers=keys_for({"read"})) as socket:
        await socket.say(type="cancel")
        assert (await socket.next("problem"))["scope"] == "cancel"
    async with opened(server, path, additional_headers=keys_for({"read", "cancel"})) as socket:
        await socket.say(type="cancel")
        assert (await socket.next("cancelled"))["reason"] == "client"
    async with opened(server, additional_headers=keys_for({"generate"})) as socket:
        await socket.say(type="follow", request_id="a", task_id=task_id)
        assert (await socket.next("problem"))["scope"] == "read"
        await socket.start("b", options=ONE)
        assert (await socket.next("complete"))["request_id"] == "b"


async def test_each_operation_on_a_socket_needs_its_scope(
    server: Server, keys_for: Callable[[set[str]], Headers]
) -> None:
    for scopes in ({"read"}, {"generate"}, {"notebooks"}):
        async with opened(server, "/ws/notebooks/absent/", additional_headers=keys_for(scopes)) as socket:
            for body, needed in OPERATIONS:
                name = body["operation"]["type"]
                await socket.say(type="operation", request_id=name, operation=body["operation"])
                answer = await socket.next()
                while answer.get("request_id") != name:
                    answer = await socket.next()
                lacks = answer.get("code") == "insufficient_scope"
                assert lacks != (needed <= scopes), (scopes, answer)


async def test_a_key_ends_and_its_successor_goes_on(http: httpx2.AsyncClient, console: Programs) -> None:
    old = await asyncio.to_thread(console.command, "create_api_key", "bob", "--expires-in", "1d")
    assert (await http.get("/streams", headers={"Authorization": f"Bearer {old}"})).status_code == 200
    new = await asyncio.to_thread(console.command, "rotate_api_key", old, "--overlap", "0")

    async def status_of(key: str) -> int:
        return (await http.get("/streams", headers={"Authorization": f"Bearer {key}"})).status_code

    async def refused() -> bool:
        return await status_of(old) == 401

    assert await eventually(refused, 5)
    assert await status_of(new) == 200

    async def used() -> bool:
        listed = await asyncio.to_thread(console.command, "list_api_keys", "bob")
        return any(line.startswith(f"valid\t{new[:15]}") and "used 2" in line for line in listed.split("\n"))

    assert await eventually(used, 10)


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
