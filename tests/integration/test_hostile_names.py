"""Rows S15 and S19: whatever stands in an id, a name or a text is data, also to SQL, to keys of Redis, to
templates, to paths, to pages and to the log."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

import httpx2
import pytest

from tests.support.catalogue import Case, converse, get, parametrised, told
from tests.support.client import brief, eventually, row
from tests.support.servers import Server

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

Headers = dict[str, str]

PAYLOADS: Final[dict[str, str]] = {
    "quote": "' OR '1'='1",
    "statement": "x'; DROP TABLE streaming_streamtask; --",
    "union": 'x" UNION SELECT key FROM streaming_apikey --',
    "wildcards": "%_%",
    "key of Redis": "sluice:{x}:events",
    "pattern of Redis": "*[a-z]?",
    "command": "$(touch /tmp/x)`id`|id;id&&id",
    "template": "{{7*7}}{% load x %}${7*7}#{7*7}<%=7*7%>",
    "format": "%s%n%(x)s{0.__class__.__mro__}{self}",
    "path": "../../../etc/passwd",
    "path of Windows": "..\\..\\x",
    "scheme": "file:///etc/passwd",
    "page": '"><script>alert(1)</script><img src=x onerror=alert(1)>',
    "link": "javascript:alert(1)",
    "python": "__import__('os').system('id')",
    "pickle": "cos\nsystem\n(S'id'\ntR.".replace("\n", " "),
    "lookup": "streamtask__owner__password__startswith",
    "expression": "${jndi:ldap://x}",
    "lines": "x\u2028event: complete\u2029",
    "right to left": "\u202etxet",
}


@pytest.mark.parametrize("name", PAYLOADS)
async def test_s15_a_name_is_only_a_name(
    http: httpx2.AsyncClient, server: Server, people: dict[str, Headers], name: str
) -> None:
    text = PAYLOADS[name]
    values = {"user_id": text, "topic": text, "category": text, "tone": text}
    answer = await http.post("/content/generate", json=brief(options={"text": text}, **values))
    assert (answer.status_code, answer.json()["text"]) == (200, text)

    async def kept() -> dict[str, Any] | None:
        return row(server, "end_user", text)

    found = await eventually(kept)
    assert found is not None
    assert json.loads(found["arguments"])["topic"] == text
    for method, place in (
        ("GET", "/streams/{}"),
        ("DELETE", "/streams/{}"),
        ("GET", "/streams/{}/events"),
        ("GET", "/streams/{}/rendered"),
        ("GET", "/streams/{}/view"),
        ("GET", "/streams?before={}"),
        ("GET", "/notebooks/{}"),
        ("PUT", "/notebooks/{}"),
        ("GET", "/notebook/{}/"),
        ("GET", "/accounts/signin/{}/"),
    ):
        path = place.format(quote(text, safe=""))
        answer = await http.request(
            method, path, json={} if method == "PUT" else None, headers=people["alice"]
        )
        assert answer.status_code < 500, (method, place)
        assert "<script>alert" not in answer.text
    refused = await http.post("/content/generate", json=brief(model=text))
    assert refused.status_code in (404, 422)
    operation = {"notebook_id": text, "operation": {"type": "ping"}, "lang": "en"}
    answer = await http.post("/send_operation", json=operation)
    assert answer.status_code == (200 if text.isidentifier() else 400), answer.text


FORGED: Final = "2026-01-01 forged entry"
LINES: Final[dict[str, str]] = {
    "line feed": "%0a",
    "carriage return": "%0d",
    "escape": "%1b[2K%1b[1A",
    "NUL": "%00",
    "backspace": "%08%08%08",
    "vertical tab": "%0b",
    "next line": "%c2%85",
    "line separator": "%e2%80%a8",
    "no UTF-8": "%ff%0a",
}


@parametrised(
    [
        Case("S19", f"{name} {kind}", get(f"{path}{mark}{FORGED.replace(' ', '%20')}".encode()), status)
        for name, mark in LINES.items()
        for kind, path, status in (("page", "/nowhere", 404), ("stream", "/streams/", 404))
    ]
)
def test_s19_no_path_writes_a_line_of_its_own(server: Server, case: Case) -> None:
    begun = len(server.log())
    assert told(converse(server, case.request))[0] == case.status
    converse(server, get(b"/healthz"))
    log = server.log()[begun:]
    assert not [line for line in log.splitlines() if line.startswith(FORGED)]
    assert not set(log) & set("\x00\x08\x0b\x1b\x85\u2028")
