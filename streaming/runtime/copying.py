"""A task whose producer is another task: it follows that one's journal, event by event, to the same end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from streaming.core import events, sse
from streaming.core.errors import GenerationError, Interrupted, ProducerFailed, generation_errors
from streaming.core.events import Cancelled, Complete, Error, Event, Finish

from .task import Task

MAX_FRAMES: Final = 64
"""Events read at a time from a source that still runs."""

_KINDS: Final = {kind.code: kind for kind in generation_errors()}


def copying(source: Task) -> Callable[[], AsyncGenerator[Any, None]]:
    """What opens the parts of a copy of `source`, which may run still. What has ended is kept for it from now
    on, whatever happens to the source."""
    kept = source.journal.read(0, source.journal.last_id) if source.journal.closed else []
    return lambda: _parts(source, kept)


async def _parts(source: Task, kept: list[bytes]) -> AsyncGenerator[Any, None]:
    """The source's events as parts, the same chunks; its failure raised anew, with the same code. Whoever
    cancelled the source did not mean the copy: that is `Interrupted`, as is a source that lost events."""
    journal, read, news = source.journal, 0, asyncio.Event()
    wake = news.set
    journal.subscribe(wake)
    source.ended.add_done_callback(lambda _: wake())
    try:
        while True:
            news.clear()
            if not kept and journal.first_id > read + 1:
                if journal.first_id != journal.anew_id:
                    raise Interrupted(f"its source {source.id} lost events")
                read = journal.first_id - 1
            frames = kept or journal.read(read, MAX_FRAMES)
            for frame in frames:
                event = events.decode(sse.payload(frame))
                if event.terminal:
                    yield _end(event)
                    return
                yield event
            read += len(frames)
            if not frames:
                if source.ended.done():
                    raise Interrupted(f"its source {source.id} went elsewhere")
                await news.wait()
    finally:
        journal.unsubscribe(wake)
        kept.clear()


def _end(event: Event) -> Finish:
    match event:
        case Complete():
            return Finish(
                finish_reason=event.finish_reason,
                usage=event.usage,
                model=event.model,
                cached=True,
                execution_count=event.execution_count,
                duration_ms=event.duration_ms,
            )
        case Error(code=code):
            raise _fault(code)
        case Cancelled(reason=reason):
            raise Interrupted(f"its source was cancelled: {reason}")
    raise AssertionError("no terminal event")


def _fault(code: str) -> GenerationError:
    return _KINDS.get(code, ProducerFailed)("its source failed")
