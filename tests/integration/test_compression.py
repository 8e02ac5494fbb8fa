"""Compressed streams and real clients: each decodes in its own way, and each shows what there is at once."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest

from tests.integration.conftest import assert_clean
from tests.support.client import STREAM, brief, client, generate, read_stream
from tests.support.decompression import CODINGS, decoder
from tests.support.nginx import Nginx, find_nginx, fronted
from tests.support.scale import SERVERS
from tests.support.servers import Server, running

pytestmark = pytest.mark.server

PATIENCE = 30.0

SILENT = brief(options={"tokens": 9, "interval": 0.02, "hang_after": 3}, on_disconnect="cancel")
"""Three words, and then silence: what is shown of them is shown before there is more."""

LAST = b'"delta":"2 "'


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "STREAM_COMPRESSION": "zstd, br, gzip",
        "ALLOW_ANONYMOUS": "true",
        "AGENT_POOL_MAX_WORKERS": "20",
        "AGENT_POOL_PER_OWNER": "50",
        "BUFFER_FLUSH_CHARS": "1",
    }
    with running(request.param, tmp_path_factory.mktemp("compressed"), **settings) as made:
        yield made
        assert_clean(made)


Pieces = AsyncIterator[bytes]
Show = Callable[[Server | Nginx, str], Awaitable[str]]


async def _until_the_last(pieces: Pieces) -> None:
    shown = b""
    async for piece in pieces:
        shown += piece
        if LAST in shown:
            return
    raise AssertionError(shown)


async def _httpx(server: Server | Nginx, coding: str) -> str:
    headers = {"Accept-Encoding": coding}
    async with (
        client(server.url) as http,
        http.stream("POST", STREAM, json=SILENT, headers=headers) as response,
    ):
        await _until_the_last(response.aiter_bytes())
        return str(response.headers["content-encoding"])


async def _aiohttp(server: Server | Nginx, coding: str) -> str:
    headers = {"Accept-Encoding": coding}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{server.url}{STREAM}", json=SILENT, headers=headers) as response,
    ):
        await _until_the_last(response.content.iter_any())
        return response.headers["content-encoding"]


async def _by_program(*command: str) -> tuple[str, Pieces, Any]:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout

    async def pieces() -> Pieces:
        while data := await output.read(65_536):
            yield data

    head = (await output.readuntil(b"\r\n\r\n")).decode().lower()
    coding = next(line.split(": ")[1] for line in head.splitlines() if line.startswith("content-encoding"))
    return coding, pieces(), process


async def _shown_by(*command: str) -> str:
    coding, pieces, process = await _by_program(*command)
    try:
        await _until_the_last(pieces)
    finally:
        process.kill()
        await process.wait()
    return coding


async def _curl(server: Server | Nginx, coding: str) -> str:
    return await _shown_by(
        *("curl", "-s", "-N", "-i", "--compressed", "-H", f"Accept-Encoding: {coding}", "--noproxy", "*"),
        *("-H", "Content-Type: application/json", "-d", json.dumps(SILENT), f"{server.url}{STREAM}"),
    )


NODE = """
const [url, body, coding] = process.argv.slice(1);
const headers = { "content-type": "application/json", "accept-encoding": coding };
const response = await fetch(url, { method: "POST", headers, body });
process.stdout.write(`content-encoding: ${response.headers.get("content-encoding")}\\r\\n\\r\\n`);
for await (const piece of response.body) process.stdout.write(piece);
"""


async def _node(server: Server | Nginx, coding: str) -> str:
    return await _shown_by(
        *("node", "--input-type=module", "-e", NODE, f"{server.url}{STREAM}", json.dumps(SILENT), coding)
    )


def _client(show: Show, coding: str, program: str | None = None) -> Any:
    missing = program is not None and shutil.which(program) is None
    return pytest.param(
        show,
        coding,
        id=f"{show.__name__[1:]} {coding}",
        marks=pytest.mark.skipif(missing, reason=f"no {program} here"),
    )


@pytest.mark.parametrize(
    ("show", "coding"),
    [
        *(_client(_httpx, coding) for coding in ("gzip", "br")),
        *(_client(_aiohttp, coding) for coding in ("gzip", "br")),
        *(_client(_curl, coding, "curl") for coding in ("gzip", "br", "zstd")),
        *(_client(_node, coding, "node") for coding in ("gzip", "br")),
    ],
)
async def test_a_client_shows_the_last_word_before_there_is_more(server, show, coding):
    async with asyncio.timeout(PATIENCE):
        assert await show(server, coding) == coding


@pytest.mark.skipif(find_nginx() is None, reason="no nginx here: apt-get install nginx")
@pytest.mark.parametrize("coding", CODINGS)
async def test_nginx_hands_it_on_at_once(server, tmp_path, coding):
    with fronted(tmp_path, server.port) as nginx:
        async with asyncio.timeout(PATIENCE):
            assert await _curl(nginx, coding) == coding


async def test_what_a_client_takes_by_itself_is_taken(server):
    """httpx2 sends an `Accept-Encoding` of its own."""
    async with client(server.url) as http, http.stream("POST", STREAM, json=SILENT) as response:
        async with asyncio.timeout(PATIENCE):
            await _until_the_last(response.aiter_bytes())
        assert response.headers["content-encoding"] in ("gzip", "br", "zstd")
        assert response.headers["vary"].lower().split(", ").count("accept-encoding") == 1


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
async def test_a_resumed_stream_is_the_rest_of_the_plain_one(server, accept):
    plain = {"Accept-Encoding": "identity", "Accept": accept}
    async with client(server.url) as http:
        whole = await generate(http, options={"tokens": 60, "interval": 0})
        where = f"/streams/{whole.response.headers['x-stream-id']}/events?after=20"
        expected = await http.get(where, headers=plain)
        for coding in CODINGS:
            headers = plain | {"Accept-Encoding": coding}
            async with http.stream("GET", where, headers=headers) as got:
                raw = b"".join([piece async for piece in got.aiter_raw()])
            assert got.headers["content-encoding"] == coding
            assert decoder(coding)(raw) == expected.content


async def test_whole_answers_and_refusals_are_not_touched(server):
    async with client(server.url) as http:
        assert "content-encoding" not in (await http.get("/healthz")).headers
        refused = await http.post(STREAM, json={"user_id": "u"})
        assert refused.status_code == 422
        assert "content-encoding" not in refused.headers


async def test_who_asks_for_nothing_reads_it_as_it_is(server):
    async with client(server.url, headers={"Accept-Encoding": ""}) as http:
        reading = await read_stream(http, "POST", STREAM, json=brief(options={"tokens": 3, "interval": 0}))
    assert reading.text == "0 1 2 "
    assert reading.response.headers["content-encoding"] == "identity"
