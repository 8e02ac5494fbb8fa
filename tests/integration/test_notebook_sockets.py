"""`/ws/notebooks/<id>/`: operations as messages, several streams on one socket; the same rules as over
HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from notebooks.operations import OPERATIONS
from tests.integration.conftest import assert_clean
from tests.support.client import Reading, client, eventually
from tests.support.notebooks import ask, begin, end, key_of, notebook_server, printed, session_of
from tests.support.programs import programs
from tests.support.servers import Server, environment
from tests.support.sockets import ENDS, Socket, opened

pytestmark = pytest.mark.server

PATIENCE: Final = 60

PLACE: Final = "/ws/notebooks/socket/"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"KERNEL_POOL_PER_OWNER": "10", "CORS_ALLOWED_ORIGINS": "https://app.example"}
    with notebook_server(tmp_path_factory.mktemp("sockets"), **settings) as made:
        yield made
        assert_clean(made)


@pytest.fixture
async def socket(house: Server) -> AsyncIterator[Socket]:
    async with (
        asyncio.timeout(PATIENCE),
        opened(house, PLACE, additional_headers=key_of("ada")) as made,
    ):
        yield made


@pytest.fixture
async def http(house: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(house.url, headers=key_of("ada")) as made:
        yield made


async def operate(socket: Socket, request_id: str, type: str, **members: Any) -> None:
    operation = {"type": type, **members}
    await socket.say(type="operation", request_id=request_id, operation=operation, lang="en")


async def until_ends(socket: Socket, *request_ids: str) -> dict[str, list[dict[str, Any]]]:
    """The events of these streams up to their ends, by request."""
    events: dict[str, list[dict[str, Any]]] = {name: [] for name in request_ids}
    open_ = set(request_ids)
    while open_:
        found = await socket.next()
        if found.get("request_id") in events:
            events[found["request_id"]].append(found)
            if found["type"] in (*ENDS, "problem"):
                open_.discard(found["request_id"])
    return events


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(each["delta"] for each in events if each["type"] == "content")


async def run(socket: Socket, request_id: str, code: str, **members: Any) -> list[dict[str, Any]]:
    await operate(socket, request_id, "execute", code=code, **members)
    return (await until_ends(socket, request_id))[request_id]


async def usable(socket: Socket) -> bool:
    await socket.say(type="ping")
    return await socket.next("pong") == {"type": "pong"}


# Operations


async def test_every_operation_is_a_message(socket: Socket) -> None:
    members: dict[str, dict[str, Any]] = {
        "execute": {"code": "apple = 1\nprint('ran')\napple"},
        "complete": {"code": "app"},
        "inspect": {"code": "apple"},
        "generate": {"prompt": "plot a sine"},
    }
    ended = {}
    for name in OPERATIONS:
        await operate(socket, name, name, **members.get(name, {}))
        ended[name] = (await until_ends(socket, name))[name]
        assert ended[name][-1]["type"] == "complete", ended[name]
    results: dict[str, Any] = {
        name: next((each["data"] for each in events if each["type"] == "result"), None)
        for name, events in ended.items()
    }
    assert results["ping"] == {"pong": True}
    assert text_of(ended["execute"]) == "ran\n"
    assert ended["execute"][-1]["execution_count"] == 1
    assert set(results["status"]) == {"state", "execution_count"}
    assert "notebooks" in results["list"]
    assert "matches" in results["complete"]
    assert "found" in results["inspect"]
    compile(text_of(ended["generate"]), "cell", "exec")


async def test_a_socket_and_http_have_the_same_kernel_and_record(
    socket: Socket, http: httpx2.AsyncClient
) -> None:
    await run(socket, "a", "shared = 'over the socket'", cell_id="from-socket")
    reading = await ask(http, {}, "socket", "execute", code="print(shared)")
    assert printed(reading) == "over the socket\n"
    shown = (await http.get("/notebooks/socket")).json()
    assert "from-socket" in [cell["cell_id"] for cell in shown["cells"]]


async def test_odd_text_in_code_is_as_over_http(socket: Socket, http: httpx2.AsyncClient) -> None:
    text = r"print('\u0000a\ud800b\ud83d\udcd3')"
    await socket.connection.send(
        '{"type":"operation","request_id":"odd","operation":{"type":"execute","cell_id":"odd","code":"'
        + text
        + '"}}'
    )
    events = (await until_ends(socket, "odd"))["odd"]
    assert (events[-1]["type"], text_of(events)) == ("complete", "a\ufffdb📓\n")
    shown = (await http.get("/notebooks/socket")).json()
    assert "print('a\ufffdb📓')" in [cell["source"] for cell in shown["cells"]]


async def test_streams_beside_each_other_keep_apart(socket: Socket) -> None:
    """A cell that runs, one that waits for it, and what needs no permit between them."""
    await operate(
        socket, "runs", "execute", code="import time\nprint('on', flush=True)\ntime.sleep(60)", cell_id="runs"
    )
    while (await socket.next())["type"] != "content":
        pass
    await operate(socket, "waits", "execute", code="print('second')")
    queued = await socket.next("status")
    assert (queued["request_id"], queued["status"], queued["position"]) == ("waits", "queued", 1)
    await operate(socket, "state", "status")
    state = (await until_ends(socket, "state"))["state"]
    assert next(each["data"]["state"] for each in state if each["type"] == "result") == "busy"
    await operate(socket, "break", "interrupt")
    events = await until_ends(socket, "break", "runs", "waits")
    assert [each["ename"] for each in events["runs"] if each["type"] == "output"] == ["KeyboardInterrupt"]
    assert text_of(events["waits"]) == "second\n"


async def test_a_stream_is_cancelled_by_its_name(socket: Socket) -> None:
    await operate(socket, "long", "execute", code="print('on', flush=True)\nwhile True: pass")
    while (await socket.next())["type"] != "content":
        pass
    for _ in range(2):
        await socket.say(type="cancel", request_id="long")
        assert (await socket.next("ok"))["request_id"] == "long"
    await socket.next("cancelled")
    await socket.say(type="cancel", request_id="long")
    assert (await socket.next("ok"))["request_id"] == "long"
    await socket.say(type="cancel", request_id="unheard")
    assert (await socket.next("problem"))["code"] == "not_found"
    assert text_of(await run(socket, "next", "print('usable')")) == "usable\n"


async def test_more_output_than_is_acknowledged_waits(house: Server, http: httpx2.AsyncClient) -> None:
    """What is in flight is bounded, and nothing is lost."""
    async with (
        asyncio.timeout(PATIENCE),
        opened(house, f"{PLACE}?ack=1", additional_headers=key_of("ada")) as socket,
    ):
        await operate(socket, "big", "execute", code="for _ in range(90): print('x' * 9_999)")
        text, last, in_flight, most, done = "", 0, 0, 0, False
        while not done:
            try:
                async with asyncio.timeout(0.5):
                    event = await socket.next()
            except TimeoutError:
                await socket.say(type="ack", request_id="big", id=last)
                in_flight = 0
                continue
            done = event["type"] in ENDS
            if "id" in event:
                last, in_flight = event["id"], in_flight + len(json.dumps(event))
                most = max(most, in_flight)
                text += event.get("delta", "")
        assert text == ("x" * 9_999 + "\n") * 90
        assert 200_000 < most <= 300_000


async def test_a_cell_is_followed_after_the_socket_broke(house: Server) -> None:
    code = "import time\nfor k in range(60):\n    print(k)\n    time.sleep(0.02)"
    async with asyncio.timeout(PATIENCE):
        async with opened(house, PLACE, additional_headers=key_of("ada")) as socket:
            await operate(socket, "a", "execute", code=code)
            task_id = (await socket.next("opened"))["task_id"]
            seen, last = "", 0
            while seen.count("\n") < 10:
                event = await socket.next("content")
                seen, last = seen + event["delta"], event["id"]
            socket.cut()
        async with opened(house, PLACE, additional_headers=key_of("ada")) as socket:
            await socket.say(type="follow", request_id="b", task_id=task_id, after=last)
            rest = (await until_ends(socket, "b"))["b"]
    assert seen + text_of(rest) == "".join(f"{k}\n" for k in range(60))
    assert (rest[-1]["type"], rest[-1]["finish_reason"]) == ("complete", "stop")


async def test_who_leaves_lets_the_cell_run(house: Server, http: httpx2.AsyncClient) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        opened(house, PLACE, additional_headers=key_of("ada")) as socket,
    ):
        await operate(socket, "a", "execute", code="import time\ntime.sleep(1)\ndone = 'yes'")
        task_id = (await socket.next("opened"))["task_id"]

    async def complete() -> bool:
        return bool((await http.get(f"/streams/{task_id}")).json()["state"] == "complete")

    assert await eventually(complete, PATIENCE)
    assert printed(await ask(http, {}, "socket", "execute", code="print(done)")) == "yes\n"


# What is wrong


@pytest.mark.parametrize(
    ("operation", "status", "field"),
    [
        ({}, 422, "operation.type"),
        ({"type": "fly"}, 422, "operation.type"),
        ({"type": None}, 422, "operation.type"),
        ({"type": "execute"}, 422, "operation.code"),
        ({"type": "execute", "code": 5}, 422, "operation.code"),
        ({"type": "execute", "code": "1", "cell_id": "../x"}, 400, "operation.cell_id"),
        ({"type": "execute", "code": "1", "cell_id": "a\0"}, 400, "operation.cell_id"),
        ({"type": "complete", "code": "a", "cursor": 2}, 422, "operation.cursor"),
        ({"type": "ping", "more": 1}, 422, "operation.more"),
        ({"type": "generate", "prompt": " "}, 422, "operation.prompt"),
    ],
)
async def test_a_bad_operation_is_a_problem_and_the_socket_stays(
    socket: Socket, operation: dict[str, Any], status: int, field: str
) -> None:
    await socket.say(type="operation", request_id="bad", operation=operation)
    told = await socket.next()
    assert (told["type"], told["request_id"], told["status"]) == ("problem", "bad", status)
    assert [each["field"] for each in told["errors"]] == [field]
    # The name is free again: nothing was started under it.
    await operate(socket, "bad", "ping")
    assert (await until_ends(socket, "bad"))["bad"][-1]["type"] == "complete"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"operation": None}, 422),
        ({"operation": []}, 422),
        ({"operation": "ping"}, 422),
        ({"lang": "de"}, 422),
        ({"lang": 5}, 422),
        ({"notebook_id": "other"}, 422),
        ({"more": 1}, 422),
        ({"request_id": ""}, 422),
        ({"request_id": "a b"}, 422),
        ({"request_id": None}, 422),
        ({"request_id": "x" * 129}, 422),
        ({"type": "Operation"}, 400),
        ({"type": "execute"}, 400),
        ({"type": "start"}, 400),
    ],
)
async def test_a_bad_message_is_a_problem_and_the_socket_stays(
    socket: Socket, changes: dict[str, Any], status: int
) -> None:
    message = {"type": "operation", "request_id": "a", "operation": {"type": "ping"}, "lang": "en"}
    await socket.say(**(message | changes))
    told = await socket.next()
    assert (told["type"], told["status"]) == ("problem", status)
    assert await usable(socket)


async def test_a_name_is_given_once(socket: Socket) -> None:
    await operate(socket, "a", "ping")
    await until_ends(socket, "a")
    await operate(socket, "a", "ping")
    assert (await socket.next("problem"))["code"] == "duplicate"


async def test_a_socket_has_so_many_streams_and_no_more(socket: Socket) -> None:
    for number in range(8):
        await operate(socket, f"r{number}", "execute", code="import time\ntime.sleep(60)")
    await operate(socket, "more", "status")
    told = await socket.next("problem")
    assert (told["request_id"], told["code"]) == ("more", "too_many_streams")
    for number in range(8):
        await socket.say(type="cancel", request_id=f"r{number}")
    ended = await until_ends(socket, *(f"r{number}" for number in range(8)))
    assert {events[-1]["type"] for events in ended.values()} == {"cancelled"}


@pytest.mark.parametrize("name", ["-x", "_x", "x" * 65, "%F0%9F%93%93", "a%00", "a%0A", "a%20b", "%2e%2e"])
async def test_a_notebook_of_no_possible_name_is_refused(house: Server, name: str) -> None:
    assert await refusal_of(house, f"/ws/notebooks/{name}/") in (400, 404)


async def refusal_of(house: Server, path: str) -> int:
    """The status with which a socket is refused, or else an operation on it."""
    try:
        async with opened(house, path, additional_headers=key_of("ada")) as socket:
            await operate(socket, "a", "execute", code="1")
            return int((await socket.next("problem"))["status"])
    except InvalidStatus as refused:
        return refused.response.status_code


# Who may


async def test_without_the_permission_only_what_runs_no_code(house: Server) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        opened(house, PLACE, additional_headers=key_of("reader")) as socket,
    ):
        for name in ("execute", "complete", "inspect", "interrupt", "restart", "shutdown", "status"):
            members = {"code": "1"} if name in ("execute", "complete", "inspect") else {}
            await operate(socket, name, name, **members)
            told = await socket.next()
            assert (told["type"], told["status"], told["code"]) == ("problem", 403, "permission_denied")
            assert told["request_id"] == name
        await operate(socket, "a", "ping")
        await operate(socket, "b", "list")
        ended = await until_ends(socket, "a", "b")
        assert {events[-1]["type"] for events in ended.values()} == {"complete"}


async def test_who_is_nobody_may_ping_where_nobody_may_come(house: Server) -> None:
    async with asyncio.timeout(PATIENCE), opened(house, PLACE) as socket:
        await operate(socket, "a", "ping")
        assert (await until_ends(socket, "a"))["a"][-1]["type"] == "complete"
        await operate(socket, "b", "execute", code="1")
        told = await socket.next("problem")
        assert (told["status"], told["code"]) == (401, "not_authenticated")


async def test_what_is_anothers_is_not_there(house: Server, http: httpx2.AsyncClient) -> None:
    reading = await ask(http, {}, "socket", "execute", code="print('secret')")
    task_id = reading.response.headers["x-stream-id"]
    assert end(reading)["type"] == "complete"
    async with (
        asyncio.timeout(PATIENCE),
        opened(house, PLACE, additional_headers=key_of("grace")) as socket,
    ):
        await socket.say(type="follow", request_id="a", task_id=task_id)
        assert (await socket.next("problem"))["code"] == "not_found"
        # The same name is a notebook, and a kernel, of her own.
        await operate(socket, "b", "status")
        events = (await until_ends(socket, "b"))["b"]
        assert next(each["data"]["state"] for each in events if each["type"] == "result") == "none"
    async with client(house.url, headers=key_of("grace")) as hers:
        for method, path in (("GET", f"/streams/{task_id}/events"), ("DELETE", f"/streams/{task_id}")):
            assert (await hers.request(method, path)).status_code == 404


@pytest.mark.parametrize(
    ("origin", "headers", "runs"),
    [
        ("own", session_of, True),
        ("https://app.example.evil.example", session_of, None),
        ("https://evil.example", session_of, None),
        ("null", session_of, None),
        (None, session_of, None),
        ("https://evil.example", key_of, None),
        # A page that may call from elsewhere comes without the cookies of here.
        ("https://app.example", session_of, False),
    ],
)
async def test_a_session_speaks_on_sockets_of_our_own_pages_only(
    house: Server, origin: str | None, headers: Any, runs: bool | None
) -> None:
    options: dict[str, Any] = {"additional_headers": headers("grace")}
    if origin is not None:
        options["origin"] = f"http://127.0.0.1:{house.port}" if origin == "own" else origin
    if runs is None:
        with pytest.raises(InvalidStatus) as refused:
            async with opened(house, PLACE, **options):
                pass
        assert refused.value.response.status_code == 403
        return
    async with asyncio.timeout(PATIENCE), opened(house, PLACE, **options) as socket:
        await operate(socket, "a", "status")
        events = (await until_ends(socket, "a"))["a"]
        assert events[-1]["type"] == ("complete" if runs else "problem"), events


# A right that is withdrawn


ENDLESS: Final = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.05)"

CHANGE: Final = """
import sys
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
relation = get_user_model().objects.get(username="ada").user_permissions
getattr(relation, sys.argv[1])(Permission.objects.get(codename="run_code"))
"""


async def begun(http: httpx2.AsyncClient, who: str, notebook: str) -> tuple[str, asyncio.Task[Reading]]:
    """The place of a cell that has printed something, and its reader."""
    headers = key_of(who)
    reading = await begin(http, headers, notebook, "execute", code=ENDLESS)

    async def place() -> str:
        found = (await http.get("/streams?limit=1", headers=headers)).json()["items"]
        return f"/streams/{found[0]['id']}" if found and found[0]["state"] == "running" else ""

    return await eventually(place, 30), reading


async def test_who_may_not_run_code_any_more_loses_what_runs_and_may_not_read_on(
    house: Server, http: httpx2.AsyncClient, socket: Socket
) -> None:
    """A cell would go on by itself. Somebody else's does."""
    others_place, others = await begun(http, "grace", "hers")
    place, mine = await begun(http, "ada", "first")
    await operate(socket, "a", "execute", code=ENDLESS)
    while (await socket.next()).get("delta") != "begun\n":
        pass
    with programs(environment(house.database.parent)) as console:
        await asyncio.to_thread(console.code, CHANGE, "remove")
        try:
            async with asyncio.timeout(PATIENCE):
                assert (end(await mine)["type"], end(await mine)["code"]) == ("error", "access_revoked")
                events = (await until_ends(socket, "a"))["a"]
            assert (events[-1]["type"], events[-1]["code"]) == ("error", "access_revoked")
            assert await usable(socket), "it still speaks for its user"
            task_id = place.rpartition("/")[2]
            for refused in (
                *[await http.get(f"{place}{what}") for what in ("", "/events", "/rendered")],
                await http.post("/tickets", json={"stream_id": task_id}),
            ):
                assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
            assert (await http.delete(place)).status_code == 204

            async def cancelled() -> bool:
                items = (await http.get("/streams")).json()["items"]
                (found,) = [each for each in items if each["id"] == task_id]
                return bool(found["state"] == "cancelled" and not found["text"])

            assert await eventually(cancelled, 30)
            record = (await http.get(others_place, headers=key_of("grace"))).json()
            assert (record["state"], others.done()) == ("running", False)
        finally:
            await asyncio.to_thread(console.code, CHANGE, "add")
    await http.delete(others_place, headers=key_of("grace"))
    assert end(await others)["type"] == "cancelled"
    free = await ask(http, key_of("ada"), "first", "execute", code="print('free')")
    assert printed(free) == "free\n", "the kernel was interrupted and goes on"
