"""The shapes of the API for its OpenAPI description: records for people's tools, events from msgspec."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from ninja import Field, Schema

from streaming.core import cursor, events
from streaming.core.states import State

from . import probe as probing
from .scopes import Scope

REF: Final = "#/components/schemas/{name}"


class ErrorInfo(Schema):
    """Why a task failed."""

    code: str = Field(description="Stable error code")
    message: str = Field(description="For people, localised")
    retryable: bool = Field(description="Whether the same call may succeed later")


class TimingInfo(Schema):
    """What a task cost; milliseconds."""

    route: str
    queued_ms: float
    first_content_ms: float | None
    total_ms: float
    coalesced_ratio: float | None = Field(description="Content events per part that the producer made")
    blocked_ms: float = Field(description="Time that sends to readers took")
    status_messages: int
    resumes: int


class TaskRecord(Schema):
    """One task."""

    id: str = Field(description="Task id: 32 lower-case hex digits")
    state: State
    kind: str
    route: str
    reason: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    last_event_id: int
    text: str = Field(description="The text so far, or whole")
    error: ErrorInfo | None
    timing: TimingInfo | None


class RenderedText(Schema):
    """A finished text for people."""

    id: str = Field(description="Task id")
    html: str | None = Field(description="Clean HTML: no scripts, handlers, styles, images or frames")


class TaskPage(Schema):
    """A page of the caller's own tasks, newest first."""

    items: list[TaskRecord]
    next: str | None = Field(description="`before` of the next page; null on the last one")


class ProblemInfo(Schema):
    """RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    detail: str | None = None
    errors: list[dict[str, str]] | None = None
    more_errors: bool | None = None


class Health(Schema):
    """The process answers."""

    status: str


class Pool(Schema):
    """A pool now: tasks and seconds."""

    running: int
    waiting: int
    away: int
    max_workers: int
    queue_size: int
    oldest_wait_seconds: float
    mean_service_seconds: float | None
    waiting_by_class: dict[str, int]
    oldest_wait_by_class: dict[str, float]
    stuck: int


class ProcessStatistics(Schema):
    """One process since its start; the numbers of another one are a second old."""

    id: str
    pid: int
    statistics: dict[str, Any]


class Statistics(Schema):
    """All living processes since their start, together, and each."""

    pools: dict[str, Pool]
    routes: dict[str, int]
    refusals: dict[str, int]
    tasks: dict[str, int]
    ends: dict[str, int]
    followers: int
    journal_bytes: int
    status_messages: int
    slow_readers_closed: int
    readers_revoked: int
    late_commits: int
    evicted_journals: int
    trimmed_journals: int
    draining: bool
    loop_lag_seconds: float
    records: dict[str, int]
    processes: list[ProcessStatistics]


_KEY_SCHEME: Final = "An API key: sluice_…. What an operation lists here is the scopes that it needs."


def needs(*scopes: Scope, ticket: bool = False) -> dict[str, Any]:
    """Who may call, as members of an operation object: a key with these scopes (OpenAPI 3.1 lets a scheme
    other than OAuth list what is required, too), a session, a ticket where one opens it, nobody in
    particular."""
    key: dict[str, list[str]] = {"key": [scope.value for scope in scopes]}
    return {"security": [key, {"session": []}, *([{"ticket": []}] if ticket else []), {}]}


def security_schemes(session_cookie: str) -> dict[str, Any]:
    """How callers say who they are, by the names that `security` uses."""
    return {
        "key": {"type": "http", "scheme": "bearer", "description": _KEY_SCHEME},
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": session_cookie,
            "description": "Signing in; calls that change something need X-CSRFToken, too",
        },
        "ticket": {
            "type": "apiKey",
            "in": "query",
            "name": "ticket",
            "description": "From `POST /tickets`: good once, for one resource",
        },
    }


def event_components() -> dict[str, Any]:
    """JSON schemas of all event types, by their class names."""
    _, components = msgspec.json.schema_components(events.ALL, ref_template=REF)
    return components


def problem_response(description: str) -> dict[str, Any]:
    """A response object that is a problem document."""
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": {"$ref": REF.format(name="ProblemInfo")}}},
    }


LACKS_SCOPE: Final = problem_response(
    "The API key lacks the scope (`insufficient_scope`), which `WWW-Authenticate` names"
)

REFUSALS_OF_ALL: Final[dict[str, Any]] = {
    "400": problem_response("An unknown host, or a bad query string"),
    "408": problem_response("The body came too slowly"),
    "413": problem_response("The body is too large"),
    "503": problem_response("The server is full or going down, or its database is away; see Retry-After"),
}
"""What any call may be told, where its own description has no other words for it."""

ALWAYS_ANSWERED: Final = ("/healthz", "/metrics", "/readyz")
"""Paths that are no matter of how many calls there are."""

REFUSAL_HEADERS: Final[dict[str, Any]] = {
    "401": {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "How to say who one is"}},
    "403": {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "The scope that is missing"}},
    "429": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}},
    "503": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds, where they are known"}},
}
"""Response headers by status."""

NOTHING_MORE: Final = {"description": "The reader has the terminal event already"}
"""A response without a body."""

BAD_CURSORS: Final = {
    "409": problem_response("The cursor is ahead of the stream"),
    "410": problem_response("The events are no longer kept"),
}

REPLAYED: Final = {
    "Idempotent-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "The Idempotency-Key stood for this task already",
    }
}
"""A response header."""


QUOTAS: Final[dict[str, Any]] = {
    "RateLimit-Policy": {
        "schema": {"type": "string"},
        "description": "Of a call that starts work, where quotas are set: the caller's quotas",
    },
    "RateLimit": {
        "schema": {"type": "string"},
        "description": "What is left of each (`r`), and in how many seconds all of it is there again (`t`)",
    },
}


def limited_response() -> dict[str, Any]:
    """The response object of a 429 to a call that would start work."""
    answer = problem_response("The caller's own limit (owner_limit) or quota (quota_exceeded)")
    waits = {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds after which to try again"}
    return {**answer, "headers": {"Retry-After": waits, **QUOTAS}}


def stream_response() -> dict[str, Any]:
    """The response object of an event stream: per event on SSE, per line on NDJSON.

    A stream is described as the list of its items. The `data` of an SSE event is a string that holds JSON,
    and is described as such.
    """
    event = {"oneOf": [{"$ref": REF.format(name=kind.__name__)} for kind in events.ALL]}
    frame = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "Event id, on durable events"},
            "event": {"type": "string", "enum": [events.event_name(kind) for kind in events.ALL]},
            "retry": {"type": "integer", "description": "Reconnect delay in milliseconds"},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": event},
        },
    }
    return {
        "description": "The events: `retry:` and a `status` first, one terminal event last",
        "headers": {
            "X-Stream-Id": {"schema": {"type": "string"}, "description": "Task id"},
            "X-Stream-Route": {"schema": {"type": "string"}, "description": "direct or queued"},
            "Location": {"schema": {"type": "string"}, "description": "The task's record"},
            **REPLAYED,
            **QUOTAS,
        },
        "content": {
            "text/event-stream": {"schema": {"type": "array", "items": frame}, "itemSchema": frame},
            "application/x-ndjson": {"schema": {"type": "array", "items": event}, "itemSchema": event},
        },
    }


STREAM_PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": "timing",
        "in": "query",
        "description": "1: every event carries `sent_at`, seconds since the epoch",
        "schema": {"type": "string", "enum": ["0", "1"]},
    },
    {
        "name": "heartbeat",
        "in": "query",
        "description": "event: heartbeats as `ping` events instead of comments",
        "schema": {"type": "string", "enum": ["comment", "event"]},
    },
]

KEY_PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key with the same body is the same task, instead of a second one",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    },
]

TASK_ID: Final[dict[str, Any]] = {
    "name": "task_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
}

RESUME_PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": "after",
        "in": "query",
        "description": "The last event id that the reader has; the Last-Event-ID header wins",
        "schema": {"type": "integer", "minimum": 0, "maximum": cursor.MAX},
    },
    {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "What a browser's EventSource sends when it comes back",
        "schema": {"type": "integer", "minimum": 0, "maximum": cursor.MAX},
    },
]

RESUMED_BY_KEY: Final[dict[str, Any]] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "With an Idempotency-Key: go on behind that event of the task that it stands for; without "
    "one it says nothing",
    "schema": {"type": "string"},
}
"""`Last-Event-ID` of a call that may be the second one."""


def _number(name: str, bounds: tuple[int, int, int], description: str) -> dict[str, Any]:
    default, least, most = bounds
    schema = {"type": "integer", "minimum": least, "maximum": most, "default": default}
    return {"name": name, "in": "query", "description": description, "schema": schema}


PROBE: Final[dict[str, Any]] = {
    "operationId": "probe",
    "summary": "A stream of known pace",
    "description": "Events at a known interval without a provider or a permit, each with `sent_at`; then one "
    "large event, a heartbeat and the end. For monitors, and `manage.py doctor`.",
    "tags": ["operations"],
    **needs(Scope.READ),
    "parameters": [
        _number("count", probing.COUNT, "Small events"),
        _number("interval", probing.INTERVAL, "Milliseconds between them"),
        STREAM_PARAMETERS[1],
    ],
    "responses": {
        "200": stream_response(),
        "400": problem_response("A bad query"),
        "401": problem_response("Not signed in"),
        "403": LACKS_SCOPE,
        "406": problem_response("No acceptable format"),
        "429": problem_response("Too many probes at once"),
        "503": problem_response("The server is going down"),
    },
}

_REPORT_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["status", "limit_ms", "first_event_ms", "worst_late_ms", "events"],
    "properties": {
        "status": {"type": "string", "enum": ["ok", "late"]},
        "limit_ms": {"type": "integer"},
        "first_event_ms": {"type": "number"},
        "worst_late_ms": {"type": "number"},
        "events": {"type": "integer"},
    },
}

PROBE_REPORT: Final[dict[str, Any]] = {
    "operationId": "probe_report",
    "summary": "The server measures itself",
    "description": "A short probe inside of the server: when its first event comes, and how late all are.",
    "tags": ["operations"],
    **needs(Scope.READ),
    "parameters": [_number("limit", probing.LIMIT, "Milliseconds up to which the server is well")],
    "responses": {
        "200": {
            "description": "In time",
            "content": {"application/json": {"schema": _REPORT_SCHEMA}},
        },
        "400": problem_response("A bad query"),
        "401": problem_response("Not signed in"),
        "403": LACKS_SCOPE,
        "429": problem_response("Too many probes at once"),
        "503": {
            "description": "Late; or the server is going down",
            "content": {
                "application/json": {"schema": _REPORT_SCHEMA},
                **problem_response("")["content"],
            },
        },
    },
}
