"""HTTP/1.1 as `manage.py serve` reads it: uvicorn's protocol over httptools, without three of its ways.

- `Upgrade`. httptools reads no body behind it: uvicorn drops what came in the same packet, and takes the next
  one for another request, whose head whoever wrote the body has chosen. Here a request that asks for anything
  but a WebSocket is read once more without the field, body included: a server may ignore it (RFC 9110, 7.8),
  and clients offer `h2c` with their calls.
- A handshake that the WebSocket library cannot read, one with a body above all, is answered (RFC 6455, 4.2.1)
  and not left open without a byte.
- Trailers. uvicorn adds them to the headers of a request that is already judged: those of identity and of
  proxies, too (RFC 9110, 6.5.1, forbids it). Here they are read and forgotten.

And what is never a body (a head, trailers, what stands beside the size of a chunk) is bounded: the parser
keeps a line until its end.

Servers that are started by hand read as they always do; `uvicorn --http
streaming.http_protocol:StreamingHTTPProtocol` reads as this.
"""

from __future__ import annotations

from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .heads import MAX_JUDGED_BYTES

MAX_UNREAD: Final = 2 * MAX_JUDGED_BYTES
"""Bytes in which neither a head ends nor a body goes on. Heads that are smaller are refused by `heads`, with
more words."""

_INVALID: Final = "Invalid HTTP request received."


class _Trailers(list[tuple[bytes, bytes]]):
    """Where fields go that come behind the head."""

    def append(self, field: tuple[bytes, bytes]) -> None:
        """Forget it."""


_TRAILERS: Final = _Trailers()


class StreamingHTTPProtocol(HttpToolsProtocol):
    """See the module."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unread = 0
        self._running: RequestResponseCycle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone, or was cut off."""
        self._abandon()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What came. As uvicorn's own, but for `Upgrade`."""
        self._unset_keepalive_if_required()
        self._unread += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decide(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse()
        if self._unread > MAX_UNREAD:
            self._refuse()

    def _should_upgrade(self) -> bool:
        """uvicorn asks at each step whether to pass over what the parser takes for an upgrade: always, until
        `_decide`."""
        return True

    def on_headers_complete(self) -> None:
        """The head is over."""
        self._unread = 0
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            self.headers = _TRAILERS

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._unread = 0
        super().on_body(body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _abandon(self) -> None:
        """Tell who is answering that nobody listens: uvicorn tells the last request alone, which may still
        wait for its turn behind that one."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _decide(self, rest: memoryview) -> None:
        """A head that asks for another protocol was read, and `rest` came behind it."""
        while True:
            if self._asks_for_socket():
                self._open_socket()
                return
            if self.scope["method"] == "CONNECT":
                self._refuse()
                return
            try:
                # By a parser that has not read it: behind `Connection: close` one takes nothing more.
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                # One after the other: there may be another such head in the rest.
                self.parser.feed_data(self._plain_head())
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._refuse()
                return
            else:
                return

    def _asks_for_socket(self) -> bool:
        """Whether it is a WebSocket's handshake, and its turn: an answer that is still to come would be mixed
        with frames. `Upgrade` means nothing in HTTP/1.0 (RFC 9110, 7.8)."""
        return (
            not self._is_answering()
            and self._get_upgrade() == b"websocket"
            and self._should_upgrade_to_ws()
            and self.scope["http_version"] == "1.1"
        )

    def _is_answering(self) -> bool:
        # There is none at first, whatever its annotation says.
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _open_socket(self) -> None:
        if any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in self.headers
        ):
            self._refuse()
            return
        self.handle_websocket_upgrade()
        # The library tells of some heads that it does not take (a line of more than 8 KiB) by silence.
        if not getattr(self.transport.get_protocol(), "handshake_initiated", True):
            self._refuse()

    def _plain_head(self) -> bytes:
        """What was read, without the fields that ask for another protocol."""
        method, version = self.scope["method"], self.scope["http_version"]
        lines = [b"%b %b HTTP/%b" % (method.encode(), self.url, version.encode())]
        lines += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _refuse(self) -> None:
        """400, and the end of the connection; where an answer has begun, its end alone."""
        if self.transport.is_closing():
            return
        self.logger.warning(_INVALID)
        running = self._running
        begun = running is not None and running.response_started and not running.response_complete
        self._abandon()
        if begun or self.pipeline:
            self.transport.close()
        else:
            self.send_400_response(_INVALID)
