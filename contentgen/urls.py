"""The app's URLs, and their description."""

from django.urls import path
from django.views.i18n import JavaScriptCatalog

from . import openapi, pages, views

urlpatterns = [
    path("content/generate/stream/async", views.generate_stream, name="content-stream"),
    path("content/generate", views.generate, name="content-whole"),
    path("content/generate/async", views.generate_later, name="content-later"),
    path("", pages.home, name="home"),
    path(
        "content/jsi18n/",
        JavaScriptCatalog.as_view(packages=["contentgen"]),
        name="content-javascript-catalog",
    ),
]

openapi.describe()
