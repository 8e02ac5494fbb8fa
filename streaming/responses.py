"""The response of a stream: headers that keep everything between us and the reader from buffering it."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import NoReverseMatch, get_script_prefix, get_urlconf, reverse

from streaming.core.framing import Framing
from streaming.runtime.follower import Follower, follow, send_away

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


def place_of(task_id: str) -> str:
    """The path of a task's record, wherever the project has put these URLs; empty if it has not."""
    return _places(get_urlconf() or settings.ROOT_URLCONF, get_script_prefix()).format(task_id)


@cache
def _places(urlconf: str, script_prefix: str) -> str:
    try:
        path = reverse("stream-events", urlconf, args=("{}",))
    except NoReverseMatch:
        return ""
    return path.removesuffix("/events").replace("%7B%7D", "{}")


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

    def close(self) -> None:
        """The request is over."""
        self._over = True
        for follower in self._followers:
            follower.close_from_any_thread()


class EventStream(StreamingHttpResponse):
    """A follower's bytes, with `X-Stream-Id`, `X-Stream-Route` and `Location`.

    The content is an asynchronous iterator (never a sync one: Django would collect it first), for handlers
    that know no followers, and for middleware that wraps it. `close` lets go of the follower, from whichever
    thread the handler calls it.
    """

    def __init__(self, request: HttpRequest, follower: Follower, content_type: str) -> None:
        super().__init__(follow(follower), content_type=content_type, headers=STREAM_HEADERS)
        task = follower.task
        self.follower = follower
        self.wrapped = False
        self["X-Stream-Id"] = task.id
        self["X-Stream-Route"] = task.route
        self["Content-Language"] = task.spec.language
        if place := place_of(task.id):
            self["Location"] = place
        mark_connection(request, self)
        opened = getattr(request, "scope", {}).get(Opened.KEY)
        if opened is not None:
            opened.add(follower)

    @property
    def streaming_content(self) -> Any:
        """The bytes as an asynchronous iterator; who sets another one has `wrapped` the stream."""
        return super().streaming_content

    @streaming_content.setter
    def streaming_content(self, value: Any) -> None:
        self.wrapped = True
        StreamingHttpResponse.streaming_content.fset(self, value)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Let go of the follower and what else the response holds."""
        self.follower.close_from_any_thread()
        super().close()


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
    mark_connection(request, response)
    return response


def mark_connection(request: HttpRequest, response: Any) -> None:
    """`Connection: keep-alive`, a hop-by-hop header, only where HTTP/1.1 is spoken to us."""
    if getattr(request, "scope", {}).get("http_version") == "1.1":
        response["Connection"] = "keep-alive"
