"""JSON from strangers: rows J1 to J7 and J11 to J13 of the pitfalls."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.core import strict_json
from streaming.core.strict_json import BadJSON, loads_object

from .test_sse import AWKWARD, fast


def refusal(body: bytes, **options: int) -> BadJSON:
    with pytest.raises(BadJSON) as caught:
        loads_object(body, **options)
    return caught.value


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    """An object with `depth` levels, itself included."""
    return ('{"a":' + opening * (depth - 1) + closing * (depth - 1) + "}").encode()


INVALID = [
    b"", b" ", b"\xef\xbb\xbf", b"{", b'{"a":1} x', b'{"a":1}{"b":2}', b'{"a":"b', b'{"a":', b'{"a":1,}',
    b"{'a':1}", b"{a:1}", b'{"a":"\n"}', b'{"a":"\x01"}', b'{"a":"x\x00"}', b'{"a":"\x1f"}', b'{"a":NaN}',
    b'{"a":-Infinity}', b'{"a":Infinity}', b'{"a":[NaN]}', b"NaN", b'{"a":01}', b'{"a":+1}', b'{"a":.5}',
    b'{"a":1.}', b'{"a":1_0}', b'{"a":0x1}', b'{"a":"\\x41"}', b'{"a":"\\u12"}', b'{"a":True}',
    b'{"a":1}// x', b'{"a":1}\x0c', b"\xc2\xa0{}", '{"a":１}'.encode(), b"\xef\xbb\xbf\xef\xbb\xbf{}",
    b'{"a" "b"}', b"{1:2}", b"]", b"}", b'{"a":[}]',
]  # fmt: skip


@pytest.mark.parametrize("body", INVALID)
def test_what_is_not_json_is_refused(body):
    assert (refusal(body).code, refusal(body).status, refusal(body).field) == ("invalid_json", 400, None)


@pytest.mark.parametrize("length", range(1, len(b'{"text":"\\u5496","n":[1,{"x":-1.5e3}],"t":true}')))
def test_a_body_cut_anywhere_is_refused(length):
    assert refusal(b'{"text":"\\u5496","n":[1,{"x":-1.5e3}],"t":true}'[:length]).code == "invalid_json"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"b":', "}")])
@pytest.mark.parametrize("depth", [33, 2000])
def test_deep_nesting_is_refused(opening, closing, depth):
    body = nested(depth, opening, closing if closing == "]" else "1" + closing)
    assert (refusal(body).code, refusal(body).status) == ("too_deep", 400)


def test_the_limit_of_depth_itself_is_accepted():
    assert loads_object(nested(32)) == json.loads(nested(32))


def test_the_limit_of_depth_can_be_set():
    assert loads_object(nested(3), max_depth=3)
    assert refusal(nested(4), max_depth=3).code == "too_deep"


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a":' + b"[[]," * 100_000, b'[{"x":"]"},' * 100_000]
)
def test_a_flood_of_brackets_is_refused_fast(body):
    start = time.perf_counter()
    assert refusal(body).code == "too_deep"
    assert time.perf_counter() - start < 0.5  # generous: the machine may be busy


def test_many_brackets_side_by_side_are_not_deep():
    assert len(loads_object(b'{"a":[' + b"[{}]," * 1000 + b"0]}")["a"]) == 1001  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b"[]," * 300_000 + b"[]]}",
        b'{"a":[' + b"{}," * 10_000 + b"0]}",
        b'{"a":[' + b"0," * 20_000 + b"1e400]}",
        b"{" + b'"a":0,' * 20_000 + b'"a":0}',
        b'{"a":' + b"[]," * 300_000,
    ],
)
def test_very_many_values_are_refused_before_they_are_parsed(body, monkeypatch):
    monkeypatch.setattr(strict_json, "_parse", lambda text: pytest.fail("parsed"))
    assert (refusal(body).code, refusal(body).status) == ("too_many_values", 400)


def test_the_limit_of_values_itself_is_accepted():
    body = b'{"a":[' + b"0," * 19_998 + b"0]}"
    assert len(loads_object(body)["a"]) == 19_999  # type: ignore[arg-type]
    assert refusal(body.replace(b"[", b"[0,")).code == "too_many_values"


def test_as_many_members_may_all_be_texts():
    members = {f"k{number}": '"' for number in range(20_000)}
    assert loads_object(json.dumps(members).encode()) == members
    assert refusal(json.dumps(members | {"one": "more"}).encode()).code == "too_many_values"


def test_the_limit_of_values_can_be_set():
    assert loads_object(b'{"a":1,"b":[]}', max_values=3)
    assert refusal(b'{"a":1,"b":[]}', max_values=2).code == "too_many_values"


@pytest.mark.parametrize("text", [",", "[,", '",', '\\",', "\\,"])
def test_what_is_inside_strings_is_no_value(text):
    body = json.dumps({"code": text * 20_001}).encode()
    assert loads_object(body) == {"code": text * 20_001}


@pytest.mark.parametrize(
    "text", ["[" * 100, "{" * 100, '"[' * 100, '\\"[' * 100, "\\" * 101 + "[" * 100, '\\\\"' + "[" * 99]
)
def test_brackets_inside_strings_do_not_count(text):
    body = json.dumps({"t": text, "u": text}).encode()
    assert loads_object(body) == {"t": text, "u": text}


@pytest.mark.parametrize("text", ["\\", '"', '\\"', '"\\', "\\\\", '\\\\"'])
def test_a_string_does_not_hide_the_brackets_after_it(text):
    assert refusal(b'{"t":%b,' % json.dumps(text).encode() + nested(33)[1:]).code == "too_deep"


@pytest.mark.parametrize(
    "number", ["1e400", "-1e400", "1E+999999999", "1" * 21, "-" + "1" * 21, "1" * 5000, "-" + "9" * 5000]
)
def test_a_number_out_of_range_is_refused_with_its_field(number):
    error = refusal(b'{"ok":1,"max_tokens":%b}' % number.encode())
    assert (error.code, error.status, error.field) == ("out_of_range", 422, "max_tokens")


def test_the_field_of_a_number_is_a_path():
    assert refusal(b'{"options":{"list":[0,{"interval":1e999}]}}').field == "options.list.1.interval"


@pytest.mark.parametrize("number", [10**20 - 1, -(10**20 - 1), 2**64, 0, 1.7e308, -0.0, 5e-324])
def test_numbers_in_range_are_exact(number):
    value = loads_object(json.dumps({"n": number}).encode())["n"]
    assert (value, type(value)) == (number, type(number))


def test_a_syntax_error_beats_a_number_out_of_range():
    assert refusal(b'{"a":1e400,').code == "invalid_json"


@pytest.mark.parametrize(
    "body",
    [
        b'{"user_id":"a","user_id":"b"}',
        b'{"x":[{"y":{"user_id":1,"a":2,"user_id":1}}]}',
        b'{"a":1,"user_id":2,"user\\u005fid":3}',
        b'{"user_id":1e400,"user_id":1}',
    ],
)
def test_a_key_twice_in_one_object_is_refused_by_name(body):
    error = refusal(body)
    assert (error.code, error.status, error.field) == ("duplicate_key", 400, "user_id")
    assert "user_id" in error.detail


def test_a_key_may_recur_in_another_object():
    assert loads_object(b'{"a":{"a":1},"b":[{"a":1},{"a":2}]}')


WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
TEXT = '{"t":"咖啡 ASCII"}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"t":"\xe9"}',
        b'{"t":"\xc0\xaf"}',
        b'{"t":"\xed\xa0\x80"}',
        b'{"t":"\xf4\x90\x80\x80"}',
        b'{"t":"\xe5\x92',
        b'\xef\xbb\xbf{"t":"\xff"}',
        TEXT.encode("gbk"),
        *(text.encode(codec) for text in (TEXT, "{}") for codec in WIDE),
    ],
)
def test_what_is_not_utf_8_is_refused(body):
    assert (refusal(body).code, refusal(body).status) == ("not_utf8", 400)


def test_the_place_of_the_bad_byte_counts_the_byte_order_mark():
    assert "byte 9" in refusal(b'\xef\xbb\xbf{"t":"\xff"}').detail


def test_a_utf_8_byte_order_mark_is_accepted():
    assert loads_object(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


def test_spaces_are_accepted():
    space = b" \t\r\n" * 2500
    assert loads_object(
        space + b"{" + space + b'"a"' + space + b":" + space + b"1" + space + b"}" + space
    ) == {"a": 1}


def test_the_order_of_keys_is_kept():
    assert list(loads_object(b'{"z":1,"a":2,"m":3}')) == ["z", "a", "m"]


@pytest.mark.parametrize(
    "body", [b"[]", b'"x"', b"5", b"-1.5", b"null", b"true", b'[{"a":1}]', b"1e400", b"[1e400]"]
)
def test_the_top_level_must_be_an_object(body):
    assert (refusal(body).code, refusal(body).status) == ("object_expected", 400)


@pytest.mark.parametrize(
    ("escaped", "text"),
    [("\\ud800", "\ud800"), ("\\udfffx", "\udfffx"), ("\\u0000", "\0"), ("\\ud83d\\ude00", "😀")],
)
def test_escapes_are_left_to_the_caller(escaped, text):
    assert loads_object(b'{"t":"%b"}' % escaped.encode()) == {"t": text}


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_awkward_text_comes_through_exactly(text, ascii_only):
    assert loads_object(json.dumps({"t": text}, ensure_ascii=ascii_only).encode()) == {"t": text}


@pytest.mark.parametrize("key", ["k" * 100_000, "\n\x1b[31m\u202e\ud800\x7f" * 1000], ids=["long", "control"])
@pytest.mark.parametrize("template", ["{%s:1,%s:2}", "{%s:{%s:1e400}}"])
def test_a_refusal_repeats_little_and_prints_safely(key, template):
    error = refusal((template % (json.dumps(key), json.dumps(key))).encode())
    assert error.field is not None
    assert error.field.isprintable()
    assert error.detail.isprintable()
    assert error.field.count("k") <= 40
    assert len(error.detail) < 350


@pytest.mark.parametrize(
    "body", [b"{" + b"secret" * 50, b'{"a":"secret\n"}', b'{"a":"\\secret"}', b'{"secret"']
)
def test_a_syntax_error_repeats_nothing(body):
    assert "secret" not in refusal(body).detail


# --- Properties -----------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-(10**19), 10**19) | st.text(st.characters(), max_size=8)
trees = st.dictionaries(
    st.text(max_size=3),
    st.recursive(
        scalars | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['"', "\\", "[{"]), inner)
        ),
        max_leaves=8,
    ),
    max_size=3,
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@settings(fast, max_examples=150)
@given(trees, st.booleans(), st.sampled_from([None, 0, 3]))
def test_every_json_object_is_read_as_it_is(tree, ascii_only, indent):
    body = json.dumps(tree, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "replace")
    assert loads_object(body) == json.loads(body)


@settings(fast, max_examples=250)
@given(trees, st.integers(3, 4))
def test_the_depth_is_counted_exactly(tree, max_depth):
    padding: list[object] = [[]] * max_depth  # enough brackets for the count to be made
    body = json.dumps(tree | {"padding": padding}).encode()
    if max(depth_of(tree), depth_of({"padding": padding})) <= max_depth:
        assert loads_object(body, max_depth=max_depth) == tree | {"padding": padding}
    else:
        assert refusal(body, max_depth=max_depth).code == "too_deep"


def accepted_or_refused(body: bytes) -> None:
    try:
        value = loads_object(body)
    except BadJSON as error:
        told = error
    else:
        assert value == json.loads(body.removeprefix(b"\xef\xbb\xbf"))
        return
    assert told.status == (422 if told.code == "out_of_range" else 400)
    assert told.detail.isprintable()
    assert len(told.detail) < 600


@settings(fast, max_examples=500)
@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(body):
    accepted_or_refused(body)


_tokens = [
    b"{", b"}", b"[", b"]", b":", b",", b'"', b'"a"', b'"a":', b'{"a":', b"\\", b"\\u", b"\\ud800", b"1",
    b"-", b"1e400", b"9" * 30, b".", b"e", b"NaN", b"Infinity", b"null", b"tru", b"\0", b"\n", b" ",
    b"\xef\xbb\xbf", b"\xe9", "咖".encode(),
]  # fmt: skip


@settings(fast, max_examples=700)
@given(st.lists(st.sampled_from(_tokens), max_size=30).map(b"".join))
def test_no_tokens_raise_anything_else(body):
    accepted_or_refused(body)


WHOLE = b'{"text":"\\u5496\xe5\x92\x96 [{\\"","n":[1,{"x":-1.5e3,"y":[]}],"t":true,"m":{"a":null}}'


@settings(fast, max_examples=1000)
@given(st.integers(0, len(WHOLE)), st.integers(0, 4), st.sampled_from([b"", *_tokens]))
def test_no_mutation_raises_anything_else(at, length, replacement):
    accepted_or_refused(WHOLE[:at] + replacement + WHOLE[at + length :])
