"""What counts as an event id from outside, and which of two wins."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.core import cursor
from streaming.core.errors import BadCursor

from .test_sse import fast

BAD = [
    "abc", "1-", "1-0", "-", "+", "$", "*", "(1", "0x1", "１", "٣", "²", "-1", "-0", "+1", "00", "01", "1.0",
    "1e3", "1_000", "1,2", "1, 2", " 1", "1 ", "1\n", "1\r\n", "\t1", " ", "\0", "1\0", "None", "null",
    "\ud800", "\ufeff1", str(2**63), str(2**64), "9" * 19 + "0", "第五".encode().decode("latin-1"), "第五",
]  # fmt: skip


@pytest.mark.parametrize("value", [None, ""])
def test_nothing_means_from_the_start(value):
    assert cursor.parse(value) == 0


@fast
@given(st.integers(0, 2**63 - 1))
def test_every_id_is_read_back(event_id):
    assert cursor.parse(str(event_id)) == event_id


@pytest.mark.parametrize("event_id", [0, 1, 9, 10, 2**63 - 1])
def test_the_borders_are_read(event_id):
    assert cursor.parse(str(event_id)) == event_id


@pytest.mark.parametrize("value", BAD, ids=ascii)
def test_anything_else_is_refused(value):
    with pytest.raises(BadCursor):
        cursor.parse(value)


@settings(fast, max_examples=500)
@given(st.text(st.characters(), min_size=1, max_size=25) | st.text("0123456789-+ ,", min_size=1, max_size=22))
def test_what_is_accepted_is_the_plain_form_of_a_number(value):
    try:
        event_id = cursor.parse(value)
    except BadCursor:
        return
    assert str(event_id) == value


@pytest.mark.parametrize(
    "value", ["9" * 70_000, "0" * 70_000, "x" * 70_000], ids=["nines", "zeros", "letters"]
)
def test_a_very_long_value_is_refused_fast_and_not_repeated(value):
    start = time.perf_counter()
    with pytest.raises(BadCursor) as refusal:
        cursor.parse(value)
    assert time.perf_counter() - start < 0.2  # generous: the machine may be busy
    assert len(str(refusal.value)) < 100


def test_a_refusal_is_one_line_of_ascii():
    with pytest.raises(BadCursor) as refusal:
        cursor.parse("1\r\nevil\u202e")
    assert str(refusal.value).isascii()
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("header", "query", "chosen"),
    [
        (None, None, 0),
        ("", "", 0),
        (None, "3", 3),
        ("", "3", 3),
        ("7", "3", 7),
        ("3", "7", 3),
        ("0", "3", 0),
        ("7", None, 7),
        ("7", "abc", 7),
    ],
)
def test_a_header_that_is_not_empty_wins(header, query, chosen):
    assert cursor.choose(header, query) == chosen


@pytest.mark.parametrize(
    ("header", "query"), [("abc", "3"), (" ", "3"), ("1,2", None), (None, "abc"), ("", "-1")]
)
def test_a_bad_value_is_refused_not_passed_over(header, query):
    with pytest.raises(BadCursor):
        cursor.choose(header, query)
