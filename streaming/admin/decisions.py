"""Why a task went its way and where its time went, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from streaming.core.routing import Route
from streaming.core.states import State
from streaming.core.why import Clause, Course, Fact, course, why
from streaming.models import StreamTask

from . import words


def explanation(snapshot: Mapping[str, Any] | None, reason: str) -> list[str]:
    """Sentences that answer "why was this queued?", the decisive one first; none where the record says too
    little."""
    return [_sentence(clause) for clause in why(snapshot or {}, reason)]


def course_of(row: StreamTask) -> list[str]:
    """Sentences about what took the task so long, the decisive one first; none before its end."""
    if row.total_ms is None or not State(row.state).terminal:
        return []
    return [
        _sentence(clause)
        for clause in course(
            Course(
                route=row.route,
                started=row.started_at is not None,
                queued=row.queued_ms or 0.0,
                first_content=row.first_content_ms,
                total=row.total_ms,
                cancelled_by=row.cancel_reason,
                code=row.error_code,
                grace=None if row.grace is None else row.grace * 1000,
            )
        )
    ]


def account_of(row: StreamTask) -> list[str]:
    """The same, and for what waited also why: all that explains how long it took."""
    return course_of(row) + (explanation(row.snapshot, row.reason) if row.route == Route.QUEUED else [])


def _sentence(clause: Clause) -> str:
    """In the language of the request."""
    return _text(clause).format(**_shown(clause))


def _shown(clause: Clause) -> Mapping[str, Any]:
    """Its numbers, durations in words."""
    if clause.fact is Fact.LONGEST_WAIT:
        return {"oldest": words.duration(clause.numbers["oldest_wait_seconds"] * 1000)}
    return {
        name: words.duration(value) if name in _MILLISECONDS else value
        for name, value in clause.numbers.items()
    }


_MILLISECONDS: Final = ("milliseconds", "left", "grace")
"""Numbers of clauses that are durations."""


def _text(clause: Clause) -> str:
    numbers = clause.numbers
    match clause.fact:
        case Fact.ALL_BUSY:
            return _("{running} of {max_workers} workers were busy.")
        case Fact.SOME_FREE:
            return _("Only {running} of {max_workers} workers were busy.")
        case Fact.ALL_FREE:
            return _("No worker was busy.")
        case Fact.NOBODY_BEFORE:
            return _("Nobody stood in line before it.")
        case Fact.AHEAD:
            return ngettext(
                "{ahead} task of the same or a higher class stood in line before it.",
                "{ahead} tasks of the same or a higher class stood in line before it.",
                int(numbers["ahead"]),
            )
        case Fact.OTHERS_BEFORE:
            return ngettext(
                "{eligible} task stood in line before it.",
                "{eligible} tasks stood in line before it.",
                int(numbers["eligible"]),
            )
        case Fact.ALL_AWAY:
            return ngettext(
                "{waiting} task that waited was passed by: its reader was away.",
                "{waiting} tasks that waited were passed by: their readers were away.",
                int(numbers["waiting"]),
            )
        case Fact.LONGEST_WAIT:
            return _("The longest had waited for {oldest}.")
        case Fact.EARLIER_FIRST:
            return ngettext(
                "{earlier} earlier task of its series was not over, and they run one at a time.",
                "{earlier} earlier tasks of its series were not over, and they run one at a time.",
                int(numbers["earlier"]),
            )
        case Fact.NO_WORKER:
            return _("It needs no worker.")
        case Fact.COPIED:
            return _("The same work was there already, and needed no worker.")
        case Fact.LINE_FULL:
            return _("{waiting} of {queue_size} places in line were taken.")
        case Fact.OWNER_FULL:
            return _("The caller had {owner_active} tasks, and may have {per_owner}.")
        case Fact.QUOTA_SPENT:
            return _("The caller had spent a quota.")
        case Fact.GOING_DOWN:
            return _("The server was going down.")
        case Fact.NO_WAIT:
            return _("It did not wait for a worker.")
        case Fact.WAITED:
            return _("It waited {milliseconds} for a worker.")
        case Fact.FIRST_WORDS:
            return _("The provider took {milliseconds} until its first words.")
        case Fact.NO_WORDS:
            return _("It ran for {milliseconds} without a word from the provider.")
        case Fact.INTERRUPTED:
            return _("It ran for {milliseconds}, until its process ended.")
        case Fact.WRITING:
            return _("Most of the time, {milliseconds}, it was being written.")
        case Fact.READER_LEFT:
            return _(
                "It never got a worker: its reader left after about {left}, and nobody came back within "
                "{grace}."
            )
        case Fact.CANCELLED:
            return _("It never got a worker: it was cancelled after {milliseconds}.")
        case Fact.TIMED_OUT:
            return _("It never got a worker: after {milliseconds} it had waited as long as one may.")
        case Fact.NEVER_STARTED:
            return _("It never got a worker, and ended after {milliseconds}.")
