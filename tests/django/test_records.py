"""Records are written behind: batched, once per task, again after a failure, and never lost silently."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth import get_user_model
from django.db import DataError, OperationalError, connections

from streaming.cluster.processes import Registry
from streaming.core.errors import UpstreamRejected
from streaming.core.events import Finish
from streaming.core.routing import Reason, Snapshot
from streaming.models import Refusal, Segment, StreamTask
from streaming.runtime import supervisor
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import Task
from streaming.storage import notes, records, rows
from streaming.storage.records import DatabaseRecorder
from streaming.storage.stored import split_frames
from tests.support.client import eventually
from tests.unit.runtime.fakes import FakeMessages, ended, pool_limits, spec, stream_limits

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = 20.0


class House:
    """A supervisor with the real recorder."""

    def __init__(self, interval: float = 0.05) -> None:
        self.recorder = DatabaseRecorder(interval, Registry("1" * 32))
        self.supervisor = Supervisor(
            {"agent_pool": pool_limits(max_workers=200)},
            stream_limits(),
            self.recorder,
            FakeMessages(),
            connections.close_all,
        )

    async def run(self, *parts: Any, **changes: Any) -> Task:
        """A task that yields `parts`, from its admission to its end."""

        async def source() -> AsyncIterator[Any]:
            for part in parts:
                yield part

        task = self.supervisor.open(spec(source, **changes))
        self.supervisor.record(task)
        await ended(task)
        return task

    async def written(self) -> None:
        assert await self.recorder.flush().wait(PATIENCE)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    yield made
    await asyncio.to_thread(made.recorder.close, PATIENCE)
    made.supervisor.close()


def _snapshot(pool: str = "agent_pool") -> Snapshot:
    return Snapshot(
        pool=pool,
        running=5,
        waiting=30,
        max_workers=5,
        queue_size=30,
        owner_active=0,
        per_owner=3,
        oldest_wait_seconds=1.0,
        draining=False,
    )


async def test_a_finished_task_has_a_whole_row(house: House):
    task = await house.run("Hello, ", "world", Finish(model="m", usage={"completion_tokens": 2}))
    await house.written()
    row = await StreamTask.objects.aget(pk=task.id)
    assert (row.state, row.text, row.content_length) == ("complete", "Hello, world", 12)
    assert (row.route, row.reason, row.pool, row.kind) == ("direct", task.reason, "agent_pool", "test")
    assert (row.model, row.usage, row.finish_reason) == ("m", {"completion_tokens": 2}, "stop")
    assert row.last_event_id == task.journal.last_id
    assert row.snapshot["max_workers"] == 200
    assert row.started_at is not None
    assert row.finished_at is not None
    assert row.created_at <= row.started_at <= row.finished_at
    assert row.total_ms is not None
    assert row.first_content_ms is not None
    assert row.total_ms >= row.first_content_ms >= 0
    assert row.timing is not None
    assert row.timing["route"] == "direct"


async def test_nul_in_text_is_storable_everywhere(house: House):
    task = await house.run("a\x00b")
    await house.written()
    assert "\x00" not in (await StreamTask.objects.aget(pk=task.id)).text


async def test_many_records_are_one_transaction(house: House):
    """Written behind, and the newest state only: far fewer statements than events of tasks."""
    calls = []
    write = rows.write_tasks

    def counted(rows: list[dict[str, Any]]) -> None:
        calls.append(len(rows))
        write(rows)

    house.recorder._interval = 5
    with mock.patch.object(rows, "write_tasks", counted):
        tasks = await asyncio.gather(*(house.run(f"text {number}") for number in range(100)))
        await house.written()
    assert await StreamTask.objects.acount() == 100
    assert {task.id for task in tasks} == {row.id async for row in StreamTask.objects.all()}
    assert len(calls) <= 20, "each end asks for a flush; they are grouped"


async def test_a_row_is_updated_not_doubled(house: House):
    gate = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        yield "one"
        await gate.wait()
        yield " two"

    task = house.supervisor.open(spec(source))
    assert await house.supervisor.record(task).wait(PATIENCE)
    row = await StreamTask.objects.aget(pk=task.id)
    assert (row.state, row.text) == ("running", "")
    gate.set()
    await ended(task)
    await house.written()
    row = await StreamTask.objects.aget(pk=task.id)
    assert (row.state, row.text) == ("complete", "one two")


async def test_the_loop_never_writes(house: House):
    threads = []
    write = rows.write_tasks

    def noted(rows: list[dict[str, Any]]) -> None:
        threads.append(threading.current_thread().name)
        write(rows)

    with mock.patch.object(rows, "write_tasks", noted):
        await house.run("x")
        await house.written()
    assert set(threads) == {"sluice-records"}


# --- When the database does not take it ---------------------------------------------------------------


def _failing(times: int, error: Callable[[], Exception]) -> Callable[[list[dict[str, Any]]], None]:
    write, left = rows.write_tasks, [times]

    def attempt(rows: list[dict[str, Any]]) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error()
        write(rows)

    return attempt


async def test_a_database_that_was_away_gets_everything_later(house: House):
    away = _failing(3, lambda: OperationalError("away"))
    with (
        mock.patch.object(records, "RETRY_PAUSE", 0.05),
        mock.patch.object(rows, "write_tasks", away),
    ):
        task = await house.run("kept")
        promise = house.recorder.flush()
        assert await promise.wait(PATIENCE), "the promise is kept once it is true"
    row = await StreamTask.objects.aget(pk=task.id)
    assert (row.state, row.text) == ("complete", "kept")
    assert house.recorder.failed_writes == 3
    assert house.recorder.pending == 0


async def test_a_reader_waits_only_briefly_for_a_database_that_is_away(house: House):
    away = _failing(1_000, lambda: OperationalError("away"))
    with mock.patch.object(records, "RETRY_PAUSE", 0.05), mock.patch.object(rows, "write_tasks", away):
        async with asyncio.timeout(5):
            await house.run("x")
        promise = house.recorder.flush()
        assert not await promise.wait(0.2)
        assert house.supervisor.statistics()["late_commits"] == 1
    assert await promise.wait(PATIENCE)


async def test_what_does_not_fit_is_dropped_and_counted(house: House):
    away = _failing(1_000, lambda: OperationalError("away"))
    with (
        mock.patch.object(notes, "MAX_NOTES", 10),
        mock.patch.object(records, "RETRY_PAUSE", 0.05),
        mock.patch.object(rows, "write_tasks", away),
    ):
        await asyncio.gather(*(house.run("x") for _ in range(15)))
        assert house.recorder.dropped >= 5
        assert house.recorder.pending <= 25
    await house.written()


async def test_a_flush_waits_for_the_batch_that_is_just_written(house: House):
    """Nothing is noted any more, but what was is not committed yet: the promise must not be kept early."""
    write, begun, go_on = rows.write_refusals, threading.Event(), threading.Event()

    def slow(refusals: Counter[Any]) -> None:
        begun.set()
        go_on.wait(PATIENCE)
        write(refusals)

    with mock.patch.object(records, "write_refusals", slow):
        house.recorder.refused(_snapshot(), "queue_full")
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        promise = house.recorder.flush()
        assert not await promise.wait(0.2)
        go_on.set()
        assert await promise.wait(PATIENCE)
    assert (await Refusal.objects.aget()).count == 1


async def test_a_record_that_cannot_be_written_does_not_block_the_others(house: House):
    """JSON cannot hold it, so no database ever takes it: it is given up, logged and counted."""
    await house.run("x", arguments={"when": object()})
    good = await house.run("good")
    await house.written()
    assert (await StreamTask.objects.aget(pk=good.id)).text == "good"
    assert house.recorder.dropped == 1


async def test_foreign_words_about_a_fault_are_kept_beside_the_message(house: House):
    async def refused() -> AsyncIterator[str]:
        raise UpstreamRejected("status 400", detail="no\0 such \ud800 model")
        yield ""

    task = house.supervisor.open(spec(refused))
    house.supervisor.record(task)
    await ended(task)
    await house.written()
    row = await StreamTask.objects.aget(pk=task.id)
    assert (row.error_code, row.error_detail) == ("upstream_rejected", "no\ufffd such \ufffd model")
    assert "model" not in row.error_message


async def test_a_value_that_no_database_takes_is_not_quoted(house: House, caplog: pytest.LogCaptureFixture):
    """PostgreSQL's message has the statement's values on its further lines."""
    fault = DataError('unsupported escape sequence\nCONTEXT:  JSON data, line 1: ...opic": "GEHEIM')
    logging.getLogger("streaming").addHandler(caplog.handler)
    try:
        with mock.patch.object(rows, "write_tasks", side_effect=fault):
            await house.run("x")
            await house.written()
    finally:
        logging.getLogger("streaming").removeHandler(caplog.handler)
    assert house.recorder.dropped == 1
    assert "no database takes its record; dropped: unsupported escape sequence" in caplog.text
    assert "GEHEIM" not in caplog.text


async def test_a_promise_is_broken_with_its_record_and_no_other(house: House):
    gate = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        await gate.wait()
        yield "x"

    bad = house.supervisor.open(spec(source, arguments={"when": object()}))
    good = house.supervisor.open(spec(source))
    promises = [house.supervisor.record(task) for task in (bad, good)]
    assert [await promise.wait(PATIENCE) for promise in promises] == [False, True]
    gate.set()
    await ended(bad)
    await ended(good)


async def test_what_waits_for_a_database_that_is_away_is_bounded_and_the_oldest_go(house: House):
    """However often the write fails; who waited for a dropped record is told at once."""
    first = None
    with (
        mock.patch.object(notes, "MAX_NOTES", 3),
        mock.patch.object(records, "RETRY_PAUSE", 0.01),
        mock.patch.object(rows, "write_tasks", side_effect=OperationalError("away")),
    ):
        for number in range(10):
            task = await house.run(str(number))
            first = first or house.recorder.accepted(task)
            failures = house.recorder.failed_writes
            while house.recorder.failed_writes == failures:  # noqa: ASYNC110 (a thread counts)
                await asyncio.sleep(0.01)
            assert house.recorder.pending <= 3
        assert first is not None
        assert not await first.wait(PATIENCE)
    await house.written()
    assert await StreamTask.objects.acount() == 3
    assert {row.text async for row in StreamTask.objects.all()} == {"7", "8", "9"}
    assert house.recorder.dropped == 7


async def test_the_record_of_a_deleted_owner_does_not_block_the_others(
    house: House, caplog: pytest.LogCaptureFixture
):
    house.recorder._interval = 5
    user = await get_user_model().objects.acreate(username="gone")
    gate = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        yield "x"
        await gate.wait()

    task = house.supervisor.open(spec(source, owner=str(user.pk)))
    assert await house.supervisor.record(task).wait(PATIENCE)
    await user.adelete()
    gate.set()
    await ended(task)
    good = await house.run("good")
    await house.written()
    assert (await StreamTask.objects.aget(pk=good.id)).text == "good"
    assert house.recorder.dropped == 1
    (line,) = [record for record in caplog.records if record.name == "streaming.storage.records"]
    assert task.id in line.getMessage()
    assert (line.levelname, line.exc_info) == ("WARNING", None), "no traceback: nothing is wrong"
    assert "\n" not in line.getMessage()


# --- Refusals -----------------------------------------------------------------------------------------


async def test_refusals_are_counted_by_minute_pool_and_reason(house: House):
    for _ in range(7):
        house.recorder.refused(_snapshot(), Reason.QUEUE_FULL.value)
    for _ in range(2):
        house.recorder.refused(_snapshot(), Reason.OWNER_LIMIT.value)
    house.recorder.refused(_snapshot("kernel_pool"), Reason.QUEUE_FULL.value)
    await house.written()
    house.recorder.refused(_snapshot(), Reason.QUEUE_FULL.value)
    await house.written()
    counts: dict[tuple[str, str], int] = {}
    async for row in Refusal.objects.all():
        assert (row.minute.second, row.minute.microsecond) == (0, 0)
        key = row.pool, row.reason
        counts[key] = counts.get(key, 0) + row.count
    assert counts == {
        ("agent_pool", "queue_full"): 8,
        ("agent_pool", "owner_limit"): 2,
        ("kernel_pool", "queue_full"): 1,
    }


async def test_refusals_are_logged_at_most_once_a_second_with_their_number(
    house: House, caplog: pytest.LogCaptureFixture
):
    now = [1_000.0]
    with (
        mock.patch("streaming.storage.records.time.monotonic", side_effect=lambda: now[0]),
        caplog.at_level(logging.WARNING, "streaming.storage.records"),
    ):
        for _ in range(50):
            house.recorder.refused(_snapshot(), "queue_full")
            now[0] += 0.01
        now[0] += 1.0
        house.recorder.refused(_snapshot(), "queue_full")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["refused 1: agent_pool queue_full", "refused 50: agent_pool queue_full"]


# Events


async def _stored(task: Task) -> list[bytes]:
    segments = [each async for each in Segment.objects.filter(task_id=task.id).order_by("first_id")]
    expected = 1
    for segment in segments:
        assert segment.first_id == expected, "no hole, nothing twice"
        expected = segment.last_id + 1
    return [frame for segment in segments for frame in split_frames(bytes(segment.frames))]


async def test_events_are_stored_one_by_one_and_in_order(house: House):
    task = await house.run(*(f"part {number} of a longer text, " for number in range(50)))
    await house.written()
    assert await _stored(task) == task.journal.read(0, 1000)


async def test_events_are_stored_while_the_task_still_runs(house: House):
    goes_on = asyncio.Event()

    task = house.supervisor.open(spec(_held(goes_on, "what came before the crash")))
    house.supervisor.record(task)

    async def stored() -> bool:
        return await Segment.objects.filter(task_id=task.id).aexists()

    assert await eventually(stored)
    assert task.final is None
    assert await _stored(task) == task.journal.read(0, 10)
    goes_on.set()
    await ended(task)


async def test_events_never_come_before_the_row_that_they_belong_to(house: House):
    house.recorder._interval = 0.0
    goes_on = asyncio.Event()

    task = house.supervisor.open(spec(_held(goes_on, "at once")))
    admitted = house.supervisor.record(task)

    async def stored() -> bool:
        return await Segment.objects.filter(task_id=task.id).aexists()

    assert await eventually(stored)
    assert await admitted.wait(PATIENCE)
    assert house.recorder.dropped == 0
    goes_on.set()
    await ended(task)


@pytest.mark.parametrize(
    ("took", "collected_for"), [(0.0, 0.05), (0.004, 0.05), (0.02, 0.2), (0.07, 0.7), (5.0, records.LONGEST)]
)
async def test_events_are_collected_for_longer_where_writing_takes_long(
    house: House, took: float, collected_for: float
):
    house.recorder._write_seconds = took
    with mock.patch.object(asyncio.get_running_loop(), "call_later") as armed:
        house.recorder.appended(mock.Mock(final=None))
    assert armed.call_args.args[0] == pytest.approx(collected_for)
    house.recorder._unread.clear()
    house.recorder._collector = None


async def test_events_of_many_tasks_are_noted_in_steps_and_written_together(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "AT_ONCE", 3)
    gate = asyncio.Event()
    steps: list[tuple[int, bool]] = []
    written: list[tuple[int, float]] = []
    note_events, write_segments = house.recorder._note_events, rows.write_segments

    def noted(count: int, *, wake: bool) -> None:
        steps.append((count, wake))
        note_events(count, wake=wake)

    def segments(batches: list[Any]) -> None:
        written.append((len(batches), sys.getswitchinterval()))
        write_segments(batches)

    found = sys.getswitchinterval()
    with (
        mock.patch.object(house.recorder, "_note_events", noted),
        mock.patch.object(rows, "write_segments", segments),
    ):
        tasks = [house.supervisor.open(spec(_held(gate, "said"))) for _ in range(8)]
        for task in tasks:
            house.supervisor.record(task)

        async def all_written() -> bool:
            return sum(count for count, _ in written) == 8

        assert await eventually(all_written)
    assert steps == [(3, False), (3, False), (2, True)]
    assert [count for count, _ in written if count] == [8]
    assert all(interval < found for _, interval in written), "the loop is let in more often meanwhile"
    gate.set()
    await asyncio.gather(*(task.ended for task in tasks))


@pytest.mark.parametrize("wake_for_nothing", ["a collection that finds nothing", "a sign of life"])
async def test_a_writer_that_woke_up_for_nothing_hears_the_next_note_at_once(
    house: House, wake_for_nothing: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "TICK", 1_000.0)
    # An end waits for its record, so that only a writer that hears nothing makes it late.
    monkeypatch.setattr(supervisor, "COMMIT_PATIENCE", 5.0)
    await house.run("first")
    if wake_for_nothing == "a sign of life":
        house.recorder.start()
    await asyncio.sleep(4 * house.recorder._interval)
    await house.run("second")
    assert house.supervisor.counters.late_commits == 0


async def test_events_of_a_task_whose_row_is_not_noted_yet_wait_for_it(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "SOON", 1_000.0)
    gate = asyncio.Event()

    task = house.supervisor.open(spec(_held(gate, "said")))
    house.supervisor.record(task)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert task.id in house.recorder._unread
    # A later step of a collection that began before the task came.
    house.recorder._collect_in_steps(1)
    assert (task.id in house.recorder._unread, task.id in house.recorder._notes) == (True, False)
    await house.written()
    assert await _stored(task) == task.journal.read(0, 10)
    gate.set()
    await ended(task)


async def test_the_terminal_event_is_stored_before_it_is_sent(house: House):
    task = house.supervisor.open(spec(_of("text")))
    house.supervisor.record(task)
    seen: list[Awaitable[list[bytes]]] = []
    task.journal.subscribe(lambda: seen.append(_stored(task)) if task.journal.closed else None)
    await ended(task)
    assert b"event: complete" in (await seen[0])[-1]


async def test_events_survive_a_database_that_is_away_for_a_while(house: House):
    write, left = rows.write_tasks, [2]

    def away_at_first(made: list[dict[str, Any]]) -> None:
        if left[0]:
            left[0] -= 1
            raise OperationalError("away")
        write(made)

    with (
        mock.patch.object(rows, "write_tasks", away_at_first),
        mock.patch.object(records, "RETRY_PAUSE", 0.01),
    ):
        task = await house.run(*("a text that is long enough for an event " for _ in range(30)))
        await house.written()
    assert await _stored(task) == task.journal.read(0, 1000)


async def test_events_of_a_database_that_stays_away_are_bounded_and_counted(house: House):
    with (
        mock.patch.object(rows, "write_tasks", side_effect=OperationalError("away")),
        mock.patch.object(records, "RETRY_PAUSE", 0.01),
        mock.patch.object(notes, "MAX_BYTES", 2_000),
    ):
        for _ in range(10):
            await house.run("x" * 500)
        assert house.recorder.dropped_events > 0
    await house.written()
    assert await StreamTask.objects.acount() == 10, "the rows are small, and stay"


async def _of_parts(*parts: str) -> AsyncIterator[str]:
    for part in parts:
        yield part


def _held(gate: asyncio.Event, text: str) -> Callable[[], AsyncIterator[str]]:
    """A source that says `text`, and ends when the gate is opened."""

    async def source() -> AsyncIterator[str]:
        yield text
        await gate.wait()

    return source


def _of(*parts: str) -> Callable[[], AsyncIterator[str]]:
    return lambda: _of_parts(*parts)
