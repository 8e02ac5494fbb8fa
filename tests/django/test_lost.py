"""Tasks that ran in a process that is gone: which of them begin anew in another one, and as what their
readers see that. The houses are those of test_several_processes.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from streaming.cluster.takeover import cancel_unclaimed, claim, take_over
from streaming.core import sse
from streaming.core.events import Complete, Content, Event, Restart, Timing, encode
from streaming.core.states import State
from streaming.models import Segment, StreamTask
from streaming.runtime.journals.base import LOST_IDS
from streaming.runtime.task import CancelReason
from streaming.storage.stored import count_of_events, former_events, newest_events
from tests.django.test_several_processes import KIND, A, B, C, Make, arow, held, house, row, stored
from tests.unit.runtime.fakes import Reader, ended, eventually, in_memory, stream_limits, text_of

__all__ = ["house"]

pytestmark = pytest.mark.django_db(transaction=True)

TIMING = Timing(
    route="direct",
    queued_ms=0.0,
    first_content_ms=1.0,
    total_ms=2.0,
    coalesced_ratio=1.0,
    blocked_ms=0.0,
    status_messages=0,
    resumes=0,
)


def frame(number: int, event: Event) -> bytes:
    return sse.frame(number, event.name, encode(event))


def keep(task: StreamTask, *events: Event, first_id: int = 1) -> None:
    """These are stored of it."""
    frames = [frame(first_id + index, event) for index, event in enumerate(events)]
    last_id = first_id + len(frames) - 1
    Segment.objects.create(task=task, first_id=first_id, last_id=last_id, frames=b"".join(frames))


def text(*pieces: str) -> list[Content]:
    return [Content(delta=piece) for piece in pieces]


def running(attempts: int = 1, **columns: Any) -> StreamTask:
    return row(process=A, state="running", attempts=attempts, started_at=timezone.now(), **columns)


AGAIN = Restart(attempt=2, reason="process_lost")

# Which begin anew


@pytest.mark.parametrize(
    ("on_lost", "attempts", "events", "outcome"),
    [
        ("error", 1, [], "queued"),
        ("error", 2, [], "queued"),
        ("error", 3, [], "error"),
        ("error", 1, text("a"), "error"),
        ("error", 2, [*text("a"), AGAIN], "queued"),
        ("error", 2, [AGAIN, *text("a")], "error"),
        ("restart", 1, text("a"), "queued"),
        ("restart", 2, [AGAIN, *text("a")], "queued"),
        ("restart", 3, text("a"), "error"),
        # Of a process of the version before.
        ("restart", 0, text("a"), "queued"),
    ],
)
def test_what_readers_have_of_it_and_the_settings_decide(
    settings: Any, on_lost: str, attempts: int, events: list[Event], outcome: str
):
    settings.CLUSTER_CONFIG = {"on_lost": on_lost, "max_attempts": 3}
    one = running(attempts)
    if events:
        keep(one, *events)
    found = take_over(A, C)
    one.refresh_from_db()
    assert (one.state, one.attempts, one.epoch) == (outcome, attempts, 2)
    if outcome == "queued":
        assert (found.waiting, one.process, one.started_at) == (1, "", None)
    else:
        assert (one.error_code, one.process, one.counted) == ("interrupted", C, StreamTask.Counted.ENDED)


def test_what_no_other_process_could_do_ends(settings: Any):
    settings.CLUSTER_CONFIG = {"on_lost": "restart"}
    iterator = running(arguments=None)
    unwanted = running(cancel_requested="client")
    take_over(A, C)
    states = dict(StreamTask.objects.values_list("pk", "state"))
    assert states == {iterator.pk: "error", unwanted.pk: "cancelled"}


def test_at_the_limit_the_log_says_why(settings: Any, caplog: pytest.LogCaptureFixture):
    settings.CLUSTER_CONFIG = {"on_lost": "restart", "max_attempts": 2}
    one = running(2)
    take_over(A, C)
    assert (
        f"task {one.pk}: its process is gone, and it was begun 2 times, as often as it may be" in caplog.text
    )


# As what readers see it


async def test_readers_of_what_begins_anew_are_told_and_get_the_whole_text(house: Make, settings: Any):
    """Who read along, who has read what is lost, who comes later; through the process that takes it up, and
    through a third one."""
    settings.CLUSTER_CONFIG = {"on_lost": "restart"}
    there, here, third = house(A), house(B), house(C)
    task = there.open(held(asyncio.Event()), kind=KIND, arguments={"words": ["one ", "two"]})
    await Reader(there.supervisor, task).saw("before ")
    await there.saved()
    along = [await one.reader(task.id) for one in (here, third)]
    ahead = [await one.reader(task.id, after=9) for one in (here, third)]
    for each in along:
        await each.saw("before ")
    assert await asyncio.to_thread(_taken_over, B) == 1
    await along[1].until(lambda reader: reader.named("status")[-1].data["status"] == "queued")
    await here.look(0.0)
    restart_id = 1 + LOST_IDS
    for reader in (*along, *ahead):
        events = await reader.end()
        assert "gap" not in {each.name for each in events}
        at = [each.name for each in events].index("restart")
        assert (events[at].id, events[at].data["attempt"]) == (restart_id, 2)
        assert events[at].data["reason"] == "process_lost"
        assert text_of(events[at:]) == "one two"
        assert events[-1].name == "complete"
    await here.saved()
    now = await stored(task.id)
    assert (now.state, now.text, now.attempts, now.process) == ("complete", "one two", 2, B)
    late = await (await third.reader(task.id)).end()
    assert (text_of(late), "restart" in {each.name for each in late}) == ("one two", False)
    behind = await (await third.reader(task.id, after=1)).end()
    assert next(each.name for each in behind if each.id is not None) == "restart"
    kept = [each async for each in Segment.objects.order_by("first_id").values_list("first_id", flat=True)]
    assert kept[:2] == [1, restart_id], "what was before is kept, and no id names two events"


def _taken_over(by: str, **options: Any) -> int:
    try:
        return take_over(A, by, **options).waiting
    finally:
        connections.close_all()


async def test_who_had_nothing_notices_nothing_and_who_had_what_is_lost_is_told(house: Make):
    """Its process was killed before anything was stored."""
    one, here = await sync_to_async(running)(), house(B)
    unaware, aware = await here.reader(one.pk), await here.reader(one.pk, after=5)
    assert await asyncio.to_thread(_taken_over, B) == 1
    await here.look(0.0)
    events = await unaware.end()
    assert {each.name for each in events if each.id is not None} == {"content", "complete"}
    assert text_of(events) == "one two"
    told = [each for each in await aware.end() if each.id is not None]
    assert (told[0].name, text_of(told)) == ("restart", "one two")
    assert told[0].id == LOST_IDS


async def test_each_attempt_has_ids_of_its_own_although_nothing_of_it_was_stored(house: Make):
    one, here = await sync_to_async(running)(2), house(B)
    aware = await here.reader(one.pk, after=LOST_IDS + 7)
    assert await asyncio.to_thread(_taken_over, B) == 1
    await here.look(0.0)
    told = [each for each in await aware.end() if each.id is not None]
    assert (told[0].name, told[0].id, told[0].data["attempt"]) == ("restart", 2 * LOST_IDS, 3)
    assert text_of(told) == "one two"


async def test_a_task_that_kills_its_process_ends_after_so_many_attempts(
    house: Make, settings: Any, monkeypatch: pytest.MonkeyPatch
):
    """Each time before a word of it."""
    settings.CLUSTER_CONFIG = {"max_attempts": 3}
    one = await arow(process="")
    opens = held(asyncio.Event(), before="")
    monkeypatch.setattr("streaming.retry.open_producer", lambda *_: opens())
    for attempt in (1, 2, 3):
        name = f"{attempt:032x}"
        killed = house(name)
        await killed.look(attempt)
        task = in_memory(killed.supervisor, one.pk)
        await eventually(lambda: task.state is State.RUNNING and not task.begins_anew)  # noqa: B023
        await killed.saved()
        assert (await stored(one.pk)).attempts == attempt
        assert await asyncio.to_thread(_take_over_from, name) == (attempt < 3)
    now = await stored(one.pk)
    assert (now.state, now.error_code, now.attempts) == ("error", "interrupted", 3)
    ids = [number async for number in Segment.objects.order_by("first_id").values_list("first_id", flat=True)]
    assert len(set(ids)) == len(ids) == 3, "two restarts and the end"


def _take_over_from(name: str) -> int:
    try:
        return take_over(name, C).waiting
    finally:
        connections.close_all()


async def test_a_cancel_while_it_waits_again_stands_behind_what_may_be_lost(house: Make, settings: Any):
    settings.CLUSTER_CONFIG = {"on_lost": "restart"}
    one, here = await sync_to_async(running)(), house(B)
    await sync_to_async(keep)(one, *text("kept "))
    assert await asyncio.to_thread(_taken_over, B) == 1
    ahead = await here.reader(one.pk, after=8)
    await here.elsewhere.cancel([one.pk], CancelReason.CLIENT)
    gap, end = (each for each in await ahead.end() if each.name in ("gap", "cancelled"))
    assert (gap.data["lost"], end.id) == (True, 1 + LOST_IDS)


async def test_likewise_where_it_waits_in_the_process_that_took_it_up(house: Make, settings: Any):
    settings.CLUSTER_CONFIG = {"on_lost": "restart"}
    one, here = await sync_to_async(running)(), house(B, max_workers=1)
    await sync_to_async(keep)(one, *text("kept "))
    here.open(held(asyncio.Event()))
    assert await asyncio.to_thread(_taken_over, B) == 1
    await here.look(0.0)
    task = in_memory(here.supervisor, one.pk)
    ahead, behind = (Reader(here.supervisor, task, after=after) for after in (8, 0))
    await behind.saw("kept ")
    here.supervisor.cancel(task, CancelReason.ADMIN)
    gap, end = (each for each in await ahead.end() if each.name in ("gap", "cancelled"))
    assert (gap.data["lost"], gap.data["available_from"], end.id) == (True, 1 + LOST_IDS, 1 + LOST_IDS)
    assert text_of(await behind.end()) == "kept "
    await here.saved()
    now = await stored(one.pk)
    assert (now.state, now.last_event_id, now.text) == ("cancelled", 1 + LOST_IDS, "kept ")
    assert [first_id for first_id, _ in await sync_to_async(former_events)(now)] == [1, 1 + LOST_IDS]


async def test_who_was_held_for_dead_adds_nothing_to_the_new_attempt(house: Make, settings: Any):
    settings.CLUSTER_CONFIG = {"on_lost": "restart"}
    there, here = house(A), house(B)
    gate = asyncio.Event()
    task = there.open(held(gate, after="foreign"), kind=KIND, arguments={"words": ["one ", "two"]})
    reader = await Reader(there.supervisor, task).saw("before ")
    await there.saved()
    assert await asyncio.to_thread(_taken_over, B) == 1
    await here.look(0.0)
    gate.set()
    assert (await reader.end())[-1].name == "reconnect"
    await ended(in_memory(here.supervisor, task.id))
    await there.saved()
    await here.saved()
    now = await stored(task.id)
    assert (now.state, now.text, now.process, now.epoch) == ("complete", "one two", B, 3)
    frames = [f async for f in Segment.objects.values_list("frames", flat=True)]
    assert b"foreign" not in b"".join(map(bytes, frames))


async def test_the_admin_counts_no_holes(house: Make):
    one = await sync_to_async(running)(2)
    await sync_to_async(keep)(one, *text("a", "b"))
    await sync_to_async(keep)(one, AGAIN, *text("c"), first_id=2 + LOST_IDS)
    assert await sync_to_async(count_of_events)(one.pk) == 4
    assert len(await sync_to_async(newest_events)(one.pk, 3)) == 3


# Going down in order


async def test_what_has_not_finished_at_a_shutdown_goes_on_in_another_process(house: Make):
    """Seen by nobody yet, or because the settings say so; from there its readers get one history."""
    there, here = house(A, max_workers=9), house(B)
    there.supervisor.limits = stream_limits(restarts=True)
    arguments = {"words": ["one ", "two"]}
    seen = there.open(held(asyncio.Event()), kind=KIND, arguments=arguments)
    unseen = there.open(held(asyncio.Event(), before=""), kind=KIND, arguments=arguments)
    iterator = there.open(held(asyncio.Event()))
    reader = await Reader(there.supervisor, seen).saw("before ")
    await there.supervisor.drain(0.01, others=lambda: True)
    assert (await reader.end())[-1].name == "reconnect"
    await there.saved()
    assert (await stored(iterator.id)).error_code == "interrupted"
    for task in (seen, unseen):
        now = await stored(task.id)
        assert (now.state, now.process, now.attempts, now.started_at) == ("queued", "", 1, None)
    back = await here.reader(seen.id, after=1)
    await here.look(0.0)
    events = [each for each in await back.end() if each.id is not None]
    assert (events[0].name, text_of(events)) == ("restart", "one two")
    fresh = [each for each in await (await here.reader(unseen.id)).end() if each.id is not None]
    assert ({each.name for each in fresh}, text_of(fresh)) == ({"content", "complete"}, "one two")


# What survived elsewhere


class Store:
    """A store that has got further than the database."""

    def __init__(self, **tails: list[bytes]) -> None:
        self.tails = tails
        self.calls: list[tuple[Any, ...]] = []

    def fence(self, task_id: str, epoch: int) -> None:
        assert StreamTask.objects.get(pk=task_id).epoch < epoch, "before it is taken"
        self.calls.append(("fence", task_id, epoch))

    def tail(self, task_id: str, after_id: int) -> list[bytes]:
        self.calls.append(("tail", task_id, after_id))
        return self.tails.get(task_id, [])

    def ended(self, task_id: str, frame: bytes, event_id: int, epoch: int) -> None:
        assert StreamTask.objects.get(pk=task_id).finished_at is not None
        self.calls.append(("ended", task_id, sse.name(frame), event_id, epoch))


def test_what_another_store_still_has_is_not_lost():
    one = running()
    keep(one, *text("a"))
    # The second one was stored while that was asked.
    tail = [frame(number, event) for number, event in enumerate(text("a", "b", "c"), 1)]
    store = Store(**{one.pk: tail})
    assert take_over(A, C, survivors=store).ended == 1
    one.refresh_from_db()
    assert (one.text, one.last_event_id) == ("abc", 3 + LOST_IDS)
    assert store.calls == [
        ("fence", one.pk, 2),
        ("tail", one.pk, 1),
        ("ended", one.pk, "error", 3 + LOST_IDS, 2),
    ]


def test_an_end_that_was_told_and_not_stored_is_the_end():
    one = running()
    end = Complete(
        task_id=one.pk,
        finish_reason="stop",
        content_length=1,
        chunks=1,
        usage=None,
        model="m",
        cached=False,
        timing=TIMING,
    )
    store = Store(**{one.pk: [frame(1, text("a")[0]), frame(2, end)]})
    told: list[Any] = []
    take_over(A, C, on_end=lambda row, terminal: told.append(terminal), survivors=store)
    one.refresh_from_db()
    assert (one.state, one.text, one.last_event_id, one.model) == ("complete", "a", 2, "m")
    assert [type(each) for each in told] == [Complete]
    assert Segment.objects.count() == 1


def test_a_start_that_only_the_other_store_knows_of_counts(settings: Any):
    settings.CLUSTER_CONFIG = {"on_lost": "restart"}
    one = row(process=A)
    assert take_over(A, C, survivors=Store(**{one.pk: [frame(1, text("a")[0])]})).waiting == 1
    one.refresh_from_db()
    assert (one.attempts, former_events(one)) == (1, [(1, [frame(1, text("a")[0])])])


def test_a_cancel_of_what_waits_is_told_there_too():
    one, store = row(process="", attempts=1), Store()
    cancel_unclaimed([one.pk], C, "client", survivors=store)
    assert store.calls == [("ended", one.pk, "cancelled", LOST_IDS, 2)]


def test_a_claim_changes_the_row_at_once():
    one = running()
    assert claim(one, "", state="queued")
    assert (one.state, StreamTask.objects.get(pk=one.pk).state) == ("queued", "queued")


# Upgrading


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite is one machine's")
def test_older_servers_go_on_inserting_while_the_column_is_added():
    """They do not name it; and no row is written again."""
    latest = MigrationExecutor(connection).loader.graph.leaf_nodes("streaming")
    MigrationExecutor(connection).migrate([("streaming", "0013_error_detail")])
    template = [str(field.column) for field in StreamTask._meta.concrete_fields if field.name != "attempts"]
    before = _file_of_the_table()
    stop, inserted, faults = threading.Event(), [0], []

    def insert() -> None:
        names = ", ".join(template)
        try:
            with connection.cursor() as cursor:
                while not stop.is_set() or inserted[0] < 50:
                    inserted[0] += 1
                    cursor.execute(
                        f"INSERT INTO streaming_streamtask ({names})"  # noqa: S608 (our names)
                        f" VALUES ({', '.join(['%s'] * len(template))})",
                        list(_old_row(inserted[0], template)),
                    )
        except Exception as error:
            faults.append(error)
        finally:
            connections.close_all()

    older = threading.Thread(target=insert)
    older.start()
    try:
        MigrationExecutor(connection).migrate(latest)
    finally:
        stop.set()
        older.join(20)
        MigrationExecutor(connection).migrate(latest)
    assert faults == []
    assert _file_of_the_table() == before
    assert StreamTask.objects.filter(attempts=0).count() == inserted[0] >= 50


def _file_of_the_table() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_relation_filenode('streaming_streamtask')")
        return int(cursor.fetchone()[0])


def _old_row(number: int, columns: list[str]) -> Iterator[Any]:
    values = {
        "id": f"{number:032x}",
        "created_at": timezone.now(),
        "snapshot": "{}",
        "priority": 1,
        "epoch": 1,
        "last_event_id": 0,
        "chunks": 0,
        "content_length": 0,
        "status_messages": 0,
        "resumes": 0,
        "state": "queued",
    }
    nullable = {field.column for field in StreamTask._meta.concrete_fields if field.null}
    for column in columns:
        yield values.get(column, None if column in nullable else "")
