"""The vocabulary on the wire."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.core import events

from .test_sse import AWKWARD, fast

TIMING = events.Timing(
    route="direct",
    queued_ms=0.0,
    first_content_ms=None,
    total_ms=12.5,
    coalesced_ratio=None,
    blocked_ms=0.0,
    status_messages=1,
    resumes=0,
)
COMPLETE = events.Complete(
    task_id="0" * 32,
    finish_reason="stop",
    content_length=0,
    chunks=0,
    usage=None,
    model=None,
    cached=False,
    timing=TIMING,
)
STATUS = events.Status(
    status="queued",
    message="排队中",
    task_id="0" * 32,
    route="queued",
    reason="busy",
    position=2,
    elapsed_seconds=0.5,
    timestamp="2026-01-01T00:00:00+00:00",
)
EXAMPLES: list[events.Event] = [
    events.Content(delta="你好"),
    events.Content(delta="x", channel="stderr"),
    events.Output(output_type="display_data", data={"text/plain": "1"}, display_id="d", late=True),
    events.Output(output_type="error", ename="E", evalue="v", traceback=["a", "b"]),
    events.Result(data={"a": [1, None, 1.5]}),
    events.Result(data=None),
    events.Restart(attempt=2, reason="retry"),
    events.Truncated(dropped_chars=3, limit=8),
    COMPLETE,
    events.Error(code="interrupted", message="m", retryable=True),
    events.Cancelled(reason="client"),
    STATUS,
    events.Gap(requested=3, available_from=9),
    events.Gap(requested=3, available_from=9, lost=True),
    events.Reconnect(after=4),
    events.Reconnect(after=4, retry=2_500),
    events.Ping(state="running", elapsed_seconds=1.0, timestamp="2026-01-01T00:00:00+00:00"),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.name)
def test_every_event_comes_back(event):
    assert events.decode(events.encode(event)) == event


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.name)
def test_the_type_member_comes_first_and_is_the_name(event):
    assert next(iter(json.loads(events.encode(event)).items())) == ("type", event.name)


def test_the_examples_show_every_type():
    assert {type(event) for event in EXAMPLES} == set(events.ALL)


def test_the_names_on_the_wire():
    assert [events.event_name(kind) for kind in events.ALL] == [
        "content",
        "output",
        "result",
        "restart",
        "truncated",
        "complete",
        "error",
        "cancelled",
        "status",
        "gap",
        "reconnect",
        "ping",
    ]


def test_terminal_events_are_the_durable_ends():
    ends = {kind for kind in events.ALL if kind.terminal}
    assert {events.event_name(kind) for kind in ends} == {"complete", "error", "cancelled"}
    assert all(kind.durable for kind in ends)


def test_what_belongs_to_one_follower_is_not_durable():
    assert {kind for kind in events.ALL if not kind.durable} == {
        events.Status,
        events.Gap,
        events.Reconnect,
        events.Ping,
    }


def test_an_absent_channel_is_not_sent():
    assert events.encode(events.Content(delta="x")) == b'{"type":"content","delta":"x"}'


def test_complete_always_has_the_members_of_the_contract():
    assert set(json.loads(events.encode(COMPLETE))) == {
        "type",
        "task_id",
        "finish_reason",
        "content_length",
        "chunks",
        "usage",
        "model",
        "cached",
        "timing",
    }


def test_text_is_not_ascii_escaped():
    assert "你好".encode() in events.encode(events.Content(delta="你好"))


@pytest.mark.parametrize("text", AWKWARD)
def test_an_event_is_one_line_for_every_client(text):
    event = events.Output(output_type="x", data={text: [text]}, evalue=text)
    assert len(events.encode(event).decode().splitlines()) == 1
    assert events.decode(events.encode(event)) == event


@settings(fast, max_examples=500)
@given(st.text() | st.sampled_from(AWKWARD))
def test_any_text_comes_back(text):
    assert json.loads(events.encode_text(text)) == text
    assert events.decode(events.encode(events.Content(delta=text))) == events.Content(delta=text)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00x", "\ufffdx"),
        ("\ud83d", "\ufffd"),
        ("\ud800\ud800x", "\ufffd\ufffdx"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ude00", "😀"),
        ("\ufeffa\ud800", "\ufeffa\ufffd"),
    ],
    ids=ascii,
)
def test_lone_surrogates_become_replacement_characters(raw, clean):
    assert events.clean_text(raw) == clean
    assert events.decode(events.encode(events.Content(delta=raw))) == events.Content(delta=clean)


@fast
@given(st.text())
def test_whole_text_is_clean_already(text):
    assert events.clean_text(text) == text


@settings(fast, max_examples=500)
@given(st.text(st.characters()))
def test_clean_text_fits_utf_8(text):
    assert events.clean_text(events.clean_text(text)) == events.clean_text(text)
    assert events.clean_text(text).encode().decode() == events.clean_text(text)


def test_surrogates_are_cleaned_at_any_depth():
    event = events.Output(output_type="x", data={"k\ud800": [{"n": "\udfff"}]}, traceback=["\ud800"])
    assert events.decode(events.encode(event)) == events.Output(
        output_type="x", data={"k\ufffd": [{"n": "\ufffd"}]}, traceback=["\ufffd"]
    )


def test_bare_text_with_surrogates_is_the_callers_to_clean():
    with pytest.raises(UnicodeEncodeError):
        events.encode_text("\ud800")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_number_leaves_json(value):
    assert events.encode(events.Result(data=value)) == b'{"type":"result","data":null}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"type":"unknown"}',
        b'{"type":"content"}',
        b'{"type":"content","delta":1}',
        b"\xff",
    ],
)
def test_what_is_no_event_is_refused(data):
    with pytest.raises(ValueError, match=r"."):
        events.decode(data)


def test_an_event_is_frozen():
    event = events.Content(delta="x")
    with pytest.raises(AttributeError):
        event.delta = "y"  # type: ignore[misc]


@given(st.binary(max_size=80) | st.sampled_from([b"[" * 99_999, b'{"type":"result","data":' + b"[" * 99_999]))
def test_what_is_no_event_is_told_by_one_error(data: bytes):
    with pytest.raises(ValueError):  # noqa: PT011 - any
        events.decode(data)
