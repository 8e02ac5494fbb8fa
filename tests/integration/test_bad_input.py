"""The catalogue of bad input: a clear answer for each, soon, and nothing started."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from tests.support.client import STREAM, brief, exchange, generate, read_stream
from tests.support.routes import ABSENT, CALLS
from tests.support.servers import Server

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

JSON = {"Content-Type": "application/json"}
LIMIT = 1_048_576


@pytest.fixture
async def nothing_starts(http: httpx2.AsyncClient) -> AsyncIterator[None]:
    """Whatever the test sends starts no task, and all of it is answered within ten seconds."""
    before = (await http.get("/stats")).json()["routes"]
    async with asyncio.timeout(10):
        yield
    assert (await http.get("/stats")).json()["routes"] == before


unharmed = pytest.mark.usefixtures("nothing_starts")


async def refused(
    http: httpx2.AsyncClient,
    status: int,
    code: str,
    body: bytes | dict[str, Any],
    path: str = STREAM,
    **headers: str,
) -> dict[str, Any]:
    """Send `body`; it must be refused so. Returns the problem document."""
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    sent = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
    response = await http.post(path, content=content, headers=sent)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    return problem


def raw(members: str) -> bytes:
    """A valid brief whose JSON text has further members as they stand."""
    return b'{"user_id":"u","topic":"t","provider":"scripted",%b}' % members.encode()


# Rows J1 to J7, JSON

MALFORMED = {
    "empty": b"",
    "blanks": b"  \n",
    "something behind": b'{"a":1} x',
    "cut in half": json.dumps(brief()).encode()[:30],
    "control character": b'{"user_id":"u","topic":"a\x01b"}',
    "line break in a string": b'{"user_id":"u","topic":"a\nb"}',
    "NaN": b'{"user_id":"u","topic":"t","max_tokens":NaN}',
    "Infinity": b'{"user_id":"u","topic":"t","max_tokens":Infinity}',
    "-Infinity": b'{"user_id":"u","topic":"t","max_tokens":-Infinity}',
    "single quotes": b"{'user_id':'u'}",
    "trailing comma": b'{"user_id":"u",}',
}


@unharmed
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_j1_malformed_json(http: httpx2.AsyncClient, body: bytes) -> None:
    await refused(http, 400, "invalid_json", body)


DEEP = {
    "2000 lists": b"[" * 2000,
    "2000 closed lists": b"[" * 2000 + b"]" * 2000,
    "100000 lists": b"[" * 100_000,
    "100000 objects": b'{"a":' * 100_000,
    "deep in a member": raw('"options":' + "[" * 40 + "]" * 40),
}


@unharmed
@pytest.mark.parametrize("body", DEEP.values(), ids=DEEP)
async def test_j2_nested_too_deeply(http: httpx2.AsyncClient, body: bytes) -> None:
    await refused(http, 400, "too_deep", body)


NUMBERS = ["1e400", "-1e400", "1" * 5000, "0", "-1", "1000000000", "32769"]


@unharmed
@pytest.mark.parametrize("number", NUMBERS, ids=[number[:12] for number in NUMBERS])
async def test_j3_numbers_out_of_range(http: httpx2.AsyncClient, number: str) -> None:
    problem = await refused(http, 422, "out_of_range", raw(f'"max_tokens":{number}'))
    assert problem["errors"][0]["field"] == "max_tokens"


@unharmed
@pytest.mark.parametrize("members", ['"tokens":-1', '"interval":1e400', '"tokens":' + "9" * 30, '"burn":1e9'])
async def test_j3_numbers_out_of_range_in_options(http: httpx2.AsyncClient, members: str) -> None:
    problem = await refused(http, 422, "out_of_range", raw(f'"options":{{{members}}}'))
    assert problem["errors"][0]["field"].startswith("options.")


@unharmed
@pytest.mark.parametrize(
    "body", [b'{"user_id":"a","user_id":"b","topic":"t"}', raw('"options":{"tokens":1,"tokens":2}')]
)
async def test_j4_a_key_twice(http: httpx2.AsyncClient, body: bytes) -> None:
    await refused(http, 400, "duplicate_key", body)


NOT_UTF8 = {
    "latin-1": b'{"user_id":"u","topic":"caf\xe9"}',
    "overlong": b'{"user_id":"u","topic":"\xc0\xaf"}',
    "encoded surrogate": b'{"user_id":"u","topic":"\xed\xa0\x80"}',
    "utf-16": json.dumps(brief()).encode("utf-16"),
    "utf-16-le": json.dumps(brief()).encode("utf-16-le"),
    "utf-16-be": json.dumps(brief()).encode("utf-16-be"),
    "utf-32": json.dumps(brief()).encode("utf-32"),
    "gbk": '{"user_id":"u","topic":"咖啡"}'.encode("gbk"),
}


@unharmed
@pytest.mark.parametrize("body", NOT_UTF8.values(), ids=NOT_UTF8)
async def test_j5_not_utf_8(http: httpx2.AsyncClient, body: bytes) -> None:
    await refused(http, 400, "not_utf8", body)


SCRIPT = '"options":{"tokens":2,"interval":0}'
UNUSUAL = {
    "byte order mark": b"\xef\xbb\xbf" + raw(SCRIPT),
    "another order": b'{%b,"topic":"t","provider":"scripted","user_id":"u"}' % SCRIPT.encode(),
    "a thousand blanks": b" " * 1000 + raw(SCRIPT) + b" " * 1000,
    "blanks inside": b'{ "user_id" :\n"u",\t"topic":"t","provider":"scripted",\r\n%b}' % SCRIPT.encode(),
    "escaped keys": b'{"\\u0075ser_id":"u","topic":"t","provider":"scripted",%b}' % SCRIPT.encode(),
}


@pytest.mark.parametrize("body", UNUSUAL.values(), ids=UNUSUAL)
async def test_j6_unusual_but_sound_json(http: httpx2.AsyncClient, body: bytes) -> None:
    reading = await read_stream(http, "POST", STREAM, content=body, headers=JSON)
    assert reading.text == "0 1 "


@unharmed
@pytest.mark.parametrize("body", [b"[]", b'["a"]', b'"text"', b"5", b"null", b"true"])
async def test_j7_not_an_object(http: httpx2.AsyncClient, body: bytes) -> None:
    await refused(http, 400, "object_expected", body)


# Rows J8 to J11 and J19, values


@unharmed
@pytest.mark.parametrize("field", ["user_id", "topic"])
async def test_j8_a_missing_field_is_named(http: httpx2.AsyncClient, field: str) -> None:
    body = brief()
    del body[field]
    problem = await refused(http, 422, "missing_field", body)
    assert [error["field"] for error in problem["errors"]] == [field]


@unharmed
@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u200b", "\u3000", "\u2060\ufeff"])
@pytest.mark.parametrize("field", ["topic"])
async def test_j8_blank_text_is_refused(http: httpx2.AsyncClient, field: str, blank: str) -> None:
    problem = await refused(http, 422, "blank", brief(**{field: blank}))
    assert problem["errors"][0]["field"] == field


@unharmed
@pytest.mark.parametrize("blank", ["", " ", "\u200b"])
async def test_j8_a_blank_user_is_refused(http: httpx2.AsyncClient, blank: str) -> None:
    await refused(http, 422, "blank", brief(user_id=blank))


@unharmed
async def test_j8_every_wrong_field_is_named(http: httpx2.AsyncClient) -> None:
    problem = await refused(http, 422, "validation_failed", {"topic": "", "max_tokens": "5", "colour": "red"})
    assert {error["field"] for error in problem["errors"]} == {"user_id", "topic", "max_tokens", "colour"}
    assert all(error["message"] and error["code"] for error in problem["errors"])


WRONG: dict[str, list[Any]] = {
    "user_id": [5, {}, [], True, None, 1.5],
    "topic": [5, ["a"], None],
    "max_tokens": ["5", 5.5, True, []],
    "length": [[], {}, 100.5, True],
    "options": ["x", [], 5],
    "on_disconnect": [[], True],
}
WRONG_TYPES = [(field, value) for field, values in WRONG.items() for value in values]


@unharmed
@pytest.mark.parametrize(("field", "value"), WRONG_TYPES)
async def test_j9_nothing_is_coerced(http: httpx2.AsyncClient, field: str, value: Any) -> None:
    problem = await refused(http, 422, "wrong_type", brief(**{field: value}))
    assert problem["errors"][0]["field"] == field


@unharmed
@pytest.mark.parametrize("field", ["colour", "__proto__", "__class__", "", "User_id", "主题", "a" * 5000])
async def test_j9_an_unknown_field_is_named(http: httpx2.AsyncClient, field: str) -> None:
    problem = await refused(http, 422, "unknown_field", brief(**{field: 1}))
    assert problem["errors"][0]["field"] == field[:64]


@unharmed
@pytest.mark.parametrize("name", ["colour", "__proto__"])
async def test_j9_an_unknown_option_is_named(http: httpx2.AsyncClient, name: str) -> None:
    problem = await refused(http, 422, "unknown_field", brief(options={name: 1}))
    assert problem["errors"][0]["field"].startswith("options")


@unharmed
@pytest.mark.parametrize("length", ["长度", "４００", "400", "Medium", "", "短 "])
async def test_j10_an_unknown_choice_lists_the_choices(http: httpx2.AsyncClient, length: str) -> None:
    problem = await refused(http, 422, "not_a_choice", brief(length=length))
    assert problem["errors"][0]["field"] == "length"
    assert all(
        choice in problem["errors"][0]["message"]
        for choice in ("short", "medium", "long", "短", "中等", "长")
    )


@unharmed
@pytest.mark.parametrize(
    ("field", "value"),
    [("priority", "urgent"), ("language", "fr"), ("on_disconnect", "keep"), ("provider", "openai-2")],
)
async def test_j10_other_unknown_choices(http: httpx2.AsyncClient, field: str, value: str) -> None:
    problem = await refused(http, 422, "not_a_choice", brief(**{field: value, "options": {}}))
    assert problem["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"a\\ud800b"', "a\ufffdb"),
        ('"a\\udc00b"', "a\ufffdb"),
        ('"a\\u0000b"', "ab"),
        ('"\\ud83d\\ude00"', "😀"),
        ('"\\udc00\\ud800"', "\ufffd\ufffd"),
    ],
)
async def test_j11_unfit_characters_in_text(http: httpx2.AsyncClient, text: str, expected: str) -> None:
    body = raw(f'"options":{{"text":{text},"interval":0}}')
    reading = await read_stream(http, "POST", STREAM, content=body, headers=JSON)
    assert (reading.text, reading.end.name) == (expected, "complete")
    assert reading.end.data["content_length"] == len(expected)


@pytest.mark.parametrize("topic", ['"a\\ud800b"', '"a\\u0000b"'])
async def test_j11_unfit_characters_in_a_topic(http: httpx2.AsyncClient, topic: str) -> None:
    body = b'{"user_id":"u","provider":"offline","max_tokens":3,"topic":%b}' % topic.encode()
    reading = await read_stream(http, "POST", STREAM, content=body, headers=JSON)
    assert reading.end.name == "complete"


@unharmed
@pytest.mark.parametrize("user", ["a\\ud800b", "a\\u0000b", "a\\u001fb", "\\u0000"])
async def test_j11_unfit_characters_in_an_id(http: httpx2.AsyncClient, user: str) -> None:
    await refused(http, 400, "invalid_id", b'{"user_id":"%b","topic":"t"}' % user.encode())


@unharmed
@pytest.mark.parametrize("field", ["base_url", "api_key"])
async def test_j19_the_caller_chooses_no_address(http: httpx2.AsyncClient, field: str) -> None:
    problem = await refused(http, 422, "unknown_field", brief(**{field: "http://192.0.2.1"}))
    assert problem["errors"][0]["field"] == field


@unharmed
@pytest.mark.parametrize("model", ["../../x", "a/../b", "", "a b", "/etc/passwd", "模型", "x" * 200])
async def test_j19_a_model_is_a_name(http: httpx2.AsyncClient, model: str) -> None:
    response = await http.post(STREAM, json=brief(model=model))
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"] == "model"


@unharmed
async def test_j19_an_unknown_model_lists_none(http: httpx2.AsyncClient) -> None:
    problem = await refused(http, 404, "unknown_model", brief(model="gpt-99"))
    assert "errors" not in problem
    assert "scripted" not in json.dumps(problem)


@unharmed
async def test_options_are_for_the_scripted_provider(http: httpx2.AsyncClient) -> None:
    problem = await refused(http, 422, "unknown_field", brief(provider="offline", options={"tokens": 1}))
    assert problem["errors"][0]["field"] == "options"


@unharmed
@pytest.mark.parametrize("path", ["/content/generate", "/content/generate/async"])
@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[]", 400), (b'{"topic":"t"}', 422), (b'{"user_id":5,"topic":"t"}', 422)],
)
async def test_the_other_calls_refuse_likewise(
    http: httpx2.AsyncClient, path: str, body: bytes, status: int
) -> None:
    assert (await http.post(path, content=body, headers=JSON)).status_code == status


# Row J14, the size of bodies


@unharmed
@pytest.mark.parametrize("size", [LIMIT + 1, 3 * LIMIT])
async def test_j14_a_body_over_the_limit(http: httpx2.AsyncClient, size: int) -> None:
    problem = await refused(http, 413, "body_too_large", brief_of(size))
    assert problem["limit"] == LIMIT


def brief_of(size: int) -> bytes:
    """A brief of exactly `size` bytes."""
    frame = json.dumps(brief(topic="")).encode()
    return frame.replace(b'"topic": ""', b'"topic": "%b"' % (b"x" * (size - len(frame))))


@unharmed
async def test_j14_a_topic_within_the_limit_of_bodies(http: httpx2.AsyncClient) -> None:
    assert len(brief_of(LIMIT)) == LIMIT
    problem = await refused(http, 422, "too_long", brief_of(LIMIT))
    assert problem["errors"][0]["field"] == "topic"


HEAD = f"POST {STREAM} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@unharmed
@pytest.mark.every_variant
@pytest.mark.parametrize(("chunk", "count"), [(65_536, 48), (12, 100_000)])
async def test_j14_a_chunked_body_over_the_limit(server: Server, chunk: int, count: int) -> None:
    piece = b"%x\r\n%b\r\n" % (chunk, b" " * chunk)
    request = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + piece * count + b"0\r\n\r\n"
    response, body = await asyncio.to_thread(exchange, server, request)
    assert (response.status, json.loads(body)["code"]) == (413, "body_too_large")


@unharmed
@pytest.mark.every_variant
async def test_j14_a_declared_length_over_the_limit_is_refused_at_once(server: Server) -> None:
    if server.kind == "daphne":
        pytest.skip("Daphne collects the body before the application sees the request")
    request = f"{HEAD}Content-Length: 10000000000\r\n\r\n{{".encode()
    response, body = await asyncio.to_thread(exchange, server, request)
    assert (response.status, json.loads(body)["code"]) == (413, "body_too_large")
    assert response.getheader("connection") == "close"


@unharmed
@pytest.mark.every_variant
async def test_j14_a_declared_length_below_the_truth_cuts_the_body(server: Server) -> None:
    body = json.dumps(brief()).encode()
    request = f"{HEAD}Connection: close\r\nContent-Length: {len(body) - 5}\r\n\r\n".encode() + body
    response, answer = await asyncio.to_thread(exchange, server, request)
    assert (response.status, json.loads(answer)["code"]) == (400, "invalid_json")


@unharmed
@pytest.mark.every_variant
async def test_j14_a_sender_who_gives_up_starts_nothing(server: Server) -> None:
    for length in (0, 10, 500):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"{HEAD}Content-Length: 501\r\n\r\n".encode() + b" " * length)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        del reader


# Row J16, types of bodies


@pytest.fixture(scope="module")
def bomb() -> bytes:
    return gzip.compress(b" " * 50_000_000)


@unharmed
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {},
        {"Content-Type": ""},
        {"Content-Type": "application/json; charset=gbk"},
        {"Content-Type": "application/json-patch+json"},
        {"Content-Type": "application/jsonx"},
    ],
)
async def test_j16_another_type_of_body(http: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="topic"\r\n\r\nt\r\n--x--\r\n'
    response = await http.post(STREAM, content=form, headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


@unharmed
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])
async def test_j16_a_compressed_body(http: httpx2.AsyncClient, encoding: str, bomb: bytes) -> None:
    await refused(http, 415, "unsupported_media_type", bomb, content_encoding=encoding)


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=utf-8", 'application/json; charset="UTF-8"', "Application/JSON"],
)
async def test_j16_json_in_other_words(http: httpx2.AsyncClient, content_type: str) -> None:
    body = json.dumps(brief(options={"tokens": 1})).encode()
    reading = await read_stream(http, "POST", STREAM, content=body, headers={"Content-Type": content_type})
    assert reading.end.name == "complete"


# Row J17, methods


@unharmed
@pytest.mark.parametrize("method", ["GET", "PUT", "TRACE", "HEAD", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", [STREAM, "/content/generate", "/content/generate/async"])
async def test_j17_other_methods(http: httpx2.AsyncClient, path: str, method: str) -> None:
    response = await http.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


# Row H9, query strings

BAD_QUERIES = [
    "stream_id=a&stream_id=b",
    "timing=1&timing=1",
    "a=%00",
    "%00=a",
    "a=%E4%B8",
    "a=%FF",
    "&".join(f"a{k}=1" for k in range(101)),
]


@unharmed
@pytest.mark.parametrize("query", BAD_QUERIES, ids=[query[:20] for query in BAD_QUERIES])
@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_h9_bad_query_strings(http: httpx2.AsyncClient, method: str, path: str, query: str) -> None:
    response = await http.request(method, f"{path}?{query}", json=brief() if method == "POST" else None)
    assert (response.status_code, response.json()["code"]) == (400, "bad_query")


@unharmed
@pytest.mark.parametrize("purge", ["maybe", "2", ""])
async def test_a_bad_purge_is_refused(http: httpx2.AsyncClient, purge: str) -> None:
    response = await http.delete(f"/streams/{ABSENT}?purge={purge}")
    assert (response.status_code, response.json()["code"]) == (400, "bad_query")


# Anything


def _noise() -> Iterator[bytes]:
    dice = random.Random(7)
    sound = json.dumps(brief(options={"tokens": 1})).encode()
    for _ in range(40):
        broken = bytearray(sound)
        for _ in range(dice.randint(1, 4)):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        yield bytes(broken)


async def test_no_damaged_body_is_a_fault_of_ours(http: httpx2.AsyncClient) -> None:
    for body in _noise():
        response = await http.post(STREAM, content=body, headers=JSON)
        assert response.status_code in (200, 400, 404, 422), body
    assert (await generate(http, options={"tokens": 1})).end.name == "complete"
