"""Who holds up the event loop is named, once, while it does so."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from streaming.runtime.loop_guard import LoopGuard, stack_of
from streaming.runtime.loop_lag import LoopLag


def test_each_standstill_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    late = [-0.2, 0.5, 1.2, 2.0, 9.0, -0.1, 1.0, 3.0]
    guard = LoopGuard(1.0, lambda: late.pop(0), lambda: "  a line")
    while late:
        guard.look()
    assert [record.getMessage() for record in caplog.records] == [
        "the event loop stands still, for 1.2 s so far, in:\n  a line",
        "the event loop stands still, for 1.0 s so far, in:\n  a line",
    ]
    assert guard.stalls == 2


def test_without_a_limit_there_is_no_thread() -> None:
    before = threading.active_count()
    guard = LoopGuard(0.0, lambda: 99.0, lambda: "")
    guard.start()
    assert threading.active_count() == before


async def test_the_lines_that_block_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """For real: a thread of its own meets the loop in this very function."""
    loop = asyncio.get_running_loop()
    lag, here = LoopLag(loop), threading.get_ident()
    guard = LoopGuard(0.1, lambda: lag.overdue, lambda: stack_of(here))
    lag.start()
    guard.start()
    try:
        with caplog.at_level(logging.WARNING):
            _hold_up_the_loop_until(lambda: guard.stalls > 0)
    finally:
        guard.close()
        lag.close()
    assert "in _hold_up_the_loop_until" in caplog.text


def _hold_up_the_loop_until(told) -> None:
    for _ in range(1_000):
        if told():
            return
        time.sleep(0.02)
