"""The admin: what ran, how it went, and why it went that way. Read-only."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from .models import Refusal, StreamTask


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Records are written by the service, not by people."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds records."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes them."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes them here; retention does."""
        return False


@admin.register(StreamTask)
class StreamTaskAdmin(ReadOnlyAdmin):
    """Tasks, the newest first."""

    class Media:
        css = {"all": ("streaming/admin.css",)}

    date_hierarchy = "created_at"
    list_display = (
        "short_id",
        "coloured_state",
        "kind",
        "who",
        "route",
        "reason",
        "created_at",
        "queued",
        "first_content",
        "total",
        "content_length",
    )
    list_filter = ("state", "route", "reason", "pool", "kind", "priority", "error_code", "created_at")
    list_select_related = ("owner",)
    list_per_page = 50
    search_fields = ("id", "end_user", "owner__username", "error_code")
    search_help_text = _("Task id, end user, owner's name or error code")
    show_full_result_count = False
    ordering = ("-created_at", "-id")
    fieldsets = (
        (None, {"fields": ("id", "state", "kind", "owner", "end_user", "language")}),
        (_("Decision"), {"fields": ("pool", "priority", "route", "reason", "snapshot")}),
        (
            _("Times"),
            {"fields": ("created_at", "started_at", "finished_at", "queued", "first_content", "total")},
        ),
        (
            _("Numbers"),
            {"fields": ("last_event_id", "chunks", "content_length", "status_messages", "resumes", "timing")},
        ),
        (
            _("Result"),
            {
                "fields": (
                    "finish_reason",
                    "model",
                    "usage",
                    "error_code",
                    "error_message",
                    "cancel_reason",
                    "purged_at",
                )
            },
        ),
        (_("Content"), {"fields": ("arguments", "text")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[StreamTask]:
        """The list needs neither texts nor arguments."""
        rows: QuerySet[StreamTask] = super().get_queryset(request)
        is_detail = request.resolver_match is not None and "object_id" in request.resolver_match.kwargs
        return rows if is_detail else rows.defer("text", "arguments", "snapshot", "timing", "usage")

    @admin.display(description=_("task"), ordering="id")
    def short_id(self, row: StreamTask) -> str:
        """The first eight digits, enough to tell tasks apart."""
        return row.id[:8]

    @admin.display(description=_("state"), ordering="state")
    def coloured_state(self, row: StreamTask) -> str:
        """The state in words, with a colour that helps the eye."""
        return format_html(
            '<span class="stream-state stream-state-{}">{}</span>', row.state, row.get_state_display()
        )

    @admin.display(description=_("who"), ordering="end_user")
    def who(self, row: StreamTask) -> str:
        """The signed-in owner and the end user."""
        names = [str(row.owner) if row.owner is not None else "", row.end_user]
        return " / ".join(name for name in names if name) or "-"

    @admin.display(description=_("queued"), ordering="queued_ms")
    def queued(self, row: StreamTask) -> str:
        """Waiting time."""
        return duration(row.queued_ms)

    @admin.display(description=_("first content"), ordering="first_content_ms")
    def first_content(self, row: StreamTask) -> str:
        """Time from acceptance to the first content."""
        return duration(row.first_content_ms)

    @admin.display(description=_("total"), ordering="total_ms")
    def total(self, row: StreamTask) -> str:
        """Time from acceptance to the end."""
        return duration(row.total_ms)


@admin.register(Refusal)
class RefusalAdmin(ReadOnlyAdmin):
    """Refusals by minute, pool and reason."""

    date_hierarchy = "minute"
    list_display = ("minute", "pool", "reason", "count")
    list_filter = ("pool", "reason", "minute")


def duration(milliseconds: float | None) -> str:
    """Milliseconds for people: `0.8 ms`, `350 ms`, `2.41 s`, `3 min 5 s`; `-` for none."""
    if milliseconds is None:
        return "-"
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.2f} s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes} min {seconds} s"
