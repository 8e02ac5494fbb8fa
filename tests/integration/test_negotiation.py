"""Framing by `Accept`, the options of a stream, encodings, and languages."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import httpx2
import pytest

from tests.support.client import STREAM, Received, brief, check_replay, generate, lines_of, read_stream

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log"), pytest.mark.every_variant]

QUICK = {"tokens": 5, "interval": 0.005}
NDJSON = {"Accept": "application/x-ndjson"}
CHINESE = re.compile(r"[\u4e00-\u9fff]")
DURABLE = {"content", "complete", "error", "cancelled"}


# Accept


@pytest.mark.parametrize(
    "accept",
    ["text/event-stream", "*/*", "text/*", "text/event-stream; charset=utf-8", "text/html, */*;q=0.1", ""],
)
async def test_event_stream_is_the_default(http: httpx2.AsyncClient, accept: str) -> None:
    response = await http.post(STREAM, json=brief(options=QUICK), headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    "accept",
    [
        "application/x-ndjson",
        "application/*",
        "text/event-stream;q=0, */*",
        "*/*;q=0.1, text/event-stream;q=0",
        "text/event-stream;q=0.5, application/x-ndjson",
        "application/x-ndjson; charset=utf-8",
    ],
)
async def test_ndjson_on_request(http: httpx2.AsyncClient, accept: str) -> None:
    response = await http.post(STREAM, json=brief(options=QUICK), headers={"Accept": accept})
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert lines_of(response.content)[-1]["type"] == "complete"


@pytest.mark.parametrize(
    "accept", ["application/json", "text/event-stream; charset=gbk", "image/*", "text/event-stream;q=0"]
)
async def test_no_other_format_for_a_new_stream(http: httpx2.AsyncClient, accept: str) -> None:
    before = (await http.get("/stats")).json()["routes"]
    response = await http.post(STREAM, json=brief(options=QUICK), headers={"Accept": accept})
    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
    assert (await http.get("/stats")).json()["routes"] == before


async def test_no_other_format_for_a_reader(http: httpx2.AsyncClient) -> None:
    place = (await generate(http, options=QUICK)).response.headers["location"]
    response = await http.get(f"{place}/events", headers={"Accept": "application/json"})
    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize("accept", ["application/json", "application/json; charset=utf-8", "*/*", ""])
async def test_whole_answers_are_json(http: httpx2.AsyncClient, accept: str) -> None:
    response = await http.post("/content/generate", json=brief(options=QUICK), headers={"Accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")


@pytest.mark.parametrize("path", ["/content/generate", "/content/generate/async"])
async def test_whole_answers_are_json_only(http: httpx2.AsyncClient, path: str) -> None:
    before = (await http.get("/stats")).json()["routes"]
    response = await http.post(path, json=brief(options=QUICK), headers={"Accept": "text/event-stream"})
    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
    assert (await http.get("/stats")).json()["routes"] == before


# NDJSON


async def test_ndjson_has_one_event_a_line(http: httpx2.AsyncClient) -> None:
    response = await http.post(STREAM, json=brief(options=QUICK), headers=NDJSON)
    assert response.content.endswith(b"}\n")
    events = [json.loads(line) for line in response.content[:-1].split(b"\n")]
    assert [event["type"] for event in events][:2] == ["status", "content"]
    assert events[-1]["type"] == "complete"
    assert "".join(event["delta"] for event in events if event["type"] == "content") == "0 1 2 3 4 "


async def test_ndjson_carries_ids_as_members_of_durable_events(http: httpx2.AsyncClient) -> None:
    events = lines_of((await http.post(STREAM, json=brief(options=QUICK), headers=NDJSON)).content)
    ids = [event["id"] for event in events if event["type"] in DURABLE]
    assert ids == list(range(1, len(ids) + 1))
    assert not any("id" in event for event in events if event["type"] not in DURABLE)


async def test_ndjson_has_the_streaming_headers(http: httpx2.AsyncClient) -> None:
    headers = (await http.post(STREAM, json=brief(options=QUICK), headers=NDJSON)).headers
    assert headers["cache-control"] == "no-cache, no-store, must-revalidate, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert headers["location"] == f"/streams/{headers['x-stream-id']}"


async def test_ndjson_resumes(http: httpx2.AsyncClient) -> None:
    sse = await generate(http, options=QUICK | {"tokens": 40})
    place = sse.response.headers["location"]
    events = lines_of((await http.get(f"{place}/events?after=2", headers=NDJSON)).content)
    durable = [Received(each["type"], each, str(each.pop("id")), 0) for each in events if "id" in each]
    check_replay(durable, sse.durable, 2)


async def test_ndjson_and_sse_carry_the_same_events(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, options=QUICK)
    place = reading.response.headers["location"]
    again = await read_stream(http, "GET", f"{place}/events")
    events = lines_of((await http.get(f"{place}/events", headers=NDJSON)).content)
    assert [{"id": int(event.id), **event.data} for event in again.durable] == [
        event for event in events if "id" in event
    ]


# Options


@pytest.mark.parametrize("headers", [{}, NDJSON])
async def test_timing_puts_sent_at_into_every_event(
    http: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    response = await http.post(f"{STREAM}?timing=1", json=brief(options=QUICK), headers=headers)
    lines = response.content.split(b"\n")
    data = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith((b"data: ", b"{"))]
    assert {"status", "content", "complete"} == {event["type"] for event in data}
    moments = [event["sent_at"] for event in data]
    assert all(isinstance(moment, float) for moment in moments)
    assert moments == sorted(moments)
    assert abs(time.time() - moments[0]) < 60


async def test_no_sent_at_without_timing(http: httpx2.AsyncClient) -> None:
    response = await http.post(f"{STREAM}?timing=0", json=brief(options=QUICK))
    assert "sent_at" not in response.text


async def test_timing_on_a_replay(http: httpx2.AsyncClient) -> None:
    place = (await generate(http, options=QUICK)).response.headers["location"]
    reading = await read_stream(http, "GET", f"{place}/events?timing=1")
    assert reading.text == "0 1 2 3 4 "
    assert all("sent_at" in event.data for event in reading.events)


@pytest.mark.parametrize("query", ["timing=2", "timing=", "timing=true", "heartbeat=yes", "heartbeat="])
async def test_an_unknown_choice_is_refused(http: httpx2.AsyncClient, query: str) -> None:
    response = await http.post(f"{STREAM}?{query}", json=brief(options=QUICK))
    assert (response.status_code, response.json()["code"]) == (400, "bad_query")


# Encodings


@pytest.mark.parametrize("accepted", ["gzip, br, zstd, *;q=0", "gzip", "*", "identity;q=0, gzip"])
async def test_no_or_one_valid_encoding(http: httpx2.AsyncClient, accepted: str) -> None:
    headers = {"Accept-Encoding": accepted}
    reading = await read_stream(http, "POST", STREAM, json=brief(options=QUICK), headers=headers)
    assert reading.response.headers.get("content-encoding", "identity") == "identity"
    assert reading.text == "0 1 2 3 4 "


# Languages


async def first_message(http: httpx2.AsyncClient, accept_language: str | None, **members: Any) -> str:
    headers = {} if accept_language is None else {"Accept-Language": accept_language}
    reading = await read_stream(http, "POST", STREAM, json=brief(options=QUICK, **members), headers=headers)
    message: str = reading.events[0].data["message"]
    return message


@pytest.mark.parametrize(
    "language", ["zh", "zh-CN", "zh-Hans", "zh-CN,zh;q=0.9,en;q=0.8", "fr, zh;q=0.5, en;q=0.1"]
)
async def test_status_speaks_chinese(http: httpx2.AsyncClient, language: str) -> None:
    message = await first_message(http, language)
    assert CHINESE.search(message)
    assert message != await first_message(http, "en")


@pytest.mark.parametrize("language", ["en", "en-GB", "en;q=0.9, zh;q=0.1"])
async def test_status_speaks_english_even_about_a_chinese_brief(
    http: httpx2.AsyncClient, language: str
) -> None:
    message = await first_message(http, language, topic="新开的咖啡店")
    assert not CHINESE.search(message)
    assert message


@pytest.mark.parametrize("language", [None, "fr"])
async def test_else_status_speaks_the_language_of_the_brief(
    http: httpx2.AsyncClient, language: str | None
) -> None:
    assert CHINESE.search(await first_message(http, language, topic="新开的咖啡店"))
    assert CHINESE.search(await first_message(http, language, topic="a café", language="zh"))
    assert not CHINESE.search(await first_message(http, language, topic="a café"))


async def test_the_error_event_speaks_the_language_of_the_call(http: httpx2.AsyncClient) -> None:
    for language, chinese in (("zh", True), ("en", False)):
        headers = {"Accept-Language": language}
        body = brief(options=QUICK | {"fail_after": 1})
        end = (await read_stream(http, "POST", STREAM, json=body, headers=headers)).end
        assert bool(CHINESE.search(end.data["message"])) is chinese


async def test_problems_speak_the_language_of_the_call(http: httpx2.AsyncClient) -> None:
    titles = {}
    for language in ("zh-CN", "en"):
        response = await http.post(STREAM, content=b"{", headers={"Accept-Language": language})
        titles[language] = response.json()["title"]
    assert CHINESE.search(titles["zh-CN"])
    assert not CHINESE.search(titles["en"])


async def test_status_speaks_the_language_of_its_reader(http: httpx2.AsyncClient) -> None:
    task = await http.post("/content/generate/async", json=brief(options={"tokens": 100}))
    place = task.headers["location"]
    headers = {"Accept-Language": "zh"}
    reading = await read_stream(http, "GET", f"{place}/events", until=1, headers=headers)
    await http.delete(place)
    assert CHINESE.search(reading.events[0].data["message"])
