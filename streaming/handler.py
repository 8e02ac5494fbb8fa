"""The door: Django's ASGI handler, fit for open streams.

What differs from Django's: a request body is bounded in size and time; the request's thread and database
connection go back before the first byte of a stream; a client that leaves cancels the view or the
stream, and nothing else; the process drains on SIGTERM. Public ASGI only, Django's own request, view
and response.
"""

from __future__ import annotations

import asyncio
import io
import logging
import tempfile
from contextlib import suppress
from types import ModuleType, TracebackType
from typing import IO, Any, ClassVar, Final, TypeGuard

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core import signals
from django.core.cache import close_caches
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.db import close_old_connections, reset_queries
from django.dispatch import Signal
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

from . import conf
from .checks import ensure_sound
from .daphne import abort, paced, release
from .drain import DRAIN
from .problems import Problem
from .refusals import refuse
from .responses import EventStream, Opened
from .signals import starting
from .threads import borrowed_thread

logger = logging.getLogger(__name__)

Scope = dict[str, Any]

LINGER: Final = 2.0
"""Seconds for which the rest of a refused body is taken in before the connection is closed."""


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
        StreamingHandler.made = True

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        DRAIN.install()
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self.handle(scope, receive, send)
        elif scope["type"] == "websocket":
            await _sockets().application(scope, receive, send)
        else:
            raise ValueError(f"an unknown kind of connection: {scope['type']}")

    async def handle(self, scope: Scope, receive: Any, send: Any) -> None:
        """One request, from its body to the end of its response."""
        try:
            if _sockets().is_socket(scope):
                raise Problem(
                    426, "upgrade_required", headers={"Connection": "Upgrade", "Upgrade": "websocket"}
                )
            body_file = await _read_body(scope, receive)
        except RequestAborted:
            return
        except Problem as problem:
            await self._refuse(problem, scope, receive, send)
            return
        set_script_prefix(get_script_prefix(scope))
        response: HttpResponseBase | None = None
        opened = scope[Opened.KEY] = Opened()
        try:
            async with _CancelOnDisconnect(receive):
                response = await self._respond(scope, body_file)
                if isinstance(response, EventStream):
                    send = paced(send)
                await self.send_response(response, send)
        except asyncio.CancelledError:
            if not _gave_up(response):
                raise
            # We cancelled ourselves; other servers close the connection of a response that does not end.
            abort(send)
            logger.warning("stream %s: a reader that did not read was closed", response["X-Stream-Id"])
        finally:
            opened.close()
            release(send)
            body_file.close()
            if response is None:
                await signals.request_finished.asend(sender=self.__class__)
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
            return response

    async def _refuse(self, problem: Problem, scope: Scope, receive: Any, send: Any) -> None:
        """Answer although the body is still on its way, and take that in for a moment: a server that closed
        at once would reset the connection, and many a client would lose the answer."""
        set_script_prefix(get_script_prefix(scope))
        response = await self._respond(scope, io.BytesIO(), problem)

        async def lingering(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _discard_body(receive)
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


def _gave_up(response: HttpResponseBase | None) -> TypeGuard[EventStream]:
    """Whether the response ended because its reader blocked for too long."""
    if not (isinstance(response, EventStream) and response.follower.slow):
        return False
    task = asyncio.current_task()
    return task is not None and task.uncancel() == 0


class _CancelOnDisconnect:
    """Cancels the task inside when the client leaves, and swallows just that cancellation.

    A cancellation from outside (the server's) passes through.
    """

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watcher = asyncio.create_task(self._watch())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._watcher.cancel()
        if self._gone and kind is asyncio.CancelledError:
            return self._task.uncancel() == 0
        return False

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()


async def _read_body(scope: Scope, receive: Any) -> IO[bytes]:
    """The whole body, in memory or (where the limit is raised) in a file.

    Raises `Problem` 413 or 408, `RequestAborted` when the client leaves.
    """
    limits = conf.server()
    headers = dict(scope["headers"])
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limits.max_body_bytes:
        raise _too_large(limits.max_body_bytes)
    body_file = tempfile.SpooledTemporaryFile(max_size=settings.FILE_UPLOAD_MAX_MEMORY_SIZE, mode="w+b")  # noqa: SIM115
    try:
        async with asyncio.timeout(limits.body_timeout):
            await _receive_body(receive, body_file, limits.max_body_bytes)
    except BaseException as error:
        body_file.close()
        if isinstance(error, TimeoutError):
            # The rest of the body may come at any time, so the connection is of no more use.
            raise Problem(408, "body_timeout", headers={"Connection": "close"}) from error
        raise
    body_file.seek(0)
    return body_file


async def _receive_body(receive: Any, body_file: IO[bytes], limit: int) -> None:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestAborted
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        body_file.write(chunk)
        if not message.get("more_body", False):
            return


async def _discard_body(receive: Any) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body", False):
                pass


def _too_large(limit: int) -> Problem:
    return Problem(413, "body_too_large", headers={"Connection": "close"}, limit=limit)


async def _announce_start(sender: type, scope: Scope) -> None:
    """`request_started`. Django's own receivers wait for nothing, so they need no thread."""
    if _only_djangos_receivers(signals.request_started):
        signals.request_started.send(sender=sender, scope=scope)
    else:
        await signals.request_started.asend(sender=sender, scope=scope)


_DJANGOS_RECEIVERS = frozenset({reset_queries, close_old_connections, close_caches})


def _only_djangos_receivers(signal: Signal) -> bool:
    try:
        return all(receiver() in _DJANGOS_RECEIVERS for _, receiver, *_ in signal.receivers)
    except TypeError:
        # Another shape in another version of Django: the slower way is always right.
        return False


async def _lifespan(receive: Any, send: Any) -> None:
    """ASGI's lifespan protocol. Pools start lazily; who wants to be ready earlier listens to `starting`."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await starting.asend(StreamingHandler)
            await send({"type": "lifespan.startup.complete"})
        else:
            await DRAIN.finish()
            await send({"type": "lifespan.shutdown.complete"})
            return
