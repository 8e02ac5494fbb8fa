"""The admin's looks: those of django-unfold where it is installed, else Django's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString

THEMED: Final = apps.is_installed("unfold")

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin, SimpleListFilter
    from django.contrib.admin.views.main import ChangeList
    from django.forms import CheckboxSelectMultiple
elif THEMED:
    from unfold.admin import ModelAdmin
    from unfold.views import ChangeList
else:
    from django.contrib.admin import ModelAdmin
    from django.contrib.admin.views.main import ChangeList

if not TYPE_CHECKING:
    if THEMED:
        from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget as CheckboxSelectMultiple
    else:
        from django.forms import CheckboxSelectMultiple

    if apps.is_installed("unfold.contrib.filters"):
        from unfold.contrib.filters.admin import DropdownFilter as SimpleListFilter
    else:
        from django.contrib.admin import SimpleListFilter

__all__ = [
    "ChangeList",
    "CheckboxSelectMultiple",
    "ModelAdmin",
    "ReadOnlyAdmin",
    "SimpleListFilter",
    "label",
]


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[type-arg]
    """Records are written by the service, not by people."""

    list_fullwidth = True
    list_filter_submit = True
    list_disable_select_all = True
    show_full_result_count = False

    class Media:
        css = {"all": ("streaming/admin.css",)}

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds records."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes them."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes them here; retention does."""
        return False


def label(kind: str, text: str) -> SafeString:
    """A word on a coloured ground. `kind`: `info`, `success`, `warning`, `danger`, or empty for grey."""
    if THEMED:
        return render_to_string("unfold/helpers/label.html", {"type": kind, "text": text})
    return format_html('<span class="stream-label stream-label-{}">{}</span>', kind or "plain", text)
