"""The OpenAPI description of the three calls; the brief's schema is made from its one definition."""

from __future__ import annotations

from typing import Any

from streaming.api import api
from streaming.schema import (
    BAD_CURSORS,
    KEY_PARAMETERS,
    NOTHING_MORE,
    REPLAYED,
    RESUMED_BY_KEY,
    STREAM_PARAMETERS,
    limited_response,
    needs,
    problem_response,
    stream_response,
)
from streaming.scopes import Scope

from .brief import EXAMPLE, schema

REFUSALS = {
    "400": problem_response("Malformed: not JSON, not UTF-8, a key twice, an unusable id"),
    "401": problem_response("Not signed in"),
    "403": problem_response("CSRF token missing or wrong, or the API key lacks the scope"),
    "404": problem_response("No such model"),
    "406": problem_response("No acceptable format"),
    "408": problem_response("The body came too slowly"),
    "409": problem_response("The Idempotency-Key stands for another body"),
    "413": problem_response("The body is too large"),
    "415": problem_response("Not JSON in UTF-8, or compressed"),
    "422": problem_response("Which field is wrong, and why"),
    "429": limited_response(),
    "503": problem_response("The pool is full or the server is going down; see Retry-After"),
}


def describe() -> None:
    """Add the calls to the API's description."""
    reference, components = schema()
    body = {
        "required": True,
        "content": {"application/json": {"schema": reference, "example": EXAMPLE}},
    }
    common: dict[str, Any] = {"tags": ["content"], "requestBody": body, **needs(Scope.GENERATE)}
    api.document(
        "post",
        "/content/generate/stream/async",
        {
            **common,
            "operationId": "generate_stream",
            "summary": "Write, streaming",
            "parameters": [*KEY_PARAMETERS, RESUMED_BY_KEY, *STREAM_PARAMETERS],
            "responses": {
                "200": stream_response(),
                "204": NOTHING_MORE,
                **BAD_CURSORS,
                **REFUSALS,
                "409": problem_response(
                    "The Idempotency-Key stands for another body, or the cursor is ahead of its stream"
                ),
            },
        },
        components,
    )
    api.document(
        "post",
        "/content/generate",
        {
            **common,
            "operationId": "generate",
            "summary": "Write, and answer whole",
            "parameters": KEY_PARAMETERS,
            "responses": {
                "200": {
                    "description": "The text and its receipt",
                    "headers": REPLAYED,
                    "content": {"application/json": {"schema": _whole()}},
                },
                **REFUSALS,
                "409": problem_response(
                    "The task was cancelled, or the Idempotency-Key stands for another body"
                ),
                "502": problem_response("The producer or its upstream failed"),
                "504": problem_response("It took too long"),
            },
        },
    )
    api.document(
        "post",
        "/content/generate/async",
        {
            **common,
            "operationId": "generate_later",
            "summary": "Write for later",
            "parameters": KEY_PARAMETERS,
            "responses": {
                "202": {
                    "description": "Accepted and recorded",
                    "headers": REPLAYED,
                    "content": {"application/json": {"schema": _accepted()}},
                },
                **REFUSALS,
            },
        },
    )


def _whole() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["task_id", "text", "finish_reason", "content_length", "chunks", "timing"],
        "properties": {
            "task_id": {"type": "string"},
            "text": {"type": "string"},
            "finish_reason": {"type": "string"},
            "content_length": {"type": "integer"},
            "chunks": {"type": "integer"},
            "usage": {"type": ["object", "null"]},
            "model": {"type": ["string", "null"]},
            "cached": {"type": "boolean"},
            "timing": {"$ref": "#/components/schemas/Timing"},
        },
    }


def _accepted() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["task_id", "state", "urls"],
        "properties": {
            "task_id": {"type": "string"},
            "state": {"type": "string"},
            "route": {"type": "string"},
            "reason": {"type": "string"},
            "urls": {
                "type": "object",
                "properties": {"record": {"type": "string"}, "events": {"type": "string"}},
            },
        },
    }
