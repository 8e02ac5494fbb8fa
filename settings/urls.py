"""All URLs; the hot routes first, because each pattern before them costs every stream."""

from django.contrib import admin
from django.urls import include, path

admin.site.site_header = admin.site.site_title = "Sluice"

handler400 = "streaming.error_views.bad_request"
handler403 = "streaming.error_views.permission_denied"
handler404 = "streaming.error_views.page_not_found"
handler500 = "streaming.error_views.server_error"

urlpatterns = [
    path("", include("contentgen.urls")),
    path("", include("streaming.urls")),
    path("", include("notebooks.urls")),
    path("accounts/", include("accounts.urls")),
    path("i18n/", include("django.conf.urls.i18n")),
    path("admin/", admin.site.urls),
]
