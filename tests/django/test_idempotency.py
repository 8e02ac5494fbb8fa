"""`Idempotency-Key` in one process: what is one transaction, who wins a race, and what frees a key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, transaction
from django.test import override_settings
from django.utils import timezone

from streaming import idempotency, producers
from streaming.access import Caller
from streaming.core.errors import KeyReused, StorageUnavailable, UpstreamTimeout
from streaming.core.framing import SSE
from streaming.idempotency import CallKey, call_key
from streaming.models import IdempotencyKey, Segment, StreamTask
from streaming.runtime.follower import FollowOptions
from streaming.runtime.ledger import PoolRefused
from streaming.runtime.task import TaskSpec
from streaming.service import Service, close_service, service
from streaming.storage import pruning
from streaming.telemetry.task_lines import TaskLines
from tests.support.client import eventually
from tests.unit.runtime.fakes import in_memory, spec

from .asgi_calls import Call

pytestmark = pytest.mark.django_db(transaction=True)

CALLER = Caller(None, "127.0.0.1")
OPTIONS = FollowOptions(framing=SSE)
PATIENCE = 20.0


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


class Work:
    """A producer that counts its calls; it goes on when `gate` is open, and fails with `fault`."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self.fault: Exception | None = None

    def spec(self, **changes: Any) -> TaskSpec:
        return spec(self._open, **changes)

    def _open(self) -> AsyncIterator[str]:
        self.calls += 1
        return self._parts()

    async def _parts(self) -> AsyncIterator[str]:
        yield "a"
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        yield "b"


def _call(key: str = "k", work: Any = "w") -> CallKey:
    return call_key(key, CALLER, "", "/path", work)


def _known(call: CallKey, task_id: str = "f" * 32, **values: Any) -> StreamTask:
    """A record of another time or process, and its key."""
    row = StreamTask.objects.create(
        id=task_id, kind="test", pool="agent_pool", priority=0, created_at=timezone.now(), **values
    )
    IdempotencyKey.objects.create(scope=call.scope, key=call.key, fingerprint=call.fingerprint, task=row)
    return row


def _running(here: Service) -> int:
    pools: Any = here.statistics()["pools"]
    return int(pools["agent_pool"]["running"])


async def _start(here: Service, work: Work, call: CallKey | None = None, **changes: Any) -> tuple[str, bool]:
    task_id, follower, replayed = await here.open_once(call or _call(), work.spec(**changes), CALLER, OPTIONS)
    if follower is not None:
        follower.close()
    return task_id, replayed


async def test_key_and_record_are_there_before_the_producer_is_called():
    here, work = service(), Work()
    write, seen = idempotency._write, []

    def noted(*args: Any) -> bool:
        seen.append(work.calls)
        return write(*args)

    observer = mock.create_autospec(TaskLines, instance=True)
    with (
        mock.patch.object(idempotency, "_write", noted),
        mock.patch.object(here.supervisor, "_observers", [observer]),
    ):
        task_id, replayed = await _start(here, work)
    assert (seen, replayed) == ([0], False)
    assert [call.args[0].id for call in observer.decided.mock_calls] == [task_id]
    key = await IdempotencyKey.objects.select_related("task").aget()
    assert (key.task.id, key.task.state) == (task_id, "running")
    work.gate.set()


async def test_the_same_call_is_the_same_task_running_and_ended():
    here, work = service(), Work()
    first, _ = await _start(here, work)
    assert await _start(here, work) == (first, True)
    work.gate.set()
    await asyncio.wait([in_memory(here.supervisor, first).ended], timeout=PATIENCE)
    assert await _start(here, work) == (first, True)
    assert work.calls == 1


async def test_of_many_at_once_one_runs():
    here, work = service(), Work()
    started = await asyncio.gather(*(_start(here, work) for _ in range(10)))
    assert len({task_id for task_id, _ in started}) == 1
    assert sorted(replayed for _, replayed in started) == [False] + [True] * 9
    assert (work.calls, _running(here), await StreamTask.objects.acount()) == (1, 1, 1)
    work.gate.set()


async def test_who_loses_to_another_process_leaves_no_record_no_permit_and_has_called_nothing():
    """The other process commits between our look and our write."""
    here, work = service(), Work()
    write = idempotency._write

    def beaten(row: dict[str, Any], call: CallKey, known: IdempotencyKey | None) -> bool:
        other = StreamTask.objects.create(
            id="f" * 32,
            kind="test",
            pool="agent_pool",
            priority=0,
            state="complete",
            created_at=timezone.now(),
        )
        IdempotencyKey.objects.create(
            scope=call.scope, key=call.key, fingerprint=call.fingerprint, task=other
        )
        return write(row, call, known)

    seen = mock.create_autospec(TaskLines, instance=True)
    with (
        mock.patch.object(idempotency, "_write", beaten),
        mock.patch.object(here.supervisor, "_observers", [seen]),
    ):
        claim = await here._keyed.claim(_call(), work.spec(), resumed=False, awaited=True)
    assert (claim.task_id, claim.task) == ("f" * 32, None)
    assert seen.mock_calls == [], "a line that it was routed would have no end"
    assert await here.recorder.flush().wait(PATIENCE)
    assert [row.id async for row in StreamTask.objects.all()] == ["f" * 32]
    assert work.calls == 0

    async def idle() -> bool:
        return _running(here) == 0

    assert await eventually(idle)
    statistics = here.statistics()
    assert statistics["routes"]["direct"] == 0
    assert statistics["tasks"] == {"active": 0, "foreign": 0, "in_memory": 0}


async def test_a_loser_in_the_queue_leaves_no_place():
    with override_settings(THREAD_CONFIG={"agent_pool": {"max_workers": 1, "queue_size": 1}}):
        here, held, work = Service(), Work(), Work()
        busy = here.supervisor.open(held.spec())
        with mock.patch.object(idempotency, "_write", return_value=False), pytest.raises(StorageUnavailable):
            await here._keyed.claim(_call(), work.spec(), resumed=False, awaited=True)
        pools: Any = here.statistics()["pools"]
        assert (pools["agent_pool"]["running"], pools["agent_pool"]["waiting"], work.calls) == (1, 0, 0)
        held.gate.set()
        await asyncio.wait([busy.ended], timeout=PATIENCE)
        await here.close(0)


async def test_another_body_under_the_same_key_is_a_conflict():
    here, work = service(), Work()
    await _start(here, work)
    with pytest.raises(KeyReused):
        await _start(here, work, _call(work="other"))
    assert (work.calls, _running(here)) == (1, 1)
    work.gate.set()


@pytest.mark.parametrize(
    "other",
    [
        call_key("k", Caller(None, "127.0.0.2"), "", "/path", "w"),
        call_key("k", Caller(None, "127.0.0.1"), "somebody", "/path", "w"),
        call_key("k", Caller("7", "127.0.0.1"), "", "/path", "w"),
        call_key("k", CALLER, "", "/elsewhere", "w"),
        call_key("l", CALLER, "", "/path", "w"),
    ],
)
async def test_another_caller_route_or_key_is_another_task(other: CallKey):
    here, work = service(), Work()
    first, _ = await _start(here, work)
    second, replayed = await _start(here, work, other)
    assert (first != second, replayed) == (True, False)
    work.gate.set()


async def test_the_end_users_of_an_account_share_its_keys():
    alice = Caller("7", "127.0.0.1")
    assert call_key("k", alice, "a", "/path", "w") == call_key("k", alice, "b", "/path", "w")


async def test_a_refusal_stores_no_key():
    with override_settings(THREAD_CONFIG={"agent_pool": {"max_workers": 1, "queue_size": 0}}):
        here, held, work = Service(), Work(), Work()
        busy = here.supervisor.open(held.spec())
        with pytest.raises(PoolRefused):
            await here._keyed.claim(_call(), work.spec(), resumed=False, awaited=True)
        assert not await IdempotencyKey.objects.aexists()
        held.gate.set()
        await asyncio.wait([busy.ended], timeout=PATIENCE)
        await here.close(0)


async def test_a_database_that_is_away_refuses_and_runs_nothing():
    here, work = service(), Work()
    away = mock.patch.object(idempotency, "write_tasks", side_effect=OperationalError("away"))
    with away, pytest.raises(StorageUnavailable):
        await _start(here, work)
    assert work.calls == 0

    async def idle() -> bool:
        return _running(here) == 0

    assert await eventually(idle)
    assert not await StreamTask.objects.aexists()
    assert (await _start(here, work))[1] is False, "and the key is free"
    work.gate.set()


async def test_a_commit_whose_answer_was_lost_is_taken_back():
    here, work = service(), Work()

    class Torn(transaction.Atomic):
        """Commits, and then the connection breaks."""

        def __init__(self) -> None:
            super().__init__(None, True, False)

        def __exit__(self, *exc_info: Any) -> None:
            super().__exit__(*exc_info)
            assert StreamTask.objects.exists()
            raise OperationalError("the connection broke")

    torn = mock.patch.object(idempotency, "transaction", SimpleNamespace(atomic=Torn))
    with torn, pytest.raises(StorageUnavailable):
        await _start(here, work)
    assert not await StreamTask.objects.aexists()
    assert not await IdempotencyKey.objects.aexists()


# What frees a key


async def test_a_retryable_end_frees_the_key_but_not_for_who_goes_on():
    here, work = service(), Work()
    first, _ = await _start(here, work)
    work.fault = UpstreamTimeout()
    work.gate.set()
    task = in_memory(here.supervisor, first)
    await asyncio.wait([task.ended], timeout=PATIENCE)
    resumed = FollowOptions(framing=SSE, after=1, resumed=True)
    again, follower, replayed = await here.open_once(_call(), work.spec(), CALLER, resumed)
    assert (again, replayed) == (first, True)
    assert follower is not None
    follower.close()
    second, replayed = await _start(here, work)
    assert (second != first, replayed, work.calls) == (True, False, 2)
    assert (await IdempotencyKey.objects.aget()).task_id == second
    assert await StreamTask.objects.acount() == 2


async def test_two_at_once_after_a_retryable_end_start_one_task():
    here, work = service(), Work()
    first, _ = await _start(here, work)
    work.fault = UpstreamTimeout()
    work.gate.set()
    await asyncio.wait([in_memory(here.supervisor, first).ended], timeout=PATIENCE)
    work.fault = None
    started = await asyncio.gather(*(_start(here, work) for _ in range(5)))
    assert len({task_id for task_id, _ in started}) == 1


@pytest.mark.parametrize(
    ("state", "values", "free"),
    [
        ("error", {"error_code": "interrupted"}, True),
        ("error", {"error_code": "producer_failed"}, False),
        ("cancelled", {"cancel_reason": "disconnect"}, True),
        ("cancelled", {"cancel_reason": "client"}, False),
        ("complete", {}, False),
        ("running", {"process": "e" * 32}, False),
    ],
)
async def test_the_record_says_whether_the_key_is_free_when_memory_does_not(
    state: str, values: dict[str, Any], free: bool
):
    here, call = service(), _call()
    row = await sync_to_async(_known)(call, state=state, **values)
    work = Work()
    work.gate.set()
    claim = await here._keyed.claim(call, work.spec(), resumed=False, awaited=True)
    assert (claim.task is not None, claim.task_id != row.id) == (free, free)


async def test_what_claims_to_run_here_and_does_not_is_started_again():
    """Its commit was reported as failed although it had come through, and could not be taken back."""
    here, call, work = service(), _call(), Work()
    row = await sync_to_async(_known)(call, state="running", process=here.recorder.process_id)
    task_id, replayed = await _start(here, work, call)
    assert (task_id != row.id, replayed) == (True, False)
    work.gate.set()


async def test_an_end_that_is_still_to_be_written_keeps_the_key():
    """Memory ran short, and the ended task left before the writer came to its record."""
    here, work = service(), Work()
    here.recorder._interval = 60
    first, _ = await _start(here, work)
    task = in_memory(here.supervisor, first)
    assert await here.recorder.flush().wait(PATIENCE)
    with mock.patch.object(here.recorder, "_wake_writer"):
        work.gate.set()
        await asyncio.wait([task.ended], timeout=PATIENCE)
        here.supervisor.tasks.forget(task)
    assert (await StreamTask.objects.aget(pk=first)).state == "running"
    assert await _start(here, work) == (first, True)


async def test_an_expired_key_is_free_whatever_the_body():
    here, work = service(), Work()
    first, _ = await _start(here, work)
    long_ago = timezone.now() - timedelta(days=2)
    await IdempotencyKey.objects.aupdate(created_at=long_ago)
    second, replayed = await _start(here, work, _call(work="other"))
    assert (second != first, replayed) == (True, False)
    key = await IdempotencyKey.objects.aget()
    assert key.created_at > long_ago + timedelta(days=1)
    work.gate.set()


async def test_a_purge_deletes_the_key():
    here, work = service(), Work()
    work.gate.set()
    first, _ = await _start(here, work)
    await here.purge(first, CALLER)
    assert not await IdempotencyKey.objects.aexists()
    assert (await _start(here, work))[1] is False


async def test_a_purge_whose_caller_hangs_up_deletes_all_the_same():
    here, work, waits = service(), Work(), asyncio.Event()
    work.gate.set()
    first, _ = await _start(here, work)

    async def for_ever(task_id: str) -> None:
        waits.set()
        await asyncio.Event().wait()

    with mock.patch.object(here._elsewhere, "let_readers_take", for_ever):
        purging = asyncio.create_task(here.purge(first, CALLER))
        await waits.wait()
        assert await Segment.objects.aexists(), "for readers elsewhere"
        assert (await StreamTask.objects.aget()).purged_at is not None, "newcomers are refused"
        assert here.supervisor.tasks.find(first) is None
        purging.cancel()
        await asyncio.wait([purging])
    assert not await Segment.objects.aexists()


@pytest.mark.parametrize("again", [False, True])
async def test_who_waits_for_the_whole_has_it_although_it_is_purged_at_its_end(again: bool):
    here, work = service(), Work()
    if again:
        await _start(here, work)
    waiting = asyncio.create_task(here.complete_once(_call(), work.spec(), CALLER, resumed=True))

    async def attended() -> bool:
        return any(task.attended for task in here.supervisor.tasks.active.values())

    assert await eventually(attended)
    (task,) = here.supervisor.tasks.active.values()
    # As one of many who purge it at once does: before those who wait have had their turn.
    task.ended.add_done_callback(lambda _: here.supervisor.tasks.forget(task))
    work.gate.set()
    _, text, replayed = await waiting
    assert (text, replayed) == ("ab", again)
    assert here.supervisor.statistics()["journal_bytes"] == 0


def test_expired_keys_are_pruned_and_with_a_task_its_keys():
    for number, age in enumerate([1, 3]):
        task = StreamTask.objects.create(
            id=f"{number:032x}",
            kind="test",
            pool="agent_pool",
            priority=0,
            state="complete",
            created_at=timezone.now(),
            finished_at=timezone.now() - timedelta(days=40 * number),
        )
        created_at = timezone.now() - timedelta(hours=age)
        IdempotencyKey.objects.create(
            scope="s", key=str(number), fingerprint="f", task=task, created_at=created_at
        )
    with mock.patch.object(pruning, "CHUNK", 1):
        assert pruning.prune_some_keys(timezone.now() - timedelta(hours=2)) == 1
        assert pruning.prune_some_keys(timezone.now() - timedelta(hours=2)) == 0
    assert [key.key for key in IdempotencyKey.objects.all()] == ["0"]
    pruning.prune(timezone.now() + timedelta(days=1))
    assert not IdempotencyKey.objects.exists()


async def test_a_key_that_is_given_away_while_it_is_pruned_stays():
    key = await sync_to_async(_known)(_call(), state="complete")
    old = timezone.now() - timedelta(days=2)
    await IdempotencyKey.objects.aupdate(created_at=old)
    keys = IdempotencyKey.objects.filter(created_at__lt=timezone.now() - timedelta(days=1))
    found = [each.pk async for each in keys]
    await IdempotencyKey.objects.aupdate(created_at=timezone.now())
    with mock.patch("django.db.models.query.QuerySet.values_list", return_value=found):
        assert await sync_to_async(pruning.prune_some_keys)(timezone.now() - timedelta(days=1)) == 0
    assert await IdempotencyKey.objects.filter(task=key).aexists()


# A caller who leaves


async def test_a_caller_who_leaves_before_the_commit_finds_the_task_when_it_comes_back():
    here, work = service(), Work()
    write, begun, go_on = idempotency._write, asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(*args: Any) -> bool:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(PATIENCE)
        return write(*args)

    with mock.patch.object(idempotency, "_write", slow):
        leaver = asyncio.create_task(_start(here, work, grace=1_000.0))
        await begun.wait()
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        go_on.set()

        async def recorded() -> bool:
            return await IdempotencyKey.objects.aexists()

        assert await eventually(recorded)
    task_id, replayed = await _start(here, work)
    assert (replayed, work.calls) == (True, 1)
    assert in_memory(here.supervisor, task_id).unattended_since is not None, "its grace has begun"
    work.gate.set()


# Over HTTP, for a project of its own


def _events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: ")]


async def test_stream_is_one_task_for_one_key():
    key = {"idempotency-key": "one"}
    first = await Call("/summarise", method="POST", body=b"{}", headers=key).end()
    again = await Call("/summarise", method="POST", body=b"{}", headers=key).end()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    for name in ("x-stream-id", "x-stream-route", "location"):
        assert again.headers[name] == first.headers[name]
    assert _events(again.body)[-1] == _events(first.body)[-1]


@pytest.mark.parametrize(("path", "body"), [("/summarise", b"[]"), ("/summarise?tone=dry", b"{}")])
async def test_stream_with_another_body_or_query_is_a_conflict(path: str, body: bytes):
    key = {"idempotency-key": "two"}
    await Call("/summarise", method="POST", body=b"{}", headers=key).end()
    other = await Call(path, method="POST", body=body, headers=key).end()
    assert (other.status, json.loads(other.body)["code"]) == (409, "idempotency_key_reused")


async def test_a_cursor_goes_on_and_at_the_end_there_is_nothing_more():
    key = {"idempotency-key": "three"}
    first = await Call("/summarise", headers=key).end()
    last = json.loads((await Call(first.headers["location"]).end()).body)["last_event_id"]
    rest = await Call("/summarise", headers=key | {"last-event-id": str(last - 1)}).end()
    assert [event["type"] for event in _events(rest.body)] == ["complete"]
    nothing = await Call("/summarise", headers=key | {"last-event-id": str(last)}).end()
    assert (nothing.status, nothing.body, nothing.headers["x-stream-id"]) == (
        204,
        b"",
        first.headers["x-stream-id"],
    )
    ahead = await Call("/summarise", headers=key | {"last-event-id": str(last + 1)}).end()
    assert ahead.status == 409
    bad = await Call("/summarise", headers=key | {"last-event-id": "x"}).end()
    assert (bad.status, json.loads(bad.body)["code"]) == (400, "bad_event_id")


@pytest.mark.parametrize("key", ["", "a b", "a\tb", "k" * 256, "k" * 10_000, "schlüssel", "\x7f"])
async def test_a_key_that_is_none(key: str):
    refused = await Call("/summarise", headers={"idempotency-key": key}).end()
    assert (refused.status, json.loads(refused.body)["code"]) == (400, "bad_idempotency_key")


async def test_the_longest_key_will_do():
    assert (await Call("/summarise", headers={"idempotency-key": "~" * 255}).end()).status == 200


async def test_without_a_database_a_keyed_call_is_refused_and_others_stream():
    away = mock.patch.object(idempotency, "write_tasks", side_effect=OperationalError("away"))
    with away:
        refused = await Call("/summarise", headers={"idempotency-key": "four"}).end()
        plain = await Call("/summarise").end()
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    assert _events(plain.body)[-1]["type"] == "complete"


async def test_an_unkeyed_stream_has_no_key_looked_up():
    with mock.patch.object(idempotency, "_find", side_effect=AssertionError("looked up")):
        assert (await Call("/summarise").end()).status == 200


async def test_a_full_house_of_readers_is_sent_away_and_told_where_to():
    with override_settings(SSE_CONFIG={"max_followers": 1}):
        held = Call("/forever", headers={"idempotency-key": "five"})
        await held.saw(b"event: content")
        away = await Call("/forever", headers={"idempotency-key": "five"}).end()
        assert _events(away.body)[-1]["type"] == "reconnect"
        assert away.headers["x-stream-id"] == held.headers["x-stream-id"]
        held.leave()
        await held.end()


async def test_a_form_with_files_can_be_repeated(settings: Any):
    settings.DATA_UPLOAD_MAX_NUMBER_FILES = 100
    form = (
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\nabc\r\n--x--\r\n'
    )
    headers = {
        "idempotency-key": "six",
        "content-type": "multipart/form-data; boundary=x",
        "content-length": "1000",
    }
    first = await Call("/form", method="POST", body=form, headers=headers).end()
    again = await Call("/form", method="POST", body=form, headers=headers).end()
    assert (first.status, again.headers["x-stream-id"]) == (200, first.headers["x-stream-id"])
    other = await Call("/form", method="POST", body=form.replace(b"abc", b"abcd"), headers=headers).end()
    assert other.status == 409


@pytest.mark.parametrize("path", ["/whole", "/later"])
async def test_the_other_functions_honour_a_key(path: str):
    calls = []

    async def numbered(arguments: dict[str, Any]) -> AsyncIterator[str]:
        calls.append(arguments)
        yield "text"

    with mock.patch.dict(producers._registry, {"numbered": numbered}):
        key = {"idempotency-key": "seven"}
        first = await Call(path, headers=key).end()
        again = await Call(path, headers=key).end()
    assert first.status == again.status == (200 if path == "/whole" else 202)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    one, two = json.loads(first.body), json.loads(again.body)
    assert one["task_id"] == two["task_id"]
    assert one.get("text") == two.get("text")
    assert len(calls) == 1
