"""Both framings carry the same events; what differs is the bytes around them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core import events, ndjson, sse
from streaming.core.framing import NDJSON, SSE, Framing, WebSocketFraming, messages

from .test_sse import awkward_texts, fast

SENT_AT = 1_753_000_000.25
GAP = events.Gap(requested=3, available_from=9)


@dataclass(frozen=True)
class Seen:
    """An event as a client sees it."""

    id: int | None
    data: dict[str, Any]


def read_sse(data: bytes) -> list[Seen]:
    seen = []
    for each in sse.Decoder().feed(data):
        body = json.loads(each.data)
        assert each.event == body["type"]
        seen.append(Seen(int(each.id) if each.id else None, body))
    return seen


def read_ndjson(data: bytes) -> list[Seen]:
    return [Seen(body.pop("id", None), body) for body in ndjson.Decoder().feed(data)]


BOTH = [pytest.param(SSE, read_sse, id="sse"), pytest.param(NDJSON, read_ndjson, id="ndjson")]
both = pytest.mark.parametrize(("framing", "read"), BOTH)

contents = st.builds(events.Content, delta=awkward_texts, channel=st.none() | st.just("stdout"))
cuts = st.builds(events.Truncated, dropped_chars=st.integers(0, 9), limit=st.integers(0, 9))
durable_events = contents | cuts


def journalled(kept: list[events.Event]) -> list[bytes]:
    return [sse.frame(n, event.name, events.encode(event)) for n, event in enumerate(kept, 1)]


@both
@fast
@given(kept=st.lists(durable_events, max_size=6))
def test_a_reader_gets_the_journal_with_its_ids(framing, read, kept):
    expected = [Seen(n, json.loads(events.encode(event))) for n, event in enumerate(kept, 1)]
    assert read(framing.durable(journalled(kept), None)) == expected


@both
@fast
@given(kept=st.lists(durable_events, max_size=6))
def test_the_time_of_sending_is_added_to_each_event_and_changes_nothing_else(framing, read, kept):
    frames = journalled(kept)
    timed = read(framing.durable(frames, SENT_AT))
    assert [each.data.pop("sent_at") for each in timed] == [SENT_AT] * len(kept)
    assert timed == read(framing.durable(frames, None))


@both
@fast
@given(kept=st.lists(durable_events, max_size=6), cut=st.integers(0, 6))
def test_a_batch_is_its_events_one_after_the_other(framing, read, kept, cut):
    frames = journalled(kept)
    parts = framing.durable(frames[:cut], None) + framing.durable(frames[cut:], None)
    assert parts == framing.durable(frames, None)


@both
def test_an_ephemeral_event_has_no_id(framing, read):
    assert read(framing.ephemeral(GAP, None)) == [Seen(None, json.loads(events.encode(GAP)))]


@both
def test_an_ephemeral_event_takes_the_time_of_sending(framing, read):
    (seen,) = read(framing.ephemeral(GAP, SENT_AT))
    assert seen.data == {**json.loads(events.encode(GAP)), "sent_at": SENT_AT}


@both
def test_an_event_with_no_member_but_its_type_stays_whole(framing, read):
    bare = sse.frame(1, "x", b'{"type":"x"}')
    assert read(framing.durable([bare], SENT_AT)) == [Seen(1, {"type": "x", "sent_at": SENT_AT})]


@both
def test_a_heartbeat_is_no_event_but_some_bytes(framing, read):
    beat = framing.heartbeat("heartbeat 2026-01-01T00:00:00Z running 30.0")
    assert beat
    assert read(beat) == []


@both
def test_the_reconnect_delay_is_no_event(framing, read):
    assert read(framing.retry(2.0)) == []


@both
def test_everything_together_reads_as_its_events(framing, read):
    """A whole stream: delay, status, heartbeat and content between each other."""
    frames = journalled([events.Content(delta="咖"), events.Content(delta="啡")])
    whole = b"".join(
        [
            framing.retry(2.0),
            framing.ephemeral(GAP, None),
            framing.durable(frames[:1], None),
            framing.heartbeat("beat"),
            framing.durable(frames[1:], None),
        ]
    )
    assert [each.data["type"] for each in read(whole)] == ["gap", "content", "content"]


@both
def test_nothing_kept_is_no_bytes(framing, read):
    assert framing.durable([], None) == framing.durable([], SENT_AT) == b""


def test_server_sent_events_send_journalled_frames_as_they_are():
    frames = journalled([events.Content(delta="a"), events.Content(delta="b")])
    assert SSE.durable(frames, None) == frames[0] + frames[1]


def test_server_sent_events_name_the_delay_in_milliseconds():
    assert SSE.retry(2.0) == b"retry: 2000\n\n"


def test_ndjson_has_no_word_for_the_delay():
    assert NDJSON.retry(2.0) == b""


def test_ndjson_is_one_line_an_event():
    assert NDJSON.durable(journalled([events.Content(delta="a\nb")]), None) == (
        b'{"id":1,"type":"content","delta":"a\\nb"}\n'
    )


@pytest.mark.parametrize(
    ("framing", "content_type"),
    [(SSE, "text/event-stream; charset=utf-8"), (NDJSON, "application/x-ndjson; charset=utf-8")],
)
def test_the_content_type_names_format_and_charset(framing: Framing, content_type: str):
    assert framing.content_type == content_type


@fast
@given(kept=st.lists(durable_events, max_size=6), request_id=st.none() | st.text('ab"}\n 咖', min_size=1))
def test_a_write_on_a_socket_comes_apart_into_its_events(kept, request_id):
    """One message for each event, whatever was joined; each names its stream, and has its id."""
    framing = WebSocketFraming(request_id)
    named = {} if request_id is None else {"request_id": request_id}
    whole = framing.retry(2.0) + framing.ephemeral(GAP, SENT_AT) + framing.durable(journalled(kept), None)
    first, *rest = messages(whole)
    assert json.loads(first) == {**json.loads(events.encode(GAP)), "sent_at": SENT_AT, **named}
    assert ndjson.event_id(first) is None
    assert [json.loads(each) for each in rest] == [
        {"id": n, **json.loads(events.encode(event)), **named} for n, event in enumerate(kept, 1)
    ]
    assert [ndjson.event_id(each) for each in rest] == list(range(1, len(kept) + 1))


def test_a_socket_needs_no_heartbeat_that_is_no_message():
    assert messages(WebSocketFraming().heartbeat("beat")) == []
