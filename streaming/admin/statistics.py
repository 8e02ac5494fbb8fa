"""The statistics page: what happened, and what happens now."""

from __future__ import annotations

import logging
from typing import Any, Final
from urllib.parse import urlencode

from asgiref.sync import sync_to_async
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _

from streaming import conf
from streaming.alerts import open_alerts
from streaming.models import Alert, Statistics
from streaming.problems import STORAGE_RETRY, Problem
from streaming.requests import endpoint
from streaming.shortcuts import stream
from streaming.standing import require_right

from . import live, process
from .report import Choice, Report, choices, report_of
from .tasks import VIEW_TASKS, hides_id
from .theme import THEMED, ReadOnlyAdmin

logger = logging.getLogger("streaming")

VIEW_ALERTS: Final = "streaming.view_alert"

SEVERITIES: Final = Alert.Severity.values
"""From the least to the worst."""

_PLACE: Final = "streaming_statistics_{}"


@admin.register(Statistics)
class StatisticsAdmin(ReadOnlyAdmin):
    """One page, where others have a list; and a stream with the numbers of this moment."""

    class Media:
        css = {"all": ("streaming/admin.css", "streaming/statistics/page.css")}

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may see tasks may see their numbers."""
        return request.user.has_perm(VIEW_TASKS)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """The same: it is listed for who may see it."""
        return self.has_view_permission(request)

    def get_urls(self) -> list[Any]:
        """The page and its stream; there is nothing to be added or changed."""
        return [
            path(
                "",
                self.admin_site.admin_view(self.changelist_view),
                name=_PLACE.format("changelist"),
            ),
            path("live/", endpoint("GET")(self.live_view), name=_PLACE.format("live")),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """`GET …/statistics/?range=hour|day|week&pool=…&kind=…`: the page. 503 while the database is away."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        choice = Choice.of(request.GET)
        report: Report | None = None
        numbers: dict[str, Any] = {}
        alerts: list[Alert] = []
        try:
            numbers = live.pools_and_totals(process.numbers(request))
            if request.user.has_perm(VIEW_ALERTS):
                alerts = sorted(open_alerts(), key=lambda alert: -SEVERITIES.index(alert.severity))
            report = report_of(choice)
        except (OperationalError, InterfaceError) as error:
            logger.warning("the statistics page could not be computed (%s: %s)", type(error).__name__, error)
        if report is not None:
            for each in report.slow:
                for slow in each.tasks:
                    slow.row.id_is_hidden = hides_id(request, slow.row)  # type: ignore[attr-defined]
        context = {
            **self.admin_site.each_context(request),
            "title": _("Statistics"),
            "opts": self.opts,
            "media": self.media,
            "is_fullwidth": "1",
            "themed": THEMED,
            "choice": choice,
            "choices": choices(choice, report.kinds if report else ()),
            "report": report,
            "numbers": numbers,
            "alerts": alerts,
            "sign_in_place": f"{self._place('login')}?{urlencode({'next': request.get_full_path()})}",
            "classes": [*conf.priorities()],
            "live_place": self._place(_PLACE.format("live")),
            **(extra_context or {}),
        }
        page = TemplateResponse(
            request, "streaming/admin/statistics.html", context, status=200 if report else 503
        )
        if report is None:
            page["Retry-After"] = str(round(STORAGE_RETRY))
        return page

    def _place(self, name: str) -> str:
        return reverse(f"admin:{name}", current_app=self.admin_site.name)

    async def live_view(self, request: HttpRequest) -> HttpResponseBase:
        """`GET …/statistics/live/`: the numbers of this moment as an event stream, for a minute."""
        if not await sync_to_async(self._may_watch)(request):
            raise Problem(403, "permission_denied", _("These numbers are for operators."))
        return await stream(request, live.parts(), pool=next(iter(conf.pools())), **live.OPTIONS)

    def _may_watch(self, request: HttpRequest) -> bool:
        return self.admin_site.has_permission(request) and self.has_view_permission(request)


async def _still_may_watch(account: str) -> bool:
    return await sync_to_async(_may_watch_now)(account)


def _may_watch_now(account: str) -> bool:
    user = get_user_model()._default_manager.filter(pk=account).first()
    if user is None:
        return False
    request = HttpRequest()
    request.user = user
    return admin.site.has_permission(request) and user.has_perm(VIEW_TASKS)


require_right(live.KIND, _still_may_watch)
