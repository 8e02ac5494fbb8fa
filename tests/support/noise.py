"""Damaged requests, headers and messages, the same ones for the same seed: what sound ones are made of, and
what has broken other programs."""

from __future__ import annotations

import json
import random
from typing import Any, Final

TOKENS: Final = (
    *(
        b"",
        b" ",
        b"\t",
        b",",
        b";",
        b"=",
        b'"',
        b"\\",
        b"/",
        b"%",
        b"%00",
        b"%ff",
        b"%u0000",
        b"..",
        b"*",
        b"-1",
    ),
    *(
        b"\x00",
        b"\x1f",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\xf0\x9f\x98\x80",
        b"\r\n ",
    ),
    *(
        b"\r\nX-Forged: 1\r\n",
        b"q=",
        b";q=NaN",
        b";q=1e999",
        b"0" * 400,
        b"9" * 5000,
        b"," * 3000,
        b"a=b;" * 300,
    ),
    *(
        b"[" * 2000,
        b"{}",
        b"null",
        b"NaN",
        b"1e400",
        "０".encode(),
        "咖啡".encode(),
        "\u202e".encode(),
        b"${7*7}",
    ),
)

HEADERS: Final[dict[bytes, tuple[bytes, ...]]] = {
    b"accept": (b"text/event-stream", b"application/x-ndjson;q=0.5, */*;q=0.1", b"application/json"),
    b"accept-encoding": (b"gzip, deflate, br;q=0.9", b"zstd", b"*;q=0"),
    b"accept-language": (b"zh-CN,zh;q=0.9,en;q=0.8", b"en", b"*"),
    b"access-control-request-headers": (b"authorization",),
    b"access-control-request-method": (b"POST",),
    b"authorization": (b"Bearer sluice_" + b"x" * 43, b"Basic dTpw", b"Bearer", b"bearer  a b"),
    b"connection": (b"keep-alive", b"Upgrade", b"close"),
    b"content-encoding": (b"gzip", b"identity"),
    b"content-length": (b"0", b"5", b"10000000000"),
    b"content-type": (
        b"application/json",
        b'application/json; charset="utf-8"',
        b"multipart/form-data; boundary=x",
    ),
    b"cookie": (
        b"sessionid=" + b"a" * 32 + b"; csrftoken=" + b"c" * 32,
        b"django_language=zh-hans",
        b"a=b; a=c",
    ),
    b"expect": (b"100-continue",),
    b"forwarded": (b'for="[2001:db8::1]:47";proto=https;by=_x',),
    b"host": (b"testserver", b"127.0.0.1:80", b"[::1]:80"),
    b"idempotency-key": (b"a-key", b"~" * 255),
    b"if-match": (b'"1"', b"*"),
    b"if-modified-since": (b"Sun, 22 Nov 2026 01:00:00 GMT",),
    b"last-event-id": (b"0", b"7", b"9223372036854775807"),
    b"origin": (b"http://testserver", b"null", b"https://evil.example"),
    b"range": (b"bytes=0-1",),
    b"referer": (b"http://testserver/",),
    b"sec-websocket-protocol": (b"a, b",),
    b"te": (b"trailers",),
    b"traceparent": (b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",),
    b"transfer-encoding": (b"chunked",),
    b"upgrade": (b"websocket", b"h2c"),
    b"user-agent": (b"curl/8",),
    b"x-csrftoken": (b"c" * 32,),
    b"x-forwarded-for": (b"203.0.113.9, 10.0.0.1", b"[2001:db8::1]:5"),
    b"x-forwarded-host": (b"evil.example",),
    b"x-forwarded-proto": (b"https",),
    b"x-request-id": (b"abc-123",),
}
"""Sound values by name."""

TASK: Final = "0" * 32

PATHS: Final = (
    *("/content/generate/stream/async", "/content/generate", "/content/generate/async", "/send_operation"),
    *(
        "/streams",
        f"/streams/{TASK}",
        f"/streams/{TASK}/events",
        f"/streams/{TASK}/rendered",
        "/streams/probe",
    ),
    *(f"/streams/{TASK}/view", "/stats", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/"),
    *("/notebooks/t", "/notebooks/t.ipynb", "/notebook/", "/notebook/t/", "/accounts/login/", "/jsi18n/"),
    *(
        "/accounts/signin/x/",
        "/admin/",
        "/i18n/setlang/",
        "/ws/generate/",
        f"/ws/streams/{TASK}/",
        "/static/x",
    ),
)

QUERIES: Final = (
    b"",
    b"after=3",
    b"timing=1&heartbeat=event",
    b"limit=5&before=" + TASK.encode(),
    b"purge=true",
)

METHODS: Final = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE")

BRIEF: Final = {"user_id": "u", "topic": "t", "max_tokens": 1}

MESSAGES: Final[tuple[dict[str, Any], ...]] = (
    {"type": "ping"},
    {"type": "ack", "request_id": "a", "id": 3},
    {"type": "cancel", "request_id": "a"},
    {"type": "follow", "request_id": "b", "task_id": TASK, "after": 0},
    {"type": "start", "request_id": "c", "brief": BRIEF},
    {"type": "operation", "request_id": "d", "operation": {"type": "ping"}, "lang": "zh"},
)
"""What clients of WebSockets say."""


class Noise:
    """Cases of one seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def damaged(self, sound: bytes, most: int = 3) -> bytes:
        """`sound` with up to `most` faults, perhaps none."""
        found = bytearray(sound)
        for _ in range(self.dice.randint(0, most)):
            at = self.dice.randint(0, len(found))
            match self.dice.randrange(6):
                case 0:
                    found[at : at + 1] = bytes([self.dice.randrange(256)])
                case 1:
                    found[at:at] = self.dice.choice(TOKENS)
                case 2:
                    del found[at : at + self.dice.randint(1, 8)]
                case 3:
                    found[at:at] = found[: self.dice.randint(0, 16)]
                case 4:
                    del found[at:]
                case _:
                    found[at:at] = self.dice.randbytes(self.dice.randint(1, 6))
        return bytes(found)

    def value(self, name: bytes) -> bytes:
        """A value of a header, mostly a wrong one."""
        return self.damaged(self.dice.choice(HEADERS[name]))

    def header(self) -> tuple[bytes, bytes]:
        """A header, mostly of a name that means something."""
        name = self.dice.choice(_NAMES)
        value = self.value(name)
        return (self.damaged(name).lower(), value) if self.dice.random() < 0.1 else (name, value)

    def headers(self, most: int = 8) -> list[tuple[bytes, bytes]]:
        """Headers, some of them twice."""
        found = [self.header() for _ in range(self.dice.randint(0, most))]
        return found + self.dice.sample(found, min(len(found), self.dice.randrange(2)))

    def path(self) -> str:
        """A path as servers decode it: any text without lone surrogates."""
        sound = self.dice.choice(PATHS)
        if self.dice.random() < 0.6:
            return sound
        return self.damaged(sound.encode(), 2).decode("utf-8", "replace")

    def query(self) -> bytes:
        """A query string, in bytes that a request line may have or not."""
        return self.damaged(self.dice.choice(QUERIES), 2)

    def body(self) -> bytes:
        """A body, mostly close to a brief."""
        return self.damaged(json.dumps(BRIEF).encode(), 2)

    def message(self) -> bytes | str:
        """A message on a WebSocket, text or binary."""
        found = self.damaged(json.dumps(self.dice.choice(MESSAGES)).encode(), 2)
        return found if self.dice.random() < 0.1 else found.decode("utf-8", "replace")


_NAMES: Final = tuple(HEADERS)
