"""One task as its page shows it: plain values for the template, nothing that may not be seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.utils.translation import gettext as _

from streaming.core import sse
from streaming.core.states import State
from streaming.models import StreamTask
from streaming.storage.stored import count_of_events, newest_events
from streaming.storage.transcript import main_text

from . import words
from .decisions import course_of, explanation
from .process import Memory

EVENTS: Final = 200
"""Events that the page shows, the newest ones."""

EXCERPT: Final = 300
"""Bytes of each event's payload."""

TEXT: Final = 200_000
"""Code points of the text that the page shows: browsers become slow beyond."""

Facts = list[tuple[str, Any]]
"""Names and values, in the order in which they are read."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the time line: its kind, words and duration; start and width in per cent of the whole."""

    kind: str
    words: str
    duration: str
    start: str
    width: str


@dataclass(frozen=True, slots=True)
class Content:
    """What needs the permission. `text_left`: code points that the page does not show."""

    arguments: str | None
    text: str
    text_left: int
    error_message: str
    error_detail: str


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the journal; `excerpt` is None for who may not read contents."""

    id: int
    name: str
    size: str
    excerpt: str | None
    cut: bool


@dataclass(frozen=True, slots=True)
class Events:
    """The end of the journal: `shown`, `earlier` ones that are left out, `gone` ones that were trimmed."""

    shown: list[Event]
    earlier: int
    gone: int


@dataclass(frozen=True, slots=True)
class Detail:
    """See the module."""

    state: str
    active: bool
    overview: Facts
    decision: str
    why: list[str]
    snapshot: str
    course: list[str]
    receipt: Facts
    spans: list[Span]
    content: Content | None
    events: Events | None


def detail_of(row: StreamTask, memory: Memory | None, may_read: bool) -> Detail:
    """The page of `row`. An active task that is in `memory` is told as it is now, not as it was written."""
    if memory is not None and memory.active:
        for name, value in memory.values.items():
            setattr(row, name, value)
    return Detail(
        state=words.state_label(row),
        active=not State(row.state).terminal,
        overview=_overview(row),
        decision=words.decision(row),
        why=explanation(row.snapshot, row.reason),
        snapshot=words.pretty(row.snapshot),
        course=course_of(row),
        receipt=_receipt(row),
        spans=list(_spans(row)),
        content=_content(row, memory) if may_read else None,
        events=_stored_events(row, may_read) if memory is None else _events(memory, may_read),
    )


def _overview(row: StreamTask) -> Facts:
    facts: Facts = [
        (_("task id"), row.id),
        (_("kind"), row.kind),
        (_("who"), words.who(row)),
        (_("pool"), row.pool),
        (_("priority class"), words.priority(row.priority)),
        (_("language"), row.language),
        (_("accepted"), words.local_time(row.created_at)),
        (_("started"), row.started_at and words.local_time(row.started_at)),
        (_("attempts"), words.count(row.attempts) if row.attempts > 1 else None),
        (_("finished"), row.finished_at and words.local_time(row.finished_at)),
        (_("model"), words.isolated(row.model) if row.model else ""),
        (_("finish reason"), row.finish_reason),
        (_("error code"), row.error_code),
        (_("cancelled by"), words.word(row.cancel_reason, words.CANCELLED_BY)),
        (_("purged"), row.purged_at and words.local_time(row.purged_at)),
    ]
    return [(name, value) for name, value in facts if value not in (None, "")]


def _receipt(row: StreamTask) -> Facts:
    timing = row.timing or {}
    ratio = timing.get("coalesced_ratio")
    facts: Facts = [
        (_("queued"), words.duration(row.queued_ms)),
        (_("first content"), words.duration(row.first_content_ms)),
        (_("total"), words.duration(row.total_ms)),
        (_("held up by slow readers"), words.duration(timing.get("blocked_ms"))),
        (_("code points"), words.count(row.content_length)),
        (_("content events"), words.count(row.chunks)),
        (_("events per part"), words.NOTHING if ratio is None else f"{ratio:.2f}"),
        (_("last event id"), words.count(row.last_event_id)),
        (_("status messages"), words.count(row.status_messages)),
        (_("resumes"), words.count(row.resumes)),
    ]
    return facts + [(name, value) for name, value in _flat(row.usage)]


def _flat(usage: dict[str, Any] | None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A provider's numbers, nested ones with their path."""
    for name, value in (usage or {}).items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", words.isolated(str(value))


def _spans(row: StreamTask) -> Iterator[Span]:
    """Waiting, then nothing to read yet, then text; none before the end."""
    if not row.total_ms:
        return
    total = row.total_ms
    granted = min(row.queued_ms or 0.0, total)
    first = total if row.first_content_ms is None else min(max(row.first_content_ms, granted), total)
    parts = (
        ("waiting", _("waiting in the queue"), 0.0, granted),
        ("starting", _("until the first content"), granted, first),
        ("writing", _("from the first content to the end"), first, total),
    )
    for kind, text, start, end in parts:
        share = (end - start) / total * 100
        yield Span(kind, text, words.duration(end - start), f"{start / total * 100:.2f}%", f"{share:.2f}%")


def _content(row: StreamTask, memory: Memory | None) -> Content:
    text = main_text(memory.frames) if memory is not None and memory.active else row.text
    return Content(
        arguments=None if row.arguments is None else words.pretty(row.arguments),
        text=text[:TEXT],
        text_left=max(len(text) - TEXT, 0),
        error_message=row.error_message,
        error_detail=row.error_detail,
    )


def _events(memory: Memory, may_read: bool) -> Events:
    frames = memory.frames[-EVENTS:]
    return Events(
        shown=[_event(frame, may_read) for frame in frames],
        earlier=len(memory.frames) - len(frames),
        gone=memory.gone,
    )


def _stored_events(row: StreamTask, may_read: bool) -> Events | None:
    """What the database has of them; None for nothing. (A crash leaves holes in their ids.)"""
    shown = [_event(frame, may_read) for frame in newest_events(row.id, EVENTS)]
    return Events(shown=shown, earlier=count_of_events(row.id) - len(shown), gone=0) if shown else None


def _event(frame: bytes, may_read: bool) -> Event:
    payload = sse.payload(frame)
    return Event(
        id=sse.event_id(frame) or 0,
        name=sse.name(frame),
        size=words.size(len(frame)),
        excerpt=payload[:EXCERPT].decode(errors="ignore") if may_read else None,
        cut=len(payload) > EXCERPT,
    )
