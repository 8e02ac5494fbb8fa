"""API keys: made here, shown once, revoked here; never deleted, so that a key in a log can be told."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST

from streaming import keys
from streaming.models import ApiKey

from . import forms, words
from .theme import ModelAdmin, label


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):  # type: ignore[type-arg]
    """Keys, the newest first."""

    class Media:
        css = {"all": ("streaming/admin.css",)}

    change_form_template = "streaming/admin/key.html"
    list_display = ("beginning", "user", "name", "created", "state")
    list_display_links = ("beginning",)
    list_filter = (("revoked_at", admin.EmptyFieldListFilter),)
    list_select_related = ("user",)
    search_fields = ("prefix", "name", "user__username")
    search_help_text = gettext_lazy("Beginning of the key, name or user")
    show_full_result_count = False
    actions = ("revoke_keys",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes keys; they are revoked."""
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Who may change keys may revoke them."""
        return self.has_change_permission(request)

    # Columns

    @admin.display(description=gettext_lazy("begins with"), ordering="prefix")
    def beginning(self, key: ApiKey) -> str:
        """As much as is known of the key."""
        return str(key)

    @admin.display(description=gettext_lazy("created"), ordering="created_at")
    def created(self, key: ApiKey) -> SafeString:
        """When it was made."""
        return words.moment(key.created_at)

    @admin.display(description=gettext_lazy("state"), ordering="revoked_at")
    def state(self, key: ApiKey) -> SafeString:
        """Whether it still speaks for its user."""
        return label("success", _("active")) if key.revoked_at is None else label("", _("revoked"))

    @admin.display(description=gettext_lazy("revoked"))
    def revoked(self, key: ApiKey) -> SafeString:
        """When it was revoked."""
        return words.moment(key.revoked_at)

    # Making one

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """One form makes one key: a reload of the page with the key sends the form again."""
        if request.method == "POST" and self.has_add_permission(request) and not forms.take(request):
            text = _(
                "This form was sent already; the key was shown once. Make another one if you did not copy it."
            )
            self.message_user(request, text, messages.WARNING)
            place: HttpResponse = self.response_post_save_add(request, None)
            return place
        page: HttpResponse = super().add_view(request, form_url, extra_context)
        return page

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        """A new key needs a user and a name."""
        return (
            ("user", "name") if obj is None else ("beginning", "state", "user", "name", "created", "revoked")
        )

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        """Of a key only its name can change."""
        return () if obj is None else ("beginning", "state", "user", "created", "revoked")

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        """A key speaks for its user, so only superusers make keys for others."""
        if db_field.name == "user":
            options["initial"] = request.user.pk
            if not request.user.is_superuser:
                users = db_field.remote_field.model._default_manager
                options["queryset"] = users.filter(pk=request.user.pk)
        return super().formfield_for_foreignkey(db_field, request, **options)

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        """A new key is issued; its text stays with the request, for the answer to it."""
        if change:
            ApiKey.objects.filter(pk=obj.pk).update(name=obj.name)
            return
        made, request.issued_key_text = keys.issue(obj.user, obj.name)  # type: ignore[attr-defined]
        # The caller goes on with its own object, for the history.
        obj.__dict__.update(made.__dict__)

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: Any = None) -> HttpResponse:
        """The page with the key: the answer to the form itself, because a redirect would have to keep the key
        somewhere."""
        context = {
            **self.admin_site.each_context(request),
            "title": _("The new API key"),
            "opts": self.opts,
            "media": self.media,
            "key": obj,
            "key_text": request.issued_key_text,  # type: ignore[attr-defined]
        }
        page = TemplateResponse(request, "streaming/admin/issued_key.html", context)
        page["Cache-Control"] = "no-store"
        return page

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any
    ) -> HttpResponse:
        """One button to save; one to revoke, while there is something to revoke."""
        key: ApiKey | None = context["original"]
        may_revoke = key is not None and key.revoked_at is None and self.has_change_permission(request, key)
        context |= {
            "may_revoke": may_revoke,
            "form_mark": forms.give(request) if key is None else None,
            "show_save_and_add_another": False,
            "show_save_and_continue": False,
        }
        page: HttpResponse = super().render_change_form(request, context, *args, **options)
        return page

    # Revoking

    def get_urls(self) -> list[Any]:
        """Also `<id>/revoke/`, for POST only."""
        revoke = self.admin_site.admin_view(require_POST(self.revoke_view))
        name = "streaming_apikey_revoke"
        return [path("<path:object_id>/revoke/", revoke, name=name), *super().get_urls()]

    def revoke_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Revoke the key, and show it."""
        key: ApiKey | None = self.get_object(request, unquote(object_id))
        if not self.has_change_permission(request, key):
            raise PermissionDenied
        if key is None:
            raise Http404
        self._revoke(request, [key])
        place = reverse("admin:streaming_apikey_change", args=[key.pk], current_app=self.admin_site.name)
        return HttpResponseRedirect(place)

    @admin.action(permissions=["revoke"], description=gettext_lazy("Revoke"))
    def revoke_keys(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        """Revoke the chosen keys."""
        self._revoke(request, list(queryset))

    def _revoke(self, request: HttpRequest, chosen: list[ApiKey]) -> None:
        active = [key for key in chosen if key.revoked_at is None]
        for key in active:
            keys.revoke(key)
            self.log_change(request, key, "revoked the key")
        text = ngettext("{} key revoked.", "{} keys revoked.", len(active)).format(len(active))
        self.message_user(request, text, messages.SUCCESS if active else messages.WARNING)
