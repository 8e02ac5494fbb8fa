"""Notebooks in the admin: whose they are and how large. What is in them is for their owners."""

from __future__ import annotations

from typing import Any, Final

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from streaming.admin.theme import ModelAdmin, ReadOnlyAdmin

from .models import Notebook

_SHOWN: Final = ("owner", "slug", "title", "created_at", "updated_at")


@admin.register(Notebook)
class NotebookAdmin(ReadOnlyAdmin):
    """Read only, but for deleting."""

    list_display = ("slug", "title", "owner", "size", "updated_at")
    search_fields = ("slug", "title", "owner__username")
    fields = _SHOWN
    list_select_related = ("owner",)
    list_disable_select_all = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Notebook]:
        """With the number of cells."""
        notebooks: QuerySet[Notebook] = super().get_queryset(request)
        return notebooks.annotate(_size=Count("cells"))

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """A hand-written URL does not search in what is not shown."""
        return lookup.split("__")[0] in (*_SHOWN, "id", "pk") and super().lookup_allowed(
            lookup,
            value,
            request,  # type: ignore[arg-type]
        )

    @admin.display(description=_("cells"), ordering="_size")
    def size(self, notebook: Notebook) -> int:
        """How many cells it has."""
        return int(getattr(notebook, "_size", 0))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who has the permission, as Django counts it."""
        return ModelAdmin.has_delete_permission(self, request, obj)
