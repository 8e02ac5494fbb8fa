"""The coalescer: nothing lost, nothing reordered, nothing late, nothing too large. Time is a number here."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.coalescer import MAX_CHUNK_CHARS, Chunk, Coalescer

from .test_sse import fast

# Binary fractions, so that sums of times are exact.
INTERVAL = 1 / 16
WIDEST = 1 / 8
FLUSH_CHARS = 15
LARGE = 20

channels = st.sampled_from([None, "stdout", "stderr"])
awkward = st.sampled_from(["", "咖", "👨‍👩‍👧‍👦", "e\u0301", "\ud83d", "x" * LARGE])
texts = st.text(max_size=2 * LARGE) | awkward
gaps = st.integers(0, 12).map(lambda step: step / 64)
deltas = st.lists(st.tuples(gaps, texts, channels), max_size=40)


def coalescer(**changes: float) -> Coalescer:
    options = {
        "flush_chars": FLUSH_CHARS,
        "flush_interval": INTERVAL,
        "buffer_size": LARGE,
        "max_flush_interval": WIDEST,
    }
    return Coalescer(**{**options, **changes})  # type: ignore[arg-type]


def started(**changes: float) -> Coalescer:
    """A coalescer whose first text has left already, at time 0."""
    subject = coalescer(**changes)
    subject.offer("first", None, 0.0)
    return subject


def runs(chunks: list[Chunk]) -> list[Chunk]:
    """Neighbours of one channel joined: what a reader of all channels sees, however it was cut."""
    return [
        ("".join(text for text, _ in group), channel)
        for channel, group in groupby(chunks, key=lambda chunk: chunk[1])
    ]


def served(feed: list[tuple[float, str, str | None]]) -> list[tuple[float, Chunk]]:
    """Everything that leaves, with its time, when the caller flushes at each deadline and at the end."""
    subject = coalescer()
    now = 0.0
    out: list[tuple[float, Chunk]] = []
    for gap, text, channel in feed:
        now += gap
        deadline = subject.deadline
        if deadline is not None and deadline <= now:
            out += [(deadline, chunk) for chunk in subject.flush()]
        out += [(now, chunk) for chunk in subject.offer(text, channel, now)]
    end = subject.deadline
    return out + [(now if end is None else end, chunk) for chunk in subject.flush()]


@fast
@given(deltas)
def test_all_channels_together_equal_what_was_offered_in_order(feed):
    given_runs = runs([(text, channel) for _, text, channel in feed if text])
    assert runs([chunk for _, chunk in served(feed)]) == given_runs


@fast
@given(deltas, channels)
def test_each_channel_equals_what_was_offered_on_it(feed, channel):
    offered = "".join(text for _, text, of in feed if of == channel)
    assert "".join(text for _, (text, of) in served(feed) if of == channel) == offered


@fast
@given(st.lists(st.tuples(texts | st.integers(0, 40_000).map("长".__mul__), channels), max_size=8))
def test_no_chunk_is_empty_or_above_the_maximum(feed):
    subject = coalescer(flush_chars=50_000, buffer_size=60_000)
    chunks = [chunk for text, channel in feed for chunk in subject.offer(text, channel, 0.0)]
    chunks += subject.flush()
    assert all(0 < len(text) <= MAX_CHUNK_CHARS for text, _ in chunks)
    assert runs(chunks) == runs([(text, channel) for text, channel in feed if text])


@fast
@given(deltas)
def test_no_character_waits_longer_than_the_interval(feed):
    offered, now = [], 0.0
    for gap, text, _ in feed:
        now += gap
        offered += [now] * len(text)
    left = [at for at, (text, _) in served(feed) for _ in text]
    assert all(came <= went <= came + INTERVAL for came, went in zip(offered, left, strict=True))


@fast
@given(deltas, st.integers(0, 40))
def test_a_deadline_is_named_exactly_while_text_waits(feed, cut):
    subject, now = coalescer(), 0.0
    for gap, text, channel in feed[:cut]:
        now += gap
        subject.offer(text, channel, now)
    assert (subject.deadline is not None) == bool(subject.flush())
    assert subject.deadline is None


@fast
@given(st.floats(0, 1e7), st.floats(0.001, 10))
def test_text_that_comes_at_the_deadline_takes_the_waiting_text_along(oldest, interval):
    """Also where rounding makes `deadline - oldest` smaller than the interval."""
    subject = coalescer(flush_interval=interval)
    subject.offer("first", None, oldest)
    subject.offer("a", None, oldest)
    deadline = subject.deadline
    assert deadline is not None
    assert subject.offer("b", None, deadline) == [("ab", None)]


@pytest.mark.parametrize("text", ["x", "咖", "x" * 14])
def test_the_first_text_leaves_at_once(text):
    assert coalescer().offer(text, None, 100.0) == [(text, None)]


def test_empty_text_is_not_the_first_text():
    subject = coalescer()
    assert subject.offer("", None, 0.0) == []
    assert subject.deadline is None
    assert subject.offer("x", None, 0.0) == [("x", None)]


def test_only_the_first_text_of_the_stream_is_hurried_not_the_first_of_a_channel():
    assert started().offer("x", "stdout", 0.0) == []


def test_small_deltas_merge_until_there_is_enough():
    subject = started()
    left = [subject.offer("x", None, 0.0) for _ in range(FLUSH_CHARS)]
    assert left == [[]] * (FLUSH_CHARS - 1) + [[("x" * FLUSH_CHARS, None)]]


def test_enough_counts_code_points_not_bytes():
    subject = started()
    assert subject.offer("咖" * (FLUSH_CHARS - 1), None, 0.0) == []


def test_a_large_delta_passes_straight_through_with_what_waited():
    subject = started(flush_chars=1000)
    subject.offer("a", None, 0.0)
    assert subject.offer("b" * LARGE, None, 0.0) == [("a" + "b" * LARGE, None)]
    assert subject.deadline is None


def test_a_delta_just_below_large_waits():
    assert started(flush_chars=1000).offer("b" * (LARGE - 1), None, 0.0) == []


def test_another_channel_sends_the_waiting_text_first():
    subject = started()
    subject.offer("a", None, 0.0)
    assert subject.offer("b", "stderr", 0.0) == [("a", None)]
    assert subject.flush() == [("b", "stderr")]


def test_an_eager_one_lets_text_go_that_comes_after_a_pause():
    subject = started(eager=True)
    assert subject.offer("a", None, INTERVAL) == [("a", None)]
    assert subject.offer("b", None, 1.5 * INTERVAL) == []
    assert subject.deadline == 2 * INTERVAL, "no longer than events must be apart"
    assert subject.offer("c", None, 2 * INTERVAL) == [("bc", None)]
    assert subject.offer("d", None, 9.0) == [("d", None)]


def test_an_eager_one_keeps_events_apart():
    subject = started(eager=True)
    left = [0.0]
    for step in range(1, 65):
        now = step * INTERVAL / 8
        if subject.deadline is not None and subject.deadline <= now and subject.flush():
            left.append(now)
        left += [now for _ in subject.offer("x", None, now)]
    assert all(later - earlier >= INTERVAL for earlier, later in pairwise(left))
    assert len(left) >= 8


def test_the_deadline_is_that_of_the_oldest_character():
    subject = started()
    subject.offer("a", None, 1.0)
    subject.offer("b", None, 1.0 + INTERVAL / 2)
    assert subject.deadline == 1.0 + INTERVAL


def test_another_channel_has_its_own_deadline():
    subject = started()
    subject.offer("a", None, 1.0)
    subject.offer("b", "stdout", 1.5)
    assert subject.deadline == 1.5 + INTERVAL


def test_empty_text_moves_nothing():
    subject = started()
    subject.offer("a", None, 1.0)
    assert subject.offer("", "stdout", 9.0) == []
    assert subject.deadline == 1.0 + INTERVAL


def test_without_interval_nothing_is_held_back():
    subject = started(flush_interval=0.0)
    assert [subject.offer(text, None, 1.0) for text in "ab"] == [[("a", None)], [("b", None)]]


def test_flushing_an_empty_buffer_gives_nothing():
    assert coalescer().flush() == []


@fast
@given(st.lists(st.floats(0, 10)), st.floats(0, 1), st.floats(0, 1))
def test_the_interval_stays_within_its_bounds(lateness, base, maximum):
    subject = coalescer(flush_interval=base, max_flush_interval=maximum)
    for seconds in lateness:
        subject.observe_lateness(seconds)
        assert base <= subject.interval <= max(base, maximum)


def test_a_late_loop_widens_the_interval_to_its_maximum():
    subject = coalescer()
    seen = []
    for _ in range(5):
        subject.observe_lateness(INTERVAL)
        seen.append(subject.interval)
    assert seen[0] > INTERVAL
    assert seen == sorted(seen)
    assert seen[-1] == WIDEST


def test_a_punctual_loop_narrows_it_again_to_the_base():
    subject = coalescer()
    for _ in range(5):
        subject.observe_lateness(INTERVAL)
    seen = []
    for _ in range(20):
        subject.observe_lateness(0.0)
        seen.append(subject.interval)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == INTERVAL


def test_a_wider_interval_moves_the_deadline_of_waiting_text():
    subject = started()
    subject.offer("a", None, 1.0)
    subject.observe_lateness(INTERVAL)
    assert subject.deadline == 1.0 + subject.interval > 1.0 + INTERVAL
