"""The hot door: from the server to a view that streams, past whatever would do nothing for it.

Django's handler runs every middleware, resolves the URL and announces the request; for a call of a program
to a view that looks after itself all of that changes nothing but a few headers, which are the same each
time. So the first such call goes through the ordinary door and is watched: its path, its view and what the
middleware added to its head are noted. From then on its like come in here: the same view gets the same kind
of request, and its response has the same head.

This door stays shut, and everything goes through the ordinary one, where a middleware of the project would
be left out, for callers with cookies or from pages (a browser's session and CORS are the middleware's
affair), and where somebody listens to `request_started` or `request_finished`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from typing import IO, Any, Final, Protocol, cast

from asgiref.sync import sync_to_async
from django.conf import settings
from django.conf.urls.i18n import is_language_prefix_patterns_used
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import get_script_prefix
from django.core.handlers.exception import response_for_exception
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.locale import LocaleMiddleware
from django.template.response import SimpleTemplateResponse
from django.urls import get_script_prefix as current_script_prefix
from django.urls import set_script_prefix
from django.utils import translation
from django.utils.log import log_response

from . import conf, csp, hosts
from .bodies import Scope, read_body
from .exchanges import Exchange
from .problems import Problem
from .responses import EventStream, Opened
from .sending import CancelOnDisconnect, Receive, Send, send_iterated, send_stream
from .signals import only_djangos_receivers
from .threads import borrowed_thread

View = Callable[[HttpRequest], Coroutine[Any, Any, HttpResponseBase]]

_WATCH: Final = "streaming.hot_door"
"""Where the ordinary door puts what it watches for in the ASGI scope."""

_OTHER_CALLERS: Final = frozenset({b"cookie", b"origin"})

_MAX_ROUTES: Final = 64

_Key = tuple[str, str, str, bool | None]
"""Path, root path, scheme, and whether a trusted proxy says that TLS was spoken to it."""

_LEFT_OUT: Final = frozenset(
    {
        "corsheaders.middleware.CorsMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.locale.LocaleMiddleware",
        "django.middleware.security.SecurityMiddleware",
        "servestatic.middleware.ServeStaticMiddleware",
        "streaming.middleware.AuthenticationMiddleware",
        "streaming.middleware.CommonMiddleware",
        "streaming.middleware.ContentSecurityPolicyMiddleware",
        "streaming.middleware.CsrfViewMiddleware",
        "streaming.middleware.LocaleMiddleware",
        "streaming.middleware.MessageMiddleware",
        "streaming.middleware.SecurityMiddleware",
        "streaming.middleware.SessionMiddleware",
        "streaming.middleware.XFrameOptionsMiddleware",
        "whitenoise.middleware.WhiteNoiseMiddleware",
    }
)
"""Middleware that does nothing for a POST without cookies and `Origin` but add headers, always the same, or
redirect to TLS, which depends on the scheme alone. What the classes in `_LOCALE` and `_COMMON` and `_POLICY`
do beside that (the language, the check of the host, the policy of an error's page) is done here."""

_LOCALE: Final = frozenset(
    {"django.middleware.locale.LocaleMiddleware", "streaming.middleware.LocaleMiddleware"}
)

_POLICY: Final = "streaming.middleware.ContentSecurityPolicyMiddleware"

_COMMON: Final = frozenset(
    {"django.middleware.common.CommonMiddleware", "streaming.middleware.CommonMiddleware"}
)


def hot_route(
    view: View, *, lends_thread: bool = True
) -> Callable[..., Coroutine[Any, Any, HttpResponseBase]]:
    """Let calls of programs to the view come in through the hot door.

    For an asynchronous view at a path without parameters that answers with a stream, or refuses, and looks
    after itself: it identifies its callers (as `stream` and `start` do, by host, key, session and CSRF token)
    and needs nothing of the project's middleware. It must not wait long before it answers: who leaves is
    noticed only then. `lends_thread`: whether synchronous calls of the view, as those to the database, get a
    thread that is tidied afterwards; a view without such calls of its own starts a little faster without.
    """

    @wraps(view)
    async def watched(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = await view(request, *args, **kwargs)
        watch: _Watch | None = getattr(request, "scope", {}).get(_WATCH)
        match = request.resolver_match
        # What is wrapped around it (a check of the project's) must not be left out.
        if watch is not None and match is not None and match.func is watched and not args and not kwargs:
            watch.view, watch.lends_thread, watch.given = view, lends_thread, dict(response.items())
        return response

    watched.csrf_exempt = True  # type: ignore[attr-defined]
    return watched


@dataclass(slots=True)
class _Watch:
    """What the ordinary door sees of a call: its view, and the head of the view's response."""

    view: View | None = None
    lends_thread: bool = True
    given: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HotRoute:
    """A view, and what the project's middleware adds to the head of its response. `lends_thread`: see
    `hot_route`."""

    view: View
    added: tuple[tuple[bytes, bytes], ...]
    lends_thread: bool


class OrdinaryDoor(Protocol):
    """What the hot door leaves to the handler."""

    def create_request(self, scope: Any, body_file: Any) -> tuple[Any, Any]:
        """The request, or the response to one that is none."""
        ...

    async def refuse(self, problem: Problem, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a call whose body is not taken."""
        ...

    async def send_response(self, response: Any, send: Any) -> None:
        """Send what is no stream of ours."""
        ...


class HotDoor:
    """See the module."""

    def __init__(self, ordinary: OrdinaryDoor) -> None:
        self._ordinary = ordinary
        self._routes: dict[_Key, HotRoute] = {}
        self._listeners: tuple[list[Any], list[Any]] = ([], [])
        self._locale = LocaleMiddleware(_no_response) if _LOCALE.intersection(settings.MIDDLEWARE) else None
        self._shut = bool(
            not conf.server().hot_door
            or set(settings.MIDDLEWARE) - _LEFT_OUT
            or settings.PREPEND_WWW
            or settings.DISALLOWED_USER_AGENTS
        )
        self._protects = _POLICY in settings.MIDDLEWARE
        self._checks_host = bool(_COMMON.intersection(settings.MIDDLEWARE))
        self._proxy, self._secure = b"", b""
        if settings.SECURE_PROXY_SSL_HEADER is not None:
            name, value = settings.SECURE_PROXY_SSL_HEADER
            self._proxy = name.removeprefix("HTTP_").replace("_", "-").lower().encode()
            self._secure = value.encode("latin1")

    def route(self, scope: Scope) -> HotRoute | None:
        """The route of a call that may come in here."""
        if self._shut or scope["method"] != "POST":
            return None
        key = self._key(scope)
        found = None if key is None else self._routes.get(key)
        if found is None:
            if key is not None:
                scope[_WATCH] = _Watch()
            return None
        return found if self._listeners == _listeners() else None

    def learn(self, scope: Scope, response: EventStream) -> None:
        """`response`, which a hot view gave, has passed the middleware."""
        watch: _Watch | None = scope.get(_WATCH)
        if watch is None or watch.view is None or response.wrapped or response.cookies:
            return
        head = dict(response.items())
        added = [(name, value) for name, value in head.items() if name not in watch.given]
        if len(head) != len(watch.given) + len(added):
            return
        for name, value in watch.given.items():
            if head[name] != value:
                if name != "Vary" or not head[name].startswith(f"{value}, "):
                    return
                added.append((name, head[name].removeprefix(f"{value}, ")))
        if all(map(only_djangos_receivers, (signals.request_started, signals.request_finished))):
            key = self._key(scope)
            assert key is not None
            started, finished = _listeners()
            self._listeners = [*started], [*finished]
            if len(self._routes) >= _MAX_ROUTES:
                del self._routes[next(iter(self._routes))]
            encoded = tuple((name.encode("ascii"), value.encode("latin1")) for name, value in added)
            self._routes[key] = HotRoute(watch.view, encoded, watch.lends_thread)

    async def answer(
        self, route: HotRoute, scope: Scope, receive: Receive, send: Send
    ) -> Coroutine[Any, Any, None] | None:
        """One request, from its body to its response. Where that is a stream, what sends it is returned, for
        the caller to await: so nothing of the request stays in memory while the stream is open."""
        try:
            body_file = await read_body(scope, receive)
        except RequestAborted:
            return None
        except Problem as problem:
            await self._ordinary.refuse(problem, scope, receive, send)
            return None
        _set_script_prefix(scope)
        opened = scope[Opened.KEY] = Opened()
        try:
            if route.lends_thread:
                async with borrowed_thread():
                    response = await self._respond(route, scope, body_file)
            else:
                response = await self._respond(route, scope, body_file)
            if isinstance(response, EventStream) and not response.wrapped:
                opened.let_live(response.follower)
                scope[Exchange.KEY].streams(response.follower, response.status_code)
                head = response.head(route.added)
                encode = response.encoder()
                return send_stream(response.follower, response.status_code, head, receive, send, encode)
            await self._send_other(response, route, scope[Exchange.KEY], receive, send)
        finally:
            opened.close()
            body_file.close()
        return None

    async def _send_other(
        self, response: HttpResponseBase, route: HotRoute, exchange: Exchange, receive: Receive, send: Send
    ) -> None:
        """A refusal, or whatever else the view answers with."""
        for name, value in route.added:
            response.headers.setdefault(name.decode("ascii"), value.decode("latin1"))
        if self._protects:
            csp.protect(response)
        if isinstance(response, EventStream):
            exchange.streams(response.follower, response.status_code)
        else:
            exchange.name(response)
            send = exchange.counted(send)
        try:
            async with CancelOnDisconnect(receive):
                await send_iterated(response, send, self._ordinary.send_response)
        finally:
            if response.streaming:
                await sync_to_async(response.close)()

    async def _respond(self, route: HotRoute, scope: Scope, body_file: IO[bytes]) -> HttpResponseBase:
        request, error_response = self._ordinary.create_request(scope, body_file)
        if request is None:
            return cast("HttpResponseBase", error_response)
        if self._locale is not None and self._speaks_otherwise(request):
            self._locale.process_request(request)
        try:
            if self._checks_host:
                hosts.check(request)
            response = await route.view(request)
            if isinstance(response, SimpleTemplateResponse):
                response = await sync_to_async(response.render)()
        except Exception as error:
            async with borrowed_thread():
                response = await sync_to_async(response_for_exception)(request, error)
        if isinstance(response, HttpResponse) and response.status_code >= 400:
            log_response("%s: %s", response.reason_phrase, request.path, response=response, request=request)
        if isinstance(response, HttpResponse):
            response.headers.setdefault("Content-Length", str(len(response.content)))
            if self._locale is not None:
                response.headers.setdefault("Content-Language", translation.get_language() or "")
        return response

    def _speaks_otherwise(self, request: HttpRequest) -> bool:
        """Whether another language than the project's is asked for, or left from the request before (a server
        may begin a request in the context of the one that it followed)."""
        return (
            "HTTP_ACCEPT_LANGUAGE" in request.META
            or is_language_prefix_patterns_used(settings.ROOT_URLCONF)[0]
            or translation.get_language() != settings.LANGUAGE_CODE
        )

    def _key(self, scope: Scope) -> _Key | None:
        """What decides about the view, and about what the middleware adds; None for other callers."""
        proxied: bytes | None = None
        for name, value in scope["headers"]:
            if name in _OTHER_CALLERS:
                return None
            if proxied is None and name == self._proxy:
                # The first one counts, as in `HttpRequest.scheme`.
                proxied = value.partition(b",")[0].strip()
        secure = None if proxied is None else proxied == self._secure
        return scope["path"], scope.get("root_path", ""), scope.get("scheme", "http"), secure


def _set_script_prefix(scope: Scope) -> None:
    """Where the project is mounted, for `reverse`; mostly it is known already."""
    prefix = get_script_prefix(scope)
    if current_script_prefix() != (prefix if prefix.endswith("/") else f"{prefix}/"):
        set_script_prefix(prefix)


def _no_response(request: HttpRequest) -> HttpResponseBase:
    raise AssertionError("never called")


def _listeners() -> tuple[list[Any], list[Any]]:
    return signals.request_started.receivers, signals.request_finished.receivers
