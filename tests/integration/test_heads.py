"""Rows H of the catalogue of bad input: heads of requests, sent byte by byte as no client library would."""

from __future__ import annotations

from typing import Final

import pytest

from tests.support.catalogue import (
    BRIEF,
    HOST,
    Case,
    assert_refused,
    assert_served,
    bare_post,
    converse,
    get,
    parametrised,
    post,
    told,
)
from tests.support.servers import Server

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

QUOTES: Final = b'a/b;c="' + b";" * 60_000 + b'"'
"""What `email.message` takes seven seconds for."""

TOO_LARGE: Final[dict[str, bytes]] = {
    "one of 3 MB": b"X-A: " + b"x" * 3_000_000 + b"\r\n",
    "a name of 3 MB": b"X" * 3_000_000 + b": a\r\n",
    "20000": b"".join(b"X-%d: a\r\n" % number for number in range(20_000)),
    "20000 of one name": b"X-A: abcdefgh\r\n" * 20_000,
    "Accept of many quotes": b"Accept: " + QUOTES + b"\r\n",
    "Accept in many pieces": (b"Accept: " + QUOTES[:200] + b"\r\n") * 300,
    "Cookie of many backslashes": b'Cookie: a="' + b"\\" * 15_000 + b'"\r\n',
    "Cookie in many pieces": (b'Cookie: a="' + b"\\" * 60 + b'"\r\n') * 500,
    "key of 3 MB": b"Authorization: Bearer " + b"x" * 3_000_000 + b"\r\n",
}

H2 = [
    Case("H2", f"{name} {door}", make(headers=lines), 431, "headers_too_large")
    for name, lines in TOO_LARGE.items()
    for door, make in (("read", get), ("start", post))
]
H2 += [
    Case("H2", "Content-Type of many quotes", post(media=QUOTES), 431, "headers_too_large"),
    # The parser of uvicorn knows no longer ones, and answers by itself.
    Case("H2", "URL of 200 KB", get(b"/streams?a=" + b"x" * 200_000), 400),
    Case("H2", "path of 200 KB", get(b"/" + b"x" * 200_000), 400),
    Case("H2", "path of 60 KB", get(b"/" + b"x" * 60_000), 404, "not_found"),
]

HOSTS: Final[dict[str, bytes]] = {
    "foreign": b"evil.example",
    "empty": b"",
    "with a space": b"127.0.0.1 evil.example",
    "with a comma": b"127.0.0.1,evil.example",
    "a longer name": b"127.0.0.1.evil.example",
    "another name before it": b"evil-127.0.0.1",
    "user and host": b"127.0.0.1@evil.example",
    "host and user": b"evil.example@127.0.0.1",
    "no number as port": b"127.0.0.1:abc",
    "with a path": b"127.0.0.1/evil",
    "with a fragment": b"127.0.0.1#evil",
    "with a full stop of another script": "127.0.0.1。".encode(),
    "star": b"*",
    "dot": b".127.0.0.1",
    "half an IPv6 address": b"[::1",
    "another address of loopback": b"127.0.0.2",
    "as a number": b"2130706433",
    "unspecified": b"0.0.0.0",
}

DOUBLE_HOSTS: Final[dict[str, bytes]] = {
    "two": b"Host: 127.0.0.1\r\nHost: evil.example\r\n",
    "two in another order": b"Host: evil.example\r\nHost: 127.0.0.1\r\n",
    "the same twice": b"Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n",
}

H3 = [
    Case("H3", f"{name} {door}", make(host=lines), 400, "bad_host")
    for name, lines in {name: b"Host: %b\r\n" % host for name, host in HOSTS.items()}.items()
    for door, make in (("read", get), ("start", post))
]
H3 += [
    Case("H3", f"{name} {door}", make(host=lines), 400, "bad_host")
    for name, lines in DOUBLE_HOSTS.items()
    for door, make in (("read", get), ("start", post))
]
H3 += [Case("H3", "with NUL", get(host=b"Host: 127.0.0.1\x00\r\n"), 400)]

MALFORMED: Final[dict[str, bytes]] = {
    "NUL": b"X-A: a\x00b\r\n",
    "control character": b"X-A: a\x01b\r\n",
    "bare CR": b"X-A: a\rb\r\n",
    "name beyond ASCII": b"X\xff: a\r\n",
    "blank before the colon": b"X-A : a\r\n",
    "no name": b": a\r\n",
    "no colon": b"XA\r\n",
    "folded line": b"X-A: a\r\n b\r\n",
    "chunked, chunked": b"Transfer-Encoding: chunked, chunked\r\n",
    "another coding": b"Transfer-Encoding: xchunked\r\n",
    "identity": b"Transfer-Encoding: identity\r\n",
}
LENGTHS: Final[dict[str, bytes]] = {
    "length and chunks": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "lengths in one line": b"Content-Length: 5, 5\r\n",
    "negative length": b"Content-Length: -5\r\n",
    "length with plus": b"Content-Length: +5\r\n",
    "length in words": b"Content-Length: five\r\n",
    "length in hex": b"Content-Length: 0x5\r\n",
    "length with underscore": b"Content-Length: 5_0\r\n",
    "length of 40 digits": b"Content-Length: " + b"9" * 40 + b"\r\n",
    "length in full width": "Content-Length: ５\r\n".encode(),
}
CHUNKS: Final[dict[str, bytes]] = {
    "size of letters": b"zz\r\n{}\r\n0\r\n\r\n",
    "negative size": b"-2\r\n{}\r\n0\r\n\r\n",
    "endless size": b"f" * 20 + b"\r\n{}\r\n0\r\n\r\n",
    "size with prefix": b"0x2\r\n{}\r\n0\r\n\r\n",
    "no end of a chunk": b"2\r\n{}0\r\n\r\n",
}
CODINGS: Final[dict[str, bytes]] = {
    "gzip and chunks": b"Transfer-Encoding: gzip, chunked\r\n",
    "Gzip in a line of its own": b"Transfer-Encoding: Gzip\r\nTransfer-Encoding: chunked\r\n",
    "identity and chunks": b"Transfer-Encoding: identity, chunked\r\n",
}
METHODS: Final = (b"FOO", b"get", b"PRI", b"G\x00T", b"G" * 5000)
VERSIONS: Final = (b"1.2", b"9.9", b"1.", b"x")
PATHS: Final = (b"", b"streams", b"/streams/\xe4\xb8", b"/streams/a b", b"/metrics?x=\xff")

# What is wrong in the protocol itself is the server's to refuse: uvicorn's parser does, Daphne's is milder.
H7 = [Case("H7", f"{name} {door}", make(headers=lines), 400) for name, lines in MALFORMED.items()
      for door, make in (("read", get), ("start", post))]  # fmt: skip
H7 += [Case("H7", name, bare_post(lines), 400) for name, lines in LENGTHS.items()]
H7 += [
    Case("H7", name, bare_post(b"Transfer-Encoding: chunked\r\n", body), 400) for name, body in CHUNKS.items()
]
H7 += [
    Case("H7", name, bare_post(lines, b"%x\r\n%b\r\n0\r\n\r\n" % (len(BRIEF), BRIEF)), 400, "invalid_request")
    for name, lines in CODINGS.items()
]
H7 += [Case("H7", f"method {method[:8]!r}", get().replace(b"GET", method, 1), 400) for method in METHODS]
H7 += [Case("H7", f"version {version!r}", get(version=version), 400) for version in VERSIONS]
H7 += [Case("H7", f"path {path!r}", get(path), 400) for path in PATHS]

IGNORED: Final[dict[str, bytes]] = {
    "500 cookies": b"Cookie: " + b"; ".join(b"c%d=v" % number for number in range(500)) + b"\r\n",
    "500 lines of cookies": b"".join(b"Cookie: c%d=v\r\n" % number for number in range(500)),
    "broken quoting": b'Cookie: a="b; sessionid="x\\"; =; ;;; c\r\n',
    "session of another form": b'Cookie: csrftoken="\x85"; sessionid=../../x\r\n',
    "Range": b"Range: bytes=0-5\r\n",
    "If-None-Match": b"If-None-Match: *\r\n",
    "If-Modified-Since": b"If-Modified-Since: Tue, 01 Jan 2030 00:00:00 GMT\r\n",
    "If-Match": b'If-Match: "x"\r\n',
    "another method": b"X-HTTP-Method-Override: DELETE\r\n",
    "endless languages": b"Accept-Language: " + b"zh-" * 15_000 + b"\r\n",
    "endless codings": b"Accept-Encoding: " + b"gzip;q=0.1," * 5_000 + b"\r\n",
    # RFC 9110, 5.5, allows it; `str.splitlines` would take it for the end of a line.
    "next line": b"X-A: a\x85b\r\nUser-Agent: \x85x\r\n",
}

STRANGE_TO_DAPHNE: Final = (
    "500 lines of cookies",
    "session of another form",
    "endless languages",
    "endless codings",
    "next line",
)
"""More lines, longer ones and more characters than it takes."""

H8 = [Case("H8", name, post(lines), 200) for name, lines in IGNORED.items()]
H8 += [Case("H8", "HTTP 1.0", post(version=b"1.0"), 200)]
H8 += [Case("H8", "HTTP 1.0 without host", post(version=b"1.0", host=b""), 200)]

# Django drops fields with underscores; a server must not take them for those that it trusts.
H6 = [
    Case("H6", name.decode(), post(b"%b: root\r\n" % name), 200)
    for name in (b"X_Forwarded_User", b"X_Forwarded_For", b"Remote_User", b"HTTP_AUTHORIZATION")
]


@parametrised(H2 + H3)
def test_what_is_wrong_with_a_head_is_told(server: Server, case: Case) -> None:
    assert_refused(server, case)


@parametrised(H7)
def test_what_is_no_http_is_refused_by_the_server(server: Server, case: Case) -> None:
    if server.kind == "daphne":
        pytest.skip("Daphne's parser is milder; in front of it stands a proxy")
    assert_refused(server, case)


@parametrised(H6 + H8)
def test_what_says_nothing_here_changes_nothing(server: Server, case: Case) -> None:
    if server.kind == "daphne" and case.name in STRANGE_TO_DAPHNE:
        pytest.skip("Daphne refuses it before we see it")
    assert_served(server, case)


@pytest.mark.parametrize(
    "hidden",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"X: y\rTransfer-Encoding: chunked\r\n",
    ],
)
def test_h7_no_second_request_is_seen_in_the_body_of_another(server: Server, hidden: bytes) -> None:
    """Request smuggling: what two servers on the way count differently."""
    if server.kind == "daphne":
        pytest.skip("Daphne's parser is milder; in front of it stands a proxy")
    within = b"0\r\n\r\nGET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    assert told(converse(server, bare_post(hidden, within + BRIEF)))[0] == 400
