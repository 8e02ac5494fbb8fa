"""Telling of alerts: what is to be told is a row until it has arrived, so that a restart forgets nothing.

An attempt is claimed by a conditional update, which also says when the next one is due. So one process at a
time tells, and one that dies in between is followed by another: a receiver hears of each change once, or
twice after a crash in the very moment of telling.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Final

from django.utils import timezone

from streaming.core.alerts import Change
from streaming.models import Alert, AlertNotice

from .channels import CHANNELS, Undelivered, in_use

logger = logging.getLogger(__name__)

PAUSES: Final = (30.0, 60.0, 300.0, 900.0)
"""Seconds between attempts; there is one more of these than there are pauses."""

ATTEMPTS: Final = len(PAUSES) + 1

AT_ONCE: Final = 20
"""Notices that are tried in one turn: a receiver that lets each attempt wait must not hold up the rules."""


def note(alert: Alert, change: Change, now: datetime) -> None:
    """Have everybody told, in the transaction of the change."""
    AlertNotice.objects.bulk_create(
        AlertNotice(alert=alert, change=change.value, channel=channel, due_at=now) for channel in in_use()
    )


def deliver(now: datetime | None = None) -> None:
    """Try what is due. Raises what the database raises; a receiver's failure is logged, and shown in the
    admin."""
    now = now or timezone.now()
    due = AlertNotice.objects.filter(state=AlertNotice.State.DUE, due_at__lte=now).order_by("due_at", "pk")
    dead: set[str] = set()
    for notice in due.select_related("alert")[:AT_ONCE]:
        # Nobody shall hear of an end before the beginning, nor be waited for twice in one turn.
        if notice.channel not in dead and not _earlier(notice) and _claim(notice, now):
            error = _attempt(notice)
            if error:
                dead.add(notice.channel)
            _settle(notice, error)


def _earlier(notice: AlertNotice) -> bool:
    same = AlertNotice.objects.filter(alert=notice.alert_id, channel=notice.channel)
    return same.filter(state=AlertNotice.State.DUE, pk__lt=notice.pk).exists()


def _claim(notice: AlertNotice, now: datetime) -> bool:
    pause = PAUSES[min(notice.attempts, len(PAUSES) - 1)]
    mine = AlertNotice.objects.filter(
        pk=notice.pk, state=AlertNotice.State.DUE, attempts=notice.attempts, due_at=notice.due_at
    )
    claimed = mine.update(attempts=notice.attempts + 1, due_at=now + timedelta(seconds=pause))
    notice.attempts += 1
    return bool(claimed)


def _attempt(notice: AlertNotice) -> str:
    """Why it failed; empty if it did not."""
    try:
        CHANNELS[notice.channel](notice.alert, Change(notice.change))
    except Undelivered as error:
        return str(error)
    except Exception as error:
        # Its words may hold an address with a secret.
        return type(error).__name__
    return ""


def _settle(notice: AlertNotice, error: str) -> None:
    state = AlertNotice.State.SENT
    if error:
        over = notice.attempts >= ATTEMPTS
        state = AlertNotice.State.FAILED if over else AlertNotice.State.DUE
        logger.warning(
            "alert %s: %s not sent, attempt %d of %d%s: %s",
            notice.alert.rule,
            notice.channel,
            notice.attempts,
            ATTEMPTS,
            ", given up" if over else "",
            error,
        )
    AlertNotice.objects.filter(pk=notice.pk).update(state=state, error=error[:200])
