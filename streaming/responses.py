"""The response of a stream: headers that keep everything between us and the reader from buffering it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase, ResponseHeaders
from django.urls import NoReverseMatch, get_script_prefix, get_urlconf, reverse

from streaming.core.framing import Framing
from streaming.runtime.follower import Follower, follow, send_away

from . import conf, quotas
from .compression import ENCODERS, Encode, encoded, negotiate
from .exchanges import HEADER, Exchange

STREAM_HEADERS: Final = {
    "Cache-Control": "no-cache, no-store, must-revalidate, no-transform",
    "Pragma": "no-cache",
    "Expires": "0",
    # nginx buffers whatever the content type, unless told so
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
    # Django's GZipMiddleware passes what has an encoding; of a stream it would make one file per event
    "Content-Encoding": "identity",
}


def _encoded(header: tuple[str, str]) -> tuple[bytes, bytes]:
    return header[0].encode("ascii"), header[1].encode("latin1")


_ENCODED: Final = [*map(_encoded, STREAM_HEADERS.items())]


@lru_cache(maxsize=8)
def _compressible(coding: str | None) -> tuple[dict[str, str], list[tuple[bytes, bytes]]]:
    """The constant headers, twice, where STREAM_COMPRESSION offers a choice and this `coding` was chosen."""
    headers = STREAM_HEADERS | {"Vary": "Accept-Encoding"} | ({"Content-Encoding": coding} if coding else {})
    return headers, [*map(_encoded, headers.items())]


_KEEP_ALIVE: Final = ("Connection", "keep-alive")
"""A hop-by-hop header, so only where HTTP/1.1 is spoken to us."""


def place_of(task_id: str) -> str:
    """The path of a task's record, wherever the project has put these URLs; empty if it has not."""
    return _place(get_urlconf() or settings.ROOT_URLCONF, get_script_prefix(), task_id)


def _place_seen_by(request: HttpRequest, task_id: str) -> str:
    """`place_of`, without asking what Django keeps for the request's thread."""
    prefix: str = getattr(request, "script_name", "")
    urlconf = getattr(request, "urlconf", None) or settings.ROOT_URLCONF
    return _place(urlconf, prefix if prefix.endswith("/") else f"{prefix}/", task_id)


def _place(urlconf: str, script_prefix: str, task_id: str) -> str:
    folder = _folder(urlconf, script_prefix)
    return f"{folder}{task_id}" if folder else ""


@lru_cache(maxsize=64)
def _folder(urlconf: str, script_prefix: str) -> str:
    """What is before the id in the path of a record."""
    try:
        path = reverse("stream-events", urlconf, args=("-",))
    except NoReverseMatch:
        return ""
    return path.removesuffix("-/events")


class Opened:
    """The streams that one request has opened. None outlives it: a synchronous middleware loses the response
    of a view whose client has left meanwhile, and nobody would ever read or close that."""

    KEY: Final = "streaming.opened"
    """Where the handler puts it in the ASGI scope."""

    def __init__(self) -> None:
        self._followers: list[Follower] = []
        self._over = False

    def add(self, follower: Follower) -> None:
        """A stream was opened, perhaps too late."""
        self._followers.append(follower)
        if self._over:
            self.close()

    def let_live(self, follower: Follower) -> None:
        """Somebody else sees to this one."""
        self._followers.remove(follower)

    def close(self) -> None:
        """The request is over."""
        self._over = True
        for follower in self._followers:
            follower.close_from_any_thread()


class EventStream(StreamingHttpResponse):
    """A follower's bytes, with `X-Stream-Id`, `X-Stream-Route` and `Location`.

    The content is an asynchronous iterator (never a sync one: Django would collect it first), for handlers
    that know no followers, and for middleware that wraps it. Its headers are made when somebody asks for
    them. `close` lets go of the follower, from whichever thread the handler calls it.
    """

    def __init__(self, request: HttpRequest, follower: Follower, content_type: str) -> None:
        self._own: list[tuple[str, str]] = []
        self._constant: tuple[dict[str, str], list[tuple[bytes, bytes]]] = STREAM_HEADERS, _ENCODED
        self._coding: str | None = None
        content = follow(follower)
        if offered := conf.stream_compression():
            coding = self._coding = negotiate(request.META.get("HTTP_ACCEPT_ENCODING", ""), offered)
            self._constant = _compressible(coding)
            if coding is not None:
                content = encoded(content, coding)
        super().__init__(content, content_type=content_type)
        task = follower.task
        self.follower = follower
        self.wrapped = False
        scope = getattr(request, "scope", {})
        own = [
            ("X-Stream-Id", task.id),
            ("X-Stream-Route", task.route),
            ("Content-Language", task.spec.language),
        ]
        if task.standings and not follower.resumed:
            own += quotas.headers(task.standings)
        if place := _place_seen_by(request, task.id):
            own.append(("Location", place))
        if scope.get("http_version") == "1.1":
            own.append(_KEEP_ALIVE)
        exchange: Exchange | None = scope.get(Exchange.KEY)
        if exchange is not None:
            own.append((HEADER, exchange.origin.request_id))
        self._own = own
        opened = scope.get(Opened.KEY)
        if opened is not None:
            opened.add(follower)

    @property
    def headers(self) -> ResponseHeaders:
        """All headers, as on any response."""
        headers = self._headers
        if self._own:
            for name, value in (*self._constant[0].items(), *self._own):
                headers[name] = value
            self._own = []
        return headers

    @headers.setter
    def headers(self, headers: ResponseHeaders) -> None:
        self._headers = headers

    def head(self, added: Sequence[tuple[bytes, bytes]] = ()) -> list[tuple[bytes, bytes]]:
        """The headers as a server wants them, with those `added` that are not among them. To `Vary` both have
        something to say."""
        if not self._own or self.cookies:
            # Somebody has looked at the headers, and may have set some.
            return _joined(encoded_headers(self), added)
        pairs = [(name.encode("ascii"), value.encode("latin1")) for name, value in self._own]
        constant = self._constant[1]
        pairs += [*constant, (b"Content-Type", self._headers["Content-Type"].encode("latin1"))]
        return [*pairs, *added] if constant is _ENCODED else _joined(pairs, added)

    def encoder(self) -> Encode | None:
        """What compresses the follower's bytes for this reader; None: nothing does."""
        return None if self._coding is None else ENCODERS[self._coding]()

    @property
    def streaming_content(self) -> Any:
        """The bytes as an asynchronous iterator; who sets another one has `wrapped` the stream."""
        return super().streaming_content

    @streaming_content.setter
    def streaming_content(self, value: Any) -> None:
        self.wrapped = True
        setter: Any = StreamingHttpResponse.streaming_content
        setter.fset(self, value)

    def close(self) -> None:
        """Let go of the follower and what else the response holds."""
        self.follower.close_from_any_thread()
        super().close()


def _joined(
    pairs: list[tuple[bytes, bytes]], added: Sequence[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    places = {name.lower(): place for place, (name, _) in enumerate(pairs)}
    for name, value in added:
        place = places.get(name.lower())
        if place is None:
            pairs.append((name, value))
        elif name == b"Vary":
            pairs[place] = (name, pairs[place][1] + b", " + value)
    return pairs


def encoded_headers(response: HttpResponseBase) -> list[tuple[bytes, bytes]]:
    """Any response's headers and cookies as a server wants them."""
    cookies = [("Set-Cookie", cookie.output(header="").strip()) for cookie in response.cookies.values()]
    return [*map(_encoded, response.items()), *map(_encoded, cookies)]


def nothing_more() -> HttpResponse:
    """204 for a reader who has the terminal event: it stops a native `EventSource`."""
    response = HttpResponse(status=204)
    del response["Content-Type"]
    return response


def sent_away(request: HttpRequest, framing: Framing, retry: float, after: int) -> HttpResponse:
    """200 with `retry:`, `reconnect`, and the end: what a native `EventSource` gets instead of 429 or 503,
    after which it would give up for good."""
    content = b"".join(send_away(framing, retry, after))
    response = HttpResponse(content, content_type=framing.content_type, headers=STREAM_HEADERS)
    if getattr(request, "scope", {}).get("http_version") == "1.1":
        name, value = _KEEP_ALIVE
        response[name] = value
    return response
