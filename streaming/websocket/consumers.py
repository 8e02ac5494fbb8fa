"""Channels' consumers: a socket for one stream, and one for several.

No channel layer takes part: a socket reads journals, through the same followers as HTTP does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Final

from django.utils.translation import gettext as _

from streaming.access_tickets import for_stream
from streaming.core.errors import AccessRevoked, NotNow, TaskNotFound
from streaming.core.framing import WebSocketFraming
from streaming.messages import language_of, supported
from streaming.problems import Problem
from streaming.producers import open_producer
from streaming.requests import problem_of, socket_options
from streaming.scopes import Scope
from streaming.service import service
from streaming.shortcuts import Options, task_spec
from streaming.threads import borrowed_thread

from . import protocol
from .base import NORMAL, OWN_CODES, RESTART, SERVER_FAULT, TRY_LATER, Gone, SocketConsumer
from .reader import Outcome, StreamReader

MAX_STREAMS: Final = 8
"""Streams at once on one socket."""

REMEMBERED: Final = 256
"""Ended streams whose names a socket still knows."""


class FollowConsumer(SocketConsumer):
    """`/ws/streams/<id>/`: one stream, from `?after=` on. The socket ends with it."""

    kinds: ClassVar[protocol.Kinds] = (protocol.Ping, protocol.Ack, protocol.Cancel)

    def __init__(self) -> None:
        super().__init__()
        self._reader: StreamReader | None = None

    @classmethod
    def resource(cls, place: str, values: Mapping[str, Any]) -> str:
        """The same as over HTTP."""
        return for_stream(values["task_id"])

    async def opened(self) -> None:
        """Follow, or say why not and close."""
        task_id = self.scope["url_route"]["kwargs"]["task_id"]
        try:
            options = socket_options(self.request, WebSocketFraming(), resumed=True)
            try:
                async with borrowed_thread():
                    follower = await service().follow(task_id, self.caller, options)
            except NotNow:
                await self.send_away(options)
                await self.close(TRY_LATER)
                return
            if follower is None:
                await self.say({"type": "ended", "task_id": task_id})
                await self.close(NORMAL)
                return
            self._reader = await self.read(follower, options)
        except Gone:
            raise
        except Exception as error:
            problem = problem_of(error)
            code = {500: SERVER_FAULT, 503: TRY_LATER}.get(problem.status, OWN_CODES + problem.status)
            await self.close(code, problem)

    async def over(self, reader: StreamReader, outcome: Outcome) -> None:
        """The socket's only stream has ended."""
        match outcome:
            case Outcome.ENDED:
                await self.close(NORMAL)
            case Outcome.SENT_AWAY:
                await self.close(RESTART)
            case Outcome.SLOW:
                await self.close(OWN_CODES + 408, _slow())
            case Outcome.REVOKED:
                await self.close(OWN_CODES + 403)
            case Outcome.FAILED:
                await self.close(SERVER_FAULT, Problem(500, "server_error"))

    async def on_ack(self, message: protocol.Ack) -> None:
        """Room for more."""
        if self._reader is not None:
            self.acknowledge(self._reader, message.id)

    async def on_cancel(self, message: protocol.Cancel) -> None:
        """End the task."""
        if self._reader is not None:
            await self.cancel(self._reader.task_id)


class MultiplexConsumer(SocketConsumer):
    """Several streams on one socket, each under the `request_id` that the client gave it.

    Whoever derives from it adds messages that start tasks: a kind with its handler, which calls `start`.
    """

    opens_with: ClassVar[tuple[Scope, ...]] = (Scope.GENERATE, Scope.READ)

    kinds: ClassVar[protocol.Kinds] = (
        protocol.Ping,
        protocol.Follow,
        protocol.NamedAck,
        protocol.NamedCancel,
    )

    def __init__(self) -> None:
        super().__init__()
        self._streams: dict[str, StreamReader] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()

    async def start(self, request_id: str, name: str, arguments: Mapping[str, Any], **options: Any) -> None:
        """Start the registered producer `name` and stream it as `request_id`; keyword arguments are those of
        `Options`. Raises `Problem`, `PoolRefused`."""
        opens = partial(open_producer, name, arguments)
        await self._start(request_id, opens, dict(arguments), Options(**{"kind": name} | options))

    async def stream(self, request_id: str, parts: AsyncIterable[Any] | Iterable[Any], **options: Any) -> str:
        """Stream what `parts` yields as `request_id`; the task's id. Arguments and errors are those of
        `streaming.stream` and `start`."""
        return await self._start(request_id, lambda: parts, None, Options(**options))

    async def _start(
        self,
        request_id: str,
        opens: Callable[[], Any],
        arguments: dict[str, Any] | None,
        wishes: Options,
    ) -> str:
        self.caller.require(*wishes.scopes)
        self._check_room(request_id)
        language = supported(wishes.message_language or "") or language_of(self.request, wishes.language)
        spec = task_spec(self.caller, language, opens, arguments, wishes)
        follow = socket_options(self.request, WebSocketFraming(request_id), 0, resumed=False)
        async with borrowed_thread():
            follower = await service().open(spec, self.caller, follow)
        self._streams[request_id] = await self.read(follower, follow, request_id=request_id)
        return follower.task.id

    async def on_follow(self, message: protocol.Follow) -> None:
        """Read a task that there is already."""
        self.caller.require(Scope.READ)
        request_id = message.request_id
        self._check_room(request_id)
        options = socket_options(self.request, WebSocketFraming(request_id), message.after, resumed=True)
        try:
            async with borrowed_thread():
                follower = await service().follow(message.task_id, self.caller, options)
        except NotNow:
            await self.send_away(options)
            return
        if follower is None:
            self._remember(request_id, message.task_id)
            await self.say({"type": "ended", "request_id": request_id, "task_id": message.task_id})
            return
        self._streams[request_id] = await self.read(follower, options, request_id=request_id)

    async def on_cancel(self, message: protocol.NamedCancel) -> None:
        """End a stream's task; again: the same answer."""
        await self.cancel(self._task_of(message.request_id), request_id=message.request_id)

    async def on_ack(self, message: protocol.NamedAck) -> None:
        """Room for more."""
        reader = self._streams.get(message.request_id)
        if reader is not None:
            self.acknowledge(reader, message.id)
        else:
            self._task_of(message.request_id)

    async def over(self, reader: StreamReader, outcome: Outcome) -> None:
        """One of the streams has ended; the others go on, unless the client does not read."""
        request_id = next(name for name, each in self._streams.items() if each is reader)
        del self._streams[request_id]
        self._remember(request_id, reader.task_id)
        if outcome is Outcome.SLOW:
            await self.close(OWN_CODES + 408, _slow(request_id=request_id))
        elif outcome is Outcome.REVOKED and not reader.follower.done:
            # It acknowledged nothing, so the event could not be sent.
            await self.tell(Problem(403, AccessRevoked.code), request_id=request_id)
        elif outcome is Outcome.FAILED:
            await self.tell(Problem(500, "server_error"), request_id=request_id)

    def _check_room(self, request_id: str) -> None:
        if request_id in self._streams or request_id in self._ended:
            raise Problem(409, "duplicate", _("This socket has had that request id."))
        if len(self._streams) >= MAX_STREAMS:
            detail = _("At most %d streams at once on one socket.") % MAX_STREAMS
            raise Problem(429, "too_many_streams", detail, limit=MAX_STREAMS)

    def _task_of(self, request_id: str) -> str:
        reader = self._streams.get(request_id)
        task_id = reader.task_id if reader is not None else self._ended.get(request_id)
        if task_id is None:
            raise TaskNotFound(request_id)
        return task_id

    def _remember(self, request_id: str, task_id: str) -> None:
        self._ended[request_id] = task_id
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)


def _slow(**members: Any) -> Problem:
    return Problem(408, "slow_reader", _("Come back, and go on behind the last event you have."), **members)
