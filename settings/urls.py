"""All URLs; the hot routes first, because each pattern before them costs every stream."""

from django.contrib import admin
from django.urls import include, path
from django.views.i18n import set_language

from accounts.doors import guarded
from streaming.forms import small_form

admin.site.site_header = admin.site.site_title = "Sluice"
admin.site.login = guarded(admin.site.login)  # type: ignore[assignment,method-assign]

handler400 = "streaming.error_views.bad_request"
handler403 = "streaming.error_views.permission_denied"
handler404 = "streaming.error_views.page_not_found"
handler500 = "streaming.error_views.server_error"

urlpatterns = [
    path("", include("contentgen.urls")),
    path("", include("streaming.urls")),
    path("", include("notebooks.urls")),
    path("accounts/", include("accounts.urls")),
    path("i18n/setlang/", small_form(set_language), name="set_language"),
    path("admin/", admin.site.urls),
]
