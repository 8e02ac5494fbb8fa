"""The door: Django's ASGI handler, fit for open streams.

What differs from Django's: a request body is bounded in size and time; the request's thread and database
connection go back before the first byte of a stream; a client that leaves cancels the view or the
stream, and nothing else; the process drains on SIGTERM. Public ASGI only, Django's own request, view
and response.
"""

from __future__ import annotations

import io
from types import ModuleType
from typing import IO, Any, ClassVar

import django
from asgiref.sync import sync_to_async
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

from . import conf, crowding, heads
from .bodies import Scope, discard_body, read_body
from .checks import ensure_sound
from .daphne import rename_query
from .drain import DRAIN
from .exchanges import Exchange
from .hidden_query import hide
from .hot_door import HotDoor
from .problems import Problem
from .proxies import Proxies
from .refusals import refuse
from .responses import EventStream, Opened
from .sending import CancelOnDisconnect, send_iterated, send_stream
from .signals import only_djangos_receivers, starting
from .threads import borrowed_thread


def get_asgi_application() -> StreamingHandler:
    """The ASGI application of a project: use it in `asgi.py` instead of Django's function of that name.

    Raises `ImproperlyConfigured` when the settings are not sound, `ImportError` where WEBSOCKET_URLCONF names
    no module.
    """
    django.setup(set_prefix=False)
    ensure_sound()
    _sockets().routes()
    return StreamingHandler()


class StreamingHandler(ASGIHandler):
    """See the module."""

    made: ClassVar[bool] = False
    """Whether this process has made one."""

    def __init__(self) -> None:
        super().__init__()
        self._hot = HotDoor(self)
        self._limit = conf.server().limit_concurrency
        self._open = 0
        trusted = conf.trusted_proxies()
        self._proxies = Proxies(trusted) if trusted else None
        StreamingHandler.made = True

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        DRAIN.install()
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            raise ValueError(f"an unknown kind of connection: {scope['type']}")
        if self._proxies is not None:
            self._proxies.apply(scope)
        if hide(scope):
            rename_query(send, scope["query_string"])
        exchange = Exchange(scope)
        self._open += 1
        try:
            if (problem := heads.refusal(scope)) is not None:
                await crowding.answer(problem, scope, receive, send, exchange)
            elif self._open > self._limit and not crowding.is_needed(scope):
                await crowding.turn_away(scope, receive, send, exchange)
            elif scope["type"] == "websocket":
                await _sockets().application(scope, receive, send)
            elif (route := self._hot.route(scope)) is None:
                await self.handle(scope, receive, send)
            elif (streaming := await self._hot.answer(route, scope, receive, send)) is not None:
                await streaming
        finally:
            self._open -= 1
            exchange.over()

    async def handle(self, scope: Scope, receive: Any, send: Any) -> None:
        """One request through Django's chain, from its body to the end of its response."""
        exchange: Exchange = scope[Exchange.KEY]
        try:
            if _sockets().is_socket(scope):
                raise Problem(
                    426, "upgrade_required", headers={"Connection": "Upgrade", "Upgrade": "websocket"}
                )
            body_file = await read_body(scope, receive)
        except RequestAborted:
            return
        except Problem as problem:
            await self.refuse(problem, scope, receive, send)
            return
        set_script_prefix(get_script_prefix(scope))
        response: HttpResponseBase | None = None
        stream: EventStream | None = None
        opened = scope[Opened.KEY] = Opened()
        try:
            async with CancelOnDisconnect(receive):
                response = await self._respond(scope, body_file)
                if isinstance(response, EventStream):
                    exchange.streams(response.follower, response.status_code)
                    if not response.wrapped:
                        stream = response
                    else:
                        await send_iterated(response, send, self.send_response)
                else:
                    await send_iterated(response, exchange.counted(send), self.send_response)
            if stream is not None:
                self._hot.learn(scope, stream)
                head, encode = stream.head(), stream.encoder()
                await send_stream(stream.follower, stream.status_code, head, receive, send, encode)
        finally:
            opened.close()
            body_file.close()
            if response is None:
                await signals.request_finished.asend(sender=self.__class__)
            elif stream is not None and only_djangos_receivers(signals.request_finished):
                # Nothing of the project's is closed here, so it needs no thread.
                response.close()
            else:
                await sync_to_async(response.close)()

    async def _respond(
        self, scope: Scope, body_file: IO[bytes], refusal: Problem | None = None
    ) -> HttpResponseBase:
        """The response object; what the request borrowed is given back before it is sent."""
        async with borrowed_thread():
            await _announce_start(self.__class__, scope)
            request, error_response = self.create_request(scope, body_file)
            if request is None:
                assert error_response is not None
                return error_response
            if refusal is not None:
                refuse(request, refusal)
            response: HttpResponseBase = await self.run_get_response(request)
            if not isinstance(response, EventStream):
                scope[Exchange.KEY].name(response)
            return response

    async def refuse(self, problem: Problem, scope: Scope, receive: Any, send: Any) -> None:
        """Answer although the body is still on its way, and take that in for a moment: a server that closed
        at once would reset the connection, and many a client would lose the answer."""
        set_script_prefix(get_script_prefix(scope))
        response = await self._respond(scope, io.BytesIO(), problem)
        send = scope[Exchange.KEY].counted(send)

        async def lingering(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await discard_body(receive)
                message = {"type": "http.response.body"}
            await send(message)

        try:
            await self.send_response(response, lingering)
        finally:
            await sync_to_async(response.close)()


def _sockets() -> ModuleType:
    """The routing of WebSockets; not before Django is set up, it needs its models."""
    from .websocket import routing

    return routing


async def _announce_start(sender: type, scope: Scope) -> None:
    """`request_started`. Django's own receivers wait for nothing, so they need no thread."""
    if only_djangos_receivers(signals.request_started):
        signals.request_started.send(sender=sender, scope=scope)
    else:
        await signals.request_started.asend(sender=sender, scope=scope)


async def _lifespan(receive: Any, send: Any) -> None:
    """ASGI's lifespan protocol. Pools start lazily; who wants to be ready earlier listens to `starting`."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await starting.asend(StreamingHandler, http=True)
            await send({"type": "lifespan.startup.complete"})
        else:
            await DRAIN.finish()
            await send({"type": "lifespan.shutdown.complete"})
            return
