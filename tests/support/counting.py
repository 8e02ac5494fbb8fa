"""Counts of what a piece of code does in this process: never how long it takes, so that a busy machine does
not change them."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from unittest import mock

from django.db.backends.base.base import BaseDatabaseWrapper

WRITER = "sluice-records"
"""The thread that writes records behind; nothing waits for what it does."""

LOOP = frozenset({"base_events.py", "events.py", "selector_events.py", "selectors.py", "queues.py"})
"""Files of the standard library that are the event loop of the tests, and not the one of a server."""

TESTS = Path(__file__).resolve().parents[1]

SHOWN = 15
"""Functions, or places, that a failure names."""


@dataclass
class Visits:
    """What was noted, each with the end of its stack. Nothing more is noted once `open` is false."""

    places: list[str] = field(default_factory=list)
    open: bool = True

    def note(self, what: str) -> None:
        """`what` happens now."""
        if self.open:
            self.places.append(f"{what} in {threading.current_thread().name}\n{_stack()}")

    def __len__(self) -> int:
        return len(self.places)

    def __str__(self) -> str:
        return "\n".join(self.places[:SHOWN])


def _stack() -> str:
    """The last calls outside of the standard library and of this file."""
    frames = [
        frame
        for frame in traceback.extract_stack()
        if frame.filename != __file__ and not frame.filename.startswith(sys.base_prefix)
    ]
    return "".join(f"    {frame.filename}:{frame.lineno} {frame.name}\n" for frame in frames[-6:])


@contextmanager
def thread_hops(visits: Visits) -> Iterator[None]:
    """Note whatever hands work to another thread, or takes it from one: jobs of executors (all of asgiref's
    and asyncio's end there), new threads, and wake-ups of the running loop by other threads than the
    writer."""
    loop = asyncio.get_running_loop()
    home = threading.current_thread()

    def noted(owner: Any, name: str, what: str, counts: Callable[[], bool] = lambda: True) -> Any:
        original = getattr(owner, name)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if counts():
                visits.note(what)
            return original(self, *args, **kwargs)

        return mock.patch.object(owner, name, call)

    def from_elsewhere() -> bool:
        here = threading.current_thread()
        return here is not home and here.name != WRITER

    with (
        noted(ThreadPoolExecutor, "submit", "a job for a thread"),
        noted(type(loop), "run_in_executor", "a job for an executor"),
        noted(threading.Thread, "start", "a new thread"),
        noted(type(loop), "call_soon_threadsafe", "a wake-up of the loop", from_elsewhere),
    ):
        yield


@contextmanager
def database_visits(visits: Visits) -> Iterator[None]:
    """Note each use of a database connection, in whichever thread but the writer's: every cursor, transaction
    and query asks for the connection first."""
    original = BaseDatabaseWrapper.ensure_connection

    def ensure_connection(self: BaseDatabaseWrapper) -> None:
        if threading.current_thread().name != WRITER:
            visits.note("a visit to the database")
        original(self)

    with mock.patch.object(BaseDatabaseWrapper, "ensure_connection", ensure_connection):
        yield


class Calls:
    """Calls of Python functions (steps of coroutines and generators count) in this thread, by function. The
    event loop's own and those of the tests are left out."""

    def __init__(self) -> None:
        self.by_code: Counter[CodeType] = Counter()

    @property
    def total(self) -> int:
        """All that count."""
        return sum(self._counted().values())

    def most(self, per: float = 1) -> str:
        """The functions that are called most, as lines; counts divided by `per`."""
        return "\n".join(
            f"{count / per:8.2f}  {_place(code)}" for code, count in self._counted().most_common(SHOWN)
        )

    def __sub__(self, other: Calls) -> Calls:
        difference = Calls()
        difference.by_code = self.by_code.copy()
        difference.by_code.subtract(other.by_code)
        return difference

    def _counted(self) -> Counter[CodeType]:
        return Counter({code: count for code, count in self.by_code.items() if not _left_out(code)})

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what happens inside."""
        by_code = self.by_code

        def note(frame: FrameType, event: str, argument: object) -> None:
            if event == "call":
                by_code[frame.f_code] += 1

        collecting = gc.isenabled()
        before = sys.getprofile()
        gc.disable()  # finalisers of what others have left behind would count
        sys.setprofile(note)
        try:
            yield
        finally:
            sys.setprofile(before)
            if collecting:
                gc.enable()


def _left_out(code: CodeType) -> bool:
    path = Path(code.co_filename)
    if path.name in LOOP and code.co_filename.startswith(sys.base_prefix):
        return True
    return TESTS in path.parents or (path.name == "contextlib.py" and code.co_name == "__exit__")


def _place(code: CodeType) -> str:
    return f"{code.co_qualname} ({'/'.join(Path(code.co_filename).parts[-3:])}:{code.co_firstlineno})"


@contextmanager
def timers() -> Iterator[list[asyncio.TimerHandle]]:
    """All timers that are armed on the running loop inside, but those of `asyncio.sleep`."""
    loop = asyncio.get_running_loop()
    original = type(loop).call_at
    armed: list[asyncio.TimerHandle] = []

    def call_at(self: Any, when: float, callback: Any, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        handle: asyncio.TimerHandle = original(self, when, callback, *args, **kwargs)
        if getattr(callback, "__module__", "") != "asyncio.futures":
            armed.append(handle)
        return handle

    with mock.patch.object(type(loop), "call_at", call_at):
        yield armed
