"""Alerts: those that are open, and those of the past."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from streaming.alerts.notices import ATTEMPTS
from streaming.alerts.words import quantity
from streaming.core.alerts import Change
from streaming.models import Alert, AlertNotice

from . import words
from .theme import ReadOnlyAdmin, SimpleListFilter, label

_COLOURS: Final = {"critical": "danger", "warning": "warning", "info": "info"}

CHANNELS: Final = {"email": gettext_lazy("e-mail"), "webhook": gettext_lazy("webhook")}
CHANGES: Final = {
    Change.RAISED.value: gettext_lazy("raised"),
    Change.RESOLVED.value: gettext_lazy("resolved"),
}


class OpenFilter(SimpleListFilter):
    """Open or resolved."""

    title = gettext_lazy("state")
    parameter_name = "open"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Both."""
        return [("yes", gettext_lazy("open")), ("no", gettext_lazy("resolved"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Those."""
        if self.value() in ("yes", "no"):
            return queryset.filter(resolved_at__isnull=self.value() == "yes")
        return queryset


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    """Alerts, the newest first; nothing can be changed."""

    list_display = (
        "state",
        "rule",
        "severity",
        "since",
        "until",
        "worst_with_unit",
        "told_at_first",
        "told",
    )
    list_filter = (OpenFilter, "severity")
    list_display_links = ("rule",)
    search_fields = ("rule", "sentence")
    fields = (
        "state",
        "rule",
        "severity",
        "since",
        "until",
        "value_with_unit",
        "worst_with_unit",
        "threshold_with_unit",
        "told_at_first",
        "notices",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Alert]:
        """With who was told."""
        found: QuerySet[Alert] = super().get_queryset(request)
        return found.prefetch_related("notices")

    @admin.display(description=gettext_lazy("state"), ordering="resolved_at")
    def state(self, row: Alert) -> SafeString:
        """Open, with the colour of its severity, or resolved."""
        if row.resolved_at is None:
            return label(_COLOURS.get(row.severity, ""), _("open"))
        return label("success", _("resolved"))

    @admin.display(description=gettext_lazy("since"), ordering="raised_at")
    def since(self, row: Alert) -> SafeString:
        """When it was raised."""
        return words.moment(row.raised_at)

    @admin.display(description=gettext_lazy("until"), ordering="resolved_at")
    def until(self, row: Alert) -> SafeString:
        """When it was resolved."""
        return words.moment(row.resolved_at)

    @admin.display(description=gettext_lazy("value now"), ordering="last")
    def value_with_unit(self, row: Alert) -> str:
        """At the last look, which for a resolved one is that of its end."""
        return words.NOTHING if row.last is None else quantity(row.kind, row.last)

    @admin.display(description=gettext_lazy("worst value"), ordering="worst")
    def worst_with_unit(self, row: Alert) -> str:
        """While it was open."""
        return quantity(row.kind, row.worst)

    @admin.display(description=gettext_lazy("what was told when it was raised"), ordering="sentence")
    def told_at_first(self, row: Alert) -> str:
        """With the value of that moment."""
        return row.sentence

    @admin.display(description=gettext_lazy("threshold"), ordering="threshold")
    def threshold_with_unit(self, row: Alert) -> str:
        """Of the rule, when it was raised."""
        return quantity(row.kind, row.threshold)

    @admin.display(description=gettext_lazy("told"))
    def told(self, row: Alert) -> str:
        """What became of the last mail and the last call."""
        newest = {notice.channel: notice for notice in _in_order(row)}
        return "; ".join(map(_briefly, newest.values())) or words.NOTHING

    @admin.display(description=gettext_lazy("told"))
    def notices(self, row: Alert) -> str:
        """What became of all mails and calls."""
        return "; ".join(map(_notice, _in_order(row))) or words.NOTHING


def _in_order(row: Alert) -> list[AlertNotice]:
    return sorted(row.notices.all(), key=lambda notice: notice.pk)


def _briefly(notice: AlertNotice) -> str:
    told = f"{words.word(notice.channel, CHANNELS)}: {notice.get_state_display()}"
    return f"{told} ({notice.error})" if notice.error else told


def _notice(notice: AlertNotice) -> str:
    channel = words.word(notice.channel, CHANNELS)
    change = words.word(notice.change, CHANGES)
    told = f"{change}, {channel}: {notice.get_state_display()}"
    if notice.error:
        tries = _("attempt %(number)d of %(all)d") % {"number": notice.attempts, "all": ATTEMPTS}
        return f"{told} ({tries}: {notice.error})"
    return told
