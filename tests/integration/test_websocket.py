"""Sockets on real servers, with a real client and with one that sends whatever bytes it likes."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.conftest import assert_clean, idle
from tests.support.client import brief, client, eventually, read_stream
from tests.support.programs import programs
from tests.support.scale import SERVERS
from tests.support.servers import ROOT, Server, environment, migrate, running, started
from tests.support.sockets import (
    CLOSE,
    ENDS,
    GENERATE,
    TEXT,
    RawSocket,
    Socket,
    frame,
    opened,
    raw,
    upgrade,
)

pytestmark = [pytest.mark.server, pytest.mark.every_variant]

PATIENCE = 30

POEM = '咖啡 👩‍👩‍👧 "quoted" \\ \u2028 \x85 e\u0301 line\nbreak\ttab } {"id":1} ' * 12
"""Everything that some framing could trip over."""

LONG_CLUSTER = "\U0001f3f4" + "\U000e0061" * 9_999
"""40 KB that no coalescer and no provider cuts: megabytes in few events."""

ROOM = {"AGENT_POOL_MAX_WORKERS": "12", "AGENT_POOL_PER_OWNER": "12"}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("websocket")
    with running(request.param, folder, **ROOM, CORS_ALLOWED_ORIGINS="https://app.example") as made:
        yield made
        assert_clean(made)


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(server.url) as made:
        yield made
        await idle(made)


@pytest.fixture
def key(server: Server) -> str:
    """An API key of the administrator."""
    with programs(environment(server.database.parent)) as manage:
        manage.command("local_admin")
        return manage.command("create_api_key", "admin")


async def start(http: httpx2.AsyncClient, **members: Any) -> str:
    """A task in the background; its id."""
    answer = await http.post("/content/generate/async", json=brief(**members))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(each["delta"] for each in events if each["type"] == "content")


def ids_of(events: list[dict[str, Any]]) -> list[int]:
    return [each["id"] for each in events if "id" in each]


# --- The same events ----------------------------------------------------------------------------------


async def test_the_text_is_exact_over_any_number_of_cuts(server: Server, http: httpx2.AsyncClient):
    dice = random.Random(2026)
    task_id = await start(http, options={"text": POEM, "interval": 0.002})
    events: list[dict[str, Any]] = []
    cuts = 0
    while not events or events[-1]["type"] not in ENDS:
        after = ids_of(events)[-1] if ids_of(events) else 0
        left = dice.randint(1, 6)
        async with opened(server, f"/ws/streams/{task_id}/?after={after}") as socket:
            while left and not (events and events[-1]["type"] in ENDS):
                events.append(await socket.next())
                left -= "id" in events[-1]
            if not left:
                socket.cut()
                cuts += 1
    # More where the machine is quick: who comes back late gets what it missed in few events.
    assert cuts >= 2
    assert text_of(events) == POEM
    assert ids_of(events) == sorted(set(ids_of(events)))
    assert events[-1]["type"] == "complete"


async def test_readers_of_all_kinds_get_the_same_events(server: Server, http: httpx2.AsyncClient):
    """One task, and who started it, four sockets and four readers over HTTP."""
    async with opened(server) as starter:
        await starter.start("a", options={"text": POEM, "interval": 0.003})
        place = f"/streams/{(await starter.next('opened'))['task_id']}"

        async def by_socket() -> list[dict[str, Any]]:
            async with opened(server, f"/ws{place}/") as socket:
                events = await socket.rest()
                assert socket.connection.close_code == 1000
                return [each for each in events if "id" in each]

        async def by_http() -> list[dict[str, Any]]:
            reading = await read_stream(http, "GET", f"{place}/events")
            return [{"id": int(each.id), **each.data} for each in reading.events if each.id]

        async def by_starting() -> list[dict[str, Any]]:
            events = [await starter.next()]
            while events[-1]["type"] not in ENDS:
                events.append(await starter.next())
            assert {each.pop("request_id") for each in events} == {"a"}
            return [each for each in events if "id" in each]

        async with asyncio.timeout(PATIENCE):
            seen = await asyncio.gather(by_starting(), *(f() for f in [by_socket, by_http] * 4))
    for events in seen:
        assert text_of(events) == POEM
        assert events[-1] == seen[0][-1]
        assert ids_of(events) == sorted(set(ids_of(events)))


async def test_a_cancel_over_a_socket_reaches_the_task(server: Server, http: httpx2.AsyncClient):
    task_id = await start(http, options={"tokens": 100_000, "interval": 0.01})
    reading = asyncio.create_task(read_stream(http, "GET", f"/streams/{task_id}/events"))
    async with opened(server, f"/ws/streams/{task_id}/") as socket:
        await socket.next("content")
        await socket.say(type="cancel")
        rest = await socket.rest()
        assert socket.connection.close_code == 1000
    assert {"ok", "cancelled"} <= {each["type"] for each in rest}
    assert rest[-1]["type"] == "cancelled"
    async with asyncio.timeout(PATIENCE):
        assert (await reading).end.data == {"type": "cancelled", "reason": "client"}
    assert (await http.get(f"/streams/{task_id}")).json()["state"] == "cancelled"


async def test_who_leaves_gives_everything_back(server: Server, http: httpx2.AsyncClient):
    """Politely or not; a stream beside it does not notice."""
    async with opened(server) as beside:
        await beside.start("b", user_id="stays", options={"tokens": 40, "interval": 0.02})
        task_ids = []
        for cut in (True, False):
            async with opened(server) as socket:
                await socket.start("a", on_disconnect=0.2, options={"tokens": 100_000, "interval": 0.01})
                task_ids.append((await socket.next("opened"))["task_id"])
                await socket.next("content")
                if cut:
                    socket.cut()
        for task_id in task_ids:

            async def ended(task_id: str = task_id) -> bool:
                return bool((await http.get(f"/streams/{task_id}")).json()["state"] == "cancelled")

            assert await eventually(ended)
        assert (await beside.next("complete"))["content_length"] == len("".join(f"{k} " for k in range(40)))

    async def nobody() -> bool:
        return bool((await http.get("/stats")).json()["followers"] == 0)

    assert await eventually(nobody)


async def test_a_page_of_another_origin_is_refused(server: Server):
    for origin, allowed in (
        (f"http://127.0.0.1:{server.port}", True),
        ("https://app.example", True),
        ("https://app.example.evil.example", False),
        ("null", False),
    ):
        if allowed:
            async with opened(server, origin=origin) as socket:
                await socket.say(type="ping")
                assert await socket.next() == {"type": "pong"}
        else:
            with pytest.raises(InvalidStatus) as refused:
                async with opened(server, origin=origin):
                    pass
            assert refused.value.response.status_code == 403


async def test_where_there_is_no_socket(server: Server):
    """Daphne has one way to refuse, 403."""
    with pytest.raises(InvalidStatus) as refused:
        async with opened(server, "/ws/nowhere/"):
            pass
    response = refused.value.response
    assert response.status_code == (403 if server.kind == "daphne" else 404)
    if server.kind != "daphne":
        assert response.headers["Content-Type"] == "application/problem+json"
        assert json.loads(response.body)["code"] == "not_found"


async def test_a_plain_request_for_a_socket(server: Server, http: httpx2.AsyncClient):
    for path in (GENERATE, f"/ws/streams/{'0' * 32}/", "/ws/notebooks/any/"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (426, "upgrade_required")
        assert answer.headers["Upgrade"] == "websocket"
        assert (await http.post(path)).status_code == 404
    assert (await http.get("/ws/nowhere/")).status_code == 404


async def test_subprotocols_are_passed_over(server: Server):
    """A few are passed over, 10 KB of them refused, or not answered at all (uvicorn); the server goes on."""
    head = upgrade(GENERATE, Sec_WebSocket_Protocol="one, two")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head)
    answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-protocol" not in answer.lower()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(upgrade(GENERATE, Sec_WebSocket_Protocol=", ".join(f"p{n}" for n in range(2_000))))
    answer = b""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(1):
            answer = await reader.read(100)
    writer.transport.abort()
    assert not answer or answer[9:12] in (b"101", b"400", b"431"), answer
    async with opened(server) as socket:
        await socket.say(type="ping")
        assert await socket.next() == {"type": "pong"}


async def test_the_documented_client_works(server: Server, key: str):
    """With a key, in the words of docs/websocket.md; the one in JavaScript is for browsers."""
    page = (ROOT / "docs/websocket.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(import asyncio.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 (ours)
    briefs = {name: brief(options={"tokens": 5, "interval": 0.01}) for name in ("one", "two", "three")}
    async with asyncio.timeout(PATIENCE):
        texts = await names["write"](f"ws://127.0.0.1:{server.port}", key, briefs)
    assert texts == dict.fromkeys(briefs, "0 1 2 3 4 ")


# --- Limits ------------------------------------------------------------------------------


def on(server: Server, code: int) -> int:
    """Daphne lets applications send few codes, so there ours have 3000 more."""
    return code + 3000 if server.kind == "daphne" else code


async def test_floods_cost_no_memory(server: Server):
    """20 MB in one message, in a million pieces, and declared only."""
    process = psutil.Process(server.process.pid)
    async with opened(server) as socket:
        await socket.say(type="ping")
        await socket.next()
    before = process.memory_info().rss
    pieces = frame(0, b" ", fin=False) * 1_000_000
    floods = [
        frame(TEXT, b" " * 20_000_000),
        frame(TEXT, b" " * 20_000_000)[:14],
        frame(TEXT, b" ", fin=False) + pieces,
    ]
    if server.kind == "daphne":
        # It takes up to 1 MiB by itself, and waits for more.
        floods = floods[:2]
    async with asyncio.timeout(PATIENCE):
        for flood in floods:
            async with raw(server) as socket:
                sending = asyncio.create_task(_pour(socket.writer, flood))
                assert await socket.close_code() in (1009, None)
                sending.cancel()
    assert process.memory_info().rss - before < 16_000_000
    async with opened(server) as socket:
        await socket.say(type="ping")
        assert await socket.next() == {"type": "pong"}


async def _pour(writer: asyncio.StreamWriter, data: bytes) -> None:
    try:
        for begin in range(0, len(data), 65_536):
            writer.write(data[begin : begin + 65_536])
            await writer.drain()
    except ConnectionError:
        return


async def test_a_flood_of_messages_is_warned_then_closed(server: Server):
    async with asyncio.timeout(PATIENCE), opened(server) as socket:
        sending = asyncio.create_task(_flood(socket))
        seen = await socket.rest()
        await sending
    codes = [each["code"] for each in seen if each["type"] == "problem"]
    assert codes == ["rate_limited"]
    assert socket.connection.close_code == on(server, 1008)
    assert len(seen) < 1_000


async def _flood(socket: Socket) -> None:
    try:
        for _ in range(10_000):
            await socket.say(type="ping")
    except Exception:
        return


@pytest.mark.parametrize("text", [b'{"type":"\xff"}', b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"])
async def test_text_that_is_not_utf8_closes_the_socket(server: Server, text: bytes):
    """And leaves no traceback in the log."""
    async with asyncio.timeout(PATIENCE), raw(server) as socket:
        await socket.send(frame(TEXT, text))
        assert await socket.close_code() == (None if server.kind == "daphne" else 1007)


# --- Who does not read, or vanishes -------------------------------------------------------------------


@pytest.mark.parametrize("kind", SERVERS)
async def test_who_never_reads_is_closed_and_costs_no_memory(kind: str, tmp_path: Path):
    """Under `serve` by the kernel, a little later; on Daphne by ourselves."""
    short = {
        "SSE_CONNECTION_TIMEOUT": "1",
        "SSE_HEARTBEAT_INTERVAL": "0.5",
        "SSE_MAX_JOURNAL_BYTES": "100000000",
        "SERVER_MAX_BODY_BYTES": "16000000",
    }
    with running(kind, tmp_path, **ROOM, **short) as server:
        process = psutil.Process(server.process.pid)
        async with client(server.url) as http, asyncio.timeout(PATIENCE * 2):
            # More than the buffers of two kernels take in.
            long = LONG_CLUSTER * 100
            task_id = await start(http, options={"text": long, "interval": 0})
            text = (await read_stream(http, "GET", f"/streams/{task_id}/events")).text
            assert text == long
            before = process.memory_info().rss
            async with raw(server, f"/ws/streams/{task_id}/", buffer=4_096) as frozen:

                async def closed() -> bool:
                    return bool((await http.get("/stats")).json()["slow_readers_closed"])

                assert await eventually(closed, PATIENCE)
                assert process.memory_info().rss - before < 16_000_000
                async with opened(server, f"/ws/streams/{task_id}/") as beside:
                    assert text_of(await beside.rest()) == text
                await frozen.gone()
            assert (await http.get("/stats")).json()["followers"] == 0
        assert_clean(server)


async def test_who_acknowledges_is_held_to_what_is_in_flight(server: Server, http: httpx2.AsyncClient):
    """On every server, Daphne included, whose writes never wait."""
    task_id = await start(http, options={"text": "咖" * 150_000, "interval": 0})
    await read_stream(http, "GET", f"/streams/{task_id}/events")
    async with asyncio.timeout(PATIENCE), raw(server, f"/ws/streams/{task_id}/?ack=1") as socket:
        frames: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        reading = asyncio.create_task(_collect(socket, frames))
        text, last, in_flight, most, done = "", 0, 0, 0, False
        while not done:
            try:
                async with asyncio.timeout(0.5):
                    opcode, payload = await frames.get()
            except TimeoutError:
                await socket.send(frame(TEXT, json.dumps({"type": "ack", "id": last}).encode()))
                in_flight = 0
                continue
            if opcode != TEXT:
                continue
            event = json.loads(payload)
            done = event["type"] in ENDS
            if "id" in event:
                last, in_flight = event["id"], in_flight + len(payload)
                most = max(most, in_flight)
                text += event.get("delta", "")
        reading.cancel()
    assert text == "咖" * 150_000
    assert 200_000 < most <= 262_144


async def _collect(socket: RawSocket, frames: asyncio.Queue[tuple[int, bytes]]) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            opcode, payload = await socket.read_frame()
            frames.put_nowait((opcode, payload))
            if opcode == CLOSE:
                return


async def test_a_peer_that_does_not_answer_pings_is_closed(tmp_path: Path):
    """Its stream begins its grace. Pings come faster here; `serve`'s are looked at in tests/django."""
    with running("uvicorn with quick pings", tmp_path) as server:
        async with client(server.url) as http, asyncio.timeout(PATIENCE):
            async with raw(server) as socket:
                await socket.send(frame(TEXT, json.dumps(_endless_start()).encode()))
                assert await socket.close_code() == 1011
            await idle(http)
            assert (await http.get("/stats")).json()["followers"] == 0


def _endless_start() -> dict[str, Any]:
    members = brief(on_disconnect="cancel", options={"tokens": 100_000, "interval": 0.05})
    return {"type": "start", "request_id": "a", "brief": members}


# --- Going down ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*SERVERS, "uvicorn"])
async def test_going_down_every_socket_is_told(kind: str, tmp_path: Path):
    env = environment(tmp_path, **ROOM, SSE_DRAIN_GRACE="0.5")
    migrate(env)
    with started(kind, tmp_path, env) as server:
        async with asyncio.timeout(PATIENCE), opened(server) as several, opened(server) as quiet:
            await several.start("a", options={"tokens": 100_000, "interval": 0.01})
            await several.start("b", options={"tokens": 100_000, "interval": 0.01})
            task_id = (await several.next("opened"))["task_id"]
            async with opened(server, f"/ws/streams/{task_id}/") as one:
                await one.next("content")
                server.process.send_signal(signal.SIGTERM)
                told = await asyncio.gather(several.rest(), quiet.rest(), one.rest())
        ends = [[each.get("code") for each in seen if each["type"] == "error"] for seen in told]
        assert ends == [["interrupted"] * 2, [], ["interrupted"]]
        codes = [each.connection.close_code for each in (several, quiet, one)]
        assert codes == [on(server, 1012), on(server, 1012), 1000]
        assert server.process.wait(PATIENCE) in (0, -signal.SIGTERM)
        assert "Traceback" not in server.log()
