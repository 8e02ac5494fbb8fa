"""Processes that share their numbers over files; here each is a `Board`, which lives until it leaves."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streaming.core.metering import Kind, Metric, Samples
from streaming.metrics.sharing import Board

METRICS = {"calls_total": Metric("calls_total", ""), "running": Metric("running", "", Kind.GAUGE)}


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Callable[[str], Board]]:
    made: list[Board] = []

    def make(name: str) -> Board:
        made.append(Board(tmp_path, name, METRICS))
        return made[-1]

    yield make
    for each in made:
        each.leave()


def numbers(calls: int, running: int = 1) -> Samples:
    return {("calls_total", ()): [calls], ("running", ()): [running]}


def test_the_living_add_up(board: Callable[[str], Board]):
    one, other = board("one"), board("other")
    one.publish(numbers(1))
    other.publish(numbers(10))
    assert one.together() == other.together() == numbers(11, 2)
    one.publish(numbers(3))
    assert other.together() == numbers(13, 2)


def test_who_leaves_stays_in_what_counts_and_only_there(board: Callable[[str], Board], tmp_path: Path):
    one, other = board("one"), board("other")
    one.publish(numbers(1))
    other.publish(numbers(10))
    other.leave()
    assert one.together() == numbers(11, 1)
    assert [path.name for path in tmp_path.glob("other*")] == [], "files of the dead do not pile up"
    assert one.together() == numbers(11, 1), "and they are counted once"
    third = board("third")
    third.publish(numbers(100))
    third.leave()
    assert one.together() == numbers(111, 1)


def test_who_is_killed_stays_as_it_was_shown_last(board: Callable[[str], Board], tmp_path: Path):
    source = (
        "import os, pathlib, signal, sys\n"
        "from streaming.metrics.sharing import Board\n"
        "from tests.unit.test_metrics_sharing import METRICS, numbers\n"
        "Board(pathlib.Path(sys.argv[1]), 'killed', METRICS).publish(numbers(10))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", source, str(tmp_path)], timeout=60, check=False)
    assert (tmp_path / "killed.numbers").exists()
    one = board("one")
    one.publish(numbers(1))
    assert one.together() == numbers(11, 1)


@pytest.mark.parametrize("moment", ["before its files are removed", "after"])
def test_nobody_is_counted_twice_by_who_dies_while_it_adds_up(
    board: Callable[[str], Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
):
    one, other = board("one"), board("other")
    one.publish(numbers(1))
    other.publish(numbers(10))
    other.leave()
    if moment == "after":
        one.together()
    else:
        monkeypatch.setattr(Board, "_remove", lambda self, names: None)
        one.together()
        assert (tmp_path / "other.numbers").exists()
        monkeypatch.undo()
    assert one.together() == numbers(11, 1)
    assert one.together() == numbers(11, 1)
    assert not (tmp_path / "other.numbers").exists()


def test_who_reads_waits_for_who_moves_numbers(board: Callable[[str], Board], tmp_path: Path):
    """Between the removal of a file and the sum that has it, nobody may look."""
    one = board("one")
    one.publish(numbers(1))
    one.together()
    with (tmp_path / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        source = (
            "import pathlib, sys\n"
            "from streaming.metrics.sharing import Board\n"
            "from tests.unit.test_metrics_sharing import METRICS\n"
            "print('ready', flush=True)\n"
            "print(Board(pathlib.Path(sys.argv[1]), 'reader', METRICS).together(), flush=True)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", source, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                reader.wait(0.3)
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert reader.stdout.readline().strip() == str(numbers(1, 1))


def test_what_cannot_be_read_hides_nothing_else(board: Callable[[str], Board], tmp_path: Path):
    one = board("one")
    one.publish(numbers(1))
    (tmp_path / "broken.numbers").write_bytes(b"[[")
    assert one.together() == numbers(1)
