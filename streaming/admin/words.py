"""Values of records as words, durations and moments for people."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any, Final

from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from streaming import conf
from streaming.cluster.neighbours import Prioritised
from streaming.core.routing import Reason, Route
from streaming.core.states import State
from streaming.models import StreamTask
from streaming.retry import Obstacle
from streaming.runtime.task import CancelReason

from .theme import label

NOTHING: Final = "-"

RECENT: Final = timedelta(days=1)
"""What is younger is told as an age, what is older as a date."""

ROUTES: Final = {
    Route.DIRECT: gettext_lazy("at once"),
    Route.QUEUED: gettext_lazy("via the queue"),
    Route.REJECTED: gettext_lazy("refused"),
}

REASONS: Final = {
    Reason.WORKER_FREE: gettext_lazy("worker free"),
    Reason.CACHED: gettext_lazy("from the cache"),
    Reason.WORKERS_BUSY: gettext_lazy("workers busy"),
    Reason.OTHERS_WAITING: gettext_lazy("others waiting"),
    Reason.QUEUE_FULL: gettext_lazy("queue full"),
    Reason.OWNER_LIMIT: gettext_lazy("owner's limit reached"),
    Reason.DRAINING: gettext_lazy("server going down"),
    Reason.QUOTA_STREAMS: gettext_lazy("quota of streams spent"),
    Reason.QUOTA_PLACES: gettext_lazy("quota of places spent"),
    Reason.QUOTA_TOKENS: gettext_lazy("quota of tokens spent"),
    Reason.QUOTA_BYTES: gettext_lazy("quota of bytes spent"),
    Reason.QUOTA_KERNEL_SECONDS: gettext_lazy("quota of kernel seconds spent"),
}

CANCELLED_BY: Final = {
    CancelReason.CLIENT: gettext_lazy("the caller"),
    CancelReason.ADMIN: gettext_lazy("an operator"),
    CancelReason.DISCONNECT: gettext_lazy("the last reader's leaving"),
}

OBSTACLES: Final = {
    Obstacle.NOT_ENDED: gettext_lazy("it has not ended yet"),
    Obstacle.PURGED: gettext_lazy("its prompt was deleted"),
    Obstacle.NO_ARGUMENTS: gettext_lazy(
        "it came from a view's own code, and nothing says how to do that again"
    ),
    Obstacle.UNKNOWN_PRODUCER: gettext_lazy("this server has no producer of its kind"),
    Obstacle.UNKNOWN_POOL: gettext_lazy("this server has no pool of that name"),
}

_COLOURS: Final = {
    State.QUEUED: "warning",
    State.RUNNING: "info",
    State.COMPLETE: "success",
    State.ERROR: "danger",
    State.CANCELLED: "",
}


def word(value: str, words: Any) -> str:
    """The words for a value; the value itself where there are none (records may be of another version)."""
    return str(words.get(value, value))


def state_label(row: StreamTask) -> SafeString:
    """The state in words, with a colour that helps the eye."""
    return label(_COLOURS.get(State(row.state), ""), row.get_state_display())


def isolated(text: str) -> SafeString:
    """A stranger's text, which cannot turn around what stands beside it."""
    return format_html("<bdi>{}</bdi>", text) if text else SafeString(NOTHING)


def who(row: StreamTask) -> SafeString:
    """The signed-in owner and the end user."""
    names = [str(row.owner) if row.owner is not None else "", row.end_user]
    return isolated(" / ".join(name for name in names if name))


def priority(number: int) -> str:
    """The class with its name, where PRIORITIES has one: `0 (interactive)`."""
    names = [name for name, of in conf.priorities().items() if of == number]
    return f"{number} ({', '.join(names)})" if names else str(number)


def duration(milliseconds: float | None) -> str:
    """Milliseconds for people: `0.8 ms`, `350 ms`, `2.41 s`, `3 min 5 s`; `-` for none."""
    if milliseconds is None:
        return NOTHING
    if milliseconds < 9.95:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 59_995:
        return f"{milliseconds / 1000:.2f} s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes} min {seconds} s"


def moment(at: datetime | None, now: datetime | None = None) -> SafeString:
    """When: the age of what is recent, the local date and time of the rest; the exact time as a hint."""
    if at is None:
        return SafeString(NOTHING)
    now = now or timezone.now()
    exact = local_time(at)
    text = exact
    if timedelta(0) <= now - at < RECENT:
        young = now - at < timedelta(minutes=1)
        text = _("just now") if young else _("%s ago") % timesince(at, now, depth=1)
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), exact, text)


def local_time(at: datetime) -> str:
    """Date, time to the second and zone, in the server's time zone."""
    local = timezone.localtime(at)
    return f"{formats.date_format(local, 'SHORT_DATE_FORMAT')} {local:%H:%M:%S %Z}"


def count(number: int) -> str:
    """A number with its thousands apart."""
    return formats.number_format(number, force_grouping=True)


def decimal(number: float | None) -> str:
    """A number of which the first digits matter: `0.25`, `3.1`, `1,234`; `-` for none."""
    if number is None:
        return NOTHING
    places = 0 if number >= 99.95 else 1 if number >= 0.95 else 2
    return formats.number_format(round(number, places), places, force_grouping=True)


def share(part: float | None) -> str:
    """A share of the whole, from 0 to 1, in per cent: `0.4 %`, `37 %`; `-` for none."""
    if part is None:
        return NOTHING
    percent = part * 100
    places = 1 if 0 < percent < 9.95 or 99 < percent < 100 else 0
    return f"{formats.number_format(round(percent, places), places)} %"


def size(number: int) -> str:
    """Bytes for people."""
    return f"{number} B" if number < 1024 else f"{number / 1024:.1f} KiB"


def pretty(value: Any) -> str:
    """JSON in lines, in its own script."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def decision(row: StreamTask) -> str:
    """Why the task went its way: `running 5 of 5, waiting 3 of 30 → via the queue: workers busy`."""
    load = _load(row.snapshot) if row.snapshot else ""
    return f"{load} → {verdict(row)}" if load else verdict(row)


def verdict(row: StreamTask) -> str:
    """The way and its reason: `via the queue: workers busy`."""
    return f"{word(row.route, ROUTES)}: {word(row.reason, REASONS)}"


def _load(snapshot: dict[str, Any]) -> str:
    """The pool as the router saw it. Records of other versions may lack members."""
    pieces = (
        (_("running {0} of {1}"), "running", "max_workers"),
        (_("waiting {0} of {1}"), "waiting", "queue_size"),
        (_("of this owner {0} of {1}"), "owner_active", "per_owner"),
    )
    told = [
        text.format(snapshot[part], snapshot[whole])
        for text, part, whole in pieces
        if part in snapshot and whole in snapshot
    ]
    oldest = snapshot.get("oldest_wait_seconds")
    if oldest:
        told.append(_("longest wait {0}").format(duration(oldest * 1000)))
    return ", ".join(told)


def outcome_of_prioritise(outcome: Prioritised, number: int, name: str) -> str:
    """What became of so many tasks that an operator wanted to wait in the class `name`."""
    match outcome:
        case Prioritised.MOVED:
            text = ngettext("{0} waits in the class {1} now.", "{0} wait in the class {1} now.", number)
        case Prioritised.ASKED:
            text = ngettext(
                "{0} waits in another process, which was asked for the class {1} and has not done it yet.",
                "{0} wait in other processes, which were asked for the class {1} and have not done it yet.",
                number,
            )
        case Prioritised.SAME:
            text = ngettext("{0} was of the class {1} already.", "{0} were of the class {1} already.", number)
        case Prioritised.TOO_LATE:
            text = ngettext(
                "{0} waits no longer; its class was not changed.",
                "{0} wait no longer; their class was not changed.",
                number,
            )
    return text.format(number, name)


def outcome_of_cancel(cancelled: int, ended: int, asked: int) -> str:
    """What became of the tasks that an operator wanted to cancel."""
    pieces = [
        (cancelled, ngettext("{} cancelled", "{} cancelled", cancelled)),
        (ended, ngettext("{} had ended already", "{} had ended already", ended)),
        (
            asked,
            ngettext(
                "{} has been asked to end and has not yet",
                "{} have been asked to end and have not yet",
                asked,
            ),
        ),
    ]
    return ", ".join(text.format(number) for number, text in pieces if number) + "."
