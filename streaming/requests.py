"""Reading a request: method, query, body and wishes. Everything wrong is a `Problem`, nothing is guessed."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace
from functools import lru_cache, wraps
from typing import Any, Concatenate, Final, ParamSpec, cast
from urllib.parse import parse_qsl

from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.http.request import MediaType
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _

from streaming.core import cursor, strict_json
from streaming.core.errors import StorageUnavailable, StreamError
from streaming.core.framing import NDJSON, SSE, Framing
from streaming.runtime.follower import FollowOptions
from streaming.runtime.ledger import PoolRefused

from . import hidden_query
from .messages import accepted_language
from .problems import FieldError, Problem, of_error, of_refusal

logger = logging.getLogger(__name__)

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], Coroutine[Any, Any, HttpResponseBase]]

FRAMINGS: Final[dict[str, Framing]] = {"text/event-stream": SSE, "application/x-ndjson": NDJSON}

MAX_QUERY_FIELDS: Final = 100

_KEY: Final = re.compile(r"[!-~]{1,255}", re.ASCII)


def endpoint(*methods: str, max_body_bytes: int = 0) -> Callable[[View[P]], View[P]]:
    """An API view: only `methods`, a sound query string, and a problem document for every refusal.

    `max_body_bytes`: of a body whose length is declared, where that is more than SERVER_CONFIG's
    `max_body_bytes` for all; the view reads it with `json_object(request, max_body_bytes)`.

    CSRF is checked by `access.identify`, which knows whether a cookie speaks for the caller.
    """
    allow = {"Allow": ", ".join(methods)}

    def decorate(view: View[P]) -> View[P]:
        @wraps(view)
        async def guarded(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            try:
                if request.method == "OPTIONS":
                    return HttpResponse(status=204, headers=allow)
                if request.method not in methods:
                    raise Problem(405, "method_not_allowed", headers=allow)
                query(request)
                return await view(request, *args, **kwargs)
            except Exception as error:
                return problem_of(error).response()

        # What `csrf_exempt` does, without a coroutine around ours.
        guarded.csrf_exempt = True  # type: ignore[attr-defined]
        guarded.max_body_bytes = max_body_bytes  # type: ignore[attr-defined]
        return cast("View[P]", guarded)

    return decorate


def problem_of(error: Exception) -> Problem:
    """What to tell a client about `error`; the unforeseen is logged and told without internals."""
    match error:
        case Problem():
            return error
        case PoolRefused():
            return of_refusal(error)
        case StreamError():
            return of_error(error)
        # psycopg says by the operating system's own error that there is no file left for a connection.
        case OperationalError() | InterfaceError() | OSError(errno=errno.EMFILE | errno.ENFILE):
            # No stack: each call meanwhile would leave one.
            logger.error(
                "the database does not answer (%s: %s)", type(error).__name__, str(error).partition("\n")[0]
            )
            return of_error(StorageUnavailable())
    logger.error("a view failed", exc_info=error)
    return Problem(500, "server_error")


def query(request: HttpRequest) -> dict[str, str]:
    """The query string, each name once. Raises `Problem` 400 on doubles, NUL, or bytes that are not UTF-8."""
    text = hidden_query.whole(request)
    if not text:
        return {}
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except ValueError as error:
        raise Problem(
            400, "bad_query", _("The query string is not UTF-8, or has too many fields.")
        ) from error
    values = dict(pairs)
    if len(values) != len(pairs):
        raise Problem(400, "bad_query", _("A parameter is given twice."))
    if any("\x00" in piece for pair in pairs for piece in pair):
        raise Problem(400, "bad_query", _("NUL is not allowed."))
    return values


def ticket(request: HttpRequest) -> str | None:
    """The ticket in the query, None without one. Raises `Problem` 400 as `query`."""
    return query(request).get(hidden_query.TICKET) if hidden_query.has_ticket(request) else None


def json_object(
    request: HttpRequest,
    max_bytes: int = 0,
    media_types: Collection[str] = ("application/json",),
    *,
    max_values: int = strict_json.MAX_VALUES,
) -> dict[str, object]:
    """The body as a JSON object, of `max_bytes` where Django's DATA_UPLOAD_MAX_MEMORY_SIZE is less, and of at
    most `max_values` members and elements: with many more it is to be called in a thread. Raises `Problem`
    400, 413, 415 or 422."""
    _require_json(request, media_types)
    try:
        body = _large_body(request, max_bytes) if max_bytes else request.body
    except RequestDataTooBig as error:
        raise Problem(413, "body_too_large") from error
    except ValueError as error:
        # The file is closed: its sender left while a synchronous middleware of the project held the request,
        # in a thread that no cancellation reaches. Nothing must start, and nobody reads this.
        raise Problem(400, "invalid_request") from error
    try:
        return strict_json.loads_object(body, max_values=max_values)
    except strict_json.BadJSON as error:
        fields = (FieldError(error.field, error.code, error.detail),) if error.field else ()
        raise Problem(error.status, error.code, error.detail, fields=fields) from error


def _large_body(request: HttpRequest, max_bytes: int) -> bytes:
    body = request.read(max_bytes + 1)
    if len(body) > max_bytes:
        raise RequestDataTooBig
    return body


def _require_json(request: HttpRequest, media_types: Collection[str]) -> None:
    charset = (request.content_params or {}).get("charset", "utf-8").strip('"').lower()
    if request.content_type not in media_types or charset not in ("utf-8", "utf8"):
        raise Problem(
            415,
            "unsupported_media_type",
            _("Send application/json in UTF-8."),
            headers={"Accept": "application/json"},
        )
    if request.META.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise Problem(415, "unsupported_media_type", _("Compressed bodies are not accepted."))


def framing(request: HttpRequest) -> Framing:
    """The stream format that the client prefers (RFC 9110, 12.5.1). Raises `Problem` 406."""
    chosen = _preferred(request.META.get("HTTP_ACCEPT", ""), *FRAMINGS)
    if chosen is None:
        raise Problem(406, "not_acceptable", _("A stream is text/event-stream or application/x-ndjson."))
    return FRAMINGS[chosen]


def require_json_accepted(request: HttpRequest) -> None:
    """Raises `Problem` 406 when the client does not take JSON."""
    if _preferred(request.META.get("HTTP_ACCEPT", ""), "application/json") is None:
        raise Problem(406, "not_acceptable", _("The answer is application/json."))


@lru_cache(maxsize=256)
def _preferred(accept: str, *types: str) -> str | None:
    """Which of `types` a client with that `Accept` likes best, the first one in doubt; None if it takes none.

    An empty `Accept` is as good as none. The most specific range that matches decides about a type, and
    quality 0 excludes it. `charset=utf-8`, which all of ours are, narrows nothing.
    """
    header = accept.strip() or "*/*"
    ranges = [MediaType(each) for each in header.split(",") if each.strip()]

    def quality(wanted: str) -> float:
        matching = [each for each in ranges if _matches(each, *wanted.split("/"))]
        return max(matching, key=lambda each: each.specificity).quality if matching else 0.0

    best = max(types, key=quality)
    return best if quality(best) > 0 else None


def _matches(accepted: MediaType, main: str, sub: str) -> bool:
    charset = accepted.range_params.get("charset", "utf-8").lower()
    return (
        accepted.main_type in ("*", main)
        and accepted.sub_type in ("*", sub)
        and charset in ("utf-8", "utf8")
        and set(accepted.range_params) <= {"charset"}
    )


def follow_options(request: HttpRequest, *, resumed: bool) -> FollowOptions:
    """How the client wants its events: `Accept`, `Last-Event-ID` or `?after=` (only where it resumes),
    `?timing=1`, `?heartbeat=event`. Raises `Problem` 400, 406 and `BadCursor`."""
    values = query(request)
    after = cursor.choose(request.META.get("HTTP_LAST_EVENT_ID"), values.get("after")) if resumed else 0
    return FollowOptions(
        framing=framing(request),
        after=after,
        timing=_choice(values, "timing", {"0": False, "1": True}),
        typed_heartbeat=_choice(values, "heartbeat", {"comment": False, "event": True}),
        resumed=resumed,
        language=accepted_language(request),
    )


def idempotency_key(request: HttpRequest) -> str | None:
    """The `Idempotency-Key`, None without one. Raises `Problem` 400 unless it is 1 to 255 visible
    characters of ASCII."""
    key: str | None = request.META.get("HTTP_IDEMPOTENCY_KEY")
    if key is not None and _KEY.fullmatch(key) is None:
        raise Problem(400, "bad_idempotency_key", _("A key is 1 to 255 visible ASCII characters."))
    return key


def keyed_options(request: HttpRequest) -> FollowOptions:
    """`follow_options` for a call with an `Idempotency-Key`: with `Last-Event-ID` it goes on with the task
    that the key stands for. Raises `Problem` 400, 406 and `BadCursor`."""
    options = follow_options(request, resumed=False)
    header = request.META.get("HTTP_LAST_EVENT_ID")
    return replace(options, after=cursor.choose(header, None), resumed=bool(header))


def socket_options(
    request: HttpRequest, framing: Framing, after: int | None = None, *, resumed: bool
) -> FollowOptions:
    """How a reader on a WebSocket wants its events: `?timing=1`; from `after` on, None: as over HTTP from
    `Last-Event-ID` or `?after=`. Raises `Problem` 400 and `BadCursor`."""
    values = query(request)
    if after is None:
        after = cursor.choose(request.META.get("HTTP_LAST_EVENT_ID"), values.get("after"))
    return FollowOptions(
        framing=framing,
        after=after,
        timing=_choice(values, "timing", {"0": False, "1": True}),
        typed_heartbeat=True,
        resumed=resumed,
        language=accepted_language(request),
    )


def acknowledges(request: HttpRequest) -> bool:
    """Whether the client of a WebSocket says that it will acknowledge: `?ack=1`. Raises `Problem` 400."""
    return _choice(query(request), "ack", {"0": False, "1": True})


def _choice(values: dict[str, str], name: str, choices: dict[str, bool]) -> bool:
    value = values.get(name)
    if value is None:
        return False
    if value not in choices:
        message = _("%(name)s is one of: %(choices)s.") % {"name": name, "choices": ", ".join(choices)}
        raise Problem(400, "bad_query", message)
    return choices[value]
