"""Pages of other origins: which may call, what they are told, and that nobody may by default."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.client import STREAM, brief, client, exchange, read_stream
from tests.support.routes import CALLS
from tests.support.scale import SERVERS
from tests.support.servers import ROOT, Server, environment, running

pytestmark = pytest.mark.server

ORIGIN = "https://app.example"
OTHER = "http://localhost:3000"
QUICK = {"tokens": 3, "interval": 0.005}


@pytest.fixture(scope="module", params=SERVERS)
def open_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("cors")
    with running(
        request.param,
        folder,
        CORS_ALLOWED_ORIGINS=f"{ORIGIN}, {OTHER}",
        SERVER_BODY_TIMEOUT="0.5",
        AGENT_POOL_PER_OWNER="1",
        AGENT_POOL_MAX_WORKERS="1",
        AGENT_POOL_QUEUE_SIZE="0",
    ) as made:
        yield made


@pytest.fixture
async def page(open_server: Server) -> AsyncIterator[httpx2.AsyncClient]:
    """A page of the allowed origin."""
    async with client(open_server.url, headers={"Origin": ORIGIN}) as made:
        yield made


def allowed(response: httpx2.Response, origin: str = ORIGIN) -> bool:
    """Whether a browser would let a page of `origin` see the answer and its headers."""
    headers = response.headers
    exposed = {name.strip().lower() for name in headers.get("access-control-expose-headers", "").split(",")}
    return (
        headers.get("access-control-allow-origin") == origin
        and "origin" in headers["vary"].lower()
        and {"x-stream-id", "x-stream-route", "location", "retry-after", "idempotent-replayed"} <= exposed
        and "access-control-allow-credentials" not in headers
    )


ROUTES = [*CALLS, ("GET", "/healthz"), ("GET", "/openapi.json"), ("GET", "/nowhere")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_browser_may_ask_first(page: httpx2.AsyncClient, method: str, path: str) -> None:
    answer = await page.options(
        path,
        headers={
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,last-event-id",
        },
    )
    assert answer.status_code == 200
    assert allowed(answer)
    methods = {name.strip() for name in answer.headers["access-control-allow-methods"].split(",")}
    assert {"GET", "POST", "DELETE"} <= methods
    headers = {name.strip() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert {"authorization", "last-event-id", "idempotency-key", "content-type"} <= headers
    assert "x-csrftoken" not in headers, "sessions are for our own pages"


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_answer_may_be_read(page: httpx2.AsyncClient, method: str, path: str) -> None:
    assert allowed(await page.request(method, path)), "most of these are refusals"


async def test_streams_may_be_read(page: httpx2.AsyncClient) -> None:
    reading = await read_stream(page, "POST", STREAM, json=brief(options=QUICK))
    assert reading.text == "0 1 2 "
    assert allowed(reading.response)
    place = reading.response.headers["location"]
    assert allowed((await read_stream(page, "GET", f"{place}/events")).response)
    assert allowed(await page.get(f"{place}/events?after={reading.ids[-1]}")), "204"
    assert allowed(await page.get(place))
    wanted = {"stream_id": reading.response.headers["x-stream-id"]}
    url = (await page.post("/tickets", json=wanted)).json()["url"]
    assert allowed((await read_stream(page, "GET", url)).response), "with a ticket"
    assert allowed(await page.get(url)), "with a used one"
    assert allowed(await page.delete(place))


async def test_each_allowed_origin_is_named_as_it_is(open_server: Server) -> None:
    async with client(open_server.url, headers={"Origin": OTHER}) as http:
        assert allowed(await http.get("/healthz"), OTHER)


async def test_refusals_of_a_busy_server_may_be_read(page: httpx2.AsyncClient) -> None:
    busy = await page.post("/content/generate/async", json=brief(options={"tokens": 2000, "interval": 0.02}))
    assert busy.status_code == 202
    own = await page.post(STREAM, json=brief())
    full = await page.post(STREAM, json=brief(user_id="somebody else"))
    await page.delete(busy.json()["urls"]["record"])
    assert (own.status_code, full.status_code) == (429, 503)
    assert allowed(own)
    assert allowed(full)
    assert "retry-after" in full.headers


async def test_what_is_refused_before_a_view_sees_it_may_be_read(page: httpx2.AsyncClient) -> None:
    too_large = await page.post(STREAM, content=b" " * 1_048_577, headers={"Accept-Language": "zh-hans"})
    assert (too_large.status_code, too_large.json()["code"]) == (413, "body_too_large")
    assert allowed(too_large)
    assert too_large.headers["x-content-type-options"] == "nosniff"
    bad_host = await page.get("/streams", headers={"Host": "evil.example"})
    assert (bad_host.status_code, bad_host.json()["code"]) == (400, "bad_host")
    assert allowed(bad_host)


async def test_a_body_that_comes_too_slowly_may_be_read(open_server: Server) -> None:
    if open_server.kind == "daphne":
        pytest.skip("Daphne collects the body before the application sees the request")
    head = (
        f"POST {STREAM} HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: {ORIGIN}\r\n"
        "Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
    )
    response, body = await asyncio.to_thread(exchange, open_server, head.encode())
    assert (response.status, json.loads(body)["code"]) == (408, "body_timeout")
    assert response.getheader("access-control-allow-origin") == ORIGIN


FOREIGN = [
    "https://evil.example",
    "https://app.example.evil.example",
    "https://evilapp.example",
    "https://sub.app.example",
    "https://app.example:8443",
    "http://app.example",
    "https://APP.EXAMPLE",
    "https://app.example.",
    "https://app.example@evil.example",
    "https://[",
    "null",
    "file://",
    "",
    "*",
]


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_foreign_origin_is_told_nothing(open_server: Server, origin: str) -> None:
    async with client(open_server.url, headers={"Origin": origin}) as http:
        asked = await http.options("/streams", headers={"Access-Control-Request-Method": "GET"})
        answers = [asked, await http.get("/streams"), await http.get("/nowhere")]
        answers.append(await http.post(STREAM, content=b" " * 1_048_577))
    for answer in answers:
        assert not _cors(answer)


async def test_nobody_is_allowed_by_default(http: httpx2.AsyncClient) -> None:
    for origin in (ORIGIN, "null", "http://127.0.0.1:3000"):
        headers = {"Origin": origin}
        asked = await http.options("/streams", headers=headers | {"Access-Control-Request-Method": "GET"})
        assert not _cors(asked)
        assert not _cors(await http.get("/streams", headers=headers))


def _cors(response: httpx2.Response) -> list[str]:
    return [name for name in response.headers if name.startswith("access-control-")]


WRONG = [
    "app.example",
    "*",
    "https://*.example",
    "https://app.example/",
    "https://app.example/page",
    "https://app.example?x",
    "https://App.example",
    "https://user@app.example",
    "null",
    "file://",
    "file://x",
    "https://app.example:443",
    "http://app.example:80",
    "https://app.example:99999",
    "https://app.example:0",
    "https://app.example:0443",
    "https://app.example:x",
    "https://app.example:",
    "https://bücher.example",
    f"{ORIGIN} {OTHER}",
    f"{ORIGIN},*",
]


RIGHT = [
    "http://localhost:3000",
    "https://app.example:80",
    "http://127.0.0.1:65535",
    "https://[::1]:8443",
    "https://xn--bcher-kva.example",
    "chrome-extension://abcdefghijklmnop",
    "capacitor://localhost",
]

CHECK = """
import importlib, json, os, sys
import django
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from settings import environment
from settings import settings as module
django.setup()
found = {}
for value in json.load(sys.stdin):
    os.environ["CORS_ALLOWED_ORIGINS"] = value
    environment.PROBLEMS.clear()
    importlib.reload(module)
    try:
        call_command("check")
        found[value] = ""
    except SystemCheckError as error:
        found[value] = str(error)
print(json.dumps(found))
"""
"""What `manage.py check` finds wrong with each of the values, whose settings are read anew."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is wrong with each value of CORS_ALLOWED_ORIGINS: all of them in one process."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        cwd=ROOT,
        env=environment(tmp_path_factory.mktemp("check"), DJANGO_SETTINGS_MODULE="settings.settings"),
        input=json.dumps([*WRONG, ",".join(RIGHT)]),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_origin_in_the_settings_is_refused(found: dict[str, str], value: str) -> None:
    assert "CORS_ALLOWED_ORIGINS" in found[value]
    assert "streaming.E007" in found[value]


def test_whatever_a_browser_may_send_can_be_allowed(found: dict[str, str]) -> None:
    assert found[",".join(RIGHT)] == ""


@pytest.mark.parametrize(
    "command",
    [
        ["manage.py", "serve", "--port", "0"],
        pytest.param(["-m", "daphne", "-p", "0"], marks=pytest.mark.long),
    ],
)
def test_no_server_starts_with_a_wrong_origin(tmp_path: Path, command: list[str]) -> None:
    if "daphne" in command:
        command = [*command, "settings.asgi:application"]
    done = _python(tmp_path, command, "https://app.example/")
    assert done.returncode != 0
    assert "CORS_ALLOWED_ORIGINS has https://app.example/" in done.stderr


def _python(folder: Path, words: list[str], value: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment(folder, CORS_ALLOWED_ORIGINS=value),
        capture_output=True,
        text=True,
        timeout=60,
    )
