"""Each task is counted once, whatever happens to writers, processes and rows; nothing reads a whole table."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from io import StringIO
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import OperationalError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from streaming.cluster.processes import Registry
from streaming.cluster.statistics import last_told
from streaming.cluster.takeover import end, take_over
from streaming.core.events import Cancelled, Finish
from streaming.core.rollup import DAY, HOUR, OWNERS, RANGES, WEEK, Rollup, decode, merged
from streaming.models import Backfill, Process, Refusal, StreamTask, TaskRollup
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import CancelReason, Task
from streaming.storage import records, rollups, rows, statistics
from streaming.storage.pruning import prune_some
from streaming.storage.records import DatabaseRecorder
from streaming.storage.rollups import Deltas, backfill_some, compact_some, rebuild
from streaming.storage.statistics import slowest, summary_of, top_owners
from tests.support.client import eventually
from tests.unit.runtime.fakes import FakeMessages, ended, pool_limits, spec, stream_limits

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = 20.0

NOW = datetime(2026, 11, 21, 12, 34, 56, tzinfo=UTC)

_numbers = itertools.count(1)


class Still(Registry):
    """Looks at nobody, and prunes nothing."""

    def tick(self, now: float, *, able: bool) -> bool:
        return False


class House:
    """A process."""

    def __init__(self, process_id: str) -> None:
        loop = asyncio.get_running_loop()
        self.recorder = DatabaseRecorder(
            0.01,
            Still(process_id),
            lambda task_id, epoch: loop.call_soon_threadsafe(self.supervisor.abandon, task_id, epoch),
        )
        self.supervisor = Supervisor(
            {"agent_pool": pool_limits(max_workers=2, queue_size=100, per_owner=100)},
            stream_limits(),
            self.recorder,
            FakeMessages(),
            connections.close_all,
        )

    def open(self, *parts: Any, gate: asyncio.Event | None = None, **changes: Any) -> Task:
        async def source() -> AsyncIterator[Any]:
            for part in parts:
                yield part
            if gate is not None:
                await gate.wait()

        task = self.supervisor.open(spec(source, **changes))
        self.supervisor.record(task)
        return task

    async def saved(self) -> None:
        assert await self.recorder.flush().wait(PATIENCE)


@pytest.fixture
async def house() -> AsyncIterator[Callable[[str], House]]:
    made: list[House] = []

    def make(process_id: str = "a" * 32) -> House:
        made.append(House(process_id))
        return made[-1]

    yield make
    for each in made:
        for task_id in list(each.supervisor.tasks.active):
            each.supervisor.abandon(task_id)
        await asyncio.to_thread(each.recorder.close, PATIENCE)
        each.supervisor.close()
    await sync_to_async(connections.close_all)()


Make = Callable[..., House]


def counted() -> Rollup:
    """All that was counted, whenever."""
    return merged(decode(each.numbers) for each in TaskRollup.objects.all())


def expected() -> Rollup:
    """What the rows of the tasks say."""
    deltas = Deltas()
    for each in StreamTask.objects.values(*rollups._COLUMNS):
        deltas.note(each["id"], each, None)
    return merged(deltas.rollups().values())


@sync_to_async
def right() -> bool:
    """Whether each task was counted once, with all that its row says."""
    connection.close()
    return counted() == expected()


def row(at: datetime = NOW, **columns: Any) -> StreamTask:
    """A task that nobody has counted, accepted `at`; it took 2 s."""
    made = unsaved(at, **columns)
    made.save(force_insert=True)
    return made


def unsaved(at: datetime = NOW, **columns: Any) -> StreamTask:
    """The same, not yet in the database."""
    ended = columns.get("state", "complete") not in ("queued", "running")
    values: dict[str, Any] = {
        "id": f"{next(_numbers):032x}",
        "kind": "content",
        "pool": "agent_pool",
        "priority": 0,
        "state": "complete",
        "route": "direct",
        "reason": "worker_free",
        "created_at": at,
    }
    if ended:
        values |= {
            "started_at": at,
            "finished_at": at + timedelta(seconds=2),
            "queued_ms": 0.5,
            "first_content_ms": 100.0,
            "total_ms": 2000.0,
            "chunks": 10,
            "content_length": 120,
            "timing": {"coalesced_ratio": 0.5},
        }
    return StreamTask(**values | columns)


# Counting


async def test_what_ran_is_counted_with_what_it_did(house: Make):
    here = house()
    await asyncio.gather(
        *(ended(here.open("Hello, ", "world", Finish(usage={"completion_tokens": 7}))) for _ in range(20))
    )
    await here.saved()
    found = await sync_to_async(counted)()
    assert sum(found.accepted.values()) == 20
    assert found.ends == {"complete": 20}
    assert (found.tokens, found.code_points) == (140, 20 * len("Hello, world"))
    assert found.total.count == found.first_content.count == 20
    assert found.queue_wait.count == found.accepted.get("queued", 0) == 18
    assert await right()


async def test_an_admission_is_counted_before_the_end(house: Make):
    here, gate = house(), asyncio.Event()
    running = [here.open("text", gate=gate) for _ in range(3)]
    await here.saved()
    found = await sync_to_async(counted)()
    assert (found.accepted, found.ends) == ({"direct": 2, "queued": 1}, {})
    here.supervisor.cancel(running[2], CancelReason.CLIENT)
    gate.set()
    for task in running:
        await ended(task)
    await here.saved()
    found = await sync_to_async(counted)()
    assert (found.ends, found.cancelled) == ({"complete": 2, "cancelled": 1}, {"client": 1})
    assert await right()


async def test_many_transactions_of_a_minute_are_a_row_or_two(house: Make):
    here = house()
    for _ in range(15):
        await ended(here.open("text"))
        await here.saved()
    assert await right()
    assert await TaskRollup.objects.acount() <= 2, "the clock may have gone to the next minute, once"


async def test_a_commit_whose_answer_was_lost_counts_once(house: Make):
    here, left = house(), [3]

    @contextmanager
    def unheard() -> Iterator[None]:
        with transaction.atomic():
            yield
        if left[0]:
            left[0] -= 1
            raise OperationalError("the answer was lost")

    atomic = mock.Mock(wraps=transaction, atomic=unheard)
    with mock.patch.object(records, "transaction", atomic), mock.patch.object(records, "RETRY_PAUSE", 0.01):
        for _ in range(6):
            await ended(here.open("text"))
        await here.saved()
    assert left == [0]
    assert await right()
    assert (await sync_to_async(counted)()).ends == {"complete": 6}


async def test_a_write_that_failed_counts_nothing_of_it(house: Make):
    here, left = house(), [3]
    write = rows.write_refusals

    def away(refusals: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise OperationalError("away")
        write(refusals)

    # The last statement of the transaction: all before it has been done, and is undone.
    with mock.patch.object(records, "write_refusals", away), mock.patch.object(records, "RETRY_PAUSE", 0.01):
        for _ in range(6):
            await ended(here.open("text"))
        await here.saved()
    assert left == [0]
    assert await right()


async def test_a_record_that_no_database_takes_is_not_counted_and_the_others_are(house: Make):
    here = house()
    here.recorder._interval = 0.2
    await asyncio.gather(*(ended(here.open("text")) for _ in range(3)), ended(here.open("x", owner="999999")))
    await here.saved()
    assert await StreamTask.objects.acount() == 3
    assert await right()


async def test_a_task_whose_row_was_written_with_its_key_is_counted(house: Make):
    here, gate = house(), asyncio.Event()

    async def once_committed() -> AsyncIterator[str]:
        await gate.wait()
        yield "text"

    task = here.supervisor.open(spec(once_committed))
    await sync_to_async(rows.write_tasks)([{"id": task.id, **here.recorder.row(task)}])
    here.supervisor.record(task, known=True)
    await here.saved()
    assert (await sync_to_async(counted)()).accepted == {"direct": 1}
    gate.set()
    await ended(task)
    await here.saved()
    assert await right()
    assert (await sync_to_async(counted)()).ends == {"complete": 1}


async def test_several_processes_and_one_that_takes_over_count_each_task_once(house: Make):
    gates = [asyncio.Event(), asyncio.Event()]
    houses = [house("a" * 32), house("b" * 32)]
    tasks = [each.open("text", gate=gate) for each, gate in zip(houses, gates, strict=True) for _ in range(4)]
    for each in houses:
        await each.saved()
    # The first is held for dead while it lives: what it writes of its tasks afterwards is in vain.
    assert (await asyncio.to_thread(_taken_over, "a" * 32)) == 4
    for gate in gates:
        gate.set()
    for task in tasks[4:]:
        await ended(task)
    assert await eventually(partial(_none_active, houses[0]), PATIENCE)
    for each in houses:
        await each.saved()
    found = await sync_to_async(counted)()
    assert found.ends == {"error": 4, "complete": 4}
    assert found.errors == {"interrupted": 4}
    assert sum(found.accepted.values()) == 8
    assert await right()


def test_two_who_end_the_same_task_count_it_once():
    task = row(state="queued", process="", counted=1)
    twin = StreamTask.objects.get(pk=task.pk)
    assert [end(each, "c" * 32, Cancelled(reason="client")) for each in (task, twin)] == [True, False]
    found = counted()
    assert (found.accepted, found.ends, found.cancelled) == ({}, {"cancelled": 1}, {"client": 1})


# Coarser with age


def test_counts_grow_coarser_with_age_and_stay_the_same():
    with transaction.atomic():
        for minutes in (*range(0, 240, 20), *range(240, 60 * 24 * 4, 97)):
            row(NOW - timedelta(minutes=minutes), pool=f"p{minutes % 2}")
    made = Deltas()
    for each in StreamTask.objects.values(*rollups._COLUMNS):
        made.note(each["id"], each, None)
    made.insert()
    before = counted()
    merge_all(NOW)
    assert counted() == before
    kept = TaskRollup.objects
    assert kept.filter(seconds=60, start__lt=NOW - timedelta(hours=4)).count() == 0
    assert kept.filter(seconds=60, start__gt=NOW - timedelta(hours=3)).exists(), "an hour is shown in minutes"
    assert kept.filter(seconds=600, start__gt=NOW - timedelta(days=2)).exists()
    assert kept.filter(seconds=3600, start__gt=NOW - timedelta(days=2)).count() == 0
    assert all(each.start.timestamp() % each.seconds == 0 for each in kept.all())
    # Once merged, a period has one row for a pool and kind.
    places = list(kept.filter(seconds=3600).values_list("start", "pool", "kind"))
    assert len(places) == len(set(places))


async def test_who_writes_into_a_row_that_was_merged_meanwhile_begins_another(house: Make):
    here = house()
    for _ in range(3):
        await ended(here.open("text"))
        await here.saved()
        await sync_to_async(merge_all)(timezone.now() + timedelta(hours=5))
    assert not await TaskRollup.objects.filter(seconds=60).aexists()
    assert await right()
    assert (await sync_to_async(counted)()).ends == {"complete": 3}


async def test_several_processes_merge_at_once_and_nothing_is_lost_or_doubled():
    for number in range(120):
        await sync_to_async(Deltas.insert)(_one_accepted(NOW - timedelta(hours=9, minutes=number % 40)))
    await asyncio.gather(*(asyncio.to_thread(_merge_all_and_close) for _ in range(3)))
    assert (await sync_to_async(counted)()).accepted == {"direct": 120}
    assert await TaskRollup.objects.acount() <= 6


def test_what_is_older_than_it_has_to_be_kept_goes():
    _one_accepted(timezone.now() - timedelta(days=40)).insert()
    _one_accepted(timezone.now() - timedelta(days=20)).insert()
    call_command("prune", stdout=StringIO())
    assert TaskRollup.objects.count() == 1


# Tasks of the time before


def test_tasks_that_nobody_counted_are_counted_in_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rollups, "CHUNK", 7)
    with transaction.atomic():
        for number in range(40):
            # Some were accepted at the same moment.
            row(NOW - timedelta(hours=number // 3), state=("complete", "error")[number % 2])
    row(state="running")
    row(counted=2)
    Backfill.objects.create(moment=NOW + timedelta(hours=1), before=NOW + timedelta(hours=1))
    steps = list(iter(backfill_some, 0))
    assert sum(steps) == 42
    assert max(steps) == 7
    assert not statistics.incomplete()
    found = counted()
    assert found.ends == {"complete": 20, "error": 20}
    assert found.accepted == {"direct": 40}, (
        "what runs is counted at its end; what was counted already is not"
    )
    places = TaskRollup.objects.filter(seconds__gt=60).values_list("seconds", "start", "pool", "kind")
    assert len(places) == len(set(places)) > 5
    merge_all(NOW)
    assert counted() == found


async def test_what_ends_while_the_old_tasks_are_counted_counts_once(
    house: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rollups, "CHUNK", 3)
    here, gate = house(), asyncio.Event()
    tasks = [here.open("text", gate=gate) for _ in range(2)]
    for task in [here.open("text") for _ in range(5)]:
        here.supervisor.cancel(task, CancelReason.CLIENT)
        await ended(task)
    await here.saved()
    await sync_to_async(rebuild)()
    await sync_to_async(backfill_some)()
    gate.set()
    for task in tasks:
        await ended(task)
    await here.saved()
    while await sync_to_async(backfill_some)():
        pass
    assert await right()


def test_counting_anew_comes_to_the_same():
    for number in range(30):
        row(NOW - timedelta(minutes=number), counted=2, resumes=number)
    row(state="running", counted=1)
    out = StringIO()
    call_command("rebuild_statistics", stdout=out)
    assert counted() == expected()
    assert "31 tasks" in out.getvalue()
    call_command("rebuild_statistics", stdout=out)
    assert counted() == expected()


# Questions


def test_a_summary_has_tasks_and_refusals_of_its_range():
    fill()
    Refusal.objects.create(minute=NOW - timedelta(minutes=3), pool="agent_pool", reason="queue_full", count=5)
    Refusal.objects.create(minute=NOW - timedelta(hours=3), pool="agent_pool", reason="owner_limit", count=7)
    found = summary_of(HOUR, NOW)
    assert found.whole.refusals == {"queue_full": 5}
    assert found.whole.accepted == {"direct": 2}
    assert found.totals.rejected_share == 5 / 7
    assert [bucket.refusals for bucket in found.buckets[-4:]] == [{"queue_full": 5}, {}, {}, {}]
    merge_all(NOW)
    assert summary_of(DAY, NOW).whole.refusals == {"queue_full": 5, "owner_limit": 7}
    assert summary_of(DAY, NOW).totals.asked == 48 + 12
    assert sum(summary_of(WEEK, NOW).whole.accepted.values()) == 100
    assert summary_of(HOUR, NOW).whole.accepted == {"direct": 2}


def test_the_last_minutes_for_rules():
    fill()
    assert statistics.rollup_of_last(2000, NOW).accepted == {"direct": 2}
    assert statistics.rollup_of_last(60, NOW).accepted == {"direct": 1}


def test_top_owners_are_counted_within_the_range():
    users = [get_user_model().objects.create(username=name) for name in ("ann", "bob", "cy")]
    for user, times in zip(users, (2, 5, 1), strict=True):
        for _ in range(times):
            row(NOW - timedelta(minutes=9), owner=user)
            row(NOW - timedelta(hours=2), owner=users[0])
    for _ in range(3):
        row(NOW - timedelta(minutes=8))
    count_anew()
    found = [(each.name, each.tasks) for each in top_owners(summary_of(HOUR, NOW).whole)]
    assert found == [("bob", 5), (None, 3), ("ann", 2), ("cy", 1)]
    assert [(each.owner, each.tasks) for each in top_owners(summary_of(DAY, NOW).whole, limit=2)] == [
        (users[0].pk, 10),
        (users[1].pk, 5),
    ]
    merge_all(NOW)
    assert top_owners(summary_of(WEEK, NOW).whole)[0].tasks == 10
    gone = users[0].pk
    users[0].delete()
    assert top_owners(summary_of(WEEK, NOW).whole)[0].name == str(gone), "gone, but it asked"
    assert top_owners(Rollup()) == []


def test_the_cost_of_the_top_owners_is_that_of_their_names(django_assert_num_queries: Any):
    """However many owners there are, nobody looks for them all: neither in the tasks nor among the users."""
    users = get_user_model().objects.bulk_create(
        [get_user_model()(username=f"user {number}") for number in range(300)]
    )
    for number, user in enumerate(users):
        StreamTask.objects.bulk_create(
            unsaved(NOW - timedelta(minutes=9), owner=user) for _ in range(1 + 3 * (number >= 290))
        )
    count_anew()
    whole = summary_of(HOUR, NOW).whole
    assert all(len(decode(each.numbers).owners) <= OWNERS for each in TaskRollup.objects.all())
    with django_assert_num_queries(1):
        found = top_owners(whole)
    assert {each.name for each in found} == {f"user {number}" for number in range(290, 300)}
    assert {each.tasks for each in found} == {4}


def test_the_slowest_are_named_with_their_rows():
    slow = [row(total_ms=90_000.0 + number, first_content_ms=number) for number in range(14)]
    waited = row(route="queued", queued_ms=70_000.0)
    deltas = Deltas()
    for each in StreamTask.objects.values(*rollups._COLUMNS):
        deltas.note(each["id"], each, None)
    deltas.insert()
    slow[-1].delete()
    found = slowest(summary_of(HOUR, NOW).whole)
    assert [each.row.pk for each in found.queue_wait] == [waited.pk]
    assert [each.row.pk for each in found.total] == [each.pk for each in slow[-2:-11:-1]]
    assert found.total[0].milliseconds == 90_012.0
    with CaptureQueriesContext(connection) as looked:
        assert str(found.total[0].row.owner) == "None"
        assert found.first_content[0].row.pool == "agent_pool"
    assert len(looked) == 0


@pytest.mark.skipif(connection.vendor != "sqlite", reason="its words for a plan")
@pytest.mark.parametrize("name", RANGES)
def test_no_question_of_the_page_reads_the_whole_table(name: str):
    fill()
    of = RANGES[name]
    with CaptureQueriesContext(connection) as looked:
        whole = summary_of(of, NOW).whole
        slowest(whole)
        top_owners(whole)
        statistics.incomplete()
        compact_some(NOW)
        prune_some(NOW - timedelta(days=30))
        Backfill.objects.create(moment=NOW, before=NOW, before_id="f")
        backfill_some()
    queries = [each["sql"] for each in looked if "SELECT" in each["sql"] and "INSERT" not in each["sql"]]
    assert len(queries) >= 8
    plans = []
    with connection.cursor() as cursor:
        for query in queries:
            cursor.execute(f"EXPLAIN QUERY PLAN {query}")
            plans += [f"{step[-1]}: {query}" for step in cursor.fetchall()]
    tables = ("streaming_streamtask", "streaming_taskrollup", "streaming_refusal")
    assert [plan for plan in plans if plan.startswith(tuple(f"SCAN {table}" for table in tables))] == []


def test_gauges_are_those_of_all_processes_at_their_last_beat():
    assert last_told() == {"processes": []}
    for number in (1, 2):
        told = {"pools": {"p": {"running": number, "oldest_wait_by_class": {"0": number * 2.5}}}}
        Process.objects.create(id=f"{number:032x}", pid=number, statistics=told)
    Process.objects.create(id="f" * 32, pid=3)
    found = last_told()
    assert found["pools"] == {"p": {"running": 3, "oldest_wait_by_class": {"0": 5.0}}}
    assert [each["pid"] for each in found["processes"]] == [1, 2]


# Helpers


@transaction.atomic
def fill() -> None:
    """A counted task each half hour, the newest a minute ago."""
    for number in range(100):
        row(NOW - timedelta(minutes=1 + 30 * number))
    deltas = Deltas()
    for each in StreamTask.objects.values(*rollups._COLUMNS):
        deltas.note(each["id"], each, None)
    deltas.insert()


def count_anew() -> None:
    rebuild()
    while backfill_some():
        pass


def merge_all(now: datetime) -> None:
    while compact_some(now):
        pass


def _merge_all_and_close() -> None:
    try:
        merge_all(NOW)
    finally:
        connections.close_all()


def _one_accepted(at: datetime) -> Deltas:
    made = Deltas()
    made.accepted(
        {
            "created_at": at,
            "pool": "agent_pool",
            "kind": "k",
            "route": "direct",
            "reason": "worker_free",
        }
    )
    return made


async def _none_active(here: House) -> bool:
    return not here.supervisor.tasks.active


def _taken_over(process_id: str) -> int:
    try:
        return take_over(process_id, "c" * 32).ended
    finally:
        connections.close_all()
