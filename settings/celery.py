"""The Celery application of workers, where `celery -A settings worker` looks for it."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings.settings")
django.setup()

from streaming.worker.app import app  # noqa: E402 (needs Django set up)

__all__ = ["app"]
