"""From a thread to the loop: at once, complete, bounded, and stoppable."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import Any

import pytest

from streaming.runtime.bridge import HIGH_WATER, ThreadBridge

from .fakes import PATIENCE


class Bridge:
    """A bridge and its thread. `exited` and `tidied` say in which thread they were called."""

    def __init__(self, source, *, tidy=None):
        self.loop = asyncio.get_running_loop()
        self.exited = self.loop.create_future()
        self.tidied_in = None
        self.bridge = ThreadBridge(
            source,
            self.loop,
            exited=lambda: self.exited.set_result(threading.current_thread()),
            tidy=tidy if tidy is not None else self._tidy,
        )
        self.thread = threading.Thread(target=self.bridge.run, name="producer", daemon=True)
        self.thread.start()

    def _tidy(self):
        self.tidied_in = threading.current_thread().name

    async def next(self):
        async with asyncio.timeout(PATIENCE):
            return await self.bridge.next_batch()

    async def rest(self):
        """All parts to the end."""
        parts = []
        while batch := await self.next():
            parts += batch
        return parts

    async def over(self):
        async with asyncio.timeout(PATIENCE):
            assert await self.exited is self.loop_thread
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    loop_thread = threading.main_thread()


@contextmanager
def gate():
    """An event that is set at the end in any case, so that no thread is left."""
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()


async def test_the_first_part_arrives_before_the_second_is_made():
    with gate() as second:

        def source():
            yield 1
            assert second.wait(PATIENCE)
            yield 2

        bridge = Bridge(source())
        assert await bridge.next() == [1]
        second.set()
        assert await bridge.next() == [2]
        assert await bridge.next() == []
        await bridge.over()


async def test_each_part_arrives_before_the_next_is_made():
    with gate() as stop:
        asked = threading.Semaphore(0)

        def source():
            for number in range(300):
                while not asked.acquire(timeout=0.1):
                    if stop.is_set():
                        return
                yield number

        bridge = Bridge(source())
        for number in range(300):
            asked.release()
            assert await bridge.next() == [number]
        assert await bridge.next() == []
        await bridge.over()


async def test_parts_that_came_together_are_one_batch():
    with gate() as made:

        def source():
            yield from range(100)
            made.set()

        bridge = Bridge(source())
        assert made.wait(PATIENCE)  # blocks the loop: nothing can be taken meanwhile
        assert await bridge.next() == list(range(100))
        assert await bridge.rest() == []
        await bridge.over()


@pytest.mark.parametrize("pause_every", [0, 7])
async def test_order_and_completeness(pause_every):
    """10,000 parts, far more than the high-water mark; with a loop that is sometimes slow."""
    bridge = Bridge(iter(range(10_000)))
    parts, batches = [], 0
    while batch := await bridge.next():
        assert len(batch) <= HIGH_WATER + 1
        parts += batch
        batches += 1
        if pause_every and batches % pause_every == 0:
            await asyncio.sleep(0.001)
    assert parts == list(range(10_000))
    await bridge.over()


async def test_an_exception_comes_after_the_parts_before_it():
    def source():
        yield 1
        yield 2
        raise ValueError("broken")

    bridge = Bridge(source())
    parts = []
    with pytest.raises(ValueError, match="broken"):  # noqa: PT012
        while True:
            parts += await bridge.next()
    assert parts == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        await bridge.next()
    await bridge.over()
    assert bridge.tidied_in == "producer"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
async def test_a_base_exception_is_handed_over_like_any_other(error):
    def source():
        yield 1
        raise error

    bridge = Bridge(source())
    parts = []
    with pytest.raises(error):  # noqa: PT012
        while True:
            parts += await bridge.next()
    assert parts == [1]
    await bridge.over()


async def test_an_exception_of_close_is_told_too():
    class Source:
        def __init__(self):
            self.parts = iter([1, 2])

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.parts)

        def close(self):
            raise OSError("cannot close")

    bridge = Bridge(Source())
    with pytest.raises(OSError, match="cannot close"):  # noqa: PT012
        while True:
            await bridge.next()
    await bridge.over()
    assert bridge.tidied_in == "producer", "tidied although close failed"


async def test_tidy_is_called_in_the_thread_after_the_generator_is_closed():
    order = []

    def source():
        try:
            yield 1
            yield 2
        finally:
            order.append(("closed", threading.current_thread().name))

    bridge = Bridge(source(), tidy=lambda: order.append(("tidied", threading.current_thread().name)))
    assert await bridge.rest() == [1, 2]
    await bridge.over()
    assert order == [("closed", "producer"), ("tidied", "producer")]


async def test_exited_although_tidy_fails():
    def tidy():
        raise OSError("no")

    bridge = Bridge(iter([1]), tidy=tidy)
    with pytest.raises(OSError, match="no"):  # noqa: PT012
        while True:
            await bridge.next()
    await bridge.over()


async def test_stop_ends_the_thread_at_its_next_part_and_closes_the_generator_there():
    closed_in = []
    with gate() as second:

        def source():
            try:
                yield 1
                assert second.wait(PATIENCE)
                yield 2
                raise AssertionError("asked for a part after the stop")
            finally:
                closed_in.append(threading.current_thread().name)

        bridge = Bridge(source())
        assert await bridge.next() == [1]
        bridge.bridge.stop()
        assert not bridge.exited.done()
        assert bridge.thread.is_alive(), "a thread cannot be ended from outside"
        second.set()
        await bridge.over()
    assert closed_in == ["producer"]
    assert bridge.tidied_in == "producer"


async def test_the_producer_does_not_run_ahead():
    """Every buffer has a bound: the loop does not read, so the thread waits."""
    made = 0
    full = threading.Event()

    def source():
        nonlocal made
        for number in range(5 * HIGH_WATER):
            made = number + 1
            if made == HIGH_WATER:
                full.set()
            yield number

    bridge = Bridge(source())
    assert full.wait(PATIENCE)
    bridge.thread.join(0.2)  # time to run ahead, if it could
    assert made <= HIGH_WATER + 1
    assert len(await bridge.next()) <= HIGH_WATER + 1
    assert len(await bridge.rest()) >= 4 * HIGH_WATER - 1
    await bridge.over()


async def test_stop_wakes_a_thread_that_waits_for_room():
    full = threading.Event()

    def source():
        for number in range(5 * HIGH_WATER):
            if number == HIGH_WATER - 1:
                full.set()
            yield number

    bridge = Bridge(source())
    assert full.wait(PATIENCE)
    bridge.thread.join(0.05)
    bridge.bridge.stop()
    await bridge.over()


async def test_an_endless_producer_is_followed_at_the_pace_of_the_loop():
    made = 0

    def source():
        nonlocal made
        while True:
            made += 1
            yield made

    bridge = Bridge(source())
    taken = 0
    for _ in range(200):
        taken += len(await bridge.next())
        assert made <= taken + HIGH_WATER + 1
    bridge.bridge.stop()
    await bridge.over()


async def test_cancel_of_the_waiting_reader_loses_nothing():
    with gate() as go:

        def source():
            assert go.wait(PATIENCE)
            yield 1

        bridge = Bridge(source())
        for _ in range(3):
            waiting = asyncio.create_task(bridge.bridge.next_batch())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        go.set()
        assert await bridge.rest() == [1]
        await bridge.over()


@pytest.mark.parametrize("parts", [3, 5 * HIGH_WATER], ids=["few", "more than there is room for"])
def test_loop_closed_while_the_thread_runs(parts, monkeypatch):
    """The process goes down without a drain: no exception in the thread, and the thread ends."""
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    with gate() as go:
        closed_in = []

        def source():
            try:
                yield 0
                assert go.wait(PATIENCE)
                yield from range(1, parts)
            finally:
                closed_in.append(threading.current_thread().name)

        async def main():
            bridge = Bridge(source())
            assert await bridge.next() == [0]
            # The reader sleeps: the next part will wake the loop.
            waiting = asyncio.create_task(bridge.bridge.next_batch())
            await asyncio.sleep(0)
            waiting.cancel()
            return bridge.thread

        thread = asyncio.run(main())
        go.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert raised == []
    assert closed_in == ["producer"]


def test_loop_closed_while_the_thread_waits_for_room(monkeypatch):
    """Nobody can wake it any more, and at exit the interpreter joins it."""
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    full = threading.Event()

    def source():
        for number in range(5 * HIGH_WATER):
            if number == HIGH_WATER - 1:
                full.set()
            yield number

    async def main():
        bridge = Bridge(source())
        assert full.wait(PATIENCE)
        bridge.thread.join(0.05)
        return bridge.thread

    thread = asyncio.run(main())
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert raised == []
