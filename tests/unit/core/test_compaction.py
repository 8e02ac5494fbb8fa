"""Compact replay: the same text and the same other events in fewer frames, under rising ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby, pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from streaming.core import events, sse
from streaming.core.compaction import MAX_TEXT, compact
from streaming.core.events import Content, Error, Event, Output, Restart, Result, Truncated

CHANNELS = [None, "reasoning", "stdout", "", 'a","channel":"b']

# Texts that would break a careless cut, and long ones.
AWKWARD = [
    '","channel":"x',
    "\\",
    '\\"',
    '"}\n\n',
    "\u2028\u0085",
    "\r\n\r\nid: 9\n",
    "👨\u200d👩",
    "\ud83d",
    "\ude00",
    "\x00",
]
texts = st.one_of(
    st.text(min_size=1, max_size=20),
    st.sampled_from(AWKWARD),
    st.builds(
        lambda text, times: text * times, st.sampled_from(["x", "语", "👨", "\n"]), st.integers(1, 9_000)
    ),
)
contents = st.builds(
    lambda delta, channel: Content(delta=delta, channel=channel), texts, st.sampled_from(CHANNELS)
)
restarts = st.builds(lambda attempt: Restart(attempt=attempt, reason="upstream_failed"), st.integers(2, 9))
others = st.one_of(
    st.builds(lambda text: Output(output_type="stream", ename=text), texts),
    st.builds(lambda text: Result(data={"delta": text}), texts),
    st.just(Truncated(dropped_chars=1, limit=1)),
)
journals = st.lists(st.one_of(contents, contents, contents, contents, others, restarts), max_size=40)


def frames_of(listed: Sequence[Event]) -> list[bytes]:
    """Frames with ids from 1, some as the fast path makes them."""
    return [
        sse.content_frame(number, each.delta, each.channel)
        if isinstance(each, Content) and number % 2
        else sse.frame(number, each.name, events.encode(each))
        for number, each in enumerate(listed, 1)
    ]


def restart_of(listed: Sequence[Event]) -> int:
    return max((number for number, each in enumerate(listed, 1) if isinstance(each, Restart)), default=0)


def parse(frames: list[bytes]) -> list[tuple[int, str, dict]]:
    """Read by a plain split, not by the code under test."""
    found = []
    for frame in frames:
        text = frame.decode()
        assert text.endswith("\n\n")
        identity, name, data = text[:-2].split("\n")
        found.append((int(identity[4:]), name[7:], json.loads(data[6:])))
    return found


def state(parsed: list[tuple[int, str, dict]], before: dict | None = None) -> dict:
    """What a reader holds who clears its texts at each restart: text by channel, and all other events."""
    held = before or {"texts": {}, "others": []}
    held = {"texts": dict(held["texts"]), "others": list(held["others"])}
    for number, name, data in parsed:
        if name == "content":
            channel = data.get("channel")
            held["texts"][channel] = held["texts"].get(channel, "") + data["delta"]
        else:
            held["others"].append((number, name, data))
            if name == "restart":
                held["texts"] = {}
    return held


@given(journals, st.integers(0, 40), st.lists(st.integers(1, 40), max_size=6))
def test_every_reader_comes_to_the_state_of_one_who_saw_all(listed, after, cuts):
    """From any cursor, with the backlog cut into any steps, after having read anything before."""
    frames, restart_id = frames_of(listed), restart_of(listed)
    after = min(after, len(frames))
    seen: list[tuple[int, str, dict]] = []
    points = [after, *sorted({min(max(cut, after), len(frames)) for cut in cuts}), len(frames)]
    for start, stop in pairwise(points):
        step = frames[start:stop]
        compacted = compact(step, restart_id)
        ids = [number for number, _, _ in parse(compacted)]
        assert ids == sorted(set(ids))
        assert all(start < number <= stop for number in ids)
        if step and (stop >= restart_id or not isinstance(listed[stop - 1], Content)):
            assert ids[-1] == stop
        seen += parse(compacted)
    everything = state(parse(frames))
    assert state(seen, state(parse(frames[:after]))) == everything
    if after == 0:
        assert "".join(
            data["delta"] for _, name, data in seen if name == "content" and "channel" not in data
        ) == (everything["texts"].get(None, "")), "nothing void was sent"


@given(journals, st.integers(0, 40))
@example([Content(delta="a"), Content(delta="b", channel="x"), Content(delta="c")], 0)
def test_each_text_is_merged_with_its_neighbours_of_one_channel_only(listed, after):
    frames = frames_of(listed)
    after = min(after, len(frames))
    for number, name, data in parse(compact(frames[after:])):
        covered = parse(frames[after:number])
        if name != "content":
            assert covered == [(number, name, data)]
        else:
            assert {(kind, each.get("channel")) for _, kind, each in covered} == {
                ("content", data.get("channel"))
            }
            assert data == covered[-1][2] | {"delta": "".join(each["delta"] for _, _, each in covered)}
            assert len(covered) == 1 or len(data["delta"].encode()) <= MAX_TEXT
        after = number
    assert after == len(frames)


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=9_000), st.sampled_from(CHANNELS)), max_size=60))
def test_merged_texts_are_as_long_as_they_may_be(pieces):
    listed = [Content(delta=text, channel=channel) for text, channel in pieces]
    found = parse(compact(frames_of(listed)))
    for _, run in groupby(found, key=lambda each: each[2].get("channel")):
        lengths = [len(data["delta"]) for _, _, data in run]
        assert all(first + second > MAX_TEXT for first, second in pairwise(lengths))


@given(journals, st.integers(0, 40))
def test_what_was_compacted_stays_as_it_is(listed, after):
    once = compact(frames_of(listed)[after:])
    assert compact(once) == once


@given(st.text(min_size=1), st.text(min_size=1), st.sampled_from(CHANNELS))
@example("\ud83d", "\ude00", None)
def test_a_merged_frame_is_what_the_encoder_would_have_made(first, second, channel):
    """Lone surrogates have become U+FFFD in their own events, and stay so."""
    pair = [Content(delta=first, channel=channel), Content(delta=second, channel=channel)]
    clean = events.clean_text(first) + events.clean_text(second)
    assert compact(frames_of(pair)) == [sse.content_frame(2, clean, channel)]


def test_a_larger_event_passes_unchanged_and_alone():
    listed = [Content(delta="a"), Content(delta="语" * 6_000), Content(delta="b")]
    assert compact(frames_of(listed)) == frames_of(listed)


def test_exactly_16_kib():
    def lengths(*sizes):
        return [
            len(each[2]["delta"])
            for each in parse(compact(frames_of([Content(delta="x" * n) for n in sizes])))
        ]

    assert lengths(16_000, 384) == [16_384]
    assert lengths(16_000, 385) == [16_000, 385]
    assert lengths(16_384, 1) == [16_384, 1]


def test_the_end_behind_the_hole_of_a_crash_stays():
    end = sse.frame(1_000_002, "error", events.encode(Error(code="interrupted", message="", retryable=True)))
    frames = frames_of([Content(delta="a"), Restart(attempt=2, reason="x")])
    assert compact([*frames, end], 2) == [frames[1], end]
    assert compact([end], 2) == [end]


def test_nothing_stays_nothing():
    assert compact([]) == compact([], 7) == []


def test_all_void_is_nothing():
    assert compact(frames_of([Content(delta="a"), Content(delta="b")]), 9) == []


def test_a_text_of_an_event_that_is_no_content_is_not_touched():
    listed = [Result(data={"delta": "a"}), Result(data={"delta": "b"}), Output(output_type="content")]
    assert compact(frames_of(listed), 3) == frames_of(listed)
