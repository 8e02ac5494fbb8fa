"""The SSE codec against the HTML standard, section 9.2."""

from __future__ import annotations

import json
import re
import string
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.core import events, sse

FAMILY = "👨‍👩‍👧‍👦"
AWKWARD = [
    "",
    "咖啡店新开张，欢迎光临！",
    FAMILY * 8,
    "e" + "\u0301" * 100,
    "\u202eright to left\u202c שלום",
    "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg",
    "one\rtwo\nthree\r\nfour\n\nfive",
    "data: x\n\nevent: done\nid: 9\n: ping",
    "\ufeffbom",
    "nul\0inside",
    '"quoted" \\ back',
]

# No deadlines and no check of the generators' pace: a busy machine is not a fault of the code.
fast = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
awkward_texts = st.lists(st.sampled_from(AWKWARD) | st.text(max_size=20), max_size=3).map("".join)
ids = st.none() | st.integers(1, 2**63 - 1)
names = st.text(string.ascii_letters + string.digits + "._:-", min_size=1, max_size=64)
payloads = st.dictionaries(st.text(max_size=5), awkward_texts, max_size=3).map(
    lambda value: events.escape_line_ends(json.dumps(value, ensure_ascii=False).encode())
)


@st.composite
def cut(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    """`whole` in pieces, empty ones included."""
    points = draw(st.lists(st.integers(0, len(whole)), max_size=8))
    return [whole[a:b] for a, b in pairwise([0, *sorted(points), len(whole)])]


def decode(chunks: list[bytes], **limits: int) -> list[tuple[str, str, str]]:
    decoder = sse.Decoder(**limits)  # type: ignore[arg-type]
    return [(e.event, e.data, e.id) for chunk in chunks for e in decoder.feed(chunk)]


def bytewise(whole: bytes) -> list[bytes]:
    return [whole[i : i + 1] for i in range(len(whole))]


def reference(stream: bytes) -> list[tuple[str, str, str]]:
    """The algorithm of 9.2.6, step by step over the whole decoded text, as slow as it is plain."""
    text = stream.decode("utf-8", "replace")
    if text[:1] == "\ufeff":
        text = text[1:]
    data = kind = last_id = ""
    dispatched = []
    # What follows the last line end is no line: the stream ended inside it.
    for line in re.findall(r"([^\r\n]*)(?:\r\n|\r|\n)", text):
        if line == "":
            if data != "":
                dispatched.append((kind or "message", data[:-1], last_id))
            data = kind = ""
            continue
        if line[0] == ":":
            continue
        colon = line.find(":")
        field, value = (line, "") if colon < 0 else (line[:colon], line[colon + 1 :])
        if value[:1] == " ":
            value = value[1:]
        if field == "event":
            kind = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
    return dispatched


# --- Frames -------------------------------------------------------------------------------------------


def test_a_durable_frame_has_id_event_and_data():
    assert sse.frame(7, "content", b'{"a":1}') == b'id: 7\nevent: content\ndata: {"a":1}\n\n'


def test_an_ephemeral_frame_has_no_id():
    assert sse.frame(None, "status", b"{}") == b"event: status\ndata: {}\n\n"


@pytest.mark.parametrize(
    "name", ["", "a b", "a\nb", "a\n", "a\r", "a\0", "é", "\uff11", "a" * 65, "\ud800", "a\u2028"]
)
def test_a_name_outside_the_whitelist_is_refused(name):
    with pytest.raises(ValueError, match="event name"):
        sse.frame(None, name, b"{}")


@pytest.mark.parametrize("data", [b"a\nb", b"a\rb", b"a\r\n", b"\n"])
def test_data_of_two_lines_is_refused(data):
    with pytest.raises(ValueError, match="one line"):
        sse.frame(1, "content", data)


@pytest.mark.parametrize("event_id", [0, -1])
def test_ids_count_from_one(event_id):
    with pytest.raises(ValueError, match="count from 1"):
        sse.frame(event_id, "content", b"{}")
    with pytest.raises(ValueError, match="count from 1"):
        sse.content_frame(event_id, "text", None)


@fast
@given(ids, names, payloads)
def test_the_parts_of_a_frame_can_be_sliced_out(event_id, name, data):
    frame = sse.frame(event_id, name, data)
    assert (sse.event_id(frame), sse.name(frame), sse.payload(frame)) == (event_id, name, data)


@settings(fast, max_examples=300)
@given(
    st.integers(1, 2**63 - 1),
    awkward_texts | st.text(st.characters()),  # the latter with lone surrogates
    st.none() | st.sampled_from(["stdout", "stderr", "reasoning", ""]) | st.text(st.characters(), max_size=5),
)
def test_the_fast_path_equals_the_general_one(event_id, delta, channel):
    general = sse.frame(event_id, "content", events.encode(events.Content(delta=delta, channel=channel)))
    assert sse.content_frame(event_id, delta, channel) == general


def test_the_fast_path_cleans_lone_surrogates():
    assert b'"delta":"a\xef\xbf\xbdb","channel":"\xef\xbf\xbd"}' in sse.content_frame(1, "a\ud800b", "\udfff")


@settings(fast, max_examples=300)
@given(st.data(), st.lists(awkward_texts, min_size=1, max_size=4))
def test_any_text_comes_back_at_any_cut(data, texts):
    stream = b"".join(sse.content_frame(i, text, None) for i, text in enumerate(texts, 1))
    received = decode(data.draw(cut(stream)))
    assert [(name, json.loads(line)["delta"], last_id) for name, line, last_id in received] == [
        ("content", text, str(i)) for i, text in enumerate(texts, 1)
    ]


@pytest.mark.parametrize("text", AWKWARD)
def test_a_frame_survives_clients_that_split_lines_wrongly(text):
    frame = sse.content_frame(1, text, None).decode()
    assert frame.splitlines() == frame.split("\n")[:-1]


@fast
@given(ids, payloads, st.floats(0, 4e9))
def test_sent_at_becomes_the_last_member(event_id, data, sent_at):
    frame = sse.with_sent_at(sse.frame(event_id, "content", data), sent_at)
    assert list(json.loads(sse.payload(frame)).items()) == [*json.loads(data).items(), ("sent_at", sent_at)]
    assert sse.payload(frame).startswith(data[:-1])
    assert (sse.event_id(frame), sse.name(frame)) == (event_id, "content")


@pytest.mark.parametrize(
    ("data", "spliced"),
    [
        (b"{}", b'{"sent_at":1.5}'),
        (b"{ }", b'{"sent_at":1.5}'),
        (b'{"a":{}}', b'{"a":{},"sent_at":1.5}'),
        (b'{"a":"{"}', b'{"a":"{","sent_at":1.5}'),
        (b'{"a":1} ', b'{"a":1,"sent_at":1.5}'),
    ],
)
def test_sent_at_fits_any_object(data, spliced):
    assert sse.payload(sse.with_sent_at(sse.frame(1, "x", data), 1.5)) == spliced


@pytest.mark.parametrize(
    ("data", "sent_at"), [(b"[]", 1.0), (b"", 1.0), (b"{}", float("nan")), (b"{}", float("inf"))]
)
def test_sent_at_is_refused_where_it_would_break_the_json(data, sent_at):
    with pytest.raises(ValueError, match=r"object|finite"):
        sse.with_sent_at(sse.frame(1, "x", data), sent_at)


def test_a_comment_is_one_block():
    assert sse.comment("heartbeat") == b": heartbeat\n\n"


@fast
@given(awkward_texts | st.text(st.characters()))
def test_a_comment_cannot_forge_anything(text):
    heard: list[str] = []
    block = sse.comment(text + "\n\ndata: forged\n\n")
    assert sse.Decoder(on_comment=heard.append).feed(block) == []
    assert len(heard) == 1
    assert len(block.decode().splitlines()) == 2
    assert b"\0" not in block


@pytest.mark.parametrize(
    ("seconds", "block"),
    [
        (2.0, b"retry: 2000\n\n"),
        (0, b"retry: 0\n\n"),
        (0.0014, b"retry: 1\n\n"),
        (3.9999, b"retry: 4000\n\n"),
    ],
)
def test_retry_is_whole_milliseconds(seconds, block):
    assert sse.retry(seconds) == block


@pytest.mark.parametrize("seconds", [-0.001, float("nan"), float("inf"), float("-inf")])
def test_retry_is_finite_and_not_negative(seconds):
    with pytest.raises(ValueError, match="reconnection time"):
        sse.retry(seconds)


def test_retry_comes_back():
    decoder = sse.Decoder()
    decoder.feed(sse.retry(2.5))
    assert decoder.retry == 2500


# --- Decoder: the cases of web-platform-tests eventsource/format-* --------------------------------------

CASES = {
    "bom": ("\ufeffdata:1\n\n\ufeffdata:2\n\ndata:3\n\n", ["1", "3"]),
    "two boms": ("\ufeff\ufeffdata:1\n\ndata:2\n\n", ["2"]),
    "comments": (
        "data:1\r:\0\n:\r\ndata:2\n:" + "x" * 2049 + "\rdata:3\n:data:no\r:" + "x" * 2049 + "\ndata:4\n\n",
        ["1\n2\n3\n4"],
    ),
    "cut before the final empty line": ("retry:1000\ndata:one\n\nid:a\ndata:two", ["one"]),
    "cut right before the empty line": ("data:one\n\ndata:two\n", ["one"]),
    "field data": ("data:\n\ndata\ndata\n\ndata:x\n\n", ["", "\n", "x"]),
    "field parsing": (
        "data:\0\n data:no\rData:no\ndata\0:no\ndata:1\r\0data:no\nda-ta:no\rdata_no\ndata:2\rdata:\r\n"
        " data:no\ndata:3\n\n",
        ["\0\n1\n2\n\n3"],
    ),
    "field unknown": ("data:a\n data\ndata\nfoo:x\nbare\n:note\ndata:b\n\n", ["a\n\nb"]),
    "leading space": ("data:\ta\rdata: \ndata:  b\ndata: c\n\n", ["\ta\n\n b\nc"]),
    "newlines": ("data:a\r\ndata\ndata:b\r\n\r\n", ["a\n\nb"]),
    "three kinds of empty line": ("data:a\n\r\ndata:b\r\rdata:c\r\n\n", ["a", "b", "c"]),
    "null character": ("data:\0\n\n\n\n", ["\0"]),
    "utf-8": ("data:好…👍\n\n", ["好…👍"]),
    "other line ends": ("data:a\u2028b\u2029c\x85d\x0be\x1cf\n\n", ["a\u2028b\u2029c\x85d\x0be\x1cf"]),
    "value with colons": ("data:a:b: c\n\n", ["a:b: c"]),
    "no data, no event": ("event:x\nid:1\n\n\n\n", []),
}  # fmt: skip


@pytest.mark.parametrize(("stream", "expected"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("cut_into", [lambda whole: [whole], bytewise], ids=["whole", "bytewise"])
def test_data_by_the_standard(stream, expected, cut_into):
    assert [data for _, data, _ in decode(cut_into(stream.encode()))] == expected


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ("event:test\ndata:x\n\ndata:y\n\n", ["test", "message"]),  # the type lasts for one event
        ("event:test\n\ndata:x\n\n", ["message"]),  # … even for one that had no data
        ("event: \ndata:x\n\n", ["message"]),
        ("event:a\nevent:b\ndata:x\n\n", ["b"]),
        ("event\ndata:x\n\n", ["message"]),
        ("event:  a\ndata:x\n\n", [" a"]),
    ],
)
def test_event_type_by_the_standard(stream, expected):
    assert [event for event, _, _ in decode([stream.encode()])] == expected


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ("id:…\ndata:x\n\ndata:y\n\n", ["…", "…"]),  # the id stays
        ("id:1\ndata:x\n\nid\ndata:y\n\n", ["1", ""]),  # an empty one resets it
        ("id:1\ndata:x\n\nid:a\0b\ndata:y\n\n", ["1", "1"]),  # with NUL ignored
        ("id:1\ndata:x\n\nid:\0\ndata:y\n\n", ["1", "1"]),
        ("id:1\n\ndata:x\n\n", ["1"]),  # taken without data, too
        ("data:x\nid:1\n\n", ["1"]),
        ("ID:1\ndata:x\n\n", [""]),
    ],
)
def test_id_by_the_standard(stream, expected):
    assert [last_id for _, _, last_id in decode([stream.encode()])] == expected


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ("retry:03000\n", 3000),
        ("retry:3000\nretry:1000x\n", 3000),
        ("retry\n", None),
        ("retry:\n", None),
        ("retry: +5\n", None),
        ("retry: -5\n", None),
        ("retry: 1_000\n", None),
        ("retry: 5 \n", None),
        ("retry:  5\n", None),
        ("retry: ５\n", None),
        ("retry: 1.5\n", None),
        ("retry: " + "0" * 6000 + "7\n", 7),
        ("retry: " + "9" * 6000 + "\n", 2**63 - 1),
        ("retry: 5", None),  # not a line yet
    ],
)
def test_retry_by_the_standard(stream, expected):
    decoder = sse.Decoder()
    decoder.feed(stream.encode())
    assert decoder.retry == expected


def test_the_last_event_id_counts_from_the_dispatch_on():
    decoder = sse.Decoder()
    decoder.feed(b"id:1\n")
    assert decoder.last_event_id == ""
    decoder.feed(b"\n")
    assert decoder.last_event_id == "1"


def test_broken_utf_8_becomes_replacement_characters():
    assert decode([b"data:\xe5\x92\ndata:\xc0\xafx\n\n"]) == [("message", "\ufffd\n\ufffd\ufffdx", "")]


def test_a_carriage_return_dispatches_without_waiting_for_a_line_feed():
    assert len(sse.Decoder().feed(b"data:x\r\r")) == 1


def test_an_empty_chunk_does_not_part_a_carriage_return_from_its_line_feed():
    assert decode([b"data:x\r", b"", b"\ndata:y\n\n"]) == [("message", "x\ny", "")]


def test_close_discards_the_incomplete_event():
    decoder = sse.Decoder()
    decoder.feed(b"id:1\ndata:x\n\nid:2\nevent:lost\ndata:lost\ndata:lo")
    decoder.close()
    assert decoder.feed(b"\n\ndata:y\n\n") == [sse.ServerSentEvent(data="y", id="1")]


def test_a_line_cut_by_close_does_not_run_into_the_next_connection():
    decoder = sse.Decoder()
    decoder.feed(b"data:lost\r")
    decoder.close()
    assert decoder.feed(b"\ndata:y\n\n") == [sse.ServerSentEvent(data="y")]


def test_each_connection_may_begin_with_a_byte_order_mark():
    decoder = sse.Decoder()
    decoder.feed(b"data:x\n\n")
    decoder.close()
    assert len(decoder.feed(b"\xef\xbb\xbfdata:y\n\n")) == 1


def test_id_and_retry_outlive_the_connection():
    decoder = sse.Decoder()
    decoder.feed(b"retry:5\nid:1\ndata:x\n\n")
    decoder.close()
    assert (decoder.last_event_id, decoder.retry) == ("1", 5)


def test_comments_are_heard_at_once():
    heard: list[str] = []
    sse.Decoder(on_comment=heard.append).feed(b": heartbeat\n:two\n:\ndata:x\n:  three\n: cut")
    assert heard == ["heartbeat", "two", "", " three"]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_line_may_be_as_long_as_the_bound(end):
    assert len(sse.Decoder(max_line=10).feed(b"data:12345" + end + end)) == 1


@pytest.mark.parametrize("rest", [b"", b"\n\n"])
@pytest.mark.parametrize("cut_into", [lambda whole: [whole], bytewise], ids=["whole", "bytewise"])
def test_a_line_over_the_bound_is_refused_before_it_ends(rest, cut_into):
    with pytest.raises(sse.SSELimitExceeded, match="line"):
        decode(cut_into(b"data:123456" + rest), max_line=10)


def test_an_event_may_be_as_long_as_the_bound():
    assert len(sse.Decoder(max_event=4).feed(b"data:1\ndata:2\n\n" * 3)) == 3


def test_an_event_over_the_bound_is_refused_before_it_ends():
    with pytest.raises(sse.SSELimitExceeded, match="event"):
        sse.Decoder(max_event=5).feed(b"data:1\ndata:2\ndata:3\n")


def test_a_refusal_carries_the_events_before_it():
    with pytest.raises(sse.SSELimitExceeded) as refusal:
        sse.Decoder(max_line=10).feed(b"data:1\n\n" + b"x" * 11)
    assert refusal.value.events == [sse.ServerSentEvent(data="1")]


def test_a_refused_stream_stays_refused_until_close():
    decoder = sse.Decoder(max_line=10)
    with pytest.raises(sse.SSELimitExceeded):
        decoder.feed(b"x" * 11 + b"\n")
    with pytest.raises(sse.SSELimitExceeded):
        decoder.feed(b"data:y\n\n")
    decoder.close()
    assert len(decoder.feed(b"data:y\n\n")) == 1


def test_an_event_is_frozen():
    event = sse.ServerSentEvent(data="x")
    with pytest.raises(AttributeError):
        event.data = "y"  # type: ignore[misc]


# --- Decoder: properties --------------------------------------------------------------------------------

_pieces = [
    b"data", b"event", b"id", b"retry", b"datax", b"Data", b":", b": ", b":  ", b"\n", b"\n\n", b"\r",
    b"\r\n", b"\r\r\n", b"\0", b"x", b"1", b"data:x\n\n", b"id: 7\n", b"event:e\n", b"\xef\xbb\xbf",
    b"\xe5\x92\x96", b"\xe5\x92", b"\xf0\x9f\x91\x8d", b"\xf0\x9f", b"\xff", b"\xe2\x80\xa8", b"\xc2\x85",
    b"\x0b",
]  # fmt: skip
streams = st.lists(st.sampled_from(_pieces) | st.binary(max_size=3), max_size=25).map(b"".join)


@settings(fast, max_examples=400)
@given(streams)
def test_the_decoder_agrees_with_the_reference(stream):
    assert decode([stream]) == reference(stream)


@settings(fast, max_examples=200)
@given(st.data(), streams)
def test_the_cut_of_the_bytes_does_not_matter(data, stream):
    assert decode(data.draw(cut(stream))) == decode([stream])


@settings(fast, max_examples=200)
@given(streams)
def test_single_bytes_are_enough(stream):
    assert decode(bytewise(stream)) == decode([stream])


@settings(fast, max_examples=200)
@given(st.data(), streams, st.integers(0, 12), st.integers(0, 12))
def test_the_limits_do_not_depend_on_the_cut(data, stream, max_line, max_event):
    def outcome(chunks: list[bytes]) -> tuple[list[sse.ServerSentEvent], bool]:
        decoder = sse.Decoder(max_line, max_event)
        found: list[sse.ServerSentEvent] = []
        try:
            for chunk in chunks:
                found += decoder.feed(chunk)
        except sse.SSELimitExceeded as refusal:
            return found + refusal.events, True
        return found, False

    assert outcome(data.draw(cut(stream))) == outcome([stream])
