"""URLs of the project without a theme."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("", include("streaming.urls"))]
