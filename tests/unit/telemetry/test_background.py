"""The thread that writes lines: order, bounds, faults, the end."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from streaming.telemetry.background import Background

PATIENCE = 20.0


@pytest.fixture
def background():
    made = Background(pause=0.001)
    yield made
    assert made.flush(PATIENCE)


def test_work_is_done_in_order_in_another_thread(background):
    done: list[Any] = []
    for number in range(1000):
        background.put(lambda each: done.append((each, threading.current_thread())), number)
    assert background.flush(PATIENCE)
    assert [number for number, _ in done] == list(range(1000))
    assert {thread for _, thread in done} == {background._thread}
    assert threading.main_thread() not in {thread for _, thread in done}


def test_a_fault_ends_neither_the_thread_nor_the_batch(background, capsys):
    done: list[int] = []

    def fail(argument):
        raise ValueError(argument)

    background.after_batch(fail)
    background.put(fail, "planted")
    background.put(done.append, 1)
    assert background.flush(PATIENCE)
    background.put(done.append, 2)
    assert background.flush(PATIENCE)
    assert done == [1, 2]
    assert "ValueError: planted" in capsys.readouterr().err


def test_what_finds_it_full_is_dropped_and_counted():
    background = Background(capacity=5, pause=0.0)
    told: list[int] = []
    background.after_batch(told.append)
    done: list[int] = []
    held = threading.Event()
    begun = threading.Event()

    def hold(argument):
        begun.set()
        held.wait(PATIENCE)

    background.put(hold, None)
    assert begun.wait(PATIENCE)
    for number in range(8):
        background.put(done.append, number)
    assert background.dropped == 3
    held.set()
    assert background.flush(PATIENCE)
    assert done == [0, 1, 2, 3, 4]
    assert sum(told) == 3
    assert background.dropped == 0


def test_flushing_hurries_what_is_being_collected():
    background = Background(pause=10 * PATIENCE)
    done: list[int] = []
    background.put(done.append, 1)
    assert background.flush(PATIENCE)
    assert done == [1]


def test_flushing_does_not_wait_for_ever():
    background = Background(pause=0.0)
    held = threading.Event()
    background.put(lambda _: held.wait(PATIENCE), None)
    assert not background.flush(0.01)
    held.set()
    assert background.flush(PATIENCE)


def test_flushing_from_within_does_not_wait_for_itself(background):
    said: list[bool] = []
    background.put(lambda _: said.append(background.flush(PATIENCE)), None)
    assert background.flush(PATIENCE)
    assert said == [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_thread_of_its_own():
    background = Background(pause=0.0)
    background.put(lambda _: None, None)
    assert background.flush(PATIENCE)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        background.forget_thread()
        background.put(lambda _: os.write(writer, b"done"), None)
        background.flush(PATIENCE)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"done"
    os.waitpid(pid, 0)
