"""Chunks of chat completions → parts: every shape that servers send, and what none should."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contentgen.chat_protocol import (
    DETAIL_LENGTH,
    ChatReader,
    foreign_error,
    kind_of_status,
    media_type,
    one_line,
)
from contentgen.secrecy import tells
from streaming import Content, Finish, GenerationError
from streaming.core.errors import UpstreamError, UpstreamTruncated

KEY = "sk-secret/0123"

SECRET = "sk-proj-Ab/cD3fGh1jKlMn0pQrStUvWxYz45678"
BASE64 = base64.b64encode(f"Bearer {SECRET}".encode()).decode()
WRITINGS = [
    SECRET,
    SECRET.upper(),
    SECRET.lower(),
    SECRET[:24],
    SECRET[10:],
    SECRET[:20] + "\n" + SECRET[20:],
    " ".join(SECRET),
    "".join(f"\\u{ord(char):04x}" for char in SECRET),
    "".join(f"\\\\u{ord(char):04X}" for char in SECRET),
    "".join(f"%{ord(char):02X}" for char in SECRET),
    "".join(f"%25{ord(char):02x}" for char in SECRET),
    "".join(f"&#{ord(char)};" for char in SECRET),
    BASE64,
    BASE64[5:-3],
    BASE64.rstrip("="),
    BASE64[:30] + "\n" + BASE64[30:],
    base64.urlsafe_b64encode(SECRET.encode()).decode(),
]
"""The key in whatever writing a service may repeat it."""


def delta(reason: str | None = None, **members: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": members, "finish_reason": reason}]})


def read(*events: str, key: str = KEY) -> tuple[list[Any], Finish]:
    reader = ChatReader(key)
    parts = [part for event in events for part in reader.feed(event)]
    return parts, reader.finish()


def failure(*events: str, key: str = KEY) -> GenerationError:
    with pytest.raises(GenerationError) as caught:
        read(*events, key=key)
    return caught.value


STOP = delta("stop")


def test_the_text_is_the_content_of_the_deltas():
    role, empty = delta(role="assistant"), delta(content="")
    parts, finish = read(role, delta(content="a"), empty, delta(content="b"), STOP)
    assert (parts, finish) == (["a", "b"], Finish())


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ({"content": None}, []),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, ["a", "b"]),
        ({"content": [{"type": "image_url"}, "a", None]}, []),
        ({"refusal": "I would rather not."}, ["I would rather not."]),
        ({"tool_calls": [{"function": {"name": "x"}}]}, []),
        ({"reasoning_content": "hm"}, [Content(delta="hm", channel="reasoning")]),
        ({"reasoning": "hm", "content": "a"}, [Content(delta="hm", channel="reasoning"), "a"]),
        ({"reasoning": "hm", "reasoning_content": "hm"}, [Content(delta="hm", channel="reasoning")]),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
            [Content(delta="hm", channel="reasoning")],
        ),
        ({"content": 7}, []),
    ],
)
def test_each_kind_of_delta(message: dict[str, Any], parts: list[Any]):
    assert read(delta(**message), STOP)[0] == parts


def test_only_the_first_choice_counts():
    both = [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "yes"}}]
    other = [{"index": 1, "delta": {}, "finish_reason": "stop"}]
    reader = ChatReader()
    assert reader.feed(json.dumps({"choices": both})) == ["yes"]
    assert reader.feed(json.dumps({"choices": other})) == []
    assert not reader.is_whole


def test_a_whole_answer_is_read_like_a_stream():
    reader = ChatReader()
    body = {"choices": [{"message": {"content": "all"}, "finish_reason": "length"}], "model": "m"}
    assert reader.feed_whole(json.dumps(body).encode()) == ["all"]
    assert reader.finish() == Finish(finish_reason="length", model="m")


# Ends


@pytest.mark.parametrize("events", [["[DONE]"], [" [DONE] "], [STOP], [STOP, "[DONE]"]])
def test_either_end_is_enough(events: list[str]):
    assert read(delta(content="a"), *events)[1].finish_reason == "stop"


def test_without_an_end_it_was_cut():
    assert isinstance(failure(delta(content="a")), UpstreamTruncated)


def test_after_the_end_mark_nothing_counts():
    assert read(STOP, "[DONE]", delta(content="late"), "{")[0] == []


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("tool_calls", "tool_calls"),
        ("x" * 65, "unknown"),
        ("a\nb", "unknown"),
        ('<script>"', "unknown"),
    ],
)
def test_the_finish_reason_is_passed_on_if_it_is_a_name(sent: str, told: str):
    assert read(delta(sent))[1].finish_reason == told


def test_the_finish_reason_error_is_one():
    assert failure(delta("error")).code == "upstream_failed"


def test_usage_is_whole_numbers_only_and_not_without_bound():
    usage = {"a": 1, "b": 1.5, "c": True, "d": {"e": 1}, "f": -1, "g": 10**30, "x" * 65: 1, "total": 0}
    assert read(STOP, json.dumps({"choices": [], "usage": usage}))[1].usage == {"a": 1, "total": 0}
    many = {f"n{number}": number for number in range(100)}
    assert len(read(STOP, json.dumps({"choices": [], "usage": many}))[1].usage or {}) == 16
    assert read(STOP, json.dumps({"usage": None}), json.dumps({"usage": {}}))[1].usage is None


@pytest.mark.parametrize(("sent", "told"), [("m-1", "m-1"), ("a b", None), ("x" * 200, None), (7, None)])
def test_the_model_is_the_one_that_answered(sent: Any, told: str | None):
    assert read(json.dumps({"model": sent, "choices": []}), STOP)[1].model == told


def test_until_the_service_names_a_model_it_is_the_one_that_was_asked_for():
    reader = ChatReader(KEY, "asked-for")
    reader.feed(STOP)
    assert reader.finish().model == "asked-for"
    reader.feed(json.dumps({"model": "m-1"}))
    assert reader.finish().model == "m-1"


# Faults


@pytest.mark.parametrize("data", ["", "{", "[1]", "null", "7", '"x"', "[" * 100_000, '{"choices": 7}'])
def test_what_is_no_chunk_is_a_failure(data: str):
    assert failure(data).code == "upstream_failed"


@pytest.mark.parametrize("data", ["{}", '{"choices": null}', '{"choices": [null]}', '{"choices": [{}]}'])
def test_what_says_nothing_is_ignored(data: str):
    assert read(data, STOP)[0] == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("plain words", "upstream_failed"),
        ({"message": "boom", "type": "server_error"}, "upstream_failed"),
        ({"code": "invalid_api_key"}, "upstream_auth"),
        ({"type": "authentication_error"}, "upstream_auth"),
        ({"code": "401"}, "upstream_auth"),
        ({"code": 429}, "upstream_rate_limited"),
        ({"type": "rate_limit_error"}, "upstream_rate_limited"),
        ({"code": "insufficient_quota"}, "upstream_rate_limited"),
        ({"code": "context_length_exceeded"}, "upstream_rejected"),
        ({"code": 400}, "upstream_rejected"),
        ({"code": 503}, "upstream_failed"),
        ([], "upstream_failed"),
    ],
)
def test_an_error_inside_the_stream_has_its_code(error: Any, code: str):
    members = {"error": error} if error else {"object": "error", "message": "x"}
    assert failure(json.dumps(members)).code == code


def test_an_error_may_be_named_by_the_event():
    with pytest.raises(UpstreamError):
        ChatReader().feed('{"message": "boom"}', "error")


def test_an_error_does_not_repeat_the_secret():
    for text in (KEY, json.dumps(KEY).replace("/", "\\/")):
        error = failure(json.dumps({"error": {"message": f"bad key {text}"}}))
        assert "0123" not in str(error) + error.detail
    assert "0123" not in str(failure(f"not JSON {KEY}"))


@pytest.mark.parametrize("text", WRITINGS)
def test_no_writing_of_the_secret_is_told(text: str):
    error = {"message": f"bad key: {text} (see the manual)", "code": "invalid_api_key", "key": text}
    for data in ({"error": error}, {"error": f"bad key: {text}"}):
        made = failure(json.dumps(data), key=SECRET)
        assert_nothing_told(str(made))
        assert_nothing_told(made.detail)
    for broken in (f"{text} {{", json.dumps([text]), json.dumps(text)):
        assert_nothing_told(str(failure(broken, key=SECRET)))
    assert_nothing_told(one_line(f"no answer: {text}", SECRET))


@pytest.mark.parametrize("text", [text for text in WRITINGS if "\n" not in text])
def test_no_name_that_tells_the_secret_is_passed_on(text: str):
    usage = {"choices": [], "model": text, "usage": {text: 1, f"a.{text}"[:64]: 2, "total": 3}}
    reader = ChatReader(SECRET, "asked-for")
    for event in (json.dumps(usage), delta(text)):
        reader.feed(event)
    assert reader.finish() == Finish(finish_reason="unknown", usage={"total": 3}, model="asked-for")


@pytest.mark.parametrize("word", ["none", "x", "stop", "ollama"])
def test_a_word_for_a_service_without_keys_is_no_secret(word: str):
    reader = ChatReader(word)
    reader.feed(
        json.dumps({"choices": [{"finish_reason": "stop"}], "model": "ollama/x-none", "usage": {"x": 1}})
    )
    assert reader.finish() == Finish(finish_reason="stop", usage={"x": 1}, model="ollama/x-none")


def test_the_words_of_an_error_are_kept_and_not_logged():
    error = {"message": "The model is\nloading", "type": "busy", "param": "p", "code": 503}
    made = failure(json.dumps({"error": error}))
    assert str(made) == "the service reports an error: 503, busy"
    assert made.detail == "503, busy, The model is loading"


@pytest.mark.parametrize(
    ("said", "names"),
    [
        (
            {"code": "content_policy", "type": "invalid_request_error"},
            "content_policy, invalid_request_error",
        ),
        ({"code": "Your request was flagged", "type": "BadRequestError"}, "BadRequestError"),
        ({"code": "a sentence: flagged", "type": ["x"]}, ""),
        ({"code": "x" * 65, "message": "no"}, ""),
        ({"code": KEY}, ""),
        ("your request was flagged", ""),
        (["flagged"], ""),
        (None, ""),
    ],
)
def test_of_an_error_only_names_are_logged(said: Any, names: str):
    made = foreign_error(UpstreamError, "status 400", said, KEY)
    assert str(made) == (f"status 400: {names}" if names else "status 400")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("text/html; charset=utf-8", "text/html"),
        ("Application/JSON", "application/json"),
        ("you asked for secrets", "an unknown type"),
        (f"text/{KEY}", "an unknown type"),
        ("", "an unknown type"),
    ],
)
def test_of_a_content_type_only_a_type_is_told(header: str, told: str):
    assert media_type(header, KEY) == told


def test_a_sentence_is_no_reason():
    reader = ChatReader()
    reader.feed(delta("you asked for secrets"))
    assert reader.finish().finish_reason == "unknown"


def assert_nothing_told(told: str) -> None:
    assert not tells(told, SECRET), told
    assert SECRET[-12:].lower() not in told.lower()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "upstream_rejected"),
        (401, "upstream_auth"),
        (403, "upstream_auth"),
        (404, "upstream_rejected"),
        (408, "upstream_failed"),
        (409, "upstream_failed"),
        (425, "upstream_failed"),
        (529, "upstream_failed"),
        (413, "upstream_rejected"),
        (429, "upstream_rate_limited"),
        (500, "upstream_failed"),
        (302, "upstream_failed"),
    ],
)
def test_every_status_has_its_code(status: int, code: str):
    assert kind_of_status(status).code == code


# Text


def test_halves_of_a_surrogate_pair_are_joined_over_deltas():
    high = '{"choices": [{"delta": {"content": "a\\ud83d"}}]}'
    low = '{"choices": [{"delta": {"content": "\\ude00b"}}]}'
    assert read(high, low, STOP)[0] == ["a", "😀b"]


@pytest.mark.parametrize("half", ["\\ud83dx", "\\ude00x"])
def test_a_lone_surrogate_becomes_a_replacement_character(half: str):
    assert read(f'{{"choices": [{{"delta": {{"content": "{half}"}}}}]}}', STOP)[0] == ["�x"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.booleans())
def test_any_text_comes_through_exactly(tokens: list[str], ascii_only: bool):
    events = [
        json.dumps({"choices": [{"delta": {"content": token}}]}, ensure_ascii=ascii_only) for token in tokens
    ]
    parts, _ = read(*events, STOP)
    assert "".join(parts) == "".join(tokens)
    assert "" not in parts


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["choices", "delta"]), inner),
)
CHUNKS = st.fixed_dictionaries(
    {},
    optional={
        "choices": JSON
        | st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "index": JSON,
                    "delta": st.dictionaries(
                        st.sampled_from(["content", "reasoning", "reasoning_content", "refusal"]), JSON
                    ),
                    "finish_reason": JSON,
                },
            )
        ),
        "usage": JSON,
        "model": JSON,
        "error": JSON,
    },
)


@given(CHUNKS | JSON)
def test_no_chunk_raises_anything_but_an_error_of_the_tree(chunk: Any):
    reader = ChatReader()
    try:
        parts = reader.feed(json.dumps(chunk))
        finish = reader.finish()
    except GenerationError:
        return
    assert all(isinstance(part, str | Content) for part in parts)
    assert finish.finish_reason


@given(st.text())
def test_a_foreign_text_is_one_printable_line(text: str):
    line = one_line(text + KEY + text, KEY)
    assert len(line) <= DETAIL_LENGTH + 1
    assert KEY not in line
    assert len(line.splitlines()) <= 1


@pytest.mark.parametrize("depth", [100, 450, 10_000])
@pytest.mark.parametrize("member", ["content", "reasoning"])
def test_pieces_within_pieces_are_read_or_refused(member: str, depth: int) -> None:
    nested = '[{"type":"thinking","thinking":' * depth + '"x"' + "}]" * depth
    reader = ChatReader()
    with suppress(UpstreamError):
        reader.feed(f'{{"choices":[{{"delta":{{"{member}":{nested}}}}}]}}')
