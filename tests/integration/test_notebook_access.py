"""Who may do what with notebooks: every kind of caller, every operation, wherever code may be run from.

The kernels of these servers do not start, which is quick: who may run code is told so.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Final

import httpx2
import psutil
import pytest
from websockets.exceptions import InvalidStatus

from notebooks.operations import OPERATIONS
from tests.integration.conftest import assert_clean
from tests.support.client import Reading, client, eventually
from tests.support.notebooks import (
    Headers,
    answer,
    ask,
    below,
    end,
    key_of,
    notebook_server,
    session_of,
)
from tests.support.servers import ROOT, Server, environment
from tests.support.sockets import opened

pytestmark = pytest.mark.server

POLICIES: Final = ("false", "loopback", "true")

MEMBERS: Final[dict[str, dict[str, Any]]] = {
    "ping": {},
    "list": {},
    "generate": {"prompt": "print a plot"},
    "restart": {},
    "status": {},
    "execute": {"code": "print('ran')"},
    "complete": {"code": "pri"},
    "inspect": {"code": "len"},
    "interrupt": {},
    "shutdown": {},
}

FOR_ACCOUNTS: Final = ("list", "generate")

RUNS_CODE: Final = tuple(name for name in MEMBERS if name not in ("ping", *FOR_ACCOUNTS))

ANSWERED: Final = (200, "complete")

TRIED: Final = (200, "kernel_not_started")
"""The answer to who may run code."""

ALLOWED: Final = dict.fromkeys(MEMBERS, ANSWERED) | dict.fromkeys(
    ("restart", "execute", "complete", "inspect"), TRIED
)

ROLES: Final = (
    "nobody",
    "session without permission",
    "session without CSRF token",
    "session",
    "key without permission",
    "key",
    "key by a group",
    "superuser",
    "session of somebody who left",
    "key of somebody who left",
    "revoked key",
)


def headers_of(role: str) -> Headers:
    match role:
        case "nobody":
            return {}
        case "session without permission":
            return session_of("reader")
        case "session without CSRF token":
            return session_of("ada", token=False)
        case "session":
            return session_of("ada")
        case "session of somebody who left":
            return session_of("left")
    names = {
        "key without permission": "reader",
        "key": "grace",
        "key by a group": "member",
        "superuser": "root",
        "key of somebody who left": "left",
        "revoked key": "revoked",
    }
    return key_of(names[role])


def expected(role: str, policy: str) -> dict[str, tuple[int, str]]:
    """Status and code of every operation, for callers on this machine."""
    nobody, refused = (401, "not_authenticated"), (403, "permission_denied")
    match role:
        case "key of somebody who left" | "revoked key":
            return dict.fromkeys(MEMBERS, (401, "invalid_key"))
        case "session without CSRF token":
            return dict.fromkeys(MEMBERS, (403, "csrf_failed"))
        case "nobody" | "session of somebody who left":
            return {**dict.fromkeys(MEMBERS, nobody), "ping": ANSWERED}
        case "session without permission" | "key without permission":
            found = {**ALLOWED, **dict.fromkeys(RUNS_CODE, refused)}
        case _:
            found = {**ALLOWED}
    if policy == "false":
        found |= dict.fromkeys(RUNS_CODE, (403, "kernels_disabled"))
    return found


@pytest.fixture(scope="module", params=POLICIES)
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "KERNELS_ENABLED": request.param,
        "KERNEL_PYTHON": "/bin/false",
        "KERNEL_MAX_KERNELS": "20",
        "KERNEL_POOL_MAX_WORKERS": "20",
        "KERNEL_POOL_PER_OWNER": "20",
        "HOST": "0.0.0.0",  # noqa: S104
        "ALLOWED_HOSTS": f"127.0.0.1,{_own_address()}",
    }
    with notebook_server(tmp_path_factory.mktemp("access"), **settings) as made:
        yield made
        assert_clean(made)


@pytest.fixture
def policy(house: Server, request: pytest.FixtureRequest) -> str:
    found: str = request.node.callspec.params["house"]
    return found


@pytest.fixture
async def http(house: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(house.url) as made:
        yield made


def told(reading: Reading) -> tuple[int, str]:
    """Status, and the code of the refusal or error, or how it ended."""
    if reading.response.status_code != 200:
        return reading.response.status_code, reading.response.json()["code"]
    return 200, end(reading).get("code") or end(reading)["type"]


async def ask_all(
    http: httpx2.AsyncClient, headers: Headers, names: Iterable[str] = MEMBERS
) -> dict[str, tuple[int, str]]:
    """What each operation is answered, each on a notebook of its own."""
    readings = await asyncio.gather(
        *(ask(http, headers, f"all-{name}", name, **MEMBERS[name]) for name in names)
    )
    return {name: told(reading) for name, reading in zip(names, readings, strict=True)}


def test_the_matrix_is_whole() -> None:
    assert set(MEMBERS) == set(OPERATIONS)


async def test_ping_answers_and_starts_nothing(house: Server, http: httpx2.AsyncClient) -> None:
    before = below(house)
    reading = await ask(http, {}, "test", "ping")
    assert answer(reading) == {"pong": True}
    assert below(house) == before


@pytest.mark.parametrize("house", ["true"], indirect=True)
@pytest.mark.parametrize(("role", "type"), [("nobody", "ping"), ("key", "list"), ("key", "status")])
async def test_what_changes_nothing_leaves_no_record_and_no_key(
    house: Server, http: httpx2.AsyncClient, role: str, type: str
) -> None:
    """Else whoever knows the address fills the database, without limit."""
    headers = headers_of(role) | {"Idempotency-Key": f"of-{type}"}
    for notebook in ("one", "another"):
        reading = await ask(http, headers, notebook, type)
        assert told(reading) == ANSWERED
        assert "idempotent-replayed" not in reading.response.headers
        await _leaves_nothing(http, reading.response.headers["x-stream-id"])
    async with opened(house, "/ws/notebooks/far/", additional_headers=key_of("grace")) as socket:
        await socket.say(type="operation", request_id="a", operation={"type": type})
        task_id = (await socket.next("opened"))["task_id"]
        await socket.next("complete")
        await _leaves_nothing(http, task_id)


async def _leaves_nothing(http: httpx2.AsyncClient, task_id: str) -> None:
    async def gone() -> bool:
        found = await http.get(f"/streams/{task_id}", headers=key_of("grace"))
        return found.status_code == 404

    assert await eventually(gone)


@pytest.mark.parametrize("role", ROLES)
async def test_who_may_do_what(http: httpx2.AsyncClient, policy: str, role: str) -> None:
    assert await ask_all(http, headers_of(role)) == expected(role, policy)


async def test_who_is_refused_has_started_no_kernel(house: Server, http: httpx2.AsyncClient) -> None:
    before = below(house)
    for role in ("nobody", "key without permission", "session without CSRF token", "revoked key"):
        await ask_all(http, headers_of(role), RUNS_CODE)
    assert below(house) == before
    shown = await http.get("/notebooks/all-execute", headers=key_of("reader"))
    assert shown.status_code == 404


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via", "CF-Connecting-IP"])
async def test_on_loopback_nobody_comes_through_a_proxy(
    http: httpx2.AsyncClient, policy: str, header: str
) -> None:
    headers = {**key_of("ada"), header: "127.0.0.1"}
    answers = await ask_all(http, headers, RUNS_CODE)
    if policy == "true":
        assert answers == {name: ALLOWED[name] for name in RUNS_CODE}
    else:
        assert set(answers.values()) == {(403, "kernels_disabled")}
    assert told(await ask(http, headers, "far", "ping")) == ANSWERED


def _own_address() -> str | None:
    """An address of this machine that is not its loopback."""
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family == socket.AF_INET and not each.address.startswith("127."):
                return str(each.address)
    return None


@pytest.mark.skipif(_own_address() is None, reason="this machine has no address but its loopback")
async def test_on_loopback_nobody_comes_over_the_network(house: Server, policy: str) -> None:
    async with client(f"http://{_own_address()}:{house.port}") as http:
        reading = await ask(http, key_of("ada"), "far", "status")
        assert told(reading) == (ANSWERED if policy == "true" else (403, "kernels_disabled"))
        assert told(await ask(http, {}, "far", "ping")) == ANSWERED


@pytest.mark.parametrize("header", [None, "X-Forwarded-For"])
async def test_sockets_have_the_same_rules(house: Server, policy: str, header: str | None) -> None:
    headers = key_of("ada") | ({header: "127.0.0.1"} if header else {})
    async with opened(house, "/ws/notebooks/far/", additional_headers=headers) as socket:
        await socket.say(type="operation", request_id="a", operation={"type": "status"})
        told = await socket.next()
        if policy == "true" or (policy == "loopback" and header is None):
            assert told["type"] == "opened"
        else:
            assert (told["type"], told["status"], told["code"]) == ("problem", 403, "kernels_disabled")
            assert told["request_id"] == "a"


@pytest.mark.parametrize("role", ["revoked key", "key of somebody who left", "session without CSRF token"])
async def test_who_is_not_let_in_gets_no_socket(house: Server, role: str) -> None:
    """A session speaks on a socket with an `Origin` of ours only."""
    with pytest.raises(InvalidStatus) as refused:
        async with opened(house, "/ws/notebooks/t/", additional_headers=headers_of(role)):
            pass
    assert refused.value.response.status_code in (401, 403)
    assert json.loads(refused.value.response.body)["code"] in ("invalid_key", "wrong_origin")


REVOKE: Final = """
import django
django.setup()
from django.contrib.auth import get_user_model
get_user_model().objects.get(username="grace").user_permissions.clear()
"""


@pytest.mark.parametrize("house", ["true"], indirect=True)
async def test_a_permission_that_is_taken_away_counts_at_once(
    house: Server, http: httpx2.AsyncClient
) -> None:
    """Also for somebody who called a moment ago, and is remembered. The last one: grace has it no more."""
    assert told(await ask(http, key_of("grace"), "t", "status")) == ANSWERED
    env = environment(house.database.parent, DJANGO_SETTINGS_MODULE="settings.settings")
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", REVOKE], cwd=ROOT, env=env, check=True)
    assert told(await ask(http, key_of("grace"), "t", "status")) == (403, "permission_denied")
