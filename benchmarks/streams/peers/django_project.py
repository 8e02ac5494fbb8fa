"""A Django project in one module: settings, one URL, the application."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Final

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import path

STARTPROJECT: Final = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
"""The list that `django-admin startproject` writes."""

DATABASE: Final = "BENCHMARK_DATABASE"
"""The variable with the path of the SQLite file."""


def configure(middleware: list[str], apps: list[str] | None = None, **more: Any) -> None:
    """Set Django up. URLs are added with `serve`."""
    settings.configure(
        SECRET_KEY="benchmark" * 6,
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=sys.modules[__name__],
        MIDDLEWARE=middleware,
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            *(apps or []),
        ],
        TEMPLATES=[],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": os.environ.get(DATABASE, ":memory:"),
            }
        },
        USE_TZ=True,
        **more,
    )
    django.setup()


urlpatterns: list[Any] = []


def serve(view: Callable[..., Any]) -> Any:
    """The ASGI application with `view` at the URL that the client asks for."""
    urlpatterns.append(path("content/generate/stream/async", view))
    return get_asgi_application()
