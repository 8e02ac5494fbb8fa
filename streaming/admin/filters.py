"""Filters of the lists of tasks and keys. Their choices are known or bounded: none scans the table."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from streaming import conf
from streaming.core.errors import generation_errors
from streaming.keys import valid_at
from streaming.models import ApiKey, StreamTask

from .theme import SimpleListFilter
from .words import REASONS, ROUTES

NEWEST: Final = 1000
"""Tasks among which the kinds are looked for."""

_PERIODS: Final = {
    "hour": (_("the last hour"), timedelta(hours=1)),
    "day": (_("the last 24 hours"), timedelta(days=1)),
    "week": (_("the last 7 days"), timedelta(days=7)),
    "month": (_("the last 30 days"), timedelta(days=30)),
}


class ColumnFilter(SimpleListFilter):
    """One column, one value of it. `parameter_name` is the column."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows with that value."""
        value = self.value()
        return queryset.filter(**{str(self.parameter_name): value}) if value else queryset


class StateFilter(ColumnFilter):
    """By state."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """All states."""
        return list(StreamTask.Status.choices)


class RouteFilter(ColumnFilter):
    """By route."""

    title = _("route")
    parameter_name = "route"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """All routes."""
        return [(route.value, words) for route, words in ROUTES.items()]


class ReasonFilter(ColumnFilter):
    """By the reason of the route."""

    title = _("reason of the route")
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """All reasons."""
        return [(reason.value, words) for reason, words in REASONS.items()]


class PoolFilter(ColumnFilter):
    """By pool."""

    title = _("pool")
    parameter_name = "pool"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """The pools of the settings."""
        return [(name, name) for name in conf.pools()]


class KindFilter(ColumnFilter):
    """By kind."""

    title = _("kind")
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """The kinds of the newest tasks."""
        newest = StreamTask.objects.order_by("-created_at", "-id").values_list("kind", flat=True)[:NEWEST]
        return [(kind, kind) for kind in sorted(set(newest))]


class ErrorFilter(ColumnFilter):
    """By the code of the error that ended the task."""

    title = _("error code")
    parameter_name = "error_code"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """All codes."""
        return [(kind.code, kind.code) for kind in generation_errors()]


class KeyStateFilter(SimpleListFilter):
    """API keys by state."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """All states."""
        return list(ApiKey.State.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The keys in that state now."""
        now = timezone.now()
        match self.value():
            case ApiKey.State.VALID:
                return queryset.filter(valid_at(now))
            case ApiKey.State.EXPIRED:
                return queryset.filter(revoked_at=None, expires_at__lte=now)
            case ApiKey.State.REVOKED:
                return queryset.exclude(revoked_at=None)
        return queryset


class PeriodFilter(SimpleListFilter):
    """By age."""

    title = _("age")
    parameter_name = "accepted"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """From an hour to a month."""
        return [(key, words) for key, (words, _age) in _PERIODS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The tasks that are younger."""
        known = _PERIODS.get(self.value() or "")
        return queryset if known is None else queryset.filter(created_at__gte=timezone.now() - known[1])
