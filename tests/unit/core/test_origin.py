"""Request ids and `traceparent`: what is taken from strangers, and what is not."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.origin import TraceParent, sane_request_id, span_id, trace_parent

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f" 00-{TRACE}-{SPAN}-01\t", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_trace_parent_is_understood(header, sampled):
    assert trace_parent(header) == TraceParent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-٠١",
    ],
)
def test_a_malformed_one_counts_as_none(header):
    assert trace_parent(header) is None


@given(st.text())
def test_nothing_makes_it_fail(header):
    assert trace_parent(header) is None or "-" in header


@pytest.mark.parametrize("header", ["a", "abc-123", "req_1:2.3~4+5/6=7@8", "x" * 128])
def test_a_sane_request_id_is_kept(header):
    assert sane_request_id(header) == header


@pytest.mark.parametrize("header", ["", " ", "a b", "a\nb", "a\x1b[2J", "x" * 129, "号", 'a"b', "a,b", "<a>"])
def test_others_are_not(header):
    assert sane_request_id(header) is None


@given(st.text(alphabet=string.printable))
def test_what_is_kept_can_do_nothing_in_a_line(header):
    kept = sane_request_id(header)
    assert kept is None or not set(kept) & set(" \t\r\n\x0b\x0c\"'<>;,{}[]()\\|`")


@pytest.mark.parametrize("sampled", [True, False])
def test_a_header_is_written_as_it_is_read(sampled):
    parent = TraceParent(TRACE, SPAN, sampled)
    assert trace_parent(parent.header) == parent


def test_a_span_is_named_after_its_task_and_does_not_tell_its_id():
    """Who knows an anonymous task's id may read it."""
    first, second = (span_id(letter * 32) for letter in "ab")
    assert first != second
    assert first == span_id("a" * 32)
    assert trace_parent(TraceParent(TRACE, first, True).header) is not None
    assert "aaaa" not in first
