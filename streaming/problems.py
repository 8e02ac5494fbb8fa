"""Errors before the first byte: RFC 9457 `application/problem+json` with a stable `code`."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any, Final

import msgspec
from django.http import HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from streaming.core import errors
from streaming.core.quota import Quota
from streaming.core.routing import Reason
from streaming.runtime.ledger import PoolRefused
from streaming.runtime.quotas import QuotaSpent

from . import quotas

STORAGE_RETRY: Final = 5.0
"""Seconds after which a try makes sense when the database did not answer."""

NOT_NOW_RETRY: Final = 2.0
"""Seconds after which a try makes sense when a task could not be read here."""

CHALLENGE: Final = 'Bearer realm="sluice"'
"""`WWW-Authenticate` of every 401."""

CONTENT_TYPE: Final = "application/problem+json"

TITLES: Final = {
    "invalid_json": gettext_lazy("The body is not valid JSON"),
    "too_deep": gettext_lazy("The JSON is nested too deeply"),
    "too_many_values": gettext_lazy("The JSON has too many values"),
    "out_of_range": gettext_lazy("A number is out of range"),
    "duplicate_key": gettext_lazy("A key appears twice"),
    "not_utf8": gettext_lazy("The body is not UTF-8"),
    "object_expected": gettext_lazy("A JSON object is expected"),
    "invalid_id": gettext_lazy("The id cannot be used"),
    "invalid_request": gettext_lazy("The request is not valid"),
    "bad_query": gettext_lazy("The query string is not valid"),
    "bad_event_id": gettext_lazy("Not an event id"),
    "bad_idempotency_key": gettext_lazy("Not an idempotency key"),
    "idempotency_key_reused": gettext_lazy("The idempotency key stands for another call"),
    "not_authenticated": gettext_lazy("Sign in first"),
    "access_revoked": gettext_lazy("The right to read this has ended"),
    "invalid_key": gettext_lazy("The API key is not valid"),
    "insufficient_scope": gettext_lazy("The API key may not be used for this"),
    "invalid_ticket": gettext_lazy("The ticket is not valid"),
    "csrf_failed": gettext_lazy("The CSRF token is missing or wrong"),
    "permission_denied": gettext_lazy("Not allowed"),
    "wrong_origin": gettext_lazy("Not from this page"),
    "bad_host": gettext_lazy("Unknown host"),
    "not_found": gettext_lazy("Not found"),
    "unknown_model": gettext_lazy("No such model"),
    "method_not_allowed": gettext_lazy("Method not allowed"),
    "not_acceptable": gettext_lazy("Not an available format"),
    "body_timeout": gettext_lazy("The body came too slowly"),
    "ahead_of_stream": gettext_lazy("The event id is ahead of the stream"),
    "not_finished": gettext_lazy("The task has not ended yet"),
    "task_cancelled": gettext_lazy("The task was cancelled"),
    "events_pruned": gettext_lazy("The events are no longer kept"),
    "headers_too_large": gettext_lazy("The headers are too large"),
    "body_too_large": gettext_lazy("The body is too large"),
    "unsupported_media_type": gettext_lazy("Not a supported type of body"),
    "validation_failed": gettext_lazy("The values are not valid"),
    "unknown_type": gettext_lazy("No such message"),
    "duplicate": gettext_lazy("The request id is taken"),
    "slow_reader": gettext_lazy("Events were not read in time"),
    "upgrade_required": gettext_lazy("Only over WebSocket"),
    "rate_limited": gettext_lazy("Too many messages"),
    "too_many_probes": gettext_lazy("Too many probes at once"),
    "too_many_streams": gettext_lazy("Too many streams on this socket"),
    "too_many_tickets": gettext_lazy("Too many tickets that nobody uses"),
    "owner_limit": gettext_lazy("Too many tasks of yours"),
    "quota_exceeded": gettext_lazy("A quota of yours is spent"),
    "too_many_requests_open": gettext_lazy("The server is full"),
    "queue_full": gettext_lazy("The queue is full"),
    "not_ready": gettext_lazy("Not ready for work"),
    "draining": gettext_lazy("The server is restarting"),
    "too_many_followers": gettext_lazy("Too many read this stream already"),
    "storage_unavailable": gettext_lazy("The database is away"),
    "redis_unavailable": gettext_lazy("Redis is away"),
    "storage_full": gettext_lazy("There is no room for more events"),
    "server_error": gettext_lazy("Something went wrong here"),
}


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field of a body or query: its name, a stable code, a sentence."""

    field: str
    code: str
    message: str


class Problem(Exception):
    """Raised by views; becomes a response. `retry_after` in seconds, rounded up in the header."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str = "",
        *,
        fields: tuple[FieldError, ...] = (),
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.fields = fields
        self.retry_after = retry_after
        self.headers = headers or {}
        self.members = members

    @property
    def document(self) -> dict[str, Any]:
        """The problem document."""
        # Each kind of field error has a code of its own; as a title they share one.
        title = TITLES.get(self.code, TITLES["validation_failed"] if self.status == 422 else None)
        body: dict[str, Any] = {
            "type": f"urn:sluice:problem:{self.code}",
            "title": str(title) if title is not None else HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
        }
        if self.detail:
            body["detail"] = self.detail
        if self.fields:
            body["errors"] = [msgspec.to_builtins(field) for field in self.fields]
        return body | self.members

    @property
    def retry_seconds(self) -> int | None:
        """`retry_after` in whole seconds, at least one; None where there is none."""
        return None if self.retry_after is None else max(1, math.ceil(self.retry_after))

    def response(self) -> HttpResponse:
        """The problem document as a response."""
        content = msgspec.json.encode(self.document)
        response = HttpResponse(content, content_type=CONTENT_TYPE, status=self.status)
        response["Cache-Control"] = "no-store"
        response["X-Content-Type-Options"] = "nosniff"
        if self.retry_seconds is not None:
            response["Retry-After"] = str(self.retry_seconds)
        for name, value in self.headers.items():
            response[name] = value
        return response


def of_refusal(refusal: PoolRefused) -> Problem:
    """429 for the caller's own limit, 503 for the pool's."""
    load = refusal.snapshot
    if isinstance(refusal, QuotaSpent):
        return _of_spent_quota(refusal)
    if refusal.decision.reason is Reason.OWNER_LIMIT:
        detail = _("You have %(active)d tasks running or waiting, the limit is %(limit)d.") % {
            "active": load.owner_active,
            "limit": load.per_owner,
        }
        return Problem(
            429,
            "owner_limit",
            detail,
            retry_after=refusal.retry_after,
            active=load.owner_active,
            limit=load.per_owner,
        )
    if refusal.decision.reason is Reason.DRAINING:
        return Problem(503, "draining", retry_after=refusal.retry_after)
    detail = _("Running: %(running)d, waiting: %(waiting)d; there is no more room.") % {
        "running": load.running,
        "waiting": load.waiting,
    }
    return Problem(
        503,
        "queue_full",
        detail,
        retry_after=refusal.retry_after,
        running=load.running,
        waiting=load.waiting,
    )


def _of_spent_quota(refusal: QuotaSpent) -> Problem:
    spent = refusal.spent
    details = {
        Quota.STREAMS: _("You may have %(limit)d tasks at once, running and waiting."),
        Quota.PLACES: _("You may have %(limit)d tasks waiting at once."),
        Quota.TOKENS: _("You may use %(limit)d tokens a minute."),
        Quota.BYTES: _("You may have %(limit)d bytes of events a minute."),
        Quota.KERNEL_SECONDS: _("You may use kernels for %(limit)d seconds an hour."),
    }
    return Problem(
        429,
        "quota_exceeded",
        details[spent.quota] % {"limit": spent.limit},
        retry_after=refusal.retry_after,
        headers=dict(quotas.headers(refusal.standings)),
        quota=spent.quota.value,
        limit=spent.limit,
    )


def of_error(error: errors.StreamError) -> Problem:
    """What a reader's error means over HTTP."""
    match error:
        case errors.BadCursor():
            return Problem(400, error.code, _("An event id is a whole number from 0, in plain digits."))
        case errors.CursorAhead():
            return Problem(409, error.code, _("No event of this stream has had that id yet."))
        case errors.EventsPruned():
            return Problem(410, error.code, _("The task's record is still at /streams/<id>."))
        case errors.TaskNotFound():
            return Problem(404, error.code)
        case errors.AccessRevoked():
            detail = _("What spoke for you was revoked or has ended, or your user may not sign in any more.")
            return Problem(401, error.code, detail, headers={"WWW-Authenticate": CHALLENGE})
        case errors.NotPermitted():
            return Problem(403, error.code)
        case errors.NotFinished():
            return Problem(409, error.code, _("Ask again after its terminal event."))
        case errors.KeyReused():
            return Problem(409, error.code, _("Send a new key with a new body."))
        case errors.RedisFull():
            return Problem(503, errors.StorageFull.code, retry_after=NOT_NOW_RETRY)
        case errors.RedisAway():
            return Problem(503, error.code, retry_after=NOT_NOW_RETRY)
        case errors.StorageUnavailable():
            return Problem(503, error.code, retry_after=STORAGE_RETRY)
        case errors.NotNow():
            # Of a whole answer; readers of events are sent away to come back.
            return Problem(503, error.code, retry_after=NOT_NOW_RETRY)
    return Problem(500, "server_error")


FAILED_TASK_STATUS: Final = {
    "interrupted": 503,
    "queue_timeout": 503,
    "run_timeout": 504,
    "upstream_timeout": 504,
    "storage_full": 503,
}
"""HTTP status of a whole answer whose task failed; 502 for every other code."""


def of_failed_task(code: str, message: str, retryable: bool, **members: Any) -> Problem:
    """A whole answer's task ended with an `error` event."""
    status = FAILED_TASK_STATUS.get(code, 502)
    retry_after = 1.0 if status == 503 else None
    title = _("The task failed")
    return Problem(
        status, code, message, retry_after=retry_after, title=title, retryable=retryable, **members
    )
