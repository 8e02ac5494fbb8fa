"""Why a task went its way, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from streaming.core.why import Clause, Fact, why

from . import words


def explanation(snapshot: Mapping[str, Any] | None, reason: str) -> list[str]:
    """Sentences that answer "why was this queued?", the decisive one first; none where the record says too
    little."""
    return [_sentence(clause) for clause in why(snapshot or {}, reason)]


def _sentence(clause: Clause) -> str:
    """In the language of the request."""
    numbers = clause.numbers
    match clause.fact:
        case Fact.ALL_BUSY:
            text = _("{running} of {max_workers} workers were busy.")
        case Fact.SOME_FREE:
            text = _("Only {running} of {max_workers} workers were busy.")
        case Fact.NOBODY_BEFORE:
            text = _("Nobody stood in line before it.")
        case Fact.AHEAD:
            text = ngettext(
                "{ahead} task of the same or a higher class stood in line before it.",
                "{ahead} tasks of the same or a higher class stood in line before it.",
                int(numbers["ahead"]),
            )
        case Fact.OTHERS_BEFORE:
            text = ngettext(
                "{eligible} task stood in line before it.",
                "{eligible} tasks stood in line before it.",
                int(numbers["eligible"]),
            )
        case Fact.ALL_AWAY:
            text = ngettext(
                "{waiting} task that waited was passed by: its reader was away.",
                "{waiting} tasks that waited were passed by: their readers were away.",
                int(numbers["waiting"]),
            )
        case Fact.LONGEST_WAIT:
            return _("The longest had waited for {0}.").format(
                words.duration(numbers["oldest_wait_seconds"] * 1000)
            )
        case Fact.EARLIER_FIRST:
            text = ngettext(
                "{earlier} earlier task of its series was not over, and they run one at a time.",
                "{earlier} earlier tasks of its series were not over, and they run one at a time.",
                int(numbers["earlier"]),
            )
        case Fact.NO_WORKER:
            text = _("It needs no worker.")
        case Fact.COPIED:
            text = _("The same work was there already, and needed no worker.")
        case Fact.LINE_FULL:
            text = _("{waiting} of {queue_size} places in line were taken.")
        case Fact.OWNER_FULL:
            text = _("The caller had {owner_active} tasks, and may have {per_owner}.")
        case Fact.GOING_DOWN:
            text = _("The server was going down.")
    return text.format(**numbers)
