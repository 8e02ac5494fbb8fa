"""Following and resuming: cursors, many readers, the end of a stream, bad ids."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from tests.support.client import Reading, brief, check_replay, exchange, generate, read_stream
from tests.support.servers import Server

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

SCRIPT = {"tokens": 60, "interval": 0.002}
TEXT = "".join(f"{k} " for k in range(60))


async def ended(http: httpx2.AsyncClient) -> tuple[str, Reading]:
    """A stream that was read to its end, and where its events are."""
    reading = await generate(http, options=SCRIPT)
    return f"{reading.response.headers['location']}/events", reading


async def running(http: httpx2.AsyncClient, **script: Any) -> str:
    """A task that runs for a while, and where its events are."""
    response = await http.post(
        "/content/generate/async", json=brief(options=SCRIPT | {"interval": 0.01} | script)
    )
    return f"{response.headers['location']}/events"


def text_until(reading: Reading, last: int) -> str:
    return "".join(event.data["delta"] for event in reading.named("content") if int(event.id) <= last)


# Cursors


async def test_every_cursor_replays_exactly_the_rest(http: httpx2.AsyncClient) -> None:
    place, reading = await ended(http)
    assert reading.ids == list(range(1, len(reading.ids) + 1))
    for after in range(len(reading.ids)):
        resumed = await read_stream(http, "GET", place, headers={"Last-Event-ID": str(after)})
        check_replay(resumed.durable, reading.durable, after)
        assert len(resumed.ids) <= 2, "the text in one event, and the end"


@pytest.mark.parametrize("kind", ["header", "query"])
async def test_header_and_parameter_are_cursors(http: httpx2.AsyncClient, kind: str) -> None:
    place, reading = await ended(http)
    headers, query = ({"Last-Event-ID": "2"}, "") if kind == "header" else ({}, "?after=2")
    resumed = await read_stream(http, "GET", place + query, headers=headers)
    check_replay(resumed.durable, reading.durable, 2)


async def test_the_header_beats_the_parameter(http: httpx2.AsyncClient) -> None:
    place, reading = await ended(http)
    resumed = await read_stream(http, "GET", f"{place}?after=1", headers={"Last-Event-ID": "4"})
    check_replay(resumed.durable, reading.durable, 4)


async def test_an_empty_header_leaves_it_to_the_parameter(http: httpx2.AsyncClient) -> None:
    place, reading = await ended(http)
    resumed = await read_stream(http, "GET", f"{place}?after=3", headers={"Last-Event-ID": ""})
    check_replay(resumed.durable, reading.durable, 3)


@pytest.mark.parametrize(("headers", "query"), [({}, ""), ({"Last-Event-ID": ""}, ""), ({}, "?after=")])
async def test_without_a_cursor_from_the_start(
    http: httpx2.AsyncClient, headers: dict[str, str], query: str
) -> None:
    place, reading = await ended(http)
    resumed = await read_stream(http, "GET", place + query, headers=headers)
    check_replay(resumed.durable, reading.durable, 0)


async def test_a_new_stream_ignores_a_cursor(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, options={"tokens": 3, "interval": 0})
    assert reading.ids[0] == 1


# Live


async def test_dropping_and_resuming_loses_and_repeats_nothing(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, until=3, options=SCRIPT | {"interval": 0.01})
    place = f"{reading.response.headers['location']}/events"
    text, last = reading.text, reading.ids[-1]
    while True:
        resumed = await read_stream(http, "GET", place, until=3, headers={"Last-Event-ID": str(last)})
        assert resumed.ids[0] > last
        text, last = text + resumed.text, resumed.ids[-1]
        if resumed.end.name == "complete":
            break
    assert text == TEXT


async def test_a_running_task_is_followed_live(http: httpx2.AsyncClient) -> None:
    place = await running(http)
    reading = await read_stream(http, "GET", place)
    assert (reading.text, reading.end.name) == (TEXT, "complete")
    content = reading.named("content")
    assert content[-1].at - content[0].at > 0.2


async def test_a_live_reader_begins_with_retry_and_status(http: httpx2.AsyncClient) -> None:
    reading = await read_stream(http, "GET", await running(http), until=2)
    assert (reading.retry, reading.events[0].name) == (2000, "status")
    assert reading.events[0].data["route"] == "direct"


async def test_a_reader_gets_the_streaming_headers(http: httpx2.AsyncClient) -> None:
    place, reading = await ended(http)
    resumed = await read_stream(http, "GET", place)
    names = (
        "content-type",
        "cache-control",
        "x-accel-buffering",
        "x-stream-id",
        "x-stream-route",
        "location",
    )
    for name in names:
        assert resumed.response.headers[name] == reading.response.headers[name]


async def test_readers_have_cursors_of_their_own(http: httpx2.AsyncClient) -> None:
    first = await generate(http, until=8, options=SCRIPT | {"interval": 0.01})
    place = f"{first.response.headers['location']}/events"
    cursors = [0, 1, 3, first.ids[-1]]
    readings = await asyncio.gather(
        *(read_stream(http, "GET", f"{place}?after={after}") for after in cursors)
    )
    for after, reading in zip(cursors, readings, strict=True):
        assert reading.ids[0] > after
        assert reading.text == (TEXT if after == 0 else TEXT[len(text_until(first, after)) :])


async def test_a_hundred_readers_at_once_run_the_producer_once(http: httpx2.AsyncClient) -> None:
    before = (await http.get("/stats")).json()["routes"]
    place = await running(http)
    readings = await asyncio.gather(*(read_stream(http, "GET", place) for _ in range(100)))
    assert {reading.text for reading in readings} == {TEXT}
    assert {reading.end.name for reading in readings} == {"complete"}
    assert (await http.get("/stats")).json()["routes"] == before | {"direct": before["direct"] + 1}


async def test_resumes_are_counted(http: httpx2.AsyncClient) -> None:
    place = await running(http)
    await read_stream(http, "GET", place, until=2)
    await read_stream(http, "GET", place)
    record = (await http.get(place.removesuffix("/events"))).json()
    assert record["timing"]["resumes"] == 2


async def test_a_slow_start_is_followed_from_before_the_first_event(http: httpx2.AsyncClient) -> None:
    place = await running(http, start_delay=0.3, tokens=3)
    assert (await read_stream(http, "GET", place)).text == "0 1 2 "


# The end


async def test_at_the_terminal_id_there_is_nothing_more(http: httpx2.AsyncClient) -> None:
    place, reading = await ended(http)
    response = await http.get(place, headers={"Last-Event-ID": str(reading.ids[-1])})
    assert (response.status_code, response.content) == (204, b"")


async def test_before_the_terminal_id_there_is_just_the_terminal_event(http: httpx2.AsyncClient) -> None:
    place, reading = await ended(http)
    resumed = await read_stream(http, "GET", f"{place}?after={reading.ids[-2]}")
    assert resumed.ids == reading.ids[-1:]
    check_replay(resumed.durable, reading.durable, reading.ids[-2])


@pytest.mark.parametrize("distance", [1, 1000])
async def test_ahead_of_an_ended_stream(http: httpx2.AsyncClient, distance: int) -> None:
    place, reading = await ended(http)
    response = await http.get(f"{place}?after={reading.ids[-1] + distance}")
    assert (response.status_code, response.json()["code"]) == (409, "ahead_of_stream")


async def test_ahead_of_a_running_stream(http: httpx2.AsyncClient) -> None:
    place = await running(http, tokens=2000)
    response = await http.get(f"{place}?after={2**63 - 1}")
    assert (response.status_code, response.json()["code"]) == (409, "ahead_of_stream")
    await http.delete(place.removesuffix("/events"))


# Bad ids

BAD_IDS = [
    "abc",
    "1-",
    "1-1",
    "-",
    "+",
    "+1",
    "$",
    "*",
    "0x1",
    "１",
    "-1",
    "1.0",
    "1e3",
    "01",
    "1_0",
    str(2**64),
    str(2**63),
    "九",
    "1,2",
    "1 2",
]


@pytest.mark.parametrize("bad", BAD_IDS)
async def test_a_bad_header_is_refused(http: httpx2.AsyncClient, bad: str) -> None:
    place, _ = await quick(http)
    response = await http.get(place, headers=[(b"Last-Event-ID", bad.encode())])
    assert (response.status_code, response.json()["code"]) == (400, "bad_event_id")


@pytest.mark.parametrize("bad", BAD_IDS)
async def test_a_bad_parameter_is_refused(http: httpx2.AsyncClient, bad: str) -> None:
    place, _ = await quick(http)
    response = await http.get(place, params={"after": bad})
    assert (response.status_code, response.json()["code"]) == (400, "bad_event_id")


async def quick(http: httpx2.AsyncClient) -> tuple[str, Reading]:
    reading = await generate(http, options={"tokens": 1, "interval": 0})
    return f"{reading.response.headers['location']}/events", reading


async def test_two_headers_are_refused(http: httpx2.AsyncClient) -> None:
    place, _ = await quick(http)
    response = await http.get(place, headers=[("Last-Event-ID", "1"), ("Last-Event-ID", "2")])
    assert (response.status_code, response.json()["code"]) == (400, "bad_event_id")


async def test_a_bad_header_is_refused_even_with_a_good_parameter(http: httpx2.AsyncClient) -> None:
    place, _ = await quick(http)
    response = await http.get(f"{place}?after=1", headers={"Last-Event-ID": "abc"})
    assert (response.status_code, response.json()["code"]) == (400, "bad_event_id")


LONG_IDS = [("header", 10_000), ("query", 10_000), ("header", 70_000), ("query", 60_000)]


@pytest.mark.every_variant
@pytest.mark.parametrize(("where", "digits"), LONG_IDS)
async def test_an_endless_id_is_refused(
    http: httpx2.AsyncClient, server: Server, where: str, digits: int
) -> None:
    if server.kind == "daphne" and digits > 10_000:
        pytest.skip("Daphne closes the connection itself at a line of 16 KiB")
    place, _ = await quick(http)
    header = f"Last-Event-ID: {'1' * digits}\r\n" if where == "header" else ""
    query = f"?after={'1' * digits}" if where == "query" else ""
    request = f"GET {place}{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\n".encode()
    response, body = await asyncio.to_thread(exchange, server, request)
    assert (response.status, json.loads(body)["code"]) == (400, "bad_event_id")


async def test_bad_ids_start_no_reader(http: httpx2.AsyncClient) -> None:
    place, _ = await quick(http)
    for bad in BAD_IDS:
        await http.get(place, params={"after": bad})
    assert (await http.get("/stats")).json()["followers"] == 0
