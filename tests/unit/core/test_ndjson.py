"""The NDJSON codec: one event a line, the durable id inside."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.core import events, ndjson, sse

from .test_sse import AWKWARD, awkward_texts, bytewise, cut, fast, ids, payloads


def test_the_id_is_the_first_member():
    assert ndjson.line(5, b'{"type":"content"}') == b'{"id":5,"type":"content"}\n'


def test_an_ephemeral_event_has_no_id():
    assert ndjson.line(None, b'{"type":"status"}') == b'{"type":"status"}\n'


@pytest.mark.parametrize("data", [b"{}", b"{ }", b"{\t}"])
def test_an_empty_object_takes_the_id_alone(data):
    assert json.loads(ndjson.line(5, data)) == {"id": 5}


@pytest.mark.parametrize("data", [b"[]", b"", b"null", b' {"a":1}', b'{"a":\n1}', b'{"a":\r1}'])
@pytest.mark.parametrize("event_id", [None, 1])
def test_only_an_object_on_one_line_is_an_event(event_id, data):
    with pytest.raises(ValueError, match=r"one line|JSON object"):
        ndjson.line(event_id, data)


@pytest.mark.parametrize("event_id", [0, -1])
def test_ids_count_from_one(event_id):
    with pytest.raises(ValueError, match="count from 1"):
        ndjson.line(event_id, b"{}")


@fast
@given(ids, payloads)
def test_a_frame_gives_the_same_line(event_id, data):
    assert ndjson.from_frame(sse.frame(event_id, "x", data)) == ndjson.line(event_id, data)


@fast
@given(ids, payloads)
def test_the_members_keep_their_order_behind_the_id(event_id, data):
    members = list(json.loads(ndjson.line(event_id, data)).items())
    assert members == ([] if event_id is None else [("id", event_id)]) + list(json.loads(data).items())


def test_a_frame_with_sent_at_keeps_it():
    frame = sse.with_sent_at(sse.frame(5, "x", b"{}"), 1.5)
    assert ndjson.from_frame(frame) == b'{"id":5,"sent_at":1.5}\n'


def test_a_frame_without_an_object_is_refused():
    with pytest.raises(ValueError, match="JSON object"):
        ndjson.from_frame(sse.frame(5, "x", b"[]"))


@pytest.mark.parametrize("text", AWKWARD)
def test_a_line_survives_clients_that_split_lines_wrongly(text):
    assert len(ndjson.from_frame(sse.content_frame(1, text, None)).decode().splitlines()) == 1


def decode(chunks: list[bytes], **limits: int) -> list[dict[str, Any]]:
    decoder = ndjson.Decoder(**limits)
    return [event for chunk in chunks for event in decoder.feed(chunk)]


@settings(fast, max_examples=150)
@given(st.data(), st.lists(awkward_texts, max_size=4))
def test_any_text_comes_back_at_any_cut(data, texts):
    lines = [ndjson.line(i, events.encode(events.Content(delta=t))) for i, t in enumerate(texts, 1)]
    received = decode(data.draw(cut(ndjson.HEARTBEAT.join(lines))))
    assert [(event["id"], event["delta"]) for event in received] == list(enumerate(texts, 1))


@fast
@given(st.lists(awkward_texts, max_size=3))
def test_single_bytes_are_enough(texts):
    whole = b"".join(ndjson.line(None, events.encode(events.Content(delta=text))) for text in texts)
    assert decode(bytewise(whole)) == decode([whole])


@pytest.mark.parametrize("empty", [ndjson.HEARTBEAT, b"\r\n", b" \n", b"\n\n\n"])
def test_empty_lines_are_skipped(empty):
    assert decode([empty + b'{"a":1}\n' + empty + b'{"a":2}\n' + empty]) == [{"a": 1}, {"a": 2}]


def test_crlf_is_tolerated():
    assert decode([b'{"a":1}\r\n']) == [{"a": 1}]


def test_only_line_feeds_cut():
    assert decode(['{"a":"\u2028\u2029\x85"}\n'.encode()]) == [{"a": "\u2028\u2029\x85"}]


def test_a_line_without_end_is_no_event():
    assert decode([b'{"a":1}\n{"a":2}']) == [{"a": 1}]


@pytest.mark.parametrize(
    "bad",
    [
        b"{", b"nonsense", b"[]", b"5", b'{"a":NaN}', b'{"a":1} {"b":2}', b"\xff", b'{"a":"\xe9"}',
        b'{"a":1e400}', b'{"a":1}\r{"b":2}', b'{"a":' + b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_bad_line_is_named(bad):
    with pytest.raises(ndjson.BadLine, match=r"^line 4: ") as refusal:
        ndjson.Decoder().feed(b'{"a":1}\n\n{"a":2}\n' + bad + b'\n{"a":3}\n')
    assert (refusal.value.line_number, refusal.value.events) == (4, [{"a": 1}, {"a": 2}])


def test_a_bad_line_is_a_value_error():
    with pytest.raises(ValueError, match="line 1"):
        ndjson.Decoder().feed(b"x\n")


def test_a_stream_with_a_bad_line_stays_refused():
    decoder = ndjson.Decoder()
    with pytest.raises(ndjson.BadLine):
        decoder.feed(b"x\n")
    with pytest.raises(ndjson.BadLine, match="line 1"):
        decoder.feed(b'{"a":1}\n')


def test_a_line_may_be_as_long_as_the_bound():
    assert ndjson.Decoder(max_line=7).feed(b'{"a":1}\n') == [{"a": 1}]


@pytest.mark.parametrize("rest", [b"", b"\n"])
@pytest.mark.parametrize("cut_into", [lambda whole: [whole], bytewise], ids=["whole", "bytewise"])
def test_a_line_over_the_bound_is_refused_before_it_ends(rest, cut_into):
    with pytest.raises(ndjson.BadLine, match="line 2: longer than 7"):
        decode(cut_into(b'{"a":1}\n{"a":12}' + rest), max_line=7)


lines = st.lists(
    st.sampled_from(
        [b"", b"{}", b'{"a":1}', b'{"a":"\xc3\xa9"}', b"[]", b"{", b"\xff", b" \t\r", b'{"a":"\r"}']
    )
    | st.binary(max_size=12),
    max_size=8,
).map(b"\n".join)


def outcome(chunks: list[bytes], max_line: int) -> tuple[list[dict[str, Any]], int | None]:
    """The events, and the number of the line that was refused."""
    decoder, found = ndjson.Decoder(max_line), []
    for chunk in chunks:
        try:
            found += decoder.feed(chunk)
        except ndjson.BadLine as error:
            with pytest.raises(ndjson.BadLine, match="before"):
                decoder.feed(b"{}\n")
            return found + error.events, error.line_number
        assert len(decoder._tail) <= max_line
    return found, None


@settings(fast, max_examples=300)
@given(st.data(), lines, st.sampled_from([4, 10, 1000]))
def test_any_bytes_give_the_same_events_and_the_same_refusal_at_any_cut(data, stream, max_line):
    assert outcome(data.draw(cut(stream)), max_line) == outcome([stream], max_line)
    assert outcome(bytewise(stream), max_line) == outcome([stream], max_line)


def by_the_book(stream: bytes) -> tuple[list[dict[str, Any]], int | None]:
    """The same by the standard library, which takes a little more: NaN, and UTF-16."""
    found: list[dict[str, Any]] = []
    for number, line in enumerate(stream.split(b"\n")[:-1], 1):
        if not line.strip(b" \t\r"):
            continue
        try:
            value = json.loads(line.decode())
        except ValueError:
            return found, number
        if not isinstance(value, dict):
            return found, number
        found.append(value)
    return found, None


@settings(fast, max_examples=300)
@given(lines)
def test_any_bytes_are_read_as_the_standard_library_reads_them(stream):
    assert outcome([stream], 1000) == by_the_book(stream)
