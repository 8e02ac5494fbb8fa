"""Messages on a Jupyter Server's WebSocket, against Jupyter's own code; and which numbers have come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)

from notebooks.kernels.wire import V1, Tally, pack, unpack

texts = st.text(max_size=20)
parts = st.dictionaries(
    texts, st.one_of(texts, st.integers(), st.none(), st.lists(texts, max_size=3)), max_size=4
)
names = ("header", "parent_header", "metadata", "content")
messages = st.tuples(parts, parts, parts, parts).map(lambda found: dict(zip(names, found, strict=True)))
channels = st.sampled_from(["shell", "iopub", "control", "stdin"])


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@given(messages, channels)
def test_jupyter_reads_what_we_send(message: dict[str, Any], channel: str) -> None:
    frame = pack(message, channel, V1)
    assert isinstance(frame, bytes)
    found, pieces = deserialize_msg_from_ws_v1(frame)
    assert found == channel
    assert [json.loads(piece) for piece in pieces] == list(message.values())
    assert json.loads(pack(message, channel, None)) == {**message, "channel": channel, "buffers": []}


@given(messages, channels, st.lists(st.binary(max_size=9), max_size=3))
def test_we_read_what_jupyter_sends(message: dict[str, Any], channel: str, buffers: list[bytes]) -> None:
    pieces = [*map(as_json, message.values()), *buffers]
    assert unpack(serialize_msg_to_ws_v1(pieces, channel), V1) == (channel, message)
    found, read = unpack(json.dumps({**message, "channel": channel}), None)
    assert (found, {name: read[name] for name in message}) == (channel, message)
    frame = serialize_binary_message({**message, "channel": channel, "buffers": buffers})
    found, read = unpack(frame, None)
    assert (found, {name: read[name] for name in message}) == (channel, message)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=50)), st.sampled_from([V1, None]))
def test_what_is_no_message_is_told(frame: bytes | str, subprotocol: str | None) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any: whatever it is, it is no message
        unpack(frame, subprotocol)


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("frame", "subprotocol"),
    [
        (DEEP.decode(), None),
        ((2).to_bytes(4, "big") + (12).to_bytes(4, "big") + (100_012).to_bytes(4, "big") + DEEP, None),
        (
            b"".join(n.to_bytes(8, "little") for n in (6, 56, 61, 100_061, 100_061, 100_061, 100_061))
            + b"iopub"
            + DEEP,
            V1,
        ),
    ],
)
def test_what_is_nested_without_end_is_no_message(frame: bytes | str, subprotocol: str | None) -> None:
    with pytest.raises(ValueError, match="nested"):
        unpack(frame, subprotocol)


@given(messages, channels, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6))
def test_a_damaged_frame_is_a_message_or_told_to_be_none(
    message: dict[str, Any], channel: str, damage: list[tuple[int, int]]
) -> None:
    for subprotocol in (V1, None):
        sound = pack(message, channel, subprotocol)
        frame = bytearray(sound if isinstance(sound, bytes) else sound.encode())
        for at, byte in damage:
            frame[at % len(frame)] = byte
        try:
            _, found = unpack(bytes(frame), subprotocol)
        except ValueError:
            continue
        assert all(isinstance(found[name], dict) for name in names)


def test_our_own_binary_frame_is_one_of_jupyters_default_form() -> None:
    message: dict[str, Any] = {"header": {}, "parent_header": {}, "metadata": {}, "content": {"a": "中"}}
    frame = serialize_binary_message({**message, "channel": "iopub", "buffers": [b"x"]})
    assert deserialize_binary_message(frame)["content"] == {"a": "中"}
    assert unpack(frame, None)[1]["content"] == {"a": "中"}


# Numbers


@given(st.integers(0, 99), st.permutations(range(1, 12)))
def test_numbers_that_change_places_are_complete_and_come_once(first: int, order: list[int]) -> None:
    tally = Tally()
    assert tally.is_new(first)
    assert not tally.complete
    tally.mark(first)
    assert tally.complete
    assert all(tally.is_new(first + number) for number in order)
    assert tally.complete
    assert not any(tally.is_new(first + number) for number in order)


@given(st.integers(1, 12), st.integers(0, 99))
def test_a_number_that_is_missing_is_missed_until_it_is_given_up(missing: int, first: int) -> None:
    tally = Tally()
    tally.mark(first)
    for number in range(1, 13):
        if number != missing:
            assert tally.is_new(first + number)
    tally.mark(first + 12)
    assert not tally.complete
    tally.start_over()
    assert tally.complete
    assert tally.is_new(first + 13)
    assert not tally.is_new(first + missing)


def test_who_drops_very_many_is_not_remembered_for_ever() -> None:
    tally = Tally()
    tally.mark(0)
    for number in range(2, 2 * Tally.MOST):
        assert tally.is_new(number)
    assert not tally.complete
    assert len(tally._ahead) <= Tally.MOST
