"""Rows S9, S10 and H5: what a page of elsewhere can make a browser send, with the cookies of somebody who is
signed in here. Even the CSRF token would not help it."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.catalogue import BRIEF, PATIENCE, converse, started, told
from tests.support.client import STREAM
from tests.support.routes import ABSENT
from tests.support.servers import Server
from tests.support.sockets import GENERATE, opened

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

Headers = dict[str, str]

ORIGINS: Final = {
    "null": "null",
    "empty": "",
    "star": "*",
    "another site": "https://evil.example",
    "no port": "http://127.0.0.1",
    "another port": "http://127.0.0.1:1",
    "a longer port": "http://{host}0",
    "a longer name": "http://{host}.evil.example",
    "another name before it": "http://evil.{host}",
    "as the user of another site": "http://{host}@evil.example",
    "as a fragment of another site": "http://evil.example#{host}",
    "with a path": "http://{host}/",
    "another scheme": "https://{host}",
    "upper case": "HTTP://{host}",
    "another name of this machine": "http://localhost:{port}",
    "a full stop": "http://127.0.0.1.:{port}",
    "as IPv6": "http://[::ffff:127.0.0.1]:{port}",
    "two": "http://{host}, https://evil.example",
    "a file": "file://",
    "an extension": "chrome-extension://abcdef",
}

CHANGES: Final = {
    "start": ("POST", STREAM, BRIEF),
    "whole": ("POST", "/content/generate", BRIEF),
    "later": ("POST", "/content/generate/async", BRIEF),
    "operation": ("POST", "/send_operation", b'{"notebook_id":"t","operation":{"type":"list"},"lang":"en"}'),
    "cancel": ("DELETE", f"/streams/{ABSENT}", b""),
    "notebook": ("PUT", "/notebooks/t", b'{"cells":[]}'),
    "sign out": ("POST", "/accounts/logout/", b""),
}


def origin_of(name: str, server: Server) -> str:
    """The origin of that page, which is almost ours."""
    return ORIGINS[name].format(host=f"127.0.0.1:{server.port}", port=server.port)


def call(server: Server, change: str, headers: Headers, media: str = "application/json") -> bytes:
    """The bytes of a call that changes something."""
    method, path, body = CHANGES[change]
    given = {"Host": f"127.0.0.1:{server.port}", "Content-Type": media, "Content-Length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in (given | headers | {"Connection": "close"}).items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body


@pytest.fixture
def mallory(people: dict[str, Headers]) -> Headers:
    """Somebody's own headers, as no page of elsewhere could even send them."""
    return people["bob"]


@pytest.mark.parametrize("name", ORIGINS)
def test_no_page_of_elsewhere_acts_for_who_is_signed_in(server: Server, mallory: Headers, name: str) -> None:
    before = started(server)
    for change in CHANGES:
        answer = converse(server, call(server, change, mallory | {"Origin": origin_of(name, server)}))
        assert told(answer)[0] == 403, (change, answer[:300])
    assert started(server) == before


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
@pytest.mark.parametrize("origin", [None, "null", "https://evil.example"])
def test_no_form_starts_anything(server: Server, mallory: Headers, origin: str | None, media: str) -> None:
    """What a form can send to anywhere without being asked: three types of body, cookies, no header."""
    headers = {"Cookie": mallory["Cookie"]} | ({} if origin is None else {"Origin": origin})
    before = started(server)
    for change in ("start", "whole", "later", "operation"):
        refused = (403, 415, 400) if server.kind == "daphne" else (403, 415)
        assert told(converse(server, call(server, change, headers, media)))[0] in refused, change
    assert started(server) == before


@pytest.mark.parametrize("name", [None, *ORIGINS])
async def test_no_page_of_elsewhere_opens_a_socket(
    server: Server, mallory: Headers, name: str | None
) -> None:
    """None: a program that shows a cookie and no origin, which no browser does."""
    headers = mallory if name is None else mallory | {"Origin": origin_of(name, server)}
    for path in (GENERATE, f"/ws/streams/{ABSENT}/", "/ws/notebooks/t/"):
        with pytest.raises(InvalidStatus) as refused:
            async with asyncio.timeout(PATIENCE), opened(server, path, additional_headers=headers):
                pass
        # Daphne refuses what is no origin at all before we see it.
        expected = (403, 400) if server.kind == "daphne" else (403,)
        assert refused.value.response.status_code in expected, path


async def test_our_own_page_does_both(server: Server, mallory: Headers) -> None:
    headers = mallory | {"Origin": server.url}
    assert told(converse(server, call(server, "start", headers)))[0] == 200
    async with asyncio.timeout(PATIENCE), opened(server, GENERATE, additional_headers=headers):
        pass
