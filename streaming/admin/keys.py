"""API keys: made, rotated and revoked here, shown once; never deleted, so that a key in a log can be told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from django import forms as django_forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST

from streaming import keys
from streaming.models import ApiKey
from streaming.scopes import USUAL, Scope, text_of

from . import forms, words
from .filters import KeyStateFilter
from .theme import CheckboxSelectMultiple, ModelAdmin, label

_HOURS: Final = range(24 * 30 + 1)
"""For which a key that is rotated may go on."""

_FACTS: Final = ("beginning", "state", "user", "used_for", "created", "expires", "last_used", "replaces")
"""What is shown of a key and does not change."""


class ScopesField(django_forms.MultipleChoiceField):
    """Scopes as boxes; as text, as they are stored."""

    def clean(self, value: Any) -> str:
        """The chosen ones. Raises `ValidationError` without any."""
        return text_of(super().clean(value))


class NewKeyForm(django_forms.ModelForm):  # type: ignore[type-arg]
    """What is asked of a new key, and checked before it is made."""

    def clean_expires_at(self) -> Any:
        """An end that keys may have."""
        try:
            return keys.allowed_end(self.cleaned_data["expires_at"], timezone.now())
        except keys.KeyRefused as error:
            raise ValidationError(str(error)) from error


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):  # type: ignore[type-arg]
    """Keys, the newest first."""

    class Media:
        css = {"all": ("streaming/admin.css",)}

    change_form_template = "streaming/admin/key.html"
    list_display = ("beginning", "user", "name", "used_for", "created", "expires", "last_used", "state")
    list_display_links = ("beginning",)
    list_filter = (KeyStateFilter,)
    list_select_related = ("user",)
    search_fields = ("prefix", "name", "user__username")
    search_help_text = gettext_lazy("Beginning of the key, name or user")
    show_full_result_count = False
    actions = ("rotate_keys", "revoke_keys")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes keys; they are revoked."""
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Who may change keys may revoke them."""
        return self.has_change_permission(request)

    def has_rotate_permission(self, request: HttpRequest) -> bool:
        """To rotate is to make one and to end one."""
        return self.has_add_permission(request) and self.has_change_permission(request)

    # Columns

    @admin.display(description=gettext_lazy("begins with"), ordering="prefix")
    def beginning(self, key: ApiKey) -> str:
        """As much as is known of the key."""
        return str(key)

    @admin.display(description=gettext_lazy("created"), ordering="created_at")
    def created(self, key: ApiKey) -> SafeString:
        """When it was made."""
        return words.moment(key.created_at)

    @admin.display(description=gettext_lazy("scopes"), ordering="scopes")
    def used_for(self, key: ApiKey) -> str:
        """What it may be used for."""
        return ", ".join(key.scopes.split())

    @admin.display(description=gettext_lazy("expires"), ordering="expires_at")
    def expires(self, key: ApiKey) -> SafeString | str:
        """When it ends by itself."""
        return _("never") if key.expires_at is None else words.moment(key.expires_at)

    @admin.display(description=gettext_lazy("last used"), ordering="last_used_at")
    def last_used(self, key: ApiKey) -> SafeString | str:
        """When a call was let in by it, to about a minute."""
        return _("never") if key.last_used_at is None else words.moment(key.last_used_at)

    @admin.display(description=gettext_lazy("replaces"))
    def replaces(self, key: ApiKey) -> str:
        """The key whose place it took."""
        return words.NOTHING if key.replaces is None else str(key.replaces)

    @admin.display(description=gettext_lazy("replaced by"))
    def replaced_by(self, key: ApiKey) -> str:
        """The keys that took its place: several where one was lost and revoked."""
        return ", ".join(map(str, key.successors.order_by("pk"))) or words.NOTHING

    @admin.display(description=gettext_lazy("state"))
    def state(self, key: ApiKey) -> SafeString:
        """Whether it still speaks for its user."""
        kind = {ApiKey.State.VALID: "success", ApiKey.State.EXPIRED: "warning"}.get(key.state, "")
        return label(kind, str(key.state.label))

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
        """A new key needs a user and scopes."""
        if obj is None:
            return "user", "name", "scopes", "expires_at"
        return *_FACTS, "replaced_by", "revoked", "name"

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        """Of a key only its name can change."""
        return () if obj is None else (*_FACTS, "replaced_by", "revoked")

    def get_form(
        self, request: HttpRequest, obj: ApiKey | None = None, change: bool = False, **options: Any
    ) -> Any:
        """A new key's wishes are checked."""
        return super().get_form(
            request, obj, change, **({"form": NewKeyForm} if obj is None else {}), **options
        )

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        """Scopes are boxes."""
        if db_field.name != "scopes":
            return super().formfield_for_dbfield(db_field, request, **options)
        return ScopesField(
            choices=Scope.choices,
            initial=list(USUAL),
            label=capfirst(db_field.verbose_name),
            help_text=db_field.help_text,
            widget=CheckboxSelectMultiple(),
        )

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
        made, request.issued_key_text = keys.issue(  # type: ignore[attr-defined]
            obj.user, obj.name, scopes=obj.scopes.split(), expires_at=obj.expires_at
        )
        # The caller goes on with its own object, for the history.
        obj.__dict__.update(made.__dict__)

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: Any = None) -> HttpResponse:
        """The page with the key."""
        return self._issued(request, [(obj, request.issued_key_text)])  # type: ignore[attr-defined]

    def _issued(self, request: HttpRequest, made: list[tuple[ApiKey, str]]) -> HttpResponse:
        """The answer to the form itself, because a redirect would have to keep the keys somewhere."""
        context = {
            **self.admin_site.each_context(request),
            "title": _("The new API key") if len(made) == 1 else _("The new API keys"),
            "opts": self.opts,
            "media": self.media,
            "made": made,
        }
        page = TemplateResponse(request, "streaming/admin/issued_key.html", context)
        page["Cache-Control"] = "no-store"
        return page

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any
    ) -> HttpResponse:
        """One button to save; one to revoke, while there is something to revoke, and one to rotate."""
        key: ApiKey | None = context["original"]
        may_revoke = key is not None and key.revoked_at is None and self.has_change_permission(request, key)
        context |= {
            "may_revoke": may_revoke,
            "may_rotate": key is not None
            and key.state == ApiKey.State.VALID
            and self._may_rotate(request, key),
            "overlap_hours": int(keys.OVERLAP.total_seconds()) // 3600,
            "most_hours": _HOURS[-1],
            "form_mark": forms.give(request) if key is None else None,
            "show_save_and_add_another": False,
            "show_save_and_continue": False,
        }
        page: HttpResponse = super().render_change_form(request, context, *args, **options)
        return page

    def get_urls(self) -> list[Any]:
        """Also `<id>/revoke/` and `<id>/rotate/`, for POST only."""
        views = (("revoke", self.revoke_view), ("rotate", self.rotate_view))
        own = [
            path(
                f"<path:object_id>/{name}/",
                self.admin_site.admin_view(require_POST(view)),
                name=f"streaming_apikey_{name}",
            )
            for name, view in views
        ]
        return own + super().get_urls()

    def _place_of(self, key: ApiKey) -> HttpResponse:
        place = reverse("admin:streaming_apikey_change", args=[key.pk], current_app=self.admin_site.name)
        return HttpResponseRedirect(place)

    # Rotating

    def rotate_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Put a new key in the place of this one, and show it; to send the form again makes no other one."""
        key: ApiKey | None = self.get_object(request, unquote(object_id))
        if not self.has_rotate_permission(request):
            raise PermissionDenied
        if key is None:
            raise Http404
        hours = request.POST.get("hours", "")
        if not (hours.isascii() and hours.isdigit() and len(hours) < 5 and int(hours) in _HOURS):
            text = _("A whole number of hours, %d at most.") % _HOURS[-1]
            self.message_user(request, text, messages.ERROR)
            return self._place_of(key)
        made = self._rotate(request, [key], timedelta(hours=int(hours)))
        return self._issued(request, made) if made else self._place_of(key)

    @admin.action(permissions=["rotate"], description=gettext_lazy("Rotate (the old ones end in a day)"))
    def rotate_keys(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        """Put new keys in the places of the chosen ones."""
        made = self._rotate(request, list(queryset), keys.OVERLAP)
        return self._issued(request, made) if made else None

    def _may_rotate(self, request: HttpRequest, key: ApiKey | None) -> bool:
        """As with new keys: only superusers get one that speaks for somebody else."""
        own = key is not None and (request.user.is_superuser or key.user_id == request.user.pk)
        return own and self.has_rotate_permission(request)

    def _rotate(
        self, request: HttpRequest, chosen: list[ApiKey], overlap: timedelta
    ) -> list[tuple[ApiKey, str]]:
        if not all(self._may_rotate(request, key) for key in chosen):
            raise PermissionDenied
        made = []
        for key in chosen:
            try:
                new, text = keys.rotate(key, overlap)
            except keys.KeyRefused as error:
                self.message_user(request, str(error), messages.WARNING)
                continue
            self.log_change(request, key, f"replaced the key by {new}")
            self.log_addition(request, new, f"made in the place of {key}")
            made.append((new, text))
        return made

    # Revoking

    def revoke_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Revoke the key, and show it."""
        key: ApiKey | None = self.get_object(request, unquote(object_id))
        if not self.has_change_permission(request, key):
            raise PermissionDenied
        if key is None:
            raise Http404
        self._revoke(request, [key])
        return self._place_of(key)

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
