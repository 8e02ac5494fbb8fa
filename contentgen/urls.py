"""The app's URLs, and their description."""

from django.urls import path

from . import openapi, pages, views

urlpatterns = [
    path("content/generate/stream/async", views.generate_stream, name="content-stream"),
    path("content/generate", views.generate, name="content-whole"),
    path("content/generate/async", views.generate_later, name="content-later"),
    path("", pages.home, name="home"),
]

openapi.describe()
