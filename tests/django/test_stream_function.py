"""`stream`: three lines make any iterator an event stream, in somebody else's project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from django.db import OperationalError
from django.test import override_settings

from streaming import service as service_module
from streaming.models import StreamTask
from streaming.service import close_service, service
from streaming.storage import records, rows
from tests.unit.runtime.fakes import in_memory

from .asgi_calls import Call

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _project() -> Iterator[None]:
    with override_settings(
        ROOT_URLCONF="tests.django.urls", ALLOW_ANONYMOUS="loopback", ALLOWED_HOSTS=["testserver"]
    ):
        yield


@pytest.fixture(autouse=True)
async def _service() -> Any:
    yield
    await close_service(0)


def _events(body: bytes) -> list[dict[str, Any]]:
    lines = body.decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def _text(body: bytes) -> str:
    return "".join(event["delta"] for event in _events(body) if event["type"] == "content")


async def test_the_three_lines_of_the_readme_are_enough():
    call = await Call("/summarise").end()
    assert call.status == 200
    assert call.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert call.headers["x-stream-route"] == "direct"
    assert len(call.headers["x-stream-id"]) == 32
    assert _text(call.body) == "abc"
    assert [event["type"] for event in _events(call.body)].count("complete") == 1
    record = json.loads((await Call(f"/streams/{call.headers['x-stream-id']}").end()).body)
    assert (record["kind"], record["text"], record["state"]) == ("summary", "abc", "complete")


@pytest.mark.parametrize("name", ["async", "sync", "list"])
async def test_any_iterator_will_do(name: str):
    """Warnings are errors here: Django warns when a sync iterator reaches a response."""
    call = await Call(f"/source/{name}").end()
    assert _text(call.body) == "abc"
    assert _events(call.body)[-1]["type"] == "complete"


@pytest.mark.parametrize("name", ["own_id", "blocking_own_id"])
async def test_a_producer_knows_its_stream(name: str):
    call = await Call(f"/source/{name}").end()
    assert _text(call.body) == call.headers["x-stream-id"]


@pytest.mark.parametrize("name", ["number", "text", "numbers"])
async def test_what_is_no_iterator_of_parts_is_a_failed_task(name: str):
    call = await Call(f"/source/{name}").end()
    assert call.status == 200, "found out when it is iterated, so after the first byte"
    end = _events(call.body)[-1]
    assert (end["type"], end["code"]) == ("error", "producer_failed")
    assert "TypeError" not in call.body.decode()


async def test_a_misspelt_option_is_told_to_the_log_and_not_to_the_client():
    call = await Call("/wrong-option").end()
    assert call.status == 500
    assert json.loads(call.body)["code"] == "server_error"
    assert b"knid" not in call.body


@override_settings(THREAD_CONFIG={"agent_pool": {"max_workers": 1, "queue_size": 0}})
async def test_a_full_pool_refuses_with_a_problem():
    held = Call("/forever")
    await held.saw(b"event: content")
    refused = await Call("/summarise").end()
    assert refused.status == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) >= 1
    held.leave()
    await held.end()


@override_settings(ALLOW_ANONYMOUS="false")
async def test_a_stranger_is_refused_before_anything_starts():
    call = await Call("/summarise").end()
    assert call.status == 401
    assert service().statistics()["routes"] == {"direct": 0, "queued": 0, "rejected": 0}


async def test_a_stream_can_be_followed_again_and_ends_an_event_source():
    call = await Call("/summarise").end()
    path = f"/streams/{call.headers['x-stream-id']}/events"
    again = await Call(path).end()
    assert _text(again.body) == "abc"
    last = _last_id(call.body)
    after_end = await Call(path, headers={"last-event-id": str(last)}).end()
    assert (after_end.status, after_end.body) == (204, b"")
    ahead = await Call(path, headers={"last-event-id": str(last + 1)}).end()
    assert ahead.status == 409


async def test_memory_and_database_describe_a_task_alike():
    for path in ("/summarise", "/source/number", "/source/sync"):
        first = await Call(path).end()
        task_id, whole = first.headers["x-stream-id"], first.body
        from_memory = json.loads((await Call(f"/streams/{task_id}").end()).body)
        here = service()
        assert await here.recorder.flush().wait(20)
        here.supervisor.tasks.forget(in_memory(here.supervisor, task_id))
        assert await StreamTask.objects.filter(pk=task_id).aexists()
        from_database = json.loads((await Call(f"/streams/{task_id}").end()).body)
        for record in (from_database, from_memory):
            # Counted on while the last bytes are sent; the row has what was so when the task ended.
            for name in ("status_messages", "blocked_ms", "resumes"):
                del record["timing"][name]
        assert from_database == from_memory
        again = await Call(f"/streams/{task_id}/events").end()
        assert _text(again.body) == _text(whole)
        assert _durable(again.body)[-1] == _durable(whole)[-1]
        here.supervisor.tasks.forget(in_memory(here.supervisor, task_id))
        last = {"last-event-id": str(from_memory["last_event_id"])}
        assert (await Call(f"/streams/{task_id}/events", headers=last).end()).status == 204


def _durable(body: bytes) -> list[bytes]:
    return [frame for frame in body.split(b"\n\n") if frame.startswith(b"id: ")]


def _last_id(body: bytes) -> int:
    return max(int(line[4:]) for line in body.decode().splitlines() if line.startswith("id: "))


async def test_an_end_that_cannot_be_told_is_an_error_and_leaves_nothing_behind():
    call = await Call("/source/untellable").end()
    assert _text(call.body) == "a"
    assert (_events(call.body)[-1]["type"], _events(call.body)[-1]["code"]) == ("error", "producer_failed")
    assert service().statistics()["tasks"]["active"] == 0


async def test_arguments_that_no_record_can_keep_start_nothing():
    call = await Call("/unkeepable").end()
    assert call.status == 500
    assert service().statistics()["routes"] == {"direct": 0, "queued": 0, "rejected": 0}


async def test_a_purge_that_cannot_be_durable_is_refused_and_the_text_is_told_to_be_there():
    """A record that is still to be written would bring the text back after the purge."""
    away = mock.patch.object(rows, "write_tasks", side_effect=OperationalError("away"))
    patience = mock.patch.object(service_module, "RECORD_PATIENCE", 0.2)
    quick = mock.patch.object(records, "RETRY_PAUSE", 0.01)
    with quick, patience, away:
        another = await Call("/summarise").end()
        place = f"/streams/{another.headers['x-stream-id']}"
        refused = await Call(f"{place}?purge=true", method="DELETE").end()
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    assert (await Call(f"{place}?purge=true", method="DELETE").end()).status == 204
    row = await StreamTask.objects.aget(pk=another.headers["x-stream-id"])
    assert (row.text, row.arguments, row.purged_at is None) == ("", None, False)
