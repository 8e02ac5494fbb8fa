"""From a producer to a journal: iterate, coalesce, append; then exactly one end.

A pump runs in a task of its own, owned by the supervisor and not by any request, so that a reader who
leaves takes nothing down. It never waits for readers: the journal is bounded, readers have cursors.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
import traceback
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec

from streaming.core.coalescer import Chunk, Coalescer
from streaming.core.errors import GenerationError, Interrupted, ProducerFailed
from streaming.core.events import Content, Finish, Output, Restart, Result, Truncated
from streaming.core.redaction import text_without

from .bridge import ThreadBridge
from .executor import WorkerPool
from .journals.base import JournalClosed, JournalFull
from .loop_share import LoopShare
from .task import Outcome, Task, current_task_id, current_trace
from .wheel import FINE, TimerWheel

logger = logging.getLogger(__name__)


_FRAME: Final = '  File "'
"""How a frame of a traceback begins."""


class PumpHost(Protocol):
    """What a pump needs of its supervisor."""

    loop: asyncio.AbstractEventLoop
    flushes: TimerWheel

    def pool_of(self, task: Task) -> WorkerPool:
        """The pool whose permit the task holds."""
        ...

    def tidy_thread(self) -> None:
        """Close what a blocking producer opened in its thread. Called in that thread."""
        ...

    def permit_free(self, task: Task) -> None:
        """The producer is really gone."""
        ...

    async def end(self, task: Task, outcome: Outcome) -> None:
        """Write the terminal event, once."""
        ...


class _OutputFull(Exception):
    """The journal took all that it may; the task ends as complete, by length."""


class Pump:
    """One task's pump; `run` is the body of its asyncio task. `ready`: what the producer waits for."""

    def __init__(
        self,
        host: PumpHost,
        task: Task,
        coalescer: Coalescer,
        ready: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._host = host
        self._task = task
        self._coalescer = coalescer
        self._ready = ready
        self._finish = Finish()
        self._armed = False
        self._over = False
        self._fault: Exception | None = None
        self._bridge: ThreadBridge | None = None
        self._full = False
        self._dropped = 0

    @property
    def in_thread(self) -> bool:
        """Whether a thread runs the producer; then the thread gives the permit back."""
        return self._bridge is not None

    async def run(self) -> None:
        """Pump until the source ends, fails or is cancelled, and see to the end. Raises nothing."""
        raised: BaseException | None = None
        current_task_id.set(self._task.id)
        origin = self._task.spec.origin
        if origin is not None and origin.trace is not None:
            current_trace.set(origin.trace)
        try:
            if self._ready is not None:
                await self._ready()
            # What a producer really gave is not what its annotation says until it has been looked at.
            source: Any = self._task.spec.open_source()
            if not isinstance(source, AsyncIterable) and inspect.isawaitable(source):
                source = await source
            if isinstance(source, AsyncIterable):
                # From here, and not from deeper below: each coroutine between costs each token.
                await self._iterate_async(source)
            elif isinstance(source, Iterable) and not isinstance(source, str | bytes | dict):
                await self._iterate_in_thread(iter(source))
            else:
                raise TypeError(f"a producer must be an iterator of parts, not {type(source).__name__}")
        except (Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt) as error:
            # A producer must not be able to end the server.
            raised = error
        self._over = True
        outcome = self._drain(self._outcome(raised))
        # It holds this frame, which holds it.
        raised = None
        if not self.in_thread:
            self._host.permit_free(self._task)
        await self._host.end(self._task, outcome)

    def _outcome(self, raised: BaseException | None) -> Outcome:
        """Why it was stopped counts, not what the producer made of being stopped."""
        if self._fault is not None:
            return self._outcome_of(self._fault)
        if self._task.ending is not None:
            return self._task.ending
        if raised is None:
            return self._finish
        if isinstance(raised, asyncio.CancelledError):
            # Without a cancel from outside the producer raised it by itself.
            return Interrupted() if _being_cancelled() else self._outcome_of(ProducerFailed("CancelledError"))
        return self._outcome_of(raised)

    def _outcome_of(self, error: BaseException) -> Outcome:
        if isinstance(error, _OutputFull):
            return Finish(finish_reason="length", usage=self._finish.usage, model=self._finish.model)
        if isinstance(error, GenerationError):
            text = text_without(str(error), self._task.spec.arguments)
            logger.warning("task %s: %s: %s", self._task.id, error.code, text)
            # Its traceback holds this pump, which holds it.
            return error.with_traceback(None)
        _log_fault(self._task, error)
        return ProducerFailed()

    async def _iterate_async(self, source: AsyncIterable[Any]) -> None:
        share = LoopShare(self._host.loop, time.monotonic())
        iterator = aiter(source)
        counts = self._task.counts
        offer = self._coalescer.offer
        try:
            async for part in iterator:
                now = time.monotonic()
                if type(part) is str:
                    # What `_accept` does, without the calls: nearly all parts are text.
                    counts.parts += 1
                    if ready := offer(part, None, now):
                        self._append_text(ready, now)
                    if not self._armed:
                        self._arm()
                else:
                    self._accept(part, now)
                if share.used_up(now) or counts.parts == 1:
                    # The first part also steps aside, so that it leaves before the second is made.
                    await asyncio.sleep(0)
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    async def _iterate_in_thread(self, source: Iterator[Any]) -> None:
        task = self._task
        bridge = ThreadBridge(
            source,
            self._host.loop,
            exited=lambda: self._host.permit_free(task),
            tidy=self._host.tidy_thread,
        )
        # With what `run` set.
        self._host.pool_of(task).run(task.ticket, contextvars.copy_context(), bridge.run)
        self._bridge = bridge
        share = LoopShare(self._host.loop, time.monotonic())
        try:
            while batch := await bridge.next_batch():
                for part in batch:
                    now = time.monotonic()
                    self._accept(part, now)
                    if share.used_up(now):
                        await asyncio.sleep(0)
        finally:
            bridge.stop()

    def _accept(self, part: Any, now: float) -> None:
        if isinstance(part, str):
            self._task.counts.parts += 1
            if ready := self._coalescer.offer(part, None, now):
                self._append_text(ready, now)
        elif isinstance(part, Finish):
            # What cannot be told in `complete` fails here, where it can still be told as an error.
            self._finish = msgspec.convert(msgspec.to_builtins(part), Finish)
            return
        else:
            self._task.counts.parts += 1
            self._accept_record(part, now)
        if not self._armed:
            self._arm()

    def _arm(self) -> None:
        """Text that waits is looked at when it is due, or up to one tick before: never after."""
        if (deadline := self._coalescer.deadline) is not None:
            self._armed = True
            self._host.flushes.at(deadline - FINE, self._flush_due)

    def _accept_record(self, part: Any, now: float) -> None:
        if isinstance(part, Content):
            self._append_text(self._coalescer.offer(part.delta, part.channel, now), now)
        elif isinstance(part, Output | Result | Restart | Truncated):
            self._append_text(self._coalescer.flush(), now)
            self._append_event(part)
        else:
            raise TypeError(f"not a part of a stream: {type(part).__name__}")

    def _append_text(self, chunks: list[Chunk], now: float) -> None:
        for index, (text, channel) in enumerate(chunks):
            try:
                self._task.append_content(text, channel, now)
            except JournalFull:
                self._full = True
                self._dropped += sum(len(rest) for rest, _ in chunks[index:])
                raise _OutputFull from None

    def _append_event(self, event: Output | Result | Restart | Truncated) -> None:
        try:
            self._task.append(event)
        except JournalFull:
            self._full = True
            raise _OutputFull from None

    def _flush_due(self) -> None:
        """Armed for a deadline that later text may have moved, so it looks again."""
        self._armed = False
        deadline = self._coalescer.deadline
        if deadline is None or self._over:
            return
        now = time.monotonic()
        if now < deadline - FINE:
            self._arm()
            return
        self._coalescer.observe_lateness(now - deadline)
        try:
            self._append_text(self._coalescer.flush(), now)
        except Exception as error:
            self._fault = error
            if self._task.pump is not None:
                self._task.pump.cancel()

    def _drain(self, outcome: Outcome) -> Outcome:
        """Journal what still waits in the coalescer, and say so if the journal was full."""
        counts, coalescer = self._task.counts, self._coalescer
        counts.full_flushes, counts.widened = coalescer.full_flushes, coalescer.widened
        with suppress(JournalClosed):
            try:
                self._append_text(self._coalescer.flush(), time.monotonic())
            except _OutputFull as full:
                if isinstance(outcome, Finish):
                    outcome = self._outcome_of(full)
            if isinstance(outcome, Finish) and self._full:
                limit = self._task.journal.limit
                self._task.append(Truncated(dropped_chars=self._dropped, limit=limit))
        return outcome


def _log_fault(task: Task, error: BaseException) -> None:
    """Log the traceback of a fault that nobody foresaw, without what the task was asked.

    The exception itself goes with the record for those who report faults; handlers print the text.
    """
    fault = (type(error), error, error.__traceback__)
    text = "task %s: the producer failed"
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, text, (task.id,), fault)
    lines = traceback.TracebackException.from_exception(error).format()
    # Where the fault lies, files, lines and code, stays as it is; what the exceptions say does not.
    kept = [line if line.startswith(_FRAME) else text_without(line, task.spec.arguments) for line in lines]
    record.exc_text = "".join(kept).rstrip("\n")
    if logger.isEnabledFor(logging.ERROR):
        logger.handle(record)


def _being_cancelled() -> bool:
    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0
