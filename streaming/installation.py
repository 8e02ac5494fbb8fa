"""System checks of the project around the app: what streams need there and do not find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.checks import CheckMessage, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.middleware.csrf import CsrfViewMiddleware
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, Resolver404, resolve
from django.utils.module_loading import import_string

_NEEDED: Final = {
    SessionMiddleware: "people who are signed in are not known to streams, only API keys are",
    CsrfViewMiddleware: "people who are signed in get no CSRF token, so they cannot start or stop streams",
}
"""Middleware, and what is not possible without it."""


@register("streaming")
def check_middleware(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """W008-W009, W019: middleware that is missing, or slower than it need be."""
    classes = list(_installed_middleware())
    found: list[CheckMessage] = [
        Warning(
            f"{needed.__name__} is not installed: {effect}",
            hint=f'Add "streaming.middleware.{needed.__name__}" to MIDDLEWARE, where Django\'s own would be.',
            id="streaming.W008",
        )
        for needed, effect in _NEEDED.items()
        if not any(issubclass(each, needed) for each in classes)
    ]
    replaceable = [path for path in settings.MIDDLEWARE if _has_a_twin(path)]
    if replaceable:
        found.append(
            Warning(
                f"each request visits a thread for {', '.join(replaceable)}",
                hint="streaming.middleware has classes of the same names that need none.",
                id="streaming.W009",
            )
        )
    # As Django's handler sees it: what does not say that it can is taken to be synchronous.
    synchronous = [path for path, made in _imported_middleware() if not getattr(made, "async_capable", False)]
    if synchronous:
        found.append(
            Warning(
                f"{', '.join(synchronous)}: synchronous only, so all requests take turns in one thread",
                hint="A class with async_capable = True and an asynchronous way through, or "
                "django.utils.decorators.sync_and_async_middleware, lets them pass side by side.",
                id="streaming.W019",
            )
        )
    return found


@register("streaming", deploy=True)
def check_policy(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """W029: pages without a Content Security Policy. Whose middleware sends it does not matter."""
    if any("csp" in path.lower() or "ContentSecurityPolicy" in path for path in settings.MIDDLEWARE):
        return []
    return [
        Warning(
            "no middleware sends a Content Security Policy",
            hint='Add "streaming.middleware.ContentSecurityPolicyMiddleware" to MIDDLEWARE (docs/django.md).',
            id="streaming.W029",
        )
    ]


def _installed_middleware() -> Iterator[type]:
    """The classes; functions are middleware, too."""
    return (made for _, made in _imported_middleware() if isinstance(made, type))


def _imported_middleware() -> Iterator[tuple[str, Any]]:
    """Classes and functions with their paths; what cannot be imported the server will name."""
    for path in settings.MIDDLEWARE:
        with suppress(ImportError):
            yield path, import_string(path)


def _has_a_twin(path: str) -> bool:
    # Not before the apps are loaded: it imports the middleware of other apps.
    from . import middleware

    module, _, name = path.rpartition(".")
    return module.startswith("django.") and hasattr(middleware, name)


@register("streaming")
def check_apps(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """W010-W011: pages that lack what they need."""
    found: list[CheckMessage] = []
    if "ninja" not in settings.INSTALLED_APPS:
        found.append(
            Warning(
                '"ninja" is not in INSTALLED_APPS: the API page loads scripts from another host',
                hint='Add "ninja": it brings these files.',
                id="streaming.W010",
            )
        )
    if not _sign_in_page_exists():
        found.append(
            Warning(
                f"LOGIN_URL is {settings.LOGIN_URL!r}, which is no page of this project",
                hint='Who must sign in to see a stream is sent there. The admin has one: "admin:login".',
                id="streaming.W011",
            )
        )
    return found


def _sign_in_page_exists() -> bool:
    try:
        place = urlsplit(resolve_url(settings.LOGIN_URL))
        if not place.netloc:
            resolve(place.path)
    except (NoReverseMatch, Resolver404):
        return False
    return True


@register("streaming")
def check_handler(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """W012: an ASGI application without our handler inside."""
    # Not before the apps are loaded: it imports the models.
    from .handler import StreamingHandler

    path = getattr(settings, "ASGI_APPLICATION", None)
    try:
        if path is None or import_string(path) is None or StreamingHandler.made:
            return []
    except (ImportError, ImproperlyConfigured):
        # It is being made, and runs these checks for that; or it cannot be made, as any server will say.
        return []
    return [
        Warning(
            f"ASGI_APPLICATION ({path}) does not come from streaming.handler",
            hint="Use its get_asgi_application: Django's handler keeps a thread and a database connection "
            "for each open stream, and cuts streams when the server stops.",
            id="streaming.W012",
        )
    ]
