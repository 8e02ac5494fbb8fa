"""Whether a `Host` header names this server: Django's own check, remembered for those that do."""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.core.signals import setting_changed
from django.http import HttpRequest

MAX_HOSTS: Final = 64
"""`Host` headers that are known to be right; others are looked at each time."""

_right: Final[set[str]] = set()


def check(request: HttpRequest) -> None:
    """Raises `DisallowedHost` as `HttpRequest.get_host` does."""
    host = request.META.get("HTTP_HOST")
    if host in _right and not settings.USE_X_FORWARDED_HOST:
        return
    request.get_host()
    if host is not None and len(_right) < MAX_HOSTS:
        _right.add(host)


def _forget(setting: str, **kwargs: Any) -> None:
    if setting in ("ALLOWED_HOSTS", "DEBUG", "USE_X_FORWARDED_HOST"):
        _right.clear()


setting_changed.connect(_forget)
