"""Refusals, counted by the minute."""

from __future__ import annotations

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from streaming.models import Refusal

from .filters import PoolFilter, ReasonFilter
from .theme import ReadOnlyAdmin
from .words import REASONS, word


@admin.register(Refusal)
class RefusalAdmin(ReadOnlyAdmin):
    """Refusals by minute, pool and reason."""

    list_fullwidth = False
    date_hierarchy = "minute"
    list_display = ("minute", "pool", "reason_in_words", "count")
    list_filter = (PoolFilter, ReasonFilter)

    @admin.display(description=_("reason"), ordering="reason")
    def reason_in_words(self, row: Refusal) -> str:
        """Why."""
        return word(row.reason, REASONS)
