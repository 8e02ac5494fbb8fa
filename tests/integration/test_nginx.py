"""The configuration of nginx that is shipped, in a real nginx before a real server."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect

from streaming import conf
from streaming.core.sse import Decoder
from streaming.management.commands.serve import PING_INTERVAL
from tests.integration.conftest import assert_clean
from tests.support.client import STREAM, brief, check_replay, client, eventually, read_stream
from tests.support.nginx import FILES, HOST, Nginx, find_nginx, fronted, shipped, trusting
from tests.support.servers import Server, free_port, running
from tests.support.sockets import upgrade

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(find_nginx() is None, reason="no nginx here: apt-get install nginx"),
]

PATIENCE = 30.0

USUAL = {
    "proxy_buffering off;": "proxy_buffering on;",
    "gzip off;": "gzip on; gzip_proxied any; gzip_types text/event-stream;",
}
"""What many a proxy does unless told otherwise."""

TRUSTED = "127.0.0.3"
"""From where a proxy calls that the server believes; all others are strangers to it."""

BELIEVED = {"proxy_http_version 1.1;": f"proxy_http_version 1.1; proxy_bind {TRUSTED};"}

BUFFERED = USUAL | {
    "server_tokens off;": "proxy_ignore_headers X-Accel-Buffering; proxy_hide_header Content-Encoding;"
}
"""The control, which must fail where the shipped files pass: what our headers tell it is not heard either.
(Buffering alone holds nothing back in nginx 1.22: it passes on each chunk of a chunked answer.)"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "ALLOW_ANONYMOUS": "true",
        "ALLOWED_HOSTS": f"127.0.0.1,localhost,{HOST}",
        "AGENT_POOL_MAX_WORKERS": "20",
        "AGENT_POOL_PER_OWNER": "50",
        "SSE_HEARTBEAT_INTERVAL": "0.5",
        "TRUSTED_PROXIES": TRUSTED,
    }
    with running("serve", tmp_path_factory.mktemp("behind"), **settings) as made:
        yield made
        assert_clean(made)


@pytest.fixture(scope="module")
def nginx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """As shipped, before the server."""
    with fronted(tmp_path_factory.mktemp("nginx"), server.port) as made:
        yield made
        assert not re.search(r"\[(emerg|alert|crit)\]", made.errors())


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """As shipped, before a server that is down: whatever it answers is nginx's own."""
    with fronted(tmp_path_factory.mktemp("away"), free_port()) as made:
        yield made


# --- Clients ------------------------------------------------------------------------------------------


class Reading:
    """An event stream that is being read: its status line and headers, and its events as they come."""

    def __init__(self, head: str, pieces: AsyncGenerator[bytes, None]) -> None:
        self.head = head
        self._pieces = pieces
        self.comments: list[str] = []
        self._decoder = Decoder(on_comment=self.comments.append)
        self._waiting: list[Any] = []

    async def next(self, kind: str | None = None) -> dict[str, Any]:
        """The next event, or the next one of that type. Raises `EOFError` at the end."""
        while True:
            while self._waiting:
                event = self._waiting.pop(0)
                if kind in (None, event.event):
                    return {**json.loads(event.data), "id": event.id}
            self._waiting += self._decoder.feed(await self._read())

    async def _read(self) -> bytes:
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            raise EOFError from None


@asynccontextmanager
async def by_http1(nginx: Nginx, method: str, path: str, body: Any = None) -> AsyncIterator[Reading]:
    async with (
        client(nginx.url) as http,
        http.stream(method, path, json=body) as response,
        aclosing(response.aiter_bytes()) as pieces,
    ):
        yield Reading(f"{response.http_version} {response.status_code}", pieces)


@asynccontextmanager
async def by_http2(nginx: Nginx, method: str, path: str, body: Any = None) -> AsyncIterator[Reading]:
    """curl, over TLS."""
    process = await asyncio.create_subprocess_exec(
        *(
            "curl",
            "--compressed",
            "-s",
            "-N",
            "-i",
            "--http2",
            "--noproxy",
            "*",
            "--cacert",
            str(nginx.authority),
        ),
        *("--resolve", f"{HOST}:{nginx.tls_port}:127.0.0.1", "-X", method, nginx.tls_url + path),
        *(("-H", "Content-Type: application/json", "-d", json.dumps(body)) if body else ()),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    output = process.stdout

    async def pieces() -> AsyncGenerator[bytes, None]:
        while data := await output.read(65_536):
            yield data

    try:
        head = (await output.readuntil(b"\r\n\r\n")).decode()
        async with aclosing(pieces()) as body_pieces:
            yield Reading(head.splitlines()[0].strip(), body_pieces)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


TRANSPORTS = pytest.mark.parametrize(
    ("transport", "version"),
    [
        (by_http1, "HTTP/1.1 200"),
        pytest.param(
            by_http2,
            "HTTP/2 200",
            marks=pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here"),
        ),
    ],
    ids=["HTTP/1.1", "HTTP/2 over TLS"],
)


# --- Events arrive one by one -------------------------------------------------------------------------


async def _is_shown_at_once(nginx: Nginx, transport: Any, version: str, patience: float) -> bool:
    """Whether the texts of a stream that falls silent after them, and does not end, are shown."""
    script = brief(options={"tokens": 9, "interval": 0.02, "hang_after": 3}, on_disconnect="cancel")
    text = ""
    try:
        async with asyncio.timeout(patience), transport(nginx, "POST", STREAM, script) as reading:
            assert reading.head == version
            assert (await reading.next())["type"] == "status"
            while text != "0 1 2 ":
                text += (await reading.next("content"))["delta"]
    except TimeoutError:
        return False
    return True


@TRANSPORTS
async def test_text_is_shown_before_there_is_more_of_it(nginx, transport, version):
    assert await _is_shown_at_once(nginx, transport, version, PATIENCE)


@TRANSPORTS
async def test_a_proxy_that_buffers_fails_the_same_check(server, tmp_path, transport, version):
    with fronted(tmp_path, server.port, BUFFERED) as buffering:
        assert not await _is_shown_at_once(buffering, transport, version, 1)


@TRANSPORTS
async def test_events_come_when_they_are_sent(nginx, transport, version):
    """They take half a second; a proxy that collects would have shown the first one with the last."""
    script = brief(options={"tokens": 6, "interval": 0.1})
    came: list[tuple[dict[str, Any], float]] = []
    async with transport(nginx, "POST", f"{STREAM}?timing=1", script) as reading:
        while not came or came[-1][0]["type"] != "complete":
            event = await reading.next()
            came.append((event, time.time()))
    sent = [event["sent_at"] for event, _ in came]
    assert sent == sorted(sent)
    assert came[0][1] < sent[-1], "the first one was here before the last one was sent"
    assert all(sent_at <= at for sent_at, (_, at) in zip(sent, came, strict=True))


async def test_streams_of_other_views_are_not_buffered_either(server, tmp_path):
    """Where nginx knows nothing of an address, the headers of the answer are enough."""
    with fronted(tmp_path, server.port, USUAL) as usual:
        assert await _is_shown_at_once(usual, by_http1, "HTTP/1.1 200", PATIENCE)


# --- Coming back, keeping on --------------------------------------------------------------------------


@TRANSPORTS
async def test_a_stream_is_resumed_through_it(nginx, transport, version):
    script = brief(options={"tokens": 40, "interval": 0.005})
    async with client(nginx.url) as http:
        whole = await read_stream(http, "POST", STREAM, json=script)
        path = f"/streams/{whole.response.headers['x-stream-id']}/events"
        cursor = whole.ids[5]
        rest = await read_stream(http, "GET", path, headers={"Last-Event-ID": str(cursor)})
        check_replay(rest.durable, whole.durable, cursor)
        ended = await http.get(path, headers={"Last-Event-ID": str(whole.ids[-1])})
        assert ended.status_code == 204
    async with transport(nginx, "GET", f"{path}?after={cursor}") as reading:
        assert reading.head == version
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] != "complete":
            events.append(await reading.next())
    assert [event["id"] for event in events] == [each.id for each in rest.events]


async def test_silence_is_survived(server, tmp_path):
    """Heartbeats come more often than nginx loses its patience: so it is as shipped, and so in this smaller
    copy."""
    shorter = {"proxy_read_timeout 120s;": "proxy_read_timeout 2s;"}
    with fronted(tmp_path, server.port, shorter) as hasty:
        script = brief(options={"tokens": 9, "hang_after": 1}, on_disconnect="cancel")
        async with by_http1(hasty, "POST", f"{STREAM}?heartbeat=event", script) as reading:
            for _ in range(6):
                await reading.next("ping")


def test_patience_is_more_than_two_heartbeats():
    for name, seconds in re.findall(
        r"location (?:~ )?(\S+) \{[^}]*?proxy_read_timeout (\d+)s;", shipped(FILES[2], {})
    ):
        beat = PING_INTERVAL if name == "/ws/" else conf.SSEConfig().heartbeat_interval
        assert int(seconds) > 2 * beat, name
    assert conf.SSEConfig().connection_timeout < 75, "send_timeout"
    assert conf.ServerConfig().timeout_keep_alive > 60, "nginx must be the one to close idle connections"


async def test_a_reload_cuts_no_stream(nginx):
    script = brief(options={"tokens": 9, "interval": 0.01, "hang_after": 3})
    async with by_http1(nginx, "POST", STREAM, script) as reading:
        task_id = (await reading.next("status"))["task_id"]
        await asyncio.to_thread(nginx.reload)
        async with client(nginx.url) as http:
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.delete(f"/streams/{task_id}")).status_code == 200
        assert (await reading.next("cancelled"))["reason"] == "client"
        with pytest.raises(EOFError):
            await reading.next()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_sockets_work(nginx, tls):
    url = f"wss://{HOST}:{nginx.tls_port}" if tls else f"ws://127.0.0.1:{nginx.port}"
    options: dict[str, Any] = {"ssl": trusting(nginx), "host": "127.0.0.1"} if tls else {}
    options["port"] = nginx.tls_port if tls else nginx.port
    async with connect(f"{url}/ws/generate/", proxy=None, **options) as socket:
        silent = {"tokens": 9, "interval": 0.02, "hang_after": 3}
        start = {"type": "start", "request_id": "r", "brief": brief(options=silent)}
        await socket.send(json.dumps(start))
        text, message = "", {"type": ""}
        while text != "0 1 2 ":
            message = json.loads(await socket.recv())
            assert message["type"] in ("opened", "status", "content"), message
            text += message.get("delta", "")
        # It is shown before there is more of it, and before its end.
        await socket.send(json.dumps({"type": "cancel", "request_id": "r"}))
        while message["type"] != "cancelled":
            message = json.loads(await socket.recv())


# --- Who calls ----------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[tuple[int, list[list[tuple[str, str]]]]]:
    """A server that notes the heads that reach it; its port."""
    heads: list[list[tuple[str, str]]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            heads.append([(name.lower(), value) for name, value in self.headers.items()])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield listening.server_port, heads
        listening.shutdown()
        thread.join()


FORGED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "1",
    "X_Forwarded_For": "203.0.113.9",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9;proto=https",
    "Upgrade": "h2c",
}


def test_what_a_client_claims_is_not_handed_on(echo, tmp_path):
    port, heads = echo
    with fronted(tmp_path, port) as nginx:
        own = f"127.0.0.1:{nginx.port}"
        for _ in range(2):
            assert httpx2.get(f"{nginx.url}/any", headers=FORGED, trust_env=False).status_code == 204
    for head in heads:
        names = [name for name, _ in head]
        assert len(names) == len(set(names)), head
        told = dict(head)
        assert (told["x-forwarded-for"], told["x-forwarded-proto"], told["x-real-ip"], told["host"]) == (
            "127.0.0.1",
            "http",
            "127.0.0.1",
            own,
        )
        assert not {"x-forwarded-host", "x-forwarded-port", "x_forwarded_for", "forwarded", "upgrade"} & {
            *names
        }
        assert "connection" not in told, "it is kept"


@pytest.fixture(scope="module")
def believed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """As shipped, and one of the server's TRUSTED_PROXIES."""
    with fronted(tmp_path_factory.mktemp("believed"), server.port, BELIEVED) as made:
        yield made


async def _caller_in_the_log(nginx: Nginx, server: Server, name: str) -> str:
    """Whom the server's access log names for a call through nginx from 127.0.0.2, who says to be another."""
    from_there = httpx2.AsyncHTTPTransport(local_address="127.0.0.2")
    async with client(nginx.url, transport=from_there) as http:
        headers = {"X-Request-ID": name, "X-Forwarded-For": "203.0.113.9"}
        assert (
            await http.post(STREAM, json=brief(options={"tokens": 1}), headers=headers)
        ).status_code == 200

    async def line() -> re.Match[str] | None:
        return re.search(rf"streaming\.access: .* client=(\S+) request_id={name}\b", server.log())

    found = await eventually(line)
    assert found is not None
    return found[1]


async def test_the_application_believes_who_calls_if_it_trusts_the_proxy(believed, nginx, server):
    assert await _caller_in_the_log(believed, server, "by-a-trusted-one") == "127.0.0.2"
    assert await _caller_in_the_log(nginx, server, "by-a-stranger") == "127.0.0.1"


async def test_the_application_believes_that_it_was_by_tls(believed, nginx):
    """So that a form is taken whose page came by https."""
    assert await _sign_in(believed, believed.tls_port) == 200, "refused for the password, not for the page"
    assert await _sign_in(nginx, nginx.tls_port) == 403


async def _sign_in(nginx: Nginx, port: int) -> int:
    url = f"https://127.0.0.1:{port}"
    async with client(url, verify=trusting(nginx)) as http:
        token = (await http.get("/accounts/login/")).cookies["csrftoken"]
        form = {"username": "nobody", "password": "x", "csrfmiddlewaretoken": token}
        headers = {"Origin": url, "Referer": f"{url}/accounts/login/", "Cookie": f"csrftoken={token}"}
        return (await http.post("/accounts/login/", data=form, headers=headers)).status_code


@pytest.mark.parametrize("headers", [{}, {"X-Forwarded-For": "127.0.0.1"}, {"X-Forwarded-For": ""}])
async def test_nobody_is_local_through_it(nginx, server, headers):
    """/stats is for operators, and for callers on this machine without a proxy."""
    async with client(server.url) as direct, client(nginx.url) as http:
        assert (await direct.get("/stats")).status_code == 200
        assert (await http.get("/stats", headers=headers)).status_code == 403


async def test_links_lead_back_to_it(nginx):
    """Host and port reach the application as the client wrote them, for its own addresses and for CSRF."""
    async with client(nginx.url) as http:
        page = await http.get("/accounts/login/")
        origin = {"Origin": nginx.url, "Referer": f"{nginx.url}/accounts/login/"}
        token = page.cookies["csrftoken"]
        sent = await http.post(
            "/accounts/login/",
            data={"username": "nobody", "password": "x", "csrfmiddlewaretoken": token},
            headers={**origin, "Cookie": f"csrftoken={token}"},
        )
    assert (page.status_code, sent.status_code) == (200, 200), "refused for the password, not for the page"


# --- Limits -------------------------------------------------------------------------------------------


def _problem(nginx: Nginx, head: str) -> tuple[int, str]:
    """Status and code of nginx's answer to a request whose body does not come."""
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=PATIENCE) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
        document = json.loads(response.read())
        assert response.headers["Content-Type"] == "application/problem+json"
        assert document["status"] == response.status
        assert ("Allow" in response.headers) == (response.status == 405)
        return response.status, document["code"]


POST = f"POST {STREAM} HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: "
PUT = "PUT /notebooks/mine.ipynb HTTP/1.1\nHost: localhost\nContent-Length: "


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (POST + "1048577", (413, "body_too_large")),
        (PUT + "33554433", (413, "body_too_large")),
        ("GET / HTTP/1.1\nHost: localhost\nX-Long: " + "x" * 9000, (400, "invalid_request")),
        (
            "GET / HTTP/1.1\nHost: localhost\n" + "\n".join(["X-More: " + "x" * 4000] * 10),
            (400, "invalid_request"),
        ),
        ("GET /" + "x" * 9000 + " HTTP/1.1\nHost: localhost", (414, "invalid_request")),
        (POST.replace("Content-Length: ", "Transfer-Encoding: gzip, chunked"), (400, "invalid_request")),
        (POST.replace("Content-Length: ", "Transfer-Encoding: identity"), (400, "invalid_request")),
        ("GET / HTTP/2.0\nHost: localhost", (505, "invalid_request")),
        ("GET / HTTP/3.0\nHost: localhost", (505, "invalid_request")),
        ("TRACE / HTTP/1.1\nHost: localhost", (405, "method_not_allowed")),
        ("TRACE /static/a.js HTTP/1.1\nHost: localhost", (405, "method_not_allowed")),
        (f"TRACE /streams/{'0' * 32}/events HTTP/1.1\nHost: localhost", (405, "method_not_allowed")),
    ],
    ids=[
        *("a body", "a notebook", "a header", "many headers", "an address"),
        *("gzip", "identity", "HTTP/2", "HTTP/3", "TRACE", "TRACE of a file", "TRACE of events"),
    ],
)
def test_what_nginx_refuses_is_worded_as_ours(away, head, answer):
    assert _problem(away, head) == answer


@pytest.mark.parametrize(
    "asked",
    [
        upgrade("/ws/generate/")[:-2] + b"Content-Length: 2\r\n\r\n{}",
        upgrade("/healthz")[:-2] + b"Content-Length: 2\r\n\r\n{}",
        upgrade("/ws/generate/")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        upgrade(STREAM).replace(b"GET", b"POST", 1)[:-2]
        + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["a body", "a body where no socket is", "chunks", "a POST"],
)
def test_a_handshake_with_a_body_is_an_ordinary_request(nginx, asked):
    path = asked.split(b" ", 2)[1].decode()
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=PATIENCE) as connection:
        connection.sendall(asked)
        status = {"/healthz": b"200", STREAM: b"422"}.get(path, b"426")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 " + status)


async def test_what_the_application_takes_nginx_takes(nginx):
    assert conf.ServerConfig().max_body_bytes == 1 << 20
    async with client(nginx.url) as http:
        largest = json.dumps(brief()).encode().ljust(1 << 20)
        assert (await http.post(STREAM, content=largest)).status_code == 415, "read, and judged by its type"
        notebook = await http.put("/notebooks/mine.ipynb", content=b" " * (2 << 20))
        assert notebook.status_code != 413
        page = await http.get("/", headers={"X-Long": "x" * 7000})
        assert page.status_code == 200


# --- The server is away -------------------------------------------------------------------------------


async def test_a_reader_of_events_is_told_to_come_back(away):
    async with client(away.url) as http:
        head = await http.head(f"/streams/{'0' * 32}/events")
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")
        answer = await http.get(f"/streams/{'0' * 32}/events")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        assert answer.headers["cache-control"] == "no-cache, no-store, no-transform"
        decoder = Decoder()
        assert list(decoder.feed(answer.content)) == []
        assert decoder.retry == 3000


@pytest.mark.parametrize(
    ("method", "path", "accept"),
    [
        ("GET", "/", "text/html"),
        ("POST", STREAM, "text/event-stream"),
        ("GET", f"/streams/{'0' * 32}", "*/*"),
        ("GET", f"/streams/{'0' * 32}/events", "application/x-ndjson"),
        ("POST", f"/streams/{'0' * 32}/events", "*/*"),
        ("OPTIONS", f"/streams/{'0' * 32}/events", "*/*"),
        ("DELETE", f"/streams/{'0' * 32}/events", "text/event-stream"),
    ],
)
async def test_everybody_else_is_told_that_it_is_away(away, method, path, accept):
    async with client(away.url) as http:
        answer = await http.request(method, path, headers={"Accept": accept})
    assert (answer.status_code, answer.json()["code"]) == (502, "server_away")
    assert answer.headers["retry-after"] == "3"


async def test_what_the_application_refuses_is_handed_on(nginx):
    """Only what means that nobody is there is replaced."""
    async with client(nginx.url) as http:
        unknown = await http.get(f"/streams/{'0' * 32}/events")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
        ahead = await http.get(f"/streams/{'0' * 32}/events", headers={"Last-Event-ID": "x"})
        assert ahead.status_code == 400


# --- Files and pages ----------------------------------------------------------------------------------


async def test_static_files_come_from_the_folder_or_from_the_application(nginx):
    (nginx.folder / "static" / "collected.js").write_text("// " + "collected " * 100)
    async with client(nginx.url) as http:
        collected = await http.get("/static/collected.js")
        assert collected.text.startswith("// collected")
        assert collected.headers["content-encoding"] == "gzip"
        served = await http.get("/static/streaming/page/viewer.js")
        assert served.status_code == 200
        assert (await http.get("/static/../nginx.conf")).status_code == 404
        page = await http.get("/", headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in page.headers


async def test_plain_http_leads_to_tls(nginx):
    port = re.search(r"listen 127\.0\.0\.1:(\d+);\s+server_name sluice", _installed(nginx))
    assert port is not None
    async with client(f"http://127.0.0.1:{port[1]}", headers={"Host": HOST}) as http:
        answer = await http.post("/content/generate?x=1")
    assert (answer.status_code, answer.headers["location"]) == (308, f"https://{HOST}/content/generate?x=1")


def _installed(nginx: Nginx) -> str:
    return (nginx.folder / "conf.d" / FILES[1]).read_text()


async def test_neither_tokens_of_sign_in_links_nor_tickets_are_logged(nginx):
    log = nginx.folder / "access.log"
    async with client(nginx.url) as http:
        await http.get("/accounts/signin/a-secret-token/?next=/")
        await http.get("/streams/x/events?after=1&ticket=a-secret-token")
        await http.get("/healthz")

    async def logged() -> bool:
        return '"GET /healthz HTTP/1.1" 200' in log.read_text()

    assert await eventually(logged)
    assert '"GET /streams/x/events HTTP/1.1" 40' in log.read_text()
    assert "a-secret-token" not in log.read_text()
