"""The calls of the HTTP surface as a client sees them: streams, records, cancelling, owners, statistics."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import datetime
from typing import Any

import httpx2
import pytest

from tests.support.client import STREAM, brief, eventually, exchange, generate, read_stream, row
from tests.support.routes import ABSENT
from tests.support.servers import Server

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

RECORD = {
    "id",
    "state",
    "kind",
    "route",
    "reason",
    "created_at",
    "started_at",
    "finished_at",
    "last_event_id",
    "text",
    "error",
    "timing",
}

TIMING = {
    "route",
    "queued_ms",
    "first_content_ms",
    "total_ms",
    "coalesced_ratio",
    "blocked_ms",
    "status_messages",
    "resumes",
}

QUICK = {"tokens": 5, "interval": 0.005}
SLOW = {"tokens": 2000, "interval": 0.02}


# The stream


async def test_streaming_headers(http: httpx2.AsyncClient) -> None:
    headers = (await generate(http, options=QUICK)).response.headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-store, must-revalidate, no-transform"
    assert headers["pragma"] == "no-cache"
    assert headers["expires"] == "0"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["connection"] == "keep-alive"
    assert headers.get("content-encoding", "identity") == "identity"
    assert "content-length" not in headers


async def test_the_stream_names_its_task(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, options=QUICK)
    headers = reading.response.headers
    assert re.fullmatch(r"[0-9a-f]{32}", headers["x-stream-id"])
    assert headers["location"] == f"/streams/{headers['x-stream-id']}"
    assert headers["x-stream-route"] == "direct"
    assert {event.data["task_id"] for event in reading.events if "task_id" in event.data} == {
        headers["x-stream-id"]
    }


def raw_stream(server: Server, version: str = "1.1", **options: Any) -> tuple[Any, bytes]:
    body = json.dumps(brief(options=QUICK | options)).encode()
    head = f"POST {STREAM} HTTP/{version}\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return exchange(server, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def test_the_first_bytes_are_retry_and_the_route(server: Server) -> None:
    _, body = raw_stream(server)
    retry, status = body.split(b"\n\n")[:2]
    assert retry == b"retry: 2000"
    assert status.startswith(b"event: status\ndata: {")
    data = json.loads(status.split(b"\ndata: ")[1])
    assert (data["route"], data["reason"]) == ("direct", "worker_free")


def test_the_response_ends_right_after_the_terminal_event(server: Server) -> None:
    _, body = raw_stream(server)
    assert body.split(b"\n\n")[-2].startswith(b"id: ")
    assert b"\nevent: complete\n" in body.split(b"\n\n")[-2]
    assert body.endswith(b"}\n\n")


def test_no_keep_alive_header_below_http_1_1(server: Server) -> None:
    response, body = raw_stream(server, version="1.0")
    assert response.getheader("connection", "close") != "keep-alive"
    assert b"event: complete" in body


async def test_the_first_events_come_while_the_text_is_made(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, options={"tokens": 8, "interval": 0.1})
    assert reading.end.at - reading.named("content")[0].at > 0.4


@pytest.mark.parametrize("blocking", [False, True])
async def test_durable_ids_count_from_one(http: httpx2.AsyncClient, blocking: bool) -> None:
    reading = await generate(http, options={"tokens": 50, "interval": 0.005, "blocking": blocking})
    assert reading.ids == list(range(1, len(reading.ids) + 1))
    assert len(reading.ids) > 2


async def test_ephemeral_events_have_no_id(http: httpx2.AsyncClient) -> None:
    text = (await http.post(STREAM, json=brief(options=QUICK))).text
    frames = [frame for frame in text.split("\n\n") if "event: status\n" in frame]
    assert frames
    assert not any(frame.startswith("id:") for frame in frames)


@pytest.mark.parametrize(
    "options", [{}, {"fail_after": 2}, {"tokens": 0}, {"blocking": True}, {"fail_after": 0}]
)
async def test_one_terminal_event_and_it_is_last(http: httpx2.AsyncClient, options: dict[str, Any]) -> None:
    reading = await generate(http, options=QUICK | options)
    names = [event.name for event in reading.events]
    assert [name for name in names if name in ("complete", "error", "cancelled")] == names[-1:]


async def test_each_object_carries_its_type(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, options=QUICK)
    assert all(event.data["type"] == event.name for event in reading.events)


async def test_members_of_status(http: httpx2.AsyncClient) -> None:
    first = (await generate(http, options=QUICK)).events[0]
    members = {"type", "status", "message", "task_id", "route", "reason", "elapsed_seconds", "timestamp"}
    assert members <= set(first.data) <= members | {"position", "eta_seconds"}
    assert first.data["status"] == "started"
    assert datetime.fromisoformat(first.data["timestamp"]).tzinfo is not None


async def test_members_of_complete(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, options=QUICK)
    data = reading.end.data
    assert set(data) == {
        "type",
        "task_id",
        "finish_reason",
        "content_length",
        "chunks",
        "usage",
        "model",
        "cached",
        "timing",
    }
    assert set(data["timing"]) == TIMING
    assert (data["finish_reason"], data["model"], data["cached"]) == ("stop", "scripted", False)
    assert data["content_length"] == len(reading.text) == 10
    assert data["chunks"] == len(reading.named("content"))


async def test_timing_of_complete(http: httpx2.AsyncClient) -> None:
    timing = (await generate(http, options={"tokens": 5, "start_delay": 0.2, "interval": 0.01})).end.data[
        "timing"
    ]
    assert timing["route"] == "direct"
    # uvloop's timers count whole milliseconds, so one may ring a part of one early.
    assert 199 <= timing["first_content_ms"] <= timing["total_ms"]
    assert 0 <= timing["queued_ms"] < 200
    assert (timing["status_messages"], timing["resumes"]) == (1, 0)


async def test_max_tokens_ends_the_text_early(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, options=QUICK, max_tokens=3)
    assert reading.text == "0 1 2 "
    assert reading.end.data["finish_reason"] == "length"


async def test_members_of_error(http: httpx2.AsyncClient) -> None:
    end = (await generate(http, options=QUICK | {"fail_after": 2})).end
    assert end.name == "error"
    assert set(end.data) == {"type", "code", "message", "retryable"}
    assert (end.data["code"], end.data["retryable"]) == ("producer_failed", False)
    assert "scripted" not in end.data["message"]


@pytest.mark.parametrize("blocking", [False, True])
async def test_failing_streams_end_cleanly_twice_in_a_row(http: httpx2.AsyncClient, blocking: bool) -> None:
    for _ in range(2):
        reading = await generate(http, options=QUICK | {"fail_after": 2, "blocking": blocking})
        assert reading.text == "0 1 "
        assert reading.end.name == "error"
    assert (await generate(http, options=QUICK)).end.name == "complete"


# Records


async def test_the_record_has_exactly_its_members(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, options=QUICK)
    response = await http.get(reading.response.headers["location"])
    record = response.json()
    assert response.headers["content-type"] == "application/json"
    assert set(record) == RECORD
    assert set(record["timing"]) == TIMING
    assert record["id"] == reading.response.headers["x-stream-id"]
    assert (record["state"], record["kind"], record["route"]) == ("complete", "content", "direct")
    assert (record["reason"], record["error"]) == ("worker_free", None)
    assert record["text"] == reading.text
    assert record["last_event_id"] == reading.ids[-1]


async def test_times_of_the_record(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, options=QUICK)
    record = (await http.get(reading.response.headers["location"])).json()
    created, begun, finished = (
        datetime.fromisoformat(record[name]) for name in ("created_at", "started_at", "finished_at")
    )
    assert created <= begun <= finished
    assert created.tzinfo is not None


async def test_the_record_of_a_running_task(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, until=3, options=SLOW)
    record = (await http.get(reading.response.headers["location"])).json()
    assert set(record) == RECORD
    assert (record["state"], record["finished_at"], record["timing"]) == ("running", None, None)
    assert record["text"].startswith(reading.text)
    await http.delete(reading.response.headers["location"])


async def test_the_record_of_a_failed_task(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, options=QUICK | {"fail_after": 2})
    record = (await http.get(reading.response.headers["location"])).json()
    assert (record["state"], record["text"]) == ("error", "0 1 ")
    assert record["error"] == {name: reading.end.data[name] for name in ("code", "message", "retryable")}


# Cancelling


async def test_delete_answers_with_the_cancelled_record(http: httpx2.AsyncClient) -> None:
    place = (await generate(http, until=2, options=SLOW)).response.headers["location"]
    response = await http.delete(place)
    assert response.status_code == 200
    assert set(response.json()) == RECORD
    assert response.json()["state"] == "cancelled"


async def test_followers_get_cancelled_last(http: httpx2.AsyncClient) -> None:
    task_id = (await http.post("/content/generate/async", json=brief(options=SLOW))).json()["task_id"]
    follower = asyncio.create_task(read_stream(http, "GET", f"/streams/{task_id}/events"))
    await asyncio.sleep(0.3)
    await http.delete(f"/streams/{task_id}")
    end = (await follower).end
    assert end.name == "cancelled"
    assert end.data == {"type": "cancelled", "reason": "client"}


async def test_delete_is_idempotent(http: httpx2.AsyncClient) -> None:
    place = (await generate(http, until=2, options=SLOW)).response.headers["location"]
    first, second = await http.delete(place), await http.delete(place)
    assert second.status_code == 200
    assert second.json() == first.json() == (await http.get(place)).json()


async def test_delete_leaves_an_ended_task_as_it_is(http: httpx2.AsyncClient) -> None:
    place = (await generate(http, options=QUICK)).response.headers["location"]
    response = await http.delete(place)
    assert (response.status_code, response.json()["state"]) == (200, "complete")
    assert response.json()["text"] == "0 1 2 3 4 "


async def test_purge_deletes_brief_text_and_events(http: httpx2.AsyncClient, server: Server) -> None:
    reading = await generate(http, options=QUICK)
    place = reading.response.headers["location"]
    response = await http.delete(f"{place}?purge=true")
    assert (response.status_code, response.content) == (204, b"")
    record = (await http.get(place)).json()
    assert (record["text"], record["state"], record["last_event_id"]) == ("", "complete", reading.ids[-1])
    events = await http.get(f"{place}/events")
    assert (events.status_code, events.json()["code"]) == (410, "events_pruned")
    kept = row(server, "id", record["id"])
    assert kept is not None
    assert (kept["arguments"], kept["text"]) == (None, "")
    assert kept["purged_at"] is not None


async def test_purge_twice_is_no_error(http: httpx2.AsyncClient) -> None:
    place = (await generate(http, options=QUICK)).response.headers["location"]
    assert [(await http.delete(f"{place}?purge=true")).status_code for _ in range(2)] == [204, 204]


async def test_a_purged_task_still_stops_a_reader_at_its_end(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, options=QUICK)
    place = reading.response.headers["location"]
    await http.delete(f"{place}?purge=true")
    assert (await http.get(f"{place}/events?after={reading.ids[-1]}")).status_code == 204


# When the reader leaves


async def test_a_reader_who_leaves_cancels_where_the_brief_says_so(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, until=2, options=SLOW, on_disconnect="cancel")

    async def ended() -> Any:
        record = (await http.get(reading.response.headers["location"])).json()
        return record["state"] == "cancelled"

    assert await eventually(ended)
    resumed = await read_stream(http, "GET", f"{reading.response.headers['location']}/events")
    assert resumed.end.data == {"type": "cancelled", "reason": "disconnect"}


async def test_a_task_goes_on_unread_where_the_brief_says_so(http: httpx2.AsyncClient) -> None:
    script = {"tokens": 40, "interval": 0.01}
    reading = await generate(http, until=2, options=script, on_disconnect="continue")

    async def record() -> Any:
        found = (await http.get(reading.response.headers["location"])).json()
        return found if found["state"] != "running" else None

    found = await eventually(record)
    assert (found["state"], found["text"]) == ("complete", "".join(f"{k} " for k in range(40)))


async def test_grace_in_seconds_ends_a_task_that_nobody_reads(http: httpx2.AsyncClient) -> None:
    reading = await generate(http, until=2, options=SLOW, on_disconnect=0.2)

    async def ended() -> Any:
        return (await http.get(reading.response.headers["location"])).json()["state"] == "cancelled"

    assert await eventually(ended)


# Owners


async def test_signing_in_gives_a_session_that_works(
    http: httpx2.AsyncClient, people: dict[str, Any]
) -> None:
    page = await http.get("/admin/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert token is not None
    form = {"username": "root", "password": "correct horse", "csrfmiddlewaretoken": token[1]}
    headers = {"Cookie": "; ".join(cookies_of(page))}
    signed_in = await http.post("/admin/login/?next=/", data=form, headers=headers)
    assert signed_in.status_code == 302, signed_in.text
    cookies = "; ".join(cookies_of(signed_in))
    csrf = re.search(r"csrftoken=(\w+)", cookies)
    assert csrf is not None
    headers = {"Cookie": cookies, "X-CSRFToken": csrf[1]}
    answer = await http.post("/content/generate", json=brief(options=QUICK), headers=headers)
    assert answer.status_code == 200, answer.text
    listed = (await http.get("/streams", headers=headers)).json()["items"]
    assert [item["id"] for item in listed] == [answer.json()["task_id"]]


def cookies_of(response: httpx2.Response) -> list[str]:
    # By hand: the client's jar would not send secure cookies over plain HTTP.
    return [value.split(";")[0] for key, value in response.headers.multi_items() if key == "set-cookie"]


@pytest.mark.parametrize("path", [STREAM, "/content/generate", "/content/generate/async"])
async def test_a_session_without_csrf_token_may_not_post(
    http: httpx2.AsyncClient, people: dict[str, Any], path: str
) -> None:
    before = (await http.get("/stats")).json()["routes"]
    response = await http.post(path, json=brief(), headers={"Cookie": people["alice"]["Cookie"]})
    assert (response.status_code, response.json()["code"]) == (403, "csrf_failed")
    assert (await http.get("/stats")).json()["routes"] == before


async def test_a_session_with_a_wrong_csrf_token_may_not_post(
    http: httpx2.AsyncClient, people: dict[str, Any]
) -> None:
    headers = people["alice"] | {"X-CSRFToken": "d" * 32}
    assert (await http.post(STREAM, json=brief(), headers=headers)).status_code == 403


async def test_a_session_with_csrf_token_may_post(http: httpx2.AsyncClient, people: dict[str, Any]) -> None:
    reading = await read_stream(http, "POST", STREAM, json=brief(options=QUICK), headers=people["alice"])
    assert (reading.response.status_code, reading.text) == (200, "0 1 2 3 4 ")


async def test_a_session_without_csrf_token_may_not_delete(
    http: httpx2.AsyncClient, people: dict[str, Any]
) -> None:
    task_id = await owned(http, people["alice"])
    response = await http.delete(f"/streams/{task_id}", headers={"Cookie": people["alice"]["Cookie"]})
    assert (response.status_code, response.json()["code"]) == (403, "csrf_failed")


async def test_a_stranger_from_elsewhere_must_sign_in(http: httpx2.AsyncClient) -> None:
    response = await http.post(STREAM, json=brief(), headers={"X-Forwarded-For": "192.0.2.7"})
    assert (response.status_code, response.json()["code"]) == (401, "not_authenticated")
    assert "www-authenticate" in response.headers


async def test_an_expired_session_speaks_for_nobody(http: httpx2.AsyncClient, people: dict[str, Any]) -> None:
    task_id = await owned(http, people["alice"])
    headers = {"Cookie": "sessionid=" + "x" * 32}
    assert (await http.get(f"/streams/{task_id}", headers=headers)).status_code == 404


async def owned(http: httpx2.AsyncClient, headers: dict[str, str]) -> str:
    """A task of somebody's; its id."""
    response = await http.post("/content/generate/async", json=brief(options=QUICK), headers=headers)
    assert response.status_code == 202
    task_id: str = response.json()["task_id"]
    return task_id


FOREIGN_CALLS = [("GET", "/streams/{}"), ("GET", "/streams/{}/events"), ("DELETE", "/streams/{}")]
FOREIGN_CALLS.append(("DELETE", "/streams/{}?purge=true"))


@pytest.mark.parametrize(("method", "path"), FOREIGN_CALLS)
@pytest.mark.parametrize("who", ["bob", "operator", None])
async def test_a_foreign_stream_looks_absent(
    http: httpx2.AsyncClient, people: dict[str, Any], method: str, path: str, who: str | None
) -> None:
    task_id = await owned(http, people["alice"])
    headers = people[who] if who else {}
    foreign = await http.request(method, path.format(task_id), headers=headers)
    absent = await http.request(method, path.format(ABSENT), headers=headers)
    assert foreign.status_code == absent.status_code == 404
    assert foreign.content == absent.content
    assert foreign.json()["code"] == "not_found"
    assert (await http.get(f"/streams/{task_id}", headers=people["alice"])).status_code == 200


@pytest.mark.parametrize("task_id", ["x", ABSENT[:-1], ABSENT + "0", ABSENT.upper(), "０" * 32, "%00" * 32])
@pytest.mark.parametrize(("method", "path"), FOREIGN_CALLS[:3])
async def test_a_malformed_id_is_not_found(
    http: httpx2.AsyncClient, method: str, path: str, task_id: str
) -> None:
    response = await http.request(method, path.format(task_id))
    assert response.status_code == 404


async def test_an_owner_lists_their_own_tasks_newest_first(
    http: httpx2.AsyncClient, people: dict[str, Any]
) -> None:
    mine = [await owned(http, people["bob"]) for _ in range(3)]
    await owned(http, people["alice"])
    page = (await http.get("/streams", headers=people["bob"])).json()
    assert set(page) == {"items", "next"}
    assert [item["id"] for item in page["items"]][:3] == mine[::-1]
    assert all(set(item) == RECORD for item in page["items"])


async def test_pages_of_the_list(http: httpx2.AsyncClient, people: dict[str, Any]) -> None:
    for _ in range(5):
        await owned(http, people["operator"])
    whole = (await http.get("/streams?limit=100", headers=people["operator"])).json()
    assert whole["next"] is None
    ids, before = [], ""
    while before is not None:
        page = (
            await http.get(f"/streams?limit=2{before and f'&before={before}'}", headers=people["operator"])
        ).json()
        assert len(page["items"]) <= 2
        ids += [item["id"] for item in page["items"]]
        before = page["next"]
    assert ids == [item["id"] for item in whole["items"]]
    assert len(ids) >= 5


async def test_an_anonymous_caller_owns_nothing(http: httpx2.AsyncClient) -> None:
    await generate(http, options=QUICK)
    assert (await http.get("/streams")).json() == {"items": [], "next": None}


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=1&limit=2", "before=%00"])
async def test_a_bad_page_is_refused(http: httpx2.AsyncClient, people: dict[str, Any], query: str) -> None:
    response = await http.get(f"/streams?{query}", headers=people["alice"])
    assert (response.status_code, response.json()["code"]) == (400, "bad_query")


# Operators


async def test_shape_of_statistics(http: httpx2.AsyncClient) -> None:
    stats = (await http.get("/stats")).json()
    pool = {"running", "waiting", "max_workers", "queue_size", "oldest_wait_seconds"}
    assert set(stats["pools"]) == {"agent_pool", "kernel_pool"}
    assert all(pool <= set(each) for each in stats["pools"].values())
    assert set(stats["routes"]) == {"direct", "queued", "rejected"}


async def test_statistics_count_a_start(http: httpx2.AsyncClient) -> None:
    before = (await http.get("/stats")).json()["routes"]
    await generate(http, options=QUICK)
    assert (await http.get("/stats")).json()["routes"] == before | {"direct": before["direct"] + 1}


async def test_statistics_show_what_runs(http: httpx2.AsyncClient) -> None:
    place = (await generate(http, until=2, options=SLOW)).response.headers["location"]
    assert (await http.get("/stats")).json()["pools"]["agent_pool"]["running"] == 1
    await http.delete(place)

    async def idle() -> Any:
        return (await http.get("/stats")).json()["pools"]["agent_pool"]["running"] == 0

    assert await eventually(idle)


async def test_statistics_are_for_operators(http: httpx2.AsyncClient, people: dict[str, Any]) -> None:
    assert (await http.get("/stats", headers=people["operator"])).status_code == 200
    refused = await http.get("/stats", headers=people["alice"])
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")


async def test_health(http: httpx2.AsyncClient) -> None:
    response = await http.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert (await http.head("/healthz")).status_code == 200


# Methods and problems

METHODS = [
    (STREAM, "POST"),
    ("/content/generate", "POST"),
    ("/content/generate/async", "POST"),
    ("/streams", "GET"),
    (f"/streams/{ABSENT}", "GET, DELETE"),
    (f"/streams/{ABSENT}/events", "GET"),
    ("/stats", "GET"),
    ("/healthz", "GET, HEAD"),
    ("/readyz", "GET, HEAD"),
    ("/metrics", "GET"),
]


@pytest.mark.parametrize(("path", "allow"), METHODS)
async def test_options_tell_the_methods(http: httpx2.AsyncClient, path: str, allow: str) -> None:
    response = await http.options(path)
    assert (response.status_code, response.headers["allow"]) == (204, allow)


@pytest.mark.parametrize(("path", "allow"), METHODS)
async def test_other_methods_are_refused(http: httpx2.AsyncClient, path: str, allow: str) -> None:
    response = await http.request("PATCH", path, json={})
    assert (response.status_code, response.headers["allow"]) == (405, allow)
    assert response.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", f"/streams/{ABSENT}", 404),
        ("GET", f"/streams/{ABSENT}/events", 404),
        ("PUT", STREAM, 405),
        ("PUT", "/streams", 405),
        ("POST", STREAM, 415),
        ("GET", "/streams?limit=0", 400),
    ],
)
async def test_problem_documents(http: httpx2.AsyncClient, method: str, path: str, status: int) -> None:
    response = await http.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    problem = response.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:")
    assert problem["title"]
    assert re.fullmatch(r"[a-z_]+", problem["code"])
