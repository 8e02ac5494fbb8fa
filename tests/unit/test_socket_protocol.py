"""What a client may say on a socket, and how everything else is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.problems import Problem
from streaming.validation import MAX_FAULTS
from streaming.websocket import protocol
from streaming.websocket.protocol import Ack, Cancel, Follow, Message, NamedAck, NamedCancel, Ping, parse

ONE = (Ping, Ack, Cancel)
MANY = (Ping, Follow, NamedAck, NamedCancel)


def refused(text: str, kinds: protocol.Kinds = MANY) -> Problem:
    with pytest.raises(Problem) as caught:
        parse(text, kinds)
    return caught.value


@pytest.mark.parametrize(
    ("values", "kinds", "expected"),
    [
        ({"type": "ping"}, ONE, Ping()),
        ({"type": "ack", "id": 0}, ONE, Ack(id=0)),
        ({"type": "ack", "id": 2**63 - 1}, ONE, Ack(id=2**63 - 1)),
        ({"type": "cancel"}, ONE, Cancel()),
        ({"type": "cancel", "request_id": "a"}, MANY, NamedCancel(request_id="a")),
        ({"type": "ack", "request_id": "~" * 128, "id": 3}, MANY, NamedAck(request_id="~" * 128, id=3)),
        ({"type": "follow", "request_id": "!", "task_id": "x"}, MANY, Follow(request_id="!", task_id="x")),
    ],
)
def test_a_sound_message_is_understood(values: dict[str, Any], kinds: protocol.Kinds, expected: Message):
    assert parse(json.dumps(values), kinds) == expected


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("", 400, "invalid_json"),
        ("ping", 400, "invalid_json"),
        ("[]", 400, "object_expected"),
        ("null", 400, "object_expected"),
        ("NaN", 400, "invalid_json"),
        ("[" * 40, 400, "too_deep"),
        ('{"type":"ping","type":"ping"}', 400, "duplicate_key"),
        ("\ud800", 400, "not_utf8"),
        ("{}", 400, "unknown_type"),
        ('{"type":null}', 400, "unknown_type"),
        ('{"type":["ping"]}', 400, "unknown_type"),
        ('{"type":"start"}', 400, "unknown_type"),
        ('{"type":"ping","version":99}', 422, "unknown_field"),
        ('{"type":"cancel"}', 422, "missing_field"),
        ('{"type":"cancel","request_id":""}', 422, "invalid_id"),
        ('{"type":"cancel","request_id":"a b"}', 422, "invalid_id"),
        ('{"type":"cancel","request_id":"\\ud800"}', 422, "invalid_id"),
        ('{"type":"cancel","request_id":"a\\n"}', 422, "invalid_id"),
        ('{"type":"cancel","request_id":5}', 422, "wrong_type"),
        ('{"type":"ack","request_id":"a","id":-1}', 422, "out_of_range"),
        ('{"type":"ack","request_id":"a","id":9223372036854775808}', 422, "out_of_range"),
        ('{"type":"ack","request_id":"a","id":1e999}', 422, "out_of_range"),
        ('{"type":"ack","request_id":"a","id":true}', 422, "wrong_type"),
        ('{"type":"ack","request_id":"a","id":1.5}', 422, "wrong_type"),
        ('{"type":"ack","request_id":"a","id":"1"}', 422, "wrong_type"),
        ('{"type":"follow","request_id":"a","task_id":"' + "f" * 65 + '"}', 422, "too_long"),
        ('{"type":"follow","request_id":" ","frob":1}', 422, "validation_failed"),
    ],
)
def test_a_wrong_message_is_refused_and_says_why(text: str, status: int, code: str):
    problem = refused(text)
    assert (problem.status, problem.code) == (status, code)


def test_very_many_faults_are_not_all_told():
    members = {f"k{number}": 1 for number in range(900)}
    problem = refused(json.dumps({"type": "follow", "request_id": "a", "task_id": "t"} | members))
    assert (problem.status, problem.code, len(problem.fields)) == (422, "unknown_field", MAX_FAULTS)
    assert problem.members == {"more_errors": True, "request_id": "a"}
    assert len(json.dumps(problem.document)) < 5_000


def test_a_message_has_few_values():
    text = json.dumps({"type": "ack", "id": [0] * 1_000})
    assert (refused(text).status, refused(text).code) == (400, "too_many_values")


def test_a_refusal_names_its_request_where_that_can_be_read():
    assert refused('{"type":"nope","request_id":"a"}').members == {"request_id": "a"}
    assert refused('{"type":"ack","request_id":"a","id":-1}').members == {"request_id": "a"}
    assert refused('{"type":"ack","request_id":"a b","id":1}').members == {}


@given(
    st.text(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "id", "request_id", "task_id", "after"]) | st.text(), inner
            )
        ),
        max_leaves=12,
    ).map(json.dumps)
)
def test_whatever_comes_is_understood_or_refused(text: str):
    status = None
    try:
        parse(text, MANY)
    except Problem as problem:
        status = problem.status
    assert status in (None, 400, 422)
