"""The opening of a socket: the request behind it, and how it is refused."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, Final

from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.handlers.asgi import ASGIRequest
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from streaming.problems import Problem

Scope = dict[str, Any]

ANSWER_PATIENCE: Final = 1.0
"""Seconds for a refusal to leave."""

_SCHEMES: Final = {"ws": "http", "wss": "https"}


def request_of(scope: Scope) -> ASGIRequest:
    """The GET request that asked for the upgrade, with its session, for all that reads requests."""
    as_http = {**scope, "method": "GET", "scheme": _SCHEMES.get(scope.get("scheme", "ws"), "http")}
    # Its body is empty, so it has no file.
    request = ASGIRequest(as_http, None)  # type: ignore[arg-type]
    if _has_sessions():
        store = import_module(settings.SESSION_ENGINE).SessionStore
        request.session = store(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
    return request


def place_of(path: str, root_path: str) -> str:
    """A path as patterns of routes have it: within the project, without the slash before it."""
    return path.removeprefix(root_path).lstrip("/")


async def deny(scope: Scope, receive: Any, send: Any, problem: Problem) -> None:
    """Refuse a socket that was not accepted yet: with the problem's status and document where the server can
    (ASGI's extension for it), else with its plain 403."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    response = problem.response()
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": response.content})
    # uvicorn tells of the end twice, when it has answered and when the connection is gone; who returns before
    # the second one is taken for an application that forgot to answer, by a line in the log each time.
    with suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_PATIENCE):
            for _ in range(2):
                while (await receive())["type"] != "websocket.disconnect":
                    pass


@cache
def _has_sessions() -> bool:
    classes = [import_string(path) for path in settings.MIDDLEWARE]
    return any(isinstance(each, type) and issubclass(each, SessionMiddleware) for each in classes)


def _forget(setting: str, **kwargs: Any) -> None:
    if setting == "MIDDLEWARE":
        _has_sessions.cache_clear()


setting_changed.connect(_forget)
