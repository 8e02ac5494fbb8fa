"""What all sockets share: the handshake, messages and their limits, reading streams, and the way down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar, Final

import msgspec
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from django.utils import translation
from django.utils.translation import gettext as _

from streaming import conf
from streaming.access import identify_socket
from streaming.access_tickets import for_socket
from streaming.core.ack_window import AckWindow
from streaming.core.errors import AccessRevoked, CursorAhead, StorageUnavailable, StreamError
from streaming.core.framing import messages
from streaming.core.message_rate import RATE, MessageRate, Verdict
from streaming.daphne import abort, paced_socket, release
from streaming.problems import Problem
from streaming.requests import acknowledges, problem_of
from streaming.runtime.follower import Follower, FollowOptions, send_away
from streaming.scopes import Scope
from streaming.service import service
from streaming.signals import stopping
from streaming.threads import borrowed_thread

from . import protocol
from .handshake import deny, place_of, request_of
from .reader import Outcome, StreamReader

logger = logging.getLogger(__name__)

CLOSE_PATIENCE: Final = 1.0
"""Seconds for a last message to leave, and again for the close frame."""

NORMAL: Final = 1000
WRONG_DATA: Final = 1003
OVER_LIMIT: Final = 1008
TOO_BIG: Final = 1009
SERVER_FAULT: Final = 1011
RESTART: Final = 1012
TRY_LATER: Final = 1013
PRIVATE_CODES: Final = 3000
OWN_CODES: Final = 4000
"""Close codes (RFC 6455, 7.4.1, and the registry it made). Our own are this and an HTTP status;
where a server does not let us say one of the others, it is said with `PRIVATE_CODES` added (4001 to 4015)."""

_open: Final[set[SocketConsumer]] = set()


class Gone(Exception):
    """Nobody is at the other side any more."""


class SocketConsumer(AsyncConsumer):  # type: ignore[misc]  # Channels has no types
    """Who calls, what they may send and how fast, and the way down. A message of one of `kinds` goes to the
    handler `on_<type>`; what that raises goes to the client as a `problem`. An API key opens the socket with
    one of the scopes `opens_with`; each message asks for its own."""

    channel_layer_alias = "none: events come from journals"
    kinds: ClassVar[protocol.Kinds] = (protocol.Ping,)
    opens_with: ClassVar[tuple[Scope, ...]] = (Scope.READ,)

    def __init__(self) -> None:
        self._readers: dict[asyncio.Task[None], StreamReader] = {}
        self._beside: set[asyncio.Task[None]] = set()
        self._rate = MessageRate(time.monotonic())
        self._closing = False
        self._given_up = False
        self._leave: Callable[[], None] = _nothing

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """The socket's life."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._receive = receive
        self.base_send = send
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            if not self._given_up or task.uncancel() > 0:
                raise
        finally:
            _open.discard(self)
            self._leave()
            release(self.base_send)
            for reading, reader in list(self._readers.items()):
                reading.cancel()
                # A task that is cancelled before its first step does not let go by itself.
                reader.follower.close()

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Without the visit to a thread that Channels makes for each message."""
        await getattr(self, message["type"].replace(".", "_"))(message)

    # What the server tells

    async def websocket_connect(self, message: dict[str, Any]) -> None:
        """The handshake: find out who it is, accept or refuse."""
        try:
            self.request = request_of(self.scope)
            translation.activate(translation.get_language_from_request(self.request))
            async with borrowed_thread():
                self.caller = await identify_socket(self.request, self._resource())
            self.caller.require(next(filter(self.caller.may, self.opens_with), self.opens_with[0]))
            if service().supervisor.draining:
                raise Problem(503, "draining", retry_after=conf.sse().retry)
        except Exception as error:
            await deny(self.scope, self._receive, self.base_send, problem_of(error))
            raise StopConsumer from error
        await self.base_send({"type": "websocket.accept"})
        self.base_send = paced_socket(self.base_send)
        _open.add(self)
        self._leave = service().watching.joins(self, self.caller)
        # The socket is asked about, and not each of its streams.
        self.caller = replace(self.caller, standing=None)
        await self._guarded(self.opened())

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        """A message of the client."""
        if self._closing:
            return
        text = message.get("text")
        if text is None:
            await self.close(WRONG_DATA)
        elif len(text.encode(errors="replace")) > protocol.MAX_MESSAGE:
            await self.close(TOO_BIG)
        elif (verdict := self._rate.spend(time.monotonic())) is Verdict.CLOSE:
            await self.close(OVER_LIMIT)
        else:
            if verdict is Verdict.WARN:
                await self._guarded(self._warn())
            await self._guarded(self._understand(text))

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        """The socket is closed, whoever did it."""
        raise StopConsumer

    def _resource(self) -> str:
        values = self.scope.get("url_route", {}).get("kwargs", {})
        return self.resource(place_of(self.scope["path"], self.scope.get("root_path", "")), values)

    # What is found when it is asked again who calls

    def revoke(self) -> None:
        """Whoever opened the socket may not any more: it closes, and its streams with it."""
        service().supervisor.counters.readers_revoked += 1
        self._aside(self._end(OWN_CODES + 401, AccessRevoked()))

    def dismiss(self) -> None:
        """Nobody can say any more who it is: come again later."""
        self._aside(self._end(TRY_LATER, StorageUnavailable()))

    # What consumers do

    @classmethod
    def resource(cls, place: str, values: Mapping[str, Any]) -> str:
        """What a ticket for the socket at that place, with what the route reads from its path, is for."""
        return for_socket(place)

    async def opened(self) -> None:
        """The socket was accepted."""

    async def over(self, reader: StreamReader, outcome: Outcome) -> None:
        """A stream of this socket came to its end."""
        raise NotImplementedError

    async def on_ping(self, message: protocol.Ping) -> None:
        """Answer."""
        await self.say({"type": "pong"})

    # What consumers use

    async def read(self, follower: Follower, options: FollowOptions, **about: str) -> StreamReader:
        """Tell that a stream is open, and send its events from now on; `about` names it to the client."""
        task = follower.task
        try:
            window = AckWindow(options.after, acknowledges(self.request))
            await self.say(
                {
                    "type": "opened",
                    **about,
                    "task_id": task.id,
                    "route": task.route,
                    "language": task.spec.language,
                }
            )
        except BaseException:
            follower.close()
            raise
        reader = StreamReader(follower, window, self._send)
        reading = asyncio.create_task(self._read(reader), name=f"socket reads {task.id}")
        self._readers[reading] = reader
        reading.add_done_callback(lambda done: self._readers.pop(done, None))
        return reader

    async def cancel(self, task_id: str, **about: str) -> None:
        """End a task. `ok` comes at once; the stream itself tells how it ended. Raises `Problem` 403."""
        self.caller.require(Scope.CANCEL)
        await self.say({"type": "ok", **about})
        # The end takes a moment, in which the client may have more to say; and who leaves meanwhile meant it.
        self._aside(self._guarded(self._cancel(task_id), **about))

    def acknowledge(self, reader: StreamReader, event_id: int) -> None:
        """The client has the stream up to `event_id`. Raises `CursorAhead`."""
        try:
            reader.acknowledge(event_id)
        except ValueError as error:
            raise CursorAhead(reader.task_id) from error

    async def send_away(self, options: FollowOptions) -> None:
        """Say `reconnect`: there is no room for this reader now."""
        retry = service().supervisor.limits.jittered_retry()
        for message in messages(b"".join(send_away(options.framing, retry, options.after))):
            await self._send(message.decode())

    async def say(self, frame: Mapping[str, Any]) -> None:
        """Send a message of our own."""
        try:
            async with asyncio.timeout(conf.sse().connection_timeout):
                await self._send(msgspec.json.encode(frame).decode())
        except TimeoutError as error:
            # It asks and never reads.
            self._give_up()
            raise Gone from error

    async def tell(self, problem: Problem, **about: str) -> None:
        """Send a refusal: its problem document, as a message."""
        document = problem.document
        del document["type"]
        frame = {"type": "problem", **about, **document}
        if problem.retry_seconds is not None:
            frame["retry_after"] = problem.retry_seconds
        await self.say(frame)

    async def close(self, code: int, last_word: Problem | None = None) -> None:
        """Close the socket, after a last word where there is one."""
        if self._closing:
            return
        self._closing = True
        try:
            if last_word is not None:
                async with asyncio.timeout(CLOSE_PATIENCE):
                    await self.tell(last_word)
            async with asyncio.timeout(CLOSE_PATIENCE):
                await self._send_close(code)
        except TimeoutError:
            self._give_up()
        except (Gone, OSError, RuntimeError):
            # As in `_send`; the server tells the disconnect by itself.
            return

    # Inside

    async def _understand(self, text: str) -> None:
        message = protocol.parse(text, self.kinds)
        about = {"request_id": message.request_id} if isinstance(message, protocol.Named) else {}
        await self._guarded(getattr(self, f"on_{message.name()}")(message), **about)

    async def _end(self, code: int, error: StreamError) -> None:
        # In a task of its own, with no language yet.
        translation.activate(translation.get_language_from_request(self.request))
        await self.close(code, problem_of(error))

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        doing = asyncio.create_task(work)
        self._beside.add(doing)
        doing.add_done_callback(self._beside.discard)

    async def _warn(self) -> None:
        detail = _("At most %d messages a second; more close the socket.") % RATE
        await self.tell(Problem(429, "rate_limited", detail, retry_after=1))

    async def _cancel(self, task_id: str) -> None:
        async with borrowed_thread():
            await service().cancel(task_id, self.caller)

    async def _read(self, reader: StreamReader) -> None:
        try:
            outcome = await reader.run()
        except Gone:
            return
        except Exception:
            logger.exception("stream %s: reading it to a socket failed", reader.task_id)
            outcome = Outcome.FAILED
        if outcome is Outcome.SLOW:
            logger.warning("stream %s: a reader that did not read was closed", reader.task_id)
        await self._guarded(self.over(reader, outcome))

    async def _guarded(self, work: Coroutine[Any, Any, None], **about: str) -> None:
        """`work`; what it raises is told to the client."""
        with suppress(Gone):
            try:
                await work
            except Gone:
                raise
            except Exception as error:
                await self.tell(problem_of(error), **about)

    async def _send_close(self, code: int) -> None:
        try:
            await self.base_send({"type": "websocket.close", "code": code})
        except (OSError, RuntimeError):
            raise
        except Exception:
            if code >= PRIVATE_CODES:
                raise
            # Daphne's protocol lets applications say 1000 and private codes only (Autobahn, `sendClose`).
            await self.base_send({"type": "websocket.close", "code": PRIVATE_CODES + code})

    async def _send(self, text: str) -> None:
        """Raises `Gone`: uvicorn's `ClientDisconnected` is an OSError, and behind a close frame, which may be
        its own after a missing pong, it raises a RuntimeError."""
        try:
            await self.base_send({"type": "websocket.send", "text": text})
        except (OSError, RuntimeError) as error:
            raise Gone from error

    def _give_up(self) -> None:
        """End without the other side, which takes nothing any more, not even a close frame."""
        if not self._given_up:
            self._given_up = True
            abort(self.base_send)
            self._task.cancel()


def _nothing() -> None:
    """Nobody asks about this socket yet."""


async def _close_all(**kwargs: Any) -> None:
    """The streams have ended; sockets without one learn it here."""
    here = asyncio.get_running_loop()
    sockets = [each for each in _open if each._task.get_loop() is here]
    await asyncio.gather(*(each.close(RESTART) for each in sockets))
    if sockets:
        # Daphne stops without a look at what is still to be written.
        await asyncio.wait([each._task for each in sockets], timeout=CLOSE_PATIENCE)


stopping.connect(_close_all, dispatch_uid="streaming.websocket")
