"""One request to the model service and its answer: bytes in, parts out, every buffer bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final

import httpx2

from streaming.core.errors import GenerationError, UpstreamError, UpstreamTruncated
from streaming.core.sse import Decoder, ServerSentEvent, SSELimitExceeded

from .chat_protocol import ChatReader, Part, decoded, foreign_error, kind_of_status, media_type, one_line

MAX_EVENT: Final = 1_048_576
"""Bytes of one event of an answer, and of one line."""

MAX_WHOLE: Final = 16_777_216
"""Bytes of an answer that comes as one JSON document."""

MAX_ERROR: Final = 8_192
"""Bytes of a refusal that are read: enough to tell why."""

REFUSAL_PATIENCE: Final = 2.0
"""Seconds for the body of a refusal."""

END_PATIENCE: Final = 1.0
"""Seconds that an answer gets after its `finish_reason` to tell its usage and to end, whatever comes."""

LAST_BYTES: Final = 0.2
"""Seconds for the last bytes of an answer, so that its connection can be used again."""

_EVENT_TYPES: Final = ("text/event-stream", "text/plain", "application/octet-stream", "")

_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":", b"\xef\xbb\xbf")
"""How an event stream begins, and no JSON document does; the last is a BOM."""

_MAX_BLANK: Final = 1_024
"""Bytes before the first that is no blank, which tell that it is no event stream."""


class Exchange:
    """See the module. `opened`: whether it needed a new connection. `first`: the parts of its first token.
    `secret`: what must not appear in an error. `model`: the one that was asked for. `traceparent`: of which
    trace the request is a part."""

    def __init__(self, secret: str, model: str | None = None, traceparent: str | None = None) -> None:
        self.opened = False
        self.headers = {} if traceparent is None else {"traceparent": traceparent}
        self.reader = ChatReader(secret, model)
        self.first: list[Part] = []
        self._secret = secret
        self._decoder = Decoder(MAX_EVENT, MAX_EVENT)
        self._response: httpx2.Response | None = None
        self._chunks: AsyncGenerator[bytes, None] | None = None
        self._ahead = b""
        self._at_end = False
        self._end_by: float | None = None
        self._failure: GenerationError | None = None

    async def trace(self, name: str, info: dict[str, Any]) -> None:
        """httpcore2 tells what it does."""
        if name == "connection.connect_tcp.started":
            self.opened = True

    def answered(self, response: httpx2.Response) -> None:
        """The header is there."""
        self._response = response
        self._chunks = response.aiter_bytes()

    @property
    def can_be_drained(self) -> bool:
        """Whether nothing but the last bytes of the body is missing."""
        return self._at_end or self.reader.done

    async def begin(self) -> None:
        """Read until the first parts are there, or the end. Raises errors of the tree."""
        assert self._response is not None
        kind = self._response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and kind not in _EVENT_TYPES:
            raise UpstreamError(f"the answer is no event stream but {media_type(kind, self._secret)}")
        # There are services that send events and call them JSON.
        is_whole = kind == "application/json" and not await self._begins_like_events()
        self.first = await (self.whole() if is_whole else self.parts())

    async def parts(self) -> list[Part]:
        """The next parts, as many as came at once; none at the end. Raises errors of the tree."""
        while not self.reader.done:
            if self._failure is not None:
                raise self._failure
            data = await (self._late_chunk() if self.reader.is_whole else self._next_chunk())
            if not data:
                return []
            if parts := self._read(data):
                return parts
        return []

    async def whole(self) -> list[Part]:
        """The parts of an answer that is one JSON document."""
        body = await self.body(MAX_WHOLE)
        if not self._at_end:
            raise UpstreamError(f"the answer is larger than {MAX_WHOLE} bytes")
        return self.reader.feed_whole(body)

    async def body(self, limit: int) -> bytes:
        """The body, or the beginning of it; a little more than `limit` bytes at most."""
        body = bytearray()
        while len(body) <= limit and (data := await self._next_chunk()):
            body += data
        return bytes(body)

    async def refusal(self, status: int) -> tuple[str, GenerationError]:
        """The body of a refusal, as far as it comes soon, and the error that it means: with the words of an
        error in JSON, of anything else with length and type alone."""
        body = b""
        with suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(REFUSAL_PATIENCE):
                body = await self.body(MAX_ERROR)
        text = body.decode("utf-8", "replace")
        try:
            said = decoded(text)
        except (ValueError, RecursionError):
            return text, kind_of_status(status)(f"status {status}: {self._without_words(body)}")
        error = said.get("error") or said if isinstance(said, dict) else said
        return text, foreign_error(kind_of_status(status), f"status {status}", error, self._secret)

    async def drain(self) -> None:
        """Take in the last bytes, if they come soon."""
        with suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(LAST_BYTES):
                await self.body(MAX_ERROR)

    async def close(self) -> None:
        """Give the connection back if the whole answer was read, else close it."""
        if self._chunks is not None and self._response is not None:
            await self._chunks.aclose()
            await self._response.aclose()

    def _without_words(self, body: bytes) -> str:
        assert self._response is not None
        kind = media_type(self._response.headers.get("content-type", ""), self._secret)
        count = f"more than {MAX_ERROR}" if len(body) > MAX_ERROR else str(len(body))
        return f"{count} bytes, {kind}"

    async def _begins_like_events(self) -> bool:
        """Whether the body begins with a field of an event; what was read for that is not lost."""
        longest = max(map(len, _FIELDS))
        head = b""
        while len(head.lstrip()) < longest and len(head) < _MAX_BLANK:
            if not (data := await self._next_chunk()):
                break
            head += data
        self._ahead = head
        return head.lstrip().startswith(_FIELDS)

    async def _next_chunk(self) -> bytes:
        assert self._chunks is not None
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        try:
            while not (data := await anext(self._chunks)):
                pass
            return data
        except StopAsyncIteration:
            self._at_end = True
            return b""
        except (httpx2.RequestError, httpx2.StreamError) as error:
            raise connection_error(UpstreamTruncated, "the connection was cut", error, self._secret) from None

    async def _late_chunk(self) -> bytes:
        """A chunk after the `finish_reason`, which nobody needs any more; empty if it does not come soon."""
        now = asyncio.get_running_loop().time()
        if self._end_by is None:
            self._end_by = now + END_PATIENCE
        if now >= self._end_by:
            return b""
        with suppress(TimeoutError, UpstreamTruncated):
            async with asyncio.timeout_at(self._end_by):
                return await self._next_chunk()
        return b""

    def _read(self, data: bytes) -> list[Part]:
        """The parts of `data`; an error among them waits until they are delivered."""
        parts: list[Part] = []
        try:
            for event in self._events(data):
                parts += self.reader.feed(event.data, event.event)
        except GenerationError as error:
            self._failure = error
        return parts

    def _events(self, data: bytes) -> list[ServerSentEvent]:
        try:
            return self._decoder.feed(data)
        except SSELimitExceeded as error:
            self._failure = UpstreamError(str(error))
            return error.events


def connection_error(
    kind: type[GenerationError], what: str, error: Exception, secret: str
) -> GenerationError:
    """The error that the HTTP client's `error` is for the task. The log gets the words of the system and of
    TLS; others may quote what the service sent, and are the detail."""
    words = one_line(repr(error), secret)
    if isinstance(error, httpx2.NetworkError):
        return kind(f"{what}: {words}")
    return kind(f"{what}: {type(error).__name__}", detail=words)
