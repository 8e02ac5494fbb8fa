"""All URLs; the hot routes first, because each pattern before them costs every stream."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", include("contentgen.urls")),
    path("", include("streaming.urls")),
    path("admin/", admin.site.urls),
    path("", RedirectView.as_view(url="docs"), name="home"),
]
