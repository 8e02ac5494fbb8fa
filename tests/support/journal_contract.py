"""What every store of events promises to a reader, as tests that any store can run.

A module of tests gives the fixture `make_store`, which makes a `Store` for one task, and takes over the tests
by `from tests.support.journal_contract import *`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streaming.core import sse
from streaming.core.errors import CursorAhead
from streaming.core.events import Cancelled, Content, Error, Event, Output, Restart, decode
from streaming.core.framing import SSE
from streaming.core.routing import Reason
from streaming.core.states import State
from streaming.runtime.follower import FollowOptions
from streaming.runtime.journals.base import LOST_IDS, Journal
from streaming.runtime.ledger import Ticket
from streaming.runtime.supervisor import Supervisor
from streaming.runtime.task import Task
from tests.support.scale import ALL
from tests.unit.runtime.fakes import (
    TERMINAL,
    FakeMessages,
    FakeRecorder,
    Seen,
    parse,
    pool_limits,
    stream_limits,
)
from tests.unit.runtime.fakes import spec as make_spec

__all__ = [
    "test_a_closed_journal_tells_so",
    "test_any_history_is_read_exactly_once",
    "test_frames_hold_the_events",
    "test_ids_are_dense_from_1_whatever_is_appended",
    "test_read_after_a_cursor_with_limit",
    "test_readers_are_woken_after_the_event_is_there",
    "test_the_newest_restart_is_known",
    "test_trim_shows_a_gap",
]

END = Cancelled(reason="client")
INTERRUPTED = Error(code="interrupted", message="", retryable=True)


class Store(Protocol):
    """Where the events of one task are kept: written by its owner, read by others."""

    live: bool
    """Whether a reader may come before the end."""

    def append(self, event: Event) -> int:
        """The owner appends; returns the id."""
        ...

    def settle(self) -> None:
        """From now on readers see all that was appended."""
        ...

    def crash(self) -> None:
        """The owner dies. What was not settled may be lost; the end is told by somebody else."""
        ...

    def reader(self) -> Journal:
        """What a reader has. The same one each time where it can come before the end."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


MakeStore = Callable[[], Store]


def task_of(journal: Journal, ticket: Ticket, loop: asyncio.AbstractEventLoop) -> Task:
    """A task with that journal, to be followed."""
    return Task(
        id="1" * 32,
        spec=make_spec(lambda: iter(())),
        journal=journal,
        ticket=ticket,
        created=loop.time(),
        created_at=datetime.now(UTC),
        ended=loop.create_future(),
        state=State.RUNNING,
    )


def ids(frames: list[bytes]) -> list[int]:
    """Of each frame."""
    return [sse.event_id(frame) or 0 for frame in frames]


def written(store: Store, *events: Event) -> Journal:
    """A reader of the store, which now has these events and then an end."""
    for event in (*events, END):
        store.append(event)
    store.settle()
    return store.reader()


def texts(count: int) -> list[Event]:
    """As many pieces of text."""
    return [Content(delta=f"part {number}") for number in range(1, count + 1)]


def test_ids_are_dense_from_1_whatever_is_appended(make_store: MakeStore) -> None:
    journal = written(make_store(), *texts(1), Content(delta="b", channel="stdout"), Output(output_type="x"))
    assert (journal.first_id, journal.dense_id, journal.last_id) == (1, 4, 4)
    assert ids(journal.read(0, 99)) == [1, 2, 3, 4]


def test_frames_hold_the_events(make_store: MakeStore) -> None:
    events = [
        Content(delta="你好\r\n\u2028data: x\n\n"),
        Content(delta="\n\nid: 7\n\n", channel="stderr"),
        Output(output_type="display_data", data={"text/plain": "1\n\n"}),
    ]
    journal = written(make_store(), *events)
    assert [decode(sse.payload(frame)) for frame in journal.read(0, 9)] == [*events, END]


def test_read_after_a_cursor_with_limit(make_store: MakeStore) -> None:
    journal = written(make_store(), *texts(9))
    assert ids(journal.read(0, 3)) == [1, 2, 3]
    assert ids(journal.read(3, 3)) == [4, 5, 6]
    assert ids(journal.read(9, 3)) == [10]
    assert journal.read(10, 3) == journal.read(4, 0) == []


def test_trim_shows_a_gap(make_store: MakeStore) -> None:
    journal = written(make_store(), *texts(9))
    journal.trim(4)
    assert (journal.first_id, journal.last_id) == (4, 10)
    assert ids(journal.read(0, 2)) == [4, 5], "what follows the gap"
    assert ids(journal.read(3, 2)) == [4, 5], "no gap for this cursor"
    journal.trim(2)
    assert journal.first_id == 4, "nothing comes back"
    journal.trim(11)
    assert (journal.first_id, journal.last_id, journal.size) == (11, 10, 0)


def test_a_closed_journal_tells_so(make_store: MakeStore) -> None:
    store = make_store()
    if store.live:
        store.append(Content(delta="x"))
        store.settle()
        assert not store.reader().closed
    assert written(store).closed


def test_the_newest_restart_is_known(make_store: MakeStore) -> None:
    restart = Restart(attempt=2, reason="upstream_failed")
    trap = Content(delta="\nevent: restart\n")
    assert written(make_store(), *texts(3)).restart_id == 0
    assert written(make_store(), *texts(2), restart, *texts(1), restart, trap).restart_id == 5


def test_readers_are_woken_after_the_event_is_there(make_store: MakeStore) -> None:
    store = make_store()
    if not store.live:
        pytest.skip("readers come after the end")
    journal = store.reader()
    seen: list[tuple[int, bool, int]] = []
    journal.subscribe(lambda: seen.append((journal.last_id, journal.closed, len(journal.read(0, 99)))))
    for event in (Content(delta="a"), END):
        store.append(event)
        store.settle()
    assert seen == [(1, False, 1), (2, True, 2)]


# Any history

Step = tuple[str, Any]

_steps = st.one_of(
    st.tuples(
        st.just("text"), st.tuples(st.text("ab\n: 好", min_size=1, max_size=6), st.sampled_from([None, "e"]))
    ),
    st.tuples(st.just("text"), st.tuples(st.text("xy", min_size=1, max_size=6), st.none())),
    st.tuples(st.just("output"), st.text(max_size=4)),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("settle"), st.none()),
    st.tuples(st.just("read"), st.none()),
)
_histories = st.lists(_steps, max_size=25)
_ends = st.sampled_from(["end", "crash"])


@settings(
    max_examples=int(os.environ.get("HISTORIES", "40" if ALL else "15")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(history=_histories, ending=_ends, ahead=st.integers(1, LOST_IDS + 9))
@example(history=[], ending="end", ahead=LOST_IDS)
@example(history=[], ending="end", ahead=LOST_IDS + 1)
def test_any_history_is_read_exactly_once(
    make_store: MakeStore, history: list[Step], ending: str, ahead: int
) -> None:
    check_history(make_store(), history, ending, ahead)


@dataclass
class _Known:
    """What was appended, and what of it is certain to survive."""

    events: list[Event] = field(default_factory=list)
    settled: int = 0


def check_history(store: Store, history: list[Step], ending: str, ahead: int) -> None:
    """Whoever reads gets what survived exactly once and in order, is told of what is lost, and gets one end;
    from any cursor, also from one that is `ahead` of what survived, and while it is written."""
    with asyncio.Runner() as runner:
        _check_history(store, history, ending, ahead, runner)
    store.close()


def _check_history(
    store: Store, history: list[Step], ending: str, ahead: int, runner: asyncio.Runner
) -> None:
    known = _Known()
    early = runner.run(_reader(store.reader(), 0)) if store.live else None
    for what, how in history:
        match what:
            case "text":
                known.events.append(Content(delta=how[0], channel=how[1]))
            case "output":
                known.events.append(Output(output_type="x", ename=how))
            case "restart":
                known.events.append(Restart(attempt=2, reason="upstream_failed"))
            case "settle":
                store.settle()
                known.settled = len(known.events)
                continue
            case "read":
                if early is not None:
                    runner.run(early.look())
                continue
        assert store.append(known.events[-1]) == len(known.events)
    if ending == "end":
        store.append(END)
        store.settle()
        known.settled = len(known.events)
    else:
        store.crash()
    journal = store.reader()
    assert journal.closed
    survived = journal.dense_id - (journal.dense_id == journal.last_id)
    assert known.settled <= survived <= len(known.events)
    events = known.events[:survived]
    for after in {0, survived // 2, max(survived - 1, 0), survived}:
        _check_from(runner.run(_all(journal, after)), events, after, journal)
    if journal.dense_id < journal.last_id:
        # Lost ids, and no others, are between the last event and its end.
        lost = survived + min(ahead, LOST_IDS - 1)
        _check_lost(runner.run(_all(journal, lost)), lost, journal)
    elif store.live:
        newer = journal.last_id + ahead
        if ahead > LOST_IDS:
            with pytest.raises(CursorAhead):
                runner.run(_all(journal, newer))
        else:
            _check_lost(runner.run(_all(journal, newer)), newer, journal)
    if early is not None:
        _check_early(runner.run(early.rest()), events)


def _check_from(seen: list[Seen], events: list[Event], after: int, journal: Journal) -> None:
    """Everything behind the cursor; no text that was void when it was read."""
    void_until = journal.restart_id
    behind = [
        (number, event)
        for number, event in enumerate(events, 1)
        if number > after and not (isinstance(event, Content) and number < void_until)
    ]
    assert _flat(seen) == [piece for number, event in behind for piece in _pieces(number, event)]
    assert [each.name for each in seen if each.name == "gap"] == []
    _check_end(seen, journal)


def _check_lost(seen: list[Seen], after: int, journal: Journal) -> None:
    gap, end = (each for each in seen if each.name not in ("retry", "status"))
    assert gap.data == {
        "type": "gap",
        "requested": after,
        "available_from": journal.last_id,
        "lost": True,
    }
    assert end.id == journal.last_id
    _check_end(seen, journal)


def _check_early(seen: list[Seen], events: list[Event]) -> None:
    """Who read while it was written: nothing twice, all in order, and nothing missing but void text."""
    whole = [piece for number, event in enumerate(events, 1) for piece in _pieces(number, event)]
    restarts = [number for number, piece in enumerate(whole) if piece[0] == "restart"]
    valid_from = restarts[-1] if restarts else 0
    got = _flat(seen)
    tail = whole[valid_from:]
    assert got[len(got) - len(tail) :] == tail
    rest = iter(whole)
    assert all(piece in rest for piece in got), "in order, and none of them twice"


def _check_end(seen: list[Seen], journal: Journal) -> None:
    durable = [each.id for each in seen if each.id is not None]
    assert durable == sorted(set(durable))
    assert [each.name for each in seen if each.name in TERMINAL] == [seen[-1].name]
    assert seen[-1].id == journal.last_id


def _pieces(number: int, event: Event) -> list[tuple[Any, ...]]:
    if isinstance(event, Content):
        return [("content", event.channel, letter) for letter in event.delta]
    return [(event.name, number)]


def _flat(seen: list[Seen]) -> list[tuple[Any, ...]]:
    """Events as a reader sees them, merged or not: letters of texts, ids of all else."""
    flat: list[tuple[Any, ...]] = []
    for each in seen:
        if each.name == "content":
            flat += [("content", each.data.get("channel"), letter) for letter in each.data["delta"]]
        elif each.id is not None and each.name not in TERMINAL:
            flat.append((each.name, each.id))
    return flat


class _EarlyReader:
    """Takes what there is, now and then."""

    def __init__(self, supervisor: Supervisor, task: Task, after: int) -> None:
        supervisor.tasks.show(task)
        self._supervisor = supervisor
        self._follower = supervisor.follow(task, FollowOptions(framing=SSE, after=after))
        self._seen: list[Seen] = []

    async def look(self) -> None:
        self._seen += parse(self._follower.take())

    async def rest(self) -> list[Seen]:
        for _ in range(200):
            if self._follower.done:
                break
            await self.look()
        assert self._follower.done, "it never comes to an end"
        self._follower.close()
        self._supervisor.close()
        return self._seen


async def _reader(journal: Journal, after: int) -> _EarlyReader:
    supervisor = Supervisor(
        {"agent_pool": pool_limits()}, stream_limits(), FakeRecorder(), FakeMessages(), lambda: None
    )
    ticket = supervisor.pools["agent_pool"].ledger.pass_by(None, Reason.CACHED)
    return _EarlyReader(supervisor, task_of(journal, ticket, asyncio.get_running_loop()), after)


async def _all(journal: Journal, after: int) -> list[Seen]:
    return await (await _reader(journal, after)).rest()
