"""Threads that are lent to requests for their synchronous parts, and taken back before a stream begins.

Django gives each request a thread of its own and keeps it until the response has ended: one thread and
one database connection per open stream. Here a request borrows a thread at its first synchronous call,
and gives it back when its response object exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Final, ParamSpec, TypeVar

from asgiref.sync import ThreadSensitiveContext
from django.db import close_old_connections

from .storage.locks import hurry

P = ParamSpec("P")
T = TypeVar("T")

MAX_IDLE: Final = 8
"""Threads that are kept for the next request; a burst may use more for as long as it lasts."""


class ThreadLender:
    """One-thread executors, kept for re-use. Belongs to one thread (the event loop's)."""

    def __init__(self, tidy: Callable[[], None], call_soon: Callable[..., object]) -> None:
        self._tidy = tidy
        self._call_soon = call_soon
        self._idle: list[ThreadPoolExecutor] = []

    def lend(self) -> LentThread:
        """An executor for one request, which costs nothing until it is used."""
        return LentThread(self)

    def borrow(self) -> ThreadPoolExecutor:
        """A thread that nobody uses."""
        if self._idle:
            return self._idle.pop()
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="sluice-request", initializer=hurry)

    def take_back(self, thread: ThreadPoolExecutor) -> None:
        """Tidy up in the thread (close its database connections), then keep it; nobody waits for that.

        It is behind whatever still runs there, so a busy thread is never lent again.
        """
        thread.submit(self._tidy).add_done_callback(lambda _: self._return(thread))

    def _return(self, thread: ThreadPoolExecutor) -> None:
        """In the thread itself, or where it was tidy at once."""
        try:
            self._call_soon(self._keep, thread)
        except RuntimeError:
            # The loop has ended meanwhile: nobody borrows any more.
            thread.shutdown(wait=False)

    def _keep(self, thread: ThreadPoolExecutor) -> None:
        if len(self._idle) < MAX_IDLE:
            self._idle.append(thread)
        else:
            thread.shutdown(wait=False)


class LentThread(Executor):
    """Runs one call at a time on one thread, borrowed at the first call."""

    def __init__(self, lender: ThreadLender) -> None:
        self._lender = lender
        self._thread: ThreadPoolExecutor | None = None

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._thread is None:
            self._thread = self._lender.borrow()
        return self._thread.submit(call, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Give the thread back."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._lender.take_back(thread)

    def __exit__(self, *exc_info: Any) -> None:
        self.shutdown()


_lenders: dict[asyncio.AbstractEventLoop, ThreadLender] = {}


_borrowed: ContextVar[LentThread | None] = ContextVar("borrowed", default=None)


class borrowed_thread:  # noqa: N801 (a context manager, named as one)
    """What runs inside has a thread for its synchronous calls, which is given back, tidy, at the end. Inside
    another one it is that one's thread."""

    __slots__ = ("_context", "_thread", "_token")

    async def __aenter__(self) -> None:
        self._context: ThreadSensitiveContext | None = None
        if _borrowed.get() is not None:
            return
        self._thread = _lender().lend()
        self._token = _borrowed.set(self._thread)
        self._context = ThreadSensitiveContext(executor=self._thread)
        await self._context.__aenter__()  # type: ignore[no-untyped-call]

    async def __aexit__(self, *exc_info: Any) -> None:
        if self._context is None:
            return
        _borrowed.reset(self._token)
        try:
            await self._context.__aexit__(*exc_info)  # type: ignore[no-untyped-call]
        finally:
            self._thread.shutdown()


def give_back_thread() -> None:
    """Before a long wait: the thread that was borrowed, and its database connection, are for others; the next
    synchronous call borrows again."""
    lent = _borrowed.get()
    if lent is not None:
        lent.shutdown()


def _lender() -> ThreadLender:
    """The running loop's lender."""
    loop = asyncio.get_running_loop()
    lender = _lenders.get(loop)
    if lender is None:
        for closed in [each for each in _lenders if each.is_closed()]:
            del _lenders[closed]
        lender = _lenders[loop] = ThreadLender(close_old_connections, loop.call_soon_threadsafe)
    return lender
