"""Notebooks in the admin: whose they are and how large. What is in them has the permission of texts."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from streaming.admin.theme import ModelAdmin

from .models import Notebook


@admin.register(Notebook)
class NotebookAdmin(ModelAdmin):
    """Read only, but for deleting."""

    list_display = ("slug", "title", "owner", "size", "updated_at")
    search_fields = ("slug", "title", "owner__username")
    readonly_fields = ("owner", "slug", "title", "created_at", "updated_at")
    fields = readonly_fields
    list_select_related = ("owner",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Notebook]:
        """With the number of cells."""
        return super().get_queryset(request).annotate(_size=Count("cells"))

    @admin.display(description=_("cells"), ordering="_size")
    def size(self, notebook: Notebook) -> int:
        """How many cells it has."""
        return int(getattr(notebook, "_size", 0))

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Notebooks are made on their own page."""
        return False
