"""What waits for the database: nothing is lost by joining notes, and what is dropped is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.storage import notes
from streaming.storage.notes import Batch, Note, Notes


def batch(first_id: int, *frames: bytes) -> Batch:
    return Batch(first_id, list(frames))


def test_of_two_rows_the_newer_counts_and_the_events_add_up() -> None:
    waiting = Notes()
    waiting.add("a", Note(values={"state": "running"}, batches=[batch(1, b"x")]))
    waiting.add("a", Note(batches=[batch(2, b"y", b"z")]))
    waiting.add("a", Note(values={"state": "complete"}, text=[b"x"]))
    note = waiting["a"]
    assert (note.values, note.text) == ({"state": "complete"}, [b"x"])
    assert [(each.first_id, each.last_id) for each in note.batches] == [(1, 1), (2, 3)]


def test_what_could_not_be_written_comes_before_what_was_noted_meanwhile() -> None:
    older, newer = Notes(), Notes()
    older.add("a", Note(values={"n": 1}, batches=[batch(1, b"x")]))
    newer.add("b", Note(values={"n": 3}))
    newer.add("a", Note(values={"n": 2}, batches=[batch(2, b"y")]))
    together = newer.put_back(older)
    assert [each.first_id for each in together["a"].batches] == [1, 2]
    assert together["a"].values == {"n": 2}
    assert set(together) == {"a", "b"}
    assert together.size == 2


def test_events_beyond_the_bound_are_dropped_and_counted_and_rows_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notes, "MAX_BYTES", 5)
    waiting = Notes()
    waiting.add("a", Note(values={"n": 1}, batches=[batch(1, b"xx", b"yy")]))
    waiting.add("b", Note(values={"n": 2}, batches=[batch(1, b"zz")]))
    assert waiting.drop_beyond_bounds() == (0, 2)
    assert waiting["a"].values == {"n": 1}
    assert [len(note.batches) for note in waiting.values()] == [0, 1]
    assert waiting.size == 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.binary(min_size=1, max_size=9), max_size=4))))
def test_the_size_is_that_of_the_events(adds: list[tuple[str, list[bytes]]]) -> None:
    waiting = Notes()
    for task_id, frames in adds:
        waiting.add(task_id, Note(batches=[Batch(1, frames)]))
    assert waiting.size == sum(note.size for note in waiting.values())
    assert waiting.size == sum(len(frame) for _, frames in adds for frame in frames)
