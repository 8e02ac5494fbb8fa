"""The journal in memory: what every store promises to readers (tests/support/journal_contract.py), and what
this one promises besides: bounds, and journals copied from elsewhere."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from streaming.core import sse
from streaming.core.events import Cancelled, Content, Error, Output, Restart, Truncated, encode
from streaming.runtime.journals.base import LOST_IDS, JournalClosed, JournalFull, lost_ids
from streaming.runtime.journals.memory import MemoryJournals
from tests.support.journal_contract import *  # noqa: F403 (tests of every store)
from tests.support.journal_contract import INTERRUPTED, ids

END = Cancelled(reason="client")
BROAD = 1_000_000


class OneProcess:
    """Owner and readers share a journal, so nothing is lost but with all readers."""

    live = True

    def __init__(self):
        self._journal = MemoryJournals(BROAD).create()
        self.append = self._journal.append

    def settle(self):
        pass

    def crash(self):
        self.append(INTERRUPTED)

    def reader(self):
        return self._journal

    def close(self):
        pass


@pytest.fixture
def make_store():
    return OneProcess


@pytest.fixture
def journal():
    return MemoryJournals(BROAD).create()


def fill(journal, count):
    for number in range(1, count + 1):
        assert journal.append_content(f"part {number}", None) == number


def test_new_journal_is_empty_and_open(journal):
    assert (journal.last_id, journal.first_id, journal.size, journal.closed) == (0, 1, 0, False)
    assert journal.read(0, 10) == []


@pytest.mark.parametrize("channel", [None, "stderr"])
@pytest.mark.parametrize("text", ["plain", "咖啡", "a\u2028b\u0085c", "x\ud800y", "\r\n\r\n"])
def test_fast_path_of_content_makes_the_same_bytes(text, channel):
    store = MemoryJournals(BROAD)
    fast, slow = store.create(), store.create()
    fast.append_content(text, channel)
    slow.append(Content(delta=text, channel=channel))
    assert fast.read(0, 1) == slow.read(0, 1)


def test_trim_shows_a_gap_while_it_is_written(journal):
    fill(journal, 10)
    journal.trim(4)
    assert (journal.first_id, journal.last_id) == (4, 10)
    assert ids(journal.read(0, 2)) == [4, 5], "what follows the gap"
    assert ids(journal.read(3, 2)) == [4, 5], "no gap for this cursor"
    journal.trim(2)
    assert journal.first_id == 4, "nothing comes back"
    assert journal.append_content("next", None) == 11


def test_trim_of_everything_keeps_the_numbering(journal):
    fill(journal, 3)
    journal.trim(99)
    assert (journal.first_id, journal.last_id, journal.size) == (4, 3, 0)
    assert journal.read(0, 9) == []
    assert journal.append_content("x", None) == 4
    assert (journal.first_id, journal.last_id) == (4, 4)


def test_terminal_event_closes(journal):
    fill(journal, 1)
    assert not journal.closed
    journal.append(Error(code="interrupted", message="", retryable=True))
    assert journal.closed
    with pytest.raises(JournalClosed):
        journal.append_content("late", None)
    with pytest.raises(JournalClosed):
        journal.append(END)
    assert journal.last_id == 2
    assert journal.closed


def test_full_but_truncated_and_terminal_always_fit():
    journal = MemoryJournals(400).create()
    with pytest.raises(JournalFull):  # noqa: PT012
        for _ in range(1000):
            journal.append_content("0123456789", None)
    last_id, size = journal.last_id, journal.size
    assert 0 < last_id < 20
    assert size <= journal.limit == 400
    with pytest.raises(JournalFull):
        journal.append(Output(output_type="stream", metadata={"text": "x" * 400}))
    assert (journal.last_id, journal.size) == (last_id, size), "a refusal leaves no trace"
    assert journal.append(Truncated(dropped_chars=10, limit=400)) == last_id + 1
    assert journal.append(END) == last_id + 2
    assert journal.closed


def test_an_event_larger_than_the_limit_is_refused_at_once():
    journal = MemoryJournals(100).create()
    with pytest.raises(JournalFull):
        journal.append_content("x" * 101, None)
    assert (journal.last_id, journal.size) == (0, 0)


def test_refused_event_wakes_nobody():
    journal = MemoryJournals(10).create()
    woken = []
    journal.subscribe(lambda: woken.append(1))
    with pytest.raises(JournalFull):
        journal.append_content("too long for this one", None)
    assert woken == []


def test_unsubscribe(journal):
    woken = []

    def wake():
        woken.append(1)

    journal.unsubscribe(wake)  # never subscribed: ignored
    journal.subscribe(wake)
    journal.unsubscribe(wake)
    journal.unsubscribe(wake)
    journal.append_content("a", None)
    assert woken == []


def test_unsubscribe_during_wake_skips_nobody_else(journal):
    woken = []

    def leaver():
        woken.append("leaver")
        journal.unsubscribe(leaver)

    def others(name):
        return lambda: woken.append(name)

    journal.subscribe(others("first"))
    journal.subscribe(leaver)
    journal.subscribe(others("last"))
    journal.append_content("a", None)
    journal.append_content("b", None)
    assert woken == ["first", "leaver", "last", "first", "last"]


def test_sizes_add_up_across_journals():
    store = MemoryJournals(BROAD)
    journals = [store.create() for _ in range(3)]
    for number, journal in enumerate(journals, 1):
        fill(journal, 10 * number)
    assert store.size == sum(journal.size for journal in journals) > 0
    journals[2].trim(15)
    assert store.size == sum(journal.size for journal in journals)
    for journal in journals:
        journal.trim(journal.last_id + 1)
    assert store.size == 0


class JournalMachine(RuleBasedStateMachine):
    """Two journals of one store against two lists."""

    which = st.integers(0, 1)

    @initialize(limit=st.sampled_from([300, 2_000, BROAD]))
    def begin(self, limit):
        self.store = MemoryJournals(limit)
        self.journals = [self.store.create(), self.store.create()]
        self.models: list[list[str]] = [[], []]
        self.first = [1, 1]
        self.wakes = [0, 0]
        self.expected_wakes = [0, 0]
        for index, journal in enumerate(self.journals):
            journal.subscribe(partial(self._woken, index))

    def _woken(self, index):
        self.wakes[index] += 1

    @rule(index=which, text=st.text(min_size=1, max_size=40), channel=st.sampled_from([None, "stdout"]))
    def content(self, index, text, channel):
        self._append(index, text, lambda journal: journal.append_content(text, channel))

    @rule(index=which, text=st.text(max_size=60))
    def output(self, index, text):
        self._append(index, text, lambda journal: journal.append(Output(output_type="x", ename=text)))

    @rule(index=which)
    def truncated(self, index):
        event = Truncated(dropped_chars=1, limit=1)
        self._append(index, None, lambda journal: journal.append(event), always=True)

    # Seldom enough that journals grow.
    @rule(index=which, really=st.integers(0, 9))
    def end(self, index, really):
        if not really:
            self._append(index, "end", lambda journal: journal.append(END), always=True)

    def _append(self, index, text, append, *, always=False):
        journal, model = self.journals[index], self.models[index]
        if journal.closed:
            with pytest.raises(JournalClosed):
                append(journal)
            return
        try:
            event_id = append(journal)
        except JournalFull:
            assert not always
            return
        model.append(text)
        self.expected_wakes[index] += 1
        assert event_id == len(model)
        assert always or journal.size <= journal.limit

    @rule(index=which, first_id=st.integers(0, 30))
    def trim(self, index, first_id):
        self.journals[index].trim(first_id)
        self.first[index] = max(self.first[index], min(first_id, len(self.models[index]) + 1))

    @rule(index=which, after=st.integers(0, 40), limit=st.integers(0, 70))
    def read(self, index, after, limit):
        journal, model = self.journals[index], self.models[index]
        expected = [number for number in range(self.first[index], len(model) + 1) if number > after]
        assert ids(journal.read(after, limit)) == expected[:limit]

    @invariant()
    def agrees(self):
        for index, journal in enumerate(getattr(self, "journals", [])):
            assert journal.last_id == len(self.models[index])
            assert journal.first_id == self.first[index]
            assert self.wakes[index] == self.expected_wakes[index]
        if hasattr(self, "store"):
            assert self.store.size == sum(journal.size for journal in self.journals)
            assert all((journal.size == 0) == (not journal.read(0, 1)) for journal in self.journals)


def test_state_machine():
    quick = settings(
        max_examples=40,
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(JournalMachine, settings=quick)


# Written elsewhere


def copy(frames, *cuts):
    """A journal that adopts `frames` in pieces cut before these ids."""
    made = MemoryJournals(BROAD).create()
    points = [1, *cuts, len(frames) + 1]
    for first_id, end in itertools.pairwise(points):
        made.adopt(first_id, frames[first_id - 1 : end - 1])
    return made


def test_an_adopted_journal_reads_like_the_original(journal):
    fill(journal, 9)
    journal.append(END)
    frames = journal.read(0, 99)
    for cuts in ((), (4,), (2, 3, 9), (10,)):
        copied = copy(frames, *cuts)
        assert (copied.first_id, copied.last_id, copied.dense_id, copied.closed) == (1, 10, 10, True)
        for after in range(11):
            assert copied.read(after, 99) == frames[after:]


def test_adopting_nothing_changes_nothing():
    journal = MemoryJournals(1_000_000).create()
    journal.adopt(LOST_IDS + 1, [])
    assert (journal.first_id, journal.last_id, journal.dense_id) == (1, 0, 0)
    assert not journal.closed


def test_what_is_adopted_twice_is_there_once(journal):
    fill(journal, 6)
    frames = journal.read(0, 99)
    copied = copy(frames)
    copied.adopt(4, frames[3:])
    copied.adopt(1, frames)
    assert copied.read(0, 99) == frames


def test_adopting_wakes_the_readers(journal):
    fill(journal, 1)
    woken = []
    copied = MemoryJournals(BROAD).create()
    copied.subscribe(lambda: woken.append(copied.last_id))
    copied.adopt(1, journal.read(0, 1))
    assert woken == [1]


def test_behind_a_hole_only_the_rest_is_kept(journal):
    fill(journal, 9)
    frames = journal.read(0, 99)
    copied = copy(frames[:3])
    copied.adopt(7, frames[6:])
    assert (copied.first_id, copied.last_id) == (7, 9)
    assert ids(copied.read(0, 99)) == [7, 8, 9]


@pytest.mark.parametrize("survived", [0, 1, 5])
def test_the_hole_of_a_crash_is_kept_before_the_end(journal, survived):
    fill(journal, survived)
    frames = journal.read(0, 99)
    end = sse.frame(survived + LOST_IDS, "error", b"{}")
    copied = copy(frames)
    copied.adopt(survived + LOST_IDS, [end])
    assert (copied.first_id, copied.dense_id, copied.last_id) == (1, survived, survived + LOST_IDS)
    assert copied.closed
    assert copied.read(0, 99) == [*frames, end]
    for after in (survived, survived + 1, survived + LOST_IDS - 1):
        assert copied.read(after, 99) == [end]
    assert copied.read(survived + LOST_IDS, 99) == []


def after_a_crash(journal):
    fill(journal, 5)
    frames = journal.read(0, 99)
    end = sse.frame(5 + LOST_IDS, "error", b"{}")
    copied = copy(frames)
    copied.adopt(5 + LOST_IDS, [end])
    return copied, frames, end


@pytest.mark.parametrize("first_id", [6, 7, 500_000, 5 + LOST_IDS])
def test_trimming_into_the_hole_keeps_the_end(journal, first_id):
    copied, _, end = after_a_crash(journal)
    copied.trim(first_id)
    assert (copied.dense_id, copied.last_id) == (5, 5 + LOST_IDS)
    for after in (0, 5, 6, 500_000):
        assert copied.read(after, 9) == [end]


def test_trimming_everything_takes_the_hole_too(journal):
    copied, _, _ = after_a_crash(journal)
    copied.trim(copied.last_id + 1)
    assert (copied.first_id, copied.last_id, copied.size) == (6 + LOST_IDS, 5 + LOST_IDS, 0)
    assert copied.dense_id == copied.last_id
    assert copied.read(0, 9) == []


# The newest restart


def test_the_newest_restart_is_known_while_it_is_written(journal):
    assert journal.restart_id == 0
    fill(journal, 3)
    assert journal.restart_id == 0
    journal.append(Restart(attempt=2, reason="upstream_failed"))
    journal.append_content("\nevent: restart\n", None)
    assert journal.restart_id == 4
    journal.append(Restart(attempt=3, reason="upstream_failed"))
    journal.append(END)
    assert journal.restart_id == 6
    journal.trim(99)
    assert journal.restart_id == 6


def test_a_restart_that_does_not_fit_voids_nothing():
    journal = MemoryJournals(100).create()
    journal.append_content("x", None)
    with pytest.raises(JournalFull):
        journal.append(Restart(attempt=2, reason="x" * 100))
    assert journal.restart_id == 0


def test_readers_are_woken_when_the_restart_is_known(journal):
    seen = []
    journal.subscribe(lambda: seen.append(journal.restart_id))
    journal.append(Restart(attempt=2, reason="upstream_failed"))
    assert seen == [1]


@pytest.mark.parametrize("cuts", [(), (3,), (4,), (5,), (2, 4, 5)])
def test_an_adopted_restart_is_known(journal, cuts):
    fill(journal, 3)
    journal.append(Restart(attempt=2, reason="upstream_failed"))
    journal.append_content("right", None)
    assert copy(journal.read(0, 99), *cuts).restart_id == 4
    late = MemoryJournals(BROAD).create()
    late.adopt(3, journal.read(2, 99))
    assert late.restart_id == 4
    late.adopt(5 + LOST_IDS, [sse.frame(5 + LOST_IDS, "error", b"{}")])
    assert late.restart_id == 4


# Behind what a process that is gone may have said


def restart_at(number: int) -> bytes:
    return sse.frame(number, "restart", encode(Restart(attempt=2, reason="process_lost")))


def test_a_restart_behind_lost_ids_leaves_nothing_before_it(journal):
    journal.append_content("void", None)
    journal.skip(LOST_IDS)
    assert (journal.next_id, journal.last_id) == (1 + LOST_IDS, 1)
    first = journal.append(Restart(attempt=2, reason="process_lost"))
    assert first == 1 + LOST_IDS == journal.first_id == journal.anew_id == journal.restart_id
    journal.append_content("right", None)
    assert journal.last_id == journal.dense_id == first + 1 == journal.next_id - 1
    assert [sse.name(each) for each in journal.read(0, 9)] == ["restart", "content"]
    assert [sse.event_id(each) for each in journal.read(first, 9)] == [first + 1]
    # The same elsewhere, whatever that had before; and of a second time.
    for before in ([], [frame_of(1)]):
        other = MemoryJournals(10_000).create()
        other.adopt(1, before)
        other.adopt(first, journal.read(0, 9))
        assert (other.first_id, other.anew_id, other.last_id) == (first, first, first + 1)
        again = other.last_id + 2 * LOST_IDS
        other.adopt(again, [restart_at(again)])
        assert (other.first_id, other.anew_id, other.last_id, other.dense_id) == (again,) * 4


def test_an_end_behind_lost_ids_leaves_what_was_before(journal):
    journal.append_content("kept", None)
    journal.skip(2 * LOST_IDS)
    end = journal.append(Cancelled(reason="client"))
    assert (end, journal.dense_id, journal.closed) == (1 + 2 * LOST_IDS, 1, True)
    assert len(journal.read(0, 9)) == 2
    assert [sse.name(each) for each in journal.read(5, 9)] == ["cancelled"]


def test_what_is_missing_before_anything_else_is_a_gap_however_large(journal):
    first = 5 * LOST_IDS
    journal.adopt(first, [frame_of(first), frame_of(first + 1)])
    assert (journal.first_id, journal.dense_id, journal.anew_id) == (first, first + 1, 0)


def frame_of(number: int) -> bytes:
    return sse.content_frame(number, "x", None)


def test_ids_of_attempts_rise_although_nothing_of_them_survives():
    assert [lost_ids(attempts) for attempts in (0, 1, 2, 3)] == [
        LOST_IDS,
        LOST_IDS,
        2 * LOST_IDS,
        3 * LOST_IDS,
    ]
