"""Where sockets are. `WEBSOCKET_URLCONF` names a module with `websocket_urlpatterns`, such as this one.

    # settings.py
    WEBSOCKET_URLCONF = "streaming.websocket.routing"

A project with sockets of its own names its own module, and takes ours into its list.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from channels.routing import URLRouter
from django.conf import settings
from django.core.signals import setting_changed
from django.urls import URLPattern, path, re_path

from streaming.problems import Problem

from .base import SocketConsumer
from .consumers import FollowConsumer
from .handshake import Scope, deny, place_of

websocket_urlpatterns = [path("ws/streams/<str:task_id>/", FollowConsumer.as_asgi())]


async def application(scope: Scope, receive: Any, send: Any) -> None:
    """Serve one socket: the project's consumer at that path, else 404."""
    await _router()(scope, receive, send)


def is_socket(scope: Scope) -> bool:
    """Whether an ordinary GET request asks for the path of a socket."""
    if scope["method"] != "GET":
        return False
    place = place_of(scope["path"], scope.get("root_path", ""))
    return any(route.pattern.match(place) for route in routes())


def resource_at(place: str) -> str | None:
    """What a ticket for the socket at that place is for; None where there is no socket of ours."""
    for route in routes():
        if found := route.pattern.match(place):
            consumer = getattr(route.callback, "consumer_class", None)
            if isinstance(consumer, type) and issubclass(consumer, SocketConsumer):
                return consumer.resource(place, found[2])
            return None
    return None


@cache
def routes() -> list[URLPattern]:
    """The project's sockets, none without the setting.

    Raises `ImportError` or `AttributeError` where it names no module with such a list.
    """
    name = getattr(settings, "WEBSOCKET_URLCONF", None)
    return list(import_module(name).websocket_urlpatterns) if name else []


@cache
def _router() -> Any:
    # Django's types know views only, and this is an ASGI application.
    elsewhere: Any = _nothing_here
    return URLRouter([*routes(), re_path("", elsewhere)])


async def _nothing_here(scope: Scope, receive: Any, send: Any) -> None:
    await deny(scope, receive, send, Problem(404, "not_found"))


def _forget(setting: str, **kwargs: Any) -> None:
    if setting == "WEBSOCKET_URLCONF":
        routes.cache_clear()
        _router.cache_clear()


setting_changed.connect(_forget)
