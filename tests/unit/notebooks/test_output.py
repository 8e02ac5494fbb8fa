"""What a kernel says, as parts of a stream: in order, in small pieces, within bounds, and kept as nbformat
has it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebooks.kernels.output import PIECE, CellOutput
from streaming.core.events import Content, Output, Truncated
from tests.unit.core.test_sse import fast


def message(kind: str, **content: Any) -> dict[str, Any]:
    return {"header": {"msg_type": kind}, "content": content}


def printed(text: str, name: str = "stdout") -> dict[str, Any]:
    return message("stream", name=name, text=text)


def said(output: CellOutput, *messages: dict[str, Any]) -> list[Any]:
    return [part for each in messages for part in output.parts_of(each)]


def test_text_has_its_channel():
    output = CellOutput(1_000)
    assert said(output, printed("out"), printed("err", "stderr")) == [
        Content(delta="out", channel="stdout"),
        Content(delta="err", channel="stderr"),
    ]


def test_a_long_text_comes_in_pieces():
    text = "长" * (2 * PIECE + 1)
    parts = said(CellOutput(1_000_000), printed(text))
    assert max(len(msgspec.json.encode(part.delta)) for part in parts) <= PIECE
    assert len(parts) <= 2 * len(text.encode()) / PIECE + 1
    assert "".join(part.delta for part in parts) == text


@fast
@given(
    st.lists(st.tuples(st.text(max_size=40), st.sampled_from(["stdout", "stderr"])), max_size=12),
    st.integers(1, 200),
)
def test_text_is_kept_up_to_the_limit_and_the_rest_is_counted(prints, limit):
    output = CellOutput(limit)
    parts = said(output, *(printed(text, name) for text, name in prints))
    parts += output.closing()
    kept = "".join(part.delta for part in parts if isinstance(part, Content))
    everything = "".join(text for text, _ in prints).replace("\0", "")  # databases refuse it
    assert len(kept.encode()) <= limit
    assert output.dropped == len(everything) - len(kept)
    cuts = [part for part in parts if isinstance(part, Truncated)]
    assert [cut.dropped_chars for cut in cuts][-1:] == ([output.dropped] if output.dropped else [])
    if not output.dropped:
        assert kept == everything
    saved = "".join(each["text"] for each in output.take())
    assert saved == kept


def test_what_is_cut_is_said_at_once_and_with_its_number_at_the_end():
    output = CellOutput(4)
    assert said(output, printed("abcdef")) == [
        Content(delta="abcd", channel="stdout"),
        Truncated(dropped_chars=2, limit=4),
    ]
    assert said(output, printed("x" * 10)) == []
    assert list(output.closing()) == [Truncated(dropped_chars=12, limit=4)]


def test_rich_output_keeps_its_bundle():
    data = {"text/plain": "<Figure>", "image/png": "iVBOR", "application/json": {"a": [1, None, "b"]}}
    shown = message(
        "display_data", data=data, metadata={"image/png": {"width": 3}}, transient={"display_id": "d"}
    )
    output = CellOutput(1_000)
    assert said(output, shown) == [
        Output(output_type="display_data", data=data, metadata={"image/png": {"width": 3}}, display_id="d")
    ]
    assert output.take() == [
        {
            "output_type": "display_data",
            "data": data,
            "metadata": {"image/png": {"width": 3}},
            "display_id": "d",
        }
    ]


def test_an_update_changes_what_was_shown():
    def show(kind: str, text: str) -> dict[str, Any]:
        return message(kind, data={"text/plain": text}, transient={"display_id": "d"})

    output = CellOutput(1_000)
    parts = said(output, show("display_data", "1 %"), show("update_display_data", "100 %"))
    assert [part.output_type for part in parts] == ["display_data", "update_display_data"]
    assert [each["data"] for each in output.take()] == [{"text/plain": "100 %"}]


def test_a_result_has_its_number():
    output = CellOutput(1_000)
    said(output, message("execute_result", data={"text/plain": "2"}, metadata={}, execution_count=7))
    assert output.take()[0]["execution_count"] == 7


def test_a_bundle_for_which_there_is_no_room_is_named():
    output = CellOutput(100_000)
    part, cut = said(output, message("display_data", data={"image/png": "x" * 100_001}))
    assert isinstance(cut, Truncated)
    assert part.data == {"text/plain": "[image/png: 100019 bytes, more than a cell may show]"}
    full = CellOutput(10)
    assert said(full, message("display_data", data={"image/png": "x" * 11})) == [
        Truncated(dropped_chars=29, limit=10)
    ]


def test_an_exception_is_told_also_when_there_was_too_much_before():
    output = CellOutput(1)
    said(output, printed("xx"))
    (fault,) = said(output, message("error", ename="E", evalue="v", traceback=["a", "b"]))
    assert fault == Output(output_type="error", ename="E", evalue="v", traceback=["a", "b"])


@pytest.mark.parametrize("letter", ["a", "长", "\x1b"])
def test_a_huge_exception_keeps_both_ends_and_stays_small(letter):
    output = CellOutput(1_000_000)
    content = {"ename": "E" * 10**5, "evalue": letter * 10**6, "traceback": [letter * 10**6, "the end"]}
    (fault,) = said(output, message("error", **content))
    assert fault.traceback[-1].endswith("the end")
    assert len(msgspec.json.encode(fault)) <= 16_384


def test_an_update_of_what_another_cell_shows_is_kept_apart():
    output = CellOutput(1_000)
    update = message("update_display_data", data={"text/plain": "2"}, transient={"display_id": "other"})
    (part,) = said(output, update)
    assert part.display_id == "other"
    assert output.take() == []
    assert output.updates == {"other": {"data": {"text/plain": "2"}, "metadata": {}}}


def test_clearing_forgets_at_once_or_with_the_next_output():
    output = CellOutput(1_000)
    said(output, printed("a"), message("clear_output", wait=False), printed("b"))
    assert [each["text"] for each in output.kept] == ["b"]
    (cleared,) = said(output, message("clear_output", wait=True))
    assert (cleared.output_type, cleared.wait) == ("clear_output", True)
    assert [each["text"] for each in output.kept] == ["b"], "still there"
    said(output, printed("c"))
    assert [each["text"] for each in output.take()] == ["c"]


def test_very_many_small_outputs_come_to_an_end():
    output = CellOutput(10_000)
    shown = message("display_data", data={"text/plain": "x"}, metadata={})
    parts = said(output, *[shown] * 1_000, *[message("clear_output", wait=False)] * 1_000)
    faults = said(output, *[message("error", ename="E", evalue="", traceback=[])] * 1_000)
    assert len(parts) < 60
    assert len(faults) == 1, "the first says why the cell ended"
    assert output.dropped > 0


def test_a_long_plain_text_of_a_bundle_is_cut():
    output = CellOutput(1_000_000)
    text = "长" * (PIECE + 7)
    shown, cut = said(output, message("execute_result", data={"text/plain": text}, execution_count=1))
    kept = shown.data["text/plain"].removesuffix("…")
    assert text.startswith(kept)
    assert PIECE * 0.9 < len(msgspec.json.encode(kept)) <= PIECE
    assert cut == Truncated(dropped_chars=len(text) - len(kept), limit=1_000_000)


@fast
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800\x00"),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=20,
    )
)
def test_whatever_a_kernel_shows_can_be_told_and_kept(value):
    output = CellOutput(100_000)
    data = {"text/plain": value, "application/json": value, "image/png": value}
    parts = said(output, message("display_data", data=data, metadata={"m": value}, transient={}))
    encoded = msgspec.json.encode([part.data for part in parts if isinstance(part, Output)])
    assert b"\\u0000" not in encoded
    assert json.loads(json.dumps(output.take(), allow_nan=False))


def test_json_that_is_too_deep_ends_somewhere():
    value: Any = "bottom"
    for _ in range(900):
        value = [value]
    output = CellOutput(100_000)
    (part,) = said(output, message("display_data", data={"application/json": value}))
    assert b"bottom" not in msgspec.json.encode(part.data)


def test_a_question_that_nobody_can_answer_has_a_code():
    output = CellOutput(1_000)
    asked = message("error", ename="StdinNotImplementedError", evalue="no", traceback=[])
    (fault,) = said(output, asked)
    assert fault.code == "stdin_not_supported"


def test_what_was_taken_is_not_given_again():
    output = CellOutput(1_000)
    said(output, printed("a"))
    assert [each["text"] for each in output.take()] == ["a"]
    said(output, printed("b"))
    assert [each["text"] for each in output.take()] == ["b"]


def test_neighbours_of_a_channel_are_one_output():
    output = CellOutput(1_000)
    said(output, printed("a"), printed("b"), printed("c", "stderr"), printed("d"))
    assert [(each["name"], each["text"]) for each in output.take()] == [
        ("stdout", "ab"),
        ("stderr", "c"),
        ("stdout", "d"),
    ]


def test_other_messages_are_not_shown():
    assert said(CellOutput(9), message("comm_open", data={}), message("status", execution_state="idle")) == []
