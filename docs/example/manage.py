#!/usr/bin/env python
"""The settings of a small project, and Django's command line for it."""

import os
import sys
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent

SECRET_KEY = "make-your-own-before-others-can-reach-this-server"
DEBUG = True
ALLOW_ANONYMOUS = "loopback"  # callers on this machine need no API key and no session

INSTALLED_APPS = [
    "daphne",  # makes `runserver` speak ASGI
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "servestatic",  # static files for every server, not for `runserver` alone
    "ninja",  # the API page, without a CDN
    "streaming",
]

MIDDLEWARE = [
    "streaming.middleware.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "streaming.middleware.ContentSecurityPolicyMiddleware",
    "streaming.middleware.SessionMiddleware",
    "streaming.middleware.CommonMiddleware",
    "streaming.middleware.CsrfViewMiddleware",
    "streaming.middleware.AuthenticationMiddleware",
    "streaming.middleware.MessageMiddleware",
    "streaming.middleware.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "urls"
ASGI_APPLICATION = "streaming.asgi.application"
WEBSOCKET_URLCONF = "streaming.websocket.routing"  # /ws/streams/<id>/
LOGIN_URL = "admin:login"
STATIC_URL = "static/"

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "manage")  # this file is the settings, too
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
