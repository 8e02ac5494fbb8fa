"""Alerts as sentences, in the server's language: what is wrong is written down when it is seen, the end is
told from the alert's row."""

from __future__ import annotations

from typing import Final

from django.utils.translation import gettext as _

from streaming.core.alerts import Kind, Reading, Rule
from streaming.models import Alert

SHARES: Final = frozenset({Kind.ERROR_SHARE, Kind.REJECTED_SHARE})


def sentence(rule: Rule, reading: Reading) -> str:
    """What is wrong, with the numbers that say so."""
    numbers = {
        "value": quantity(rule.kind, reading.value or 0.0),
        "limit": quantity(rule.kind, rule.threshold),
        "count": reading.count,
        "minutes": f"{rule.window / 60:g}",
        "about": reading.about,
    }
    return _text(rule, reading) % numbers


def _text(rule: Rule, reading: Reading) -> str:
    match rule.kind:
        case Kind.FIRST_CONTENT:
            return _(
                "One task in twenty waits %(value)s or more for its first text (limit: %(limit)s; "
                "%(count)s tasks of the last %(minutes)s minutes)."
            )
        case Kind.ERROR_SHARE:
            return _(
                "%(value)s of the tasks end with an error (limit: %(limit)s; %(count)s tasks of the last "
                "%(minutes)s minutes)."
            )
        case Kind.REJECTED_SHARE:
            return _(
                "%(value)s of the calls are refused because the queue is full (limit: %(limit)s; %(count)s "
                "calls of the last %(minutes)s minutes)."
            )
        case Kind.OLDEST_WAIT:
            return _("Somebody has waited %(value)s for a worker of %(about)s (limit: %(limit)s).")
        case Kind.LOOP_LAG:
            return _(
                "The event loop of process %(about)s is late by %(value)s (limit: %(limit)s): all its "
                "streams are held up."
            )
        case Kind.NO_HEARTBEAT:
            return _("Process %(about)s has shown no life for %(value)s (limit: %(limit)s).")
        case Kind.REPORTED:
            return _("A monitor reports %(value)s (limit: %(limit)s).")


def ending(alert: Alert) -> str:
    """That it is over, and how it was. For an alert that is resolved."""
    assert alert.resolved_at is not None
    lasted = _duration((alert.resolved_at - alert.raised_at).total_seconds())
    if alert.kind == Kind.REPORTED:
        # A monitor's number has no unit, and often no meaning.
        return _("Over after %(lasted)s.") % {"lasted": lasted}
    worst = quantity(alert.kind, alert.worst)
    return _("Over after %(lasted)s; at worst %(worst)s.") % {"lasted": lasted, "worst": worst}


def _duration(seconds: float) -> str:
    whole = max(round(seconds), 0)
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def quantity(kind: str, value: float) -> str:
    """The number with its unit."""
    if kind in SHARES:
        return f"{value:.1%}"
    if kind == Kind.REPORTED:
        return f"{value:g}"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
