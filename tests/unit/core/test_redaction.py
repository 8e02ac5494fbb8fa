"""What is cut out of log lines: secrets and prompts, as members, in texts, in tracebacks."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.redaction import CUT, PIECE, redacted, redacted_member, text_without

KEY = "sluice_" + "Aa0_-" * 8 + "xyz"
MODEL_KEY = "sk-proj-0123456789abcdefABCDEF"
SECRET = "hush-hush"

NAMES = ("prompt", "arguments", "text", "delta", "topic", "Authorization", "Cookie", "Set-Cookie", "password")


@pytest.mark.parametrize(
    "text",
    [
        f"no such key: {KEY}",
        f"key={KEY}, and more",
        f"upstream said: invalid key {MODEL_KEY}.",
        f"Authorization: Bearer {SECRET}",
        f"authorization: {SECRET}",
        f"headers: [(b'authorization', b'Bearer {SECRET}'), (b'accept', b'*/*')]",
        f"{{'Authorization': 'Basic {SECRET}'}}",
        f"curl -H 'authorization: bearer {SECRET}'",
        f"Cookie: sessionid={SECRET}; csrftoken=x",
        f"sessionid={SECRET}",
        f"Set-Cookie: a={SECRET}; HttpOnly",
        f"postgres://sluice:{SECRET}@db:5432/sluice",
        f"redis://:{SECRET}@cache/0",
        f'{{"prompt": "{SECRET}"}}',
        f"{{'prompt': ['a', {{'b': '{SECRET}'}}]}}",
        f"Brief(prompt='{SECRET}', tone='x')",
        f"prompt: {SECRET}",
        f"arguments={{'topic': '{SECRET}'}}",
        f'arguments: {{"topic": "{SECRET}"}}',
        f"{{'delta': '{SECRET}'}}",
        f"Content(delta='{SECRET}', channel=None)",
        f'{{\\"text\\": \\"{SECRET}\\"}}',
        f"OPENAI_API_KEY={SECRET}",
        f"Traceback (most recent call last):\n  File \"x.py\", line 1\nValueError: bad prompt='{SECRET}'",
    ],
)
def test_it_is_cut_out_of_a_text(text):
    found = redacted(text)
    assert CUT in found
    for secret in (KEY, MODEL_KEY, SECRET):
        assert secret not in found


def test_what_stands_around_it_stays():
    text = f"task 1: the producer failed\nHTTPError: 401 for key {MODEL_KEY}\n  at line 3"
    assert redacted(text) == f"task 1: the producer failed\nHTTPError: 401 for key {CUT}\n  at line 3"


@pytest.mark.parametrize(
    "text",
    [
        "stream 0123456789abcdef0123456789abcdef: the reader has left",
        "sluice_tasks_total is a metric, and disk-space a word",
        "task-scheduler-of-old",
        "API key sluice_AbCdEfGh was made for user 7",
        "refused 3: agent_pool queue_full",
        "Content-Type: text/event-stream",
        "http://127.0.0.1:8000/content/generate/stream/async",
        "could not write 3 records; trying again",
        "the basic idea, and the bearer",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redacted(text) is text or redacted(text) == text


@pytest.mark.parametrize("name", NAMES)
def test_a_member_of_that_name_is_cut(name):
    assert redacted_member(name, {"any": "thing"}) == CUT
    assert redacted_member(name.upper(), 1) == CUT


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.just(f"Bearer {SECRET}") | st.just(KEY),
        lambda children: (
            st.lists(children) | st.dictionaries(st.sampled_from([*NAMES, "other", "headers"]), children)
        ),
    )
)
def test_nothing_is_left_however_deep_it_is(value):
    found = json.dumps(redacted_member("extra", value))
    assert SECRET not in found
    assert KEY not in found


def test_an_object_that_is_no_plain_value_is_told_as_text():
    class Thing:
        def __str__(self) -> str:
            return f"Thing(prompt={SECRET})"

    assert redacted_member("thing", Thing()) == f"Thing(prompt={CUT}"


# --- What a task was asked ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arguments", "left"),
    [
        ("no such topic: cats", {"topic": "cats"}, "no such topic: [cut]"),
        ("no such topic: 'cats'", ["x", {"a": ["cats"]}], "no such topic: '[cut]'"),
        ("concatenate: cats_and_dogs", {"topic": "cat"}, "concatenate: cats_and_dogs"),
        ("关于猫的文章", {"topic": "猫"}, "关于[cut]的文章"),
        ("b'\\xe7\\x8c\\xab'", {"topic": "猫"}, "b'[cut]'"),
        ('{"topic": "\\u732b"}', {"topic": "猫"}, '{"topic": "[cut]"}'),
        ("line 2: the second one", {"text": "the first\nthe second one\n"}, "line 2: [cut]"),
        ("'one\\ntwo' is not a number", {"n": "one\ntwo"}, "'[cut]' is not a number"),
        ("too long: a text of some le…", {"text": "a text of some length"}, "too long: [cut]…"),
        ("a of b", {"x": "a", "": "b", "y": ""}, "a of b"),
        ("expected 3", {"count": 3, "on": True, "none": None}, "expected 3"),
        ("nothing is known", None, "nothing is known"),
    ],
)
def test_what_was_asked_is_cut_out(text, arguments, left):
    assert text_without(text, arguments) == left


@given(st.text(), st.text(min_size=PIECE + 1, max_size=200), st.text())
def test_no_long_text_is_left(before, asked, after):
    asked = asked.strip()
    for quoted in (asked, repr(asked), json.dumps(asked)):
        left = text_without(f"{before}{quoted}{after}", {"prompt": asked})
        if len(asked) > PIECE:
            assert asked not in left


def test_a_book_is_looked_for_and_holds_up_nobody():
    book = "\n".join(f"line {number} of the book, and more" for number in range(100_000))
    assert text_without(f"cannot read {book[:300]!r}", {"text": book}) == "cannot read '[cut]'"
