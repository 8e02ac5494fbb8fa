"""More at once than SERVER_LIMIT_CONCURRENCY allows: an answer that costs next to nothing, and no reset.

A program gets 503 and when to come back; who follows a stream by `EventSource` is sent away to come back, as
that gives up for good after a 503. What watches the server is answered always.
"""

from __future__ import annotations

import io
import re
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.utils.translation import gettext as _

from streaming.core import cursor
from streaming.core.errors import BadCursor
from streaming.core.framing import SSE

from . import conf
from .bodies import Scope, discard_body
from .exchanges import Exchange
from .problems import Problem
from .requests import framing, query
from .responses import encoded_headers, sent_away
from .websocket.handshake import deny

RETRY: Final = 2.0
"""Seconds after which a try makes sense."""

_EVENTS: Final = re.compile(r".*/[0-9a-f]{32}/events")
_ALWAYS: Final = ("/healthz", "/readyz", "/metrics")


def is_needed(scope: Scope) -> bool:
    """Whether this call is answered however many there are."""
    return str(scope["path"]).endswith(_ALWAYS)


async def turn_away(scope: Scope, receive: Any, send: Any, exchange: Exchange) -> None:
    """Answer one call too many; its body is not read."""
    limit = conf.server().limit_concurrency
    detail = _("%d requests and streams are open, which is the limit.") % limit
    problem = Problem(503, "too_many_requests_open", detail, retry_after=RETRY)
    away = _sent_away(scope) if scope["type"] == "http" else None
    await answer(problem, scope, receive, send, exchange, away)


async def answer(
    problem: Problem,
    scope: Scope,
    receive: Any,
    send: Any,
    exchange: Exchange,
    away: HttpResponse | None = None,
) -> None:
    """Refuse a call, by `away` instead of the problem's document where there is one, without looking at more
    of it; its connection ends with it."""
    if scope["type"] == "websocket":
        await deny(scope, receive, send, problem)
        return
    response = away or problem.response()
    exchange.name(response)
    response["Connection"] = "close"
    response["Content-Length"] = str(len(response.content))
    send = exchange.counted(send)
    headers = encoded_headers(response)
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content, "more_body": True})
    await discard_body(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _sent_away(scope: Scope) -> HttpResponse | None:
    """For who follows a stream, as an event stream or in lines."""
    if scope["method"] != "GET" or _EVENTS.fullmatch(scope["path"]) is None:
        return None
    request = ASGIRequest(scope, io.BytesIO())
    try:
        after = cursor.choose(request.META.get("HTTP_LAST_EVENT_ID"), query(request).get("after"))
        wanted = framing(request)
    except (BadCursor, Problem):
        # It is told what is wrong when it comes back.
        after, wanted = 0, SSE
    return sent_away(request, wanted, conf.stream_limits().jittered_retry(), after)
