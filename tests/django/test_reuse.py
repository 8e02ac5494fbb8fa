"""The cache: who shares work with whom, for how long, and what is never served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError
from django.test import override_settings
from django.utils import timezone

from streaming import producers
from streaming import service as service_module
from streaming.access import Caller
from streaming.core.errors import Draining, UpstreamTimeout
from streaming.core.events import Finish
from streaming.core.framing import SSE
from streaming.idempotency import call_key
from streaming.models import Segment, StreamTask
from streaming.reuse import fingerprint
from streaming.runtime.follower import FollowOptions
from streaming.runtime.task import CancelReason, Task, TaskSpec
from streaming.service import Service, close_service, service
from tests.unit.runtime.fakes import spec

from .asgi_calls import Call

pytestmark = pytest.mark.django_db(transaction=True)

CALLER = Caller(None, "127.0.0.1")
OPTIONS = FollowOptions(framing=SSE)
PATIENCE = 20.0


@pytest.fixture(autouse=True)
def _project() -> Iterator[None]:
    with override_settings(
        ROOT_URLCONF="tests.django.urls",
        ALLOW_ANONYMOUS="loopback",
        ALLOWED_HOSTS=["testserver"],
        CACHE_CONFIG={"scope": "owner"},
    ):
        yield


@pytest.fixture(autouse=True)
async def _service() -> Any:
    yield
    await close_service(0)


class Work:
    """A producer that counts its calls and waits for `gate` after its first word."""

    def __init__(self, *ends: Any) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self.ends = ends

    def spec(self, name: str = "work", **changes: Any) -> TaskSpec:
        print_of_it = fingerprint(CALLER, "", "test", {"name": name})
        return spec(self._open, **{"fingerprint": print_of_it} | changes)

    def _open(self) -> AsyncIterator[Any]:
        self.calls += 1
        return self._parts()

    async def _parts(self) -> AsyncIterator[Any]:
        yield "one "
        await self.gate.wait()
        yield "two"
        for end in self.ends:
            if isinstance(end, Exception):
                raise end
            yield end


async def _begin(here: Service, work_spec: TaskSpec) -> Task:
    follower = await here.open(work_spec, Caller(None, ""), OPTIONS)
    follower.close()
    return follower.task


def _told(task: Task) -> Any:
    """Its terminal event."""
    return task.final


async def _end(task: Task) -> Task:
    await asyncio.wait([task.ended], timeout=PATIENCE)
    assert task.state.terminal
    return task


async def _whole(here: Service, work_spec: TaskSpec) -> tuple[Task, str]:
    return await here.complete(work_spec, Caller(None, ""))


# What is shared


async def test_the_same_work_at_once_is_done_once():
    here, work = service(), Work()
    tasks = await asyncio.gather(*(_begin(here, work.spec()) for _ in range(5)))
    assert len({task.id for task in tasks}) == 5
    assert sorted(task.reason for task in tasks) == ["cached"] * 4 + ["worker_free"]
    pools: Any = here.statistics()["pools"]
    assert pools["agent_pool"]["running"] == 1
    work.gate.set()
    for task in tasks:
        await _end(task)
    assert work.calls == 1
    assert await here.recorder.flush().wait(PATIENCE)
    rows = [row async for row in StreamTask.objects.all()]
    assert {row.text for row in rows} == {"one two"}
    assert sum(row.fingerprint != "" for row in rows) == 1, "a copy is never a source"


async def test_what_has_ended_is_served_again():
    here, work = service(), Work(Finish(model="m"))
    work.gate.set()
    first, text = await _whole(here, work.spec())
    again, same = await _whole(here, work.spec())
    assert (text, same, work.calls) == ("one two", "one two", 1)
    assert (_told(first).cached, _told(again).cached, _told(again).model) == (False, True, "m")


async def test_other_work_is_done():
    here, work = service(), Work()
    work.gate.set()
    await _whole(here, work.spec())
    await _whole(here, work.spec("other"))
    await _whole(here, work.spec(fingerprint=""))
    assert work.calls == 3


async def test_a_copy_has_a_record_and_events_that_outlive_memory():
    here, work = service(), Work()
    work.gate.set()
    await _whole(here, work.spec())
    copy, _ = await _whole(here, work.spec())
    assert await here.recorder.flush().wait(PATIENCE)
    here.supervisor.tasks.forget(copy)
    follower = await here.follow(copy.id, CALLER, OPTIONS)
    assert follower is not None
    assert follower.task.journal.closed
    follower.close()
    row = await StreamTask.objects.aget(pk=copy.id)
    assert (row.state, row.text, row.route, row.reason) == ("complete", "one two", "direct", "cached")


async def test_after_a_restart_it_is_found_in_the_database():
    here, work = service(), Work(Finish(model="m"))
    work.gate.set()
    first, _ = await _whole(here, work.spec())
    await close_service(0)
    service_module._services.clear()
    anew = service()
    assert anew is not here
    again, text = await _whole(anew, work.spec())
    assert (text, work.calls, _told(again).cached, _told(again).model) == ("one two", 1, True, "m")
    assert again.id != first.id
    assert again.counts.chunks == first.counts.chunks


# What is not served


async def test_what_cannot_be_read_here_now_is_made_anew(monkeypatch: pytest.MonkeyPatch):
    here, work = service(), Work()
    work.gate.set()
    first, _ = await _whole(here, work.spec())
    await close_service(0)
    service_module._services.clear()

    async def going_down(row: StreamTask) -> Task:
        raise Draining(row.id)

    monkeypatch.setattr(service()._reuse, "_load", going_down)
    again, text = await _whole(service(), work.spec())
    assert (again.id != first.id, text, work.calls) == (True, "one two", 2)


@pytest.mark.parametrize("end", [UpstreamTimeout(), ValueError("x"), Finish(finish_reason="length")])
async def test_only_whole_texts_are_served_again(end: Any):
    here, work = service(), Work(end)
    work.gate.set()
    await _whole(here, work.spec())
    await _whole(here, work.spec())
    assert work.calls == 2


async def test_an_old_text_is_made_anew():
    here, work = service(), Work()
    work.gate.set()
    await _whole(here, work.spec())
    later = timezone.now() + timedelta(seconds=601)
    with mock.patch.object(timezone, "now", return_value=later):
        await _whole(here, work.spec())
    assert work.calls == 2


async def test_copies_do_not_lengthen_a_text_s_life():
    here, work = service(), Work()
    work.gate.set()
    await _whole(here, work.spec())
    for seconds in (300, 601):
        later = timezone.now() + timedelta(seconds=seconds)
        with mock.patch.object(timezone, "now", return_value=later):
            await _whole(here, work.spec())
    assert work.calls == 2


async def test_what_was_purged_is_never_served():
    here, work = service(), Work()
    work.gate.set()
    task, _ = await _whole(here, work.spec())
    await here.purge(task.id, CALLER)
    await _whole(here, work.spec())
    assert work.calls == 2


async def test_what_was_purged_through_another_process_is_never_served():
    here, work = service(), Work()
    work.gate.set()
    task, _ = await _whole(here, work.spec())
    assert await here.recorder.flush().wait(PATIENCE)
    await Segment.objects.filter(task_id=task.id).adelete()
    await StreamTask.objects.filter(pk=task.id).aupdate(text="", purged_at=timezone.now())
    await _whole(here, work.spec())
    assert work.calls == 2


async def test_a_source_on_its_way_down_is_not_joined():
    here, work = service(), Work()
    task = await _begin(here, work.spec())
    here.supervisor.cancel(task, CancelReason.CLIENT)
    again = await _begin(here, work.spec())
    assert again.reason == "worker_free"
    work.gate.set()


async def test_who_would_pass_the_source_in_the_queue_does_not_wait_behind_it():
    with override_settings(THREAD_CONFIG={"agent_pool": {"max_workers": 1, "queue_size": 5, "per_owner": 9}}):
        here, held, work = Service(), Work(), Work()
        busy = await _begin(here, held.spec("busy"))
        batch = await _begin(here, work.spec(priority=2))
        same = await _begin(here, work.spec(priority=2))
        urgent = await _begin(here, work.spec(priority=0))
        assert [task.reason for task in (batch, same, urgent)] == ["workers_busy", "cached", "workers_busy"]
        held.gate.set()
        work.gate.set()
        for task in (busy, batch, same, urgent):
            await _end(task)
        assert work.calls == 2
        await here.close(0)


async def test_without_a_database_the_work_is_done():
    here, work = service(), Work()
    work.gate.set()
    await _whole(here, work.spec())
    with mock.patch.object(StreamTask.objects, "filter", side_effect=OperationalError("away")):
        await _whole(here, work.spec())
        await _whole(here, work.spec("other"))
    assert work.calls == 3


# Who shares


async def test_the_scope():
    alice, bob = Caller("7", "127.0.0.1"), Caller("8", "127.0.0.1")
    stranger = Caller(None, "127.0.0.1")
    work = {"topic": "t"}
    assert fingerprint(alice, "a", "k", work) == fingerprint(alice, "b", "k", work)
    everybody = {
        fingerprint(caller, end_user, "k", work)
        for caller, end_user in [(alice, ""), (bob, ""), (stranger, "a"), (stranger, "b")]
    }
    assert len(everybody) == 4
    with override_settings(ALLOW_ANONYMOUS="true"):
        assert fingerprint(stranger, "a", "k", work) == fingerprint(stranger, "b", "k", work)
        assert fingerprint(stranger, "a", "k", work) != fingerprint(Caller(None, "::2"), "a", "k", work)
    with override_settings(CACHE_CONFIG={"scope": "all"}):
        assert len({fingerprint(caller, "", "k", work) for caller in (alice, bob, stranger)}) == 1
        assert fingerprint(alice, "", "k", work) != fingerprint(alice, "", "other", work)
    with override_settings(CACHE_CONFIG={"scope": "off"}):
        assert fingerprint(alice, "", "k", work) == ""
    with override_settings(CACHE_CONFIG={}):
        assert fingerprint(alice, "", "k", work) == "", "off by default"
    assert fingerprint(alice, "", "k", None) == ""


async def test_a_shared_text_is_a_task_of_its_owner_alone():
    user = await get_user_model().objects.acreate(username="alice")
    with override_settings(CACHE_CONFIG={"scope": "all"}):
        here, work = service(), Work()
        work.gate.set()
        alice = Caller(str(user.pk), "127.0.0.1")
        await _whole(here, work.spec(owner=alice.account))
        copy, _ = await _whole(here, work.spec(owner=None))
        assert work.calls == 1
        assert (await here.describe(copy.id, CALLER))["text"] == "one two"
        listed = (await here.recent(alice, 10, None))["items"]
        assert copy.id not in {each["id"] for each in listed}


# With a key


async def test_with_keys_the_work_is_done_once_and_each_key_has_its_task():
    here, work = service(), Work()
    work.gate.set()

    async def keyed(key: str) -> tuple[str, str, bool]:
        call = call_key(key, CALLER, "", "/path", "w")
        task, text, replayed = await here.complete_once(call, work.spec(), CALLER, resumed=False)
        return task.id, text, replayed

    first, second, third = await asyncio.gather(keyed("a"), keyed("b"), keyed("c"))
    assert len({first[0], second[0], third[0]}) == 3
    assert {first[1], second[1], third[1]} == {"one two"}
    assert await keyed("b") == (second[0], "one two", True)
    assert work.calls == 1
    assert await here.recorder.flush().wait(PATIENCE)
    assert {row.text async for row in StreamTask.objects.all()} == {"one two"}


# Over HTTP


async def test_an_app_says_what_identifies_its_work():
    calls = []

    async def numbered(arguments: dict[str, Any]) -> AsyncIterator[str]:
        calls.append(arguments)
        yield "text"

    with mock.patch.dict(producers._registry, {"numbered": numbered}):
        answers = [
            json.loads((await Call(path).end()).body)
            for path in (
                "/identified?user=a&topic=t",
                "/identified?user=a&topic=t&tone=x",
                "/whole",
                "/whole",
            )
        ]
    assert [answer["cached"] for answer in answers] == [False, True, False, False]
    assert len(calls) == 3
