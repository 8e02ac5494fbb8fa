"""The OpenAPI description of operations and of notebooks as a resource; operations and drafts are described
by the records that check them."""

from __future__ import annotations

from typing import Any, Final, Union

import msgspec

from streaming.api import api
from streaming.schema import (
    BAD_CURSORS,
    KEY_PARAMETERS,
    LACKS_SCOPE,
    NOTHING_MORE,
    REF,
    RESUMED_BY_KEY,
    STREAM_PARAMETERS,
    limited_response,
    needs,
    problem_response,
    stream_response,
)
from streaming.scopes import Scope

from .documents import CellDraft, Draft
from .operations import ID_PATTERN, OPERATIONS, Call

EXAMPLE: Final = {"notebook_id": "test", "operation": {"type": "ping"}, "lang": "en"}
"""An operation to try."""

_MALFORMED = problem_response("Malformed: not JSON, not UTF-8, a key twice, an unusable id")
_NOT_SIGNED_IN = problem_response("Not signed in")
_CSRF = problem_response("CSRF token missing or wrong, or the API key lacks the scope")
_TOO_LARGE = problem_response("The body is too large")
_NOT_JSON = problem_response("Not JSON in UTF-8, or compressed")
_AWAY = problem_response("The database is away; see Retry-After")
_ABSENT = problem_response("No such notebook, or not the caller's")
_BAD_ID = problem_response("Not an id")

_REFUSALS: Final = {
    "400": _MALFORMED,
    "401": problem_response("Not signed in; only `ping` is for everybody"),
    "403": problem_response(
        "Code cannot be run here, or not by this caller; CSRF token missing or wrong; key without the scope"
    ),
    "406": problem_response("No acceptable format"),
    "408": problem_response("The body came too slowly"),
    "409": problem_response(
        "The Idempotency-Key stands for another body, or the cursor is ahead of its stream"
    ),
    "413": _TOO_LARGE,
    "415": _NOT_JSON,
    "422": problem_response("Which field is wrong, and why; of an unknown type, the known ones"),
    "429": limited_response(),
    "503": problem_response("The pool is full or the server is going down; see Retry-After"),
}

_NOTEBOOK_ID: Final = {
    "name": "notebook_id",
    "in": "path",
    "required": True,
    "description": "The name that its owner gives it",
    "schema": {"type": "string", "pattern": ID_PATTERN},
}

_IF_MATCH: Final = {
    "name": "If-Match",
    "in": "header",
    "description": "The `version` that the caller has seen, in quotes: save only if there is no newer one; "
    "`*`: in any case",
    "schema": {"type": "string", "pattern": r'^(\*|"[0-9]{1,9}")$'},
}


def describe() -> None:
    """Add the calls to the API's description."""
    call, operations = _call()
    api.document(
        "post",
        "/send_operation",
        {
            "operationId": "send_operation",
            "summary": "Do something with a notebook",
            "description": "The answer is an event stream for every operation; docs/notebooks.md tells what "
            "each says. Running code needs the permission `notebooks.run_code`, and of an API key the scopes "
            "`generate` and `notebooks`; docs/protocol.md has those of other operations.",
            "tags": ["notebooks"],
            "parameters": [*KEY_PARAMETERS, RESUMED_BY_KEY, *STREAM_PARAMETERS],
            "requestBody": _body(call, example=EXAMPLE),
            "responses": {"200": stream_response(), "204": NOTHING_MORE, **BAD_CURSORS, **_REFUSALS},
        },
        operations,
    )
    _describe_notebooks()
    _describe_files()


def _describe_notebooks() -> None:
    path = "/notebooks/{notebook_id}"
    common: dict[str, Any] = {"tags": ["notebooks"], "parameters": [_NOTEBOOK_ID]}
    found = {
        "description": "The notebook",
        "headers": {"ETag": {"schema": {"type": "string"}, "description": "Its `version`, for `If-Match`"}},
        "content": {"application/json": {"schema": _ref("Notebook")}},
    }
    draft, components = _draft()
    api.document(
        "get",
        path,
        {
            **common,
            "operationId": "get_notebook",
            "summary": "A notebook with its cells and what they said",
            **needs(Scope.READ),
            "responses": {
                "200": found,
                "400": _BAD_ID,
                "401": _NOT_SIGNED_IN,
                "403": LACKS_SCOPE,
                "404": _ABSENT,
                "503": _AWAY,
            },
        },
        {"Notebook": _notebook(), "NotebookCell": _cell(), "CellOutput": _output()},
    )
    api.document(
        "put",
        path,
        {
            **common,
            "operationId": "save_notebook",
            "summary": "Save titles, sources and order; outputs stay",
            **needs(Scope.NOTEBOOKS),
            "parameters": [_NOTEBOOK_ID, _IF_MATCH],
            "requestBody": _body(draft),
            "responses": {
                "200": found,
                "204": {"description": "Saved, for an API key that may not read"},
                "400": _MALFORMED,
                "401": _NOT_SIGNED_IN,
                "403": _CSRF,
                "412": problem_response("Somebody has changed it meanwhile (`changed_meanwhile`)"),
                "413": _TOO_LARGE,
                "415": _NOT_JSON,
                "422": problem_response("Which field is wrong, and why"),
                "503": _AWAY,
            },
        },
        components,
    )
    api.document(
        "delete",
        path,
        {
            **common,
            "operationId": "delete_notebook",
            "summary": "Delete a notebook, and end its kernel",
            **needs(Scope.NOTEBOOKS),
            "responses": {
                "204": {"description": "It is gone"},
                "400": _BAD_ID,
                "401": _NOT_SIGNED_IN,
                "403": _CSRF,
                "404": _ABSENT,
                "503": _AWAY,
            },
        },
    )


def _describe_files() -> None:
    path = "/notebooks/{notebook_id}.ipynb"
    common: dict[str, Any] = {"tags": ["notebooks"], "parameters": [_NOTEBOOK_ID]}
    api.document(
        "get",
        path,
        {
            **common,
            "operationId": "export_notebook",
            "summary": "The notebook as a file for Jupyter",
            **needs(Scope.READ),
            "responses": {
                "200": {
                    "description": "A file of nbformat 4.5",
                    "headers": {
                        "Content-Disposition": {"schema": {"type": "string"}, "description": "Its name"}
                    },
                    "content": {"application/x-ipynb+json": {"schema": _ref("NotebookFile")}},
                },
                "400": _BAD_ID,
                "401": _NOT_SIGNED_IN,
                "403": LACKS_SCOPE,
                "404": _ABSENT,
                "503": _AWAY,
            },
        },
        {"NotebookFile": _file()},
    )
    api.document(
        "put",
        path,
        {
            **common,
            "operationId": "import_notebook",
            "summary": "A file of Jupyter in place of what the notebook was",
            **needs(Scope.NOTEBOOKS),
            "requestBody": _body(_older_file()),
            "responses": {
                "204": {"description": "It is kept"},
                "400": _MALFORMED,
                "401": _NOT_SIGNED_IN,
                "403": _CSRF,
                "413": _TOO_LARGE,
                "415": _NOT_JSON,
                "422": problem_response("Not a notebook (`not_a_notebook`), or one with too many cells"),
                "503": _AWAY,
            },
        },
    )


def _body(schema: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema, **members}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": REF.format(name=name)}


def _call() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a call (a reference), and its components. Some events have the names of operations
    (`ping`, `restart`, `complete`), so these get longer ones."""
    longer = "{name}Operation"
    (operation,), operations = msgspec.json.schema_components(
        [Union[tuple(OPERATIONS.values())]],  # noqa: UP007 - of as many as there are
        ref_template=REF.format(name=longer),
    )
    components = {longer.format(name=name): schema for name, schema in operations.items()}
    _, call = msgspec.json.schema_components([Call], ref_template=REF)
    call["Call"]["properties"]["operation"] = operation
    return _ref("NotebookCall"), components | {"NotebookCall": call["Call"] | {"title": "NotebookCall"}}


def _draft() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a notebook as it is saved (a reference), and its components."""
    (reference, cell), components = msgspec.json.schema_components([Draft, CellDraft], ref_template=REF)
    components["Draft"]["properties"]["cells"]["items"] = cell
    return reference, components


def _notebook() -> dict[str, Any]:
    return _object(
        notebook_id={"type": "string", "pattern": ID_PATTERN},
        title={"type": "string"},
        version={"type": "integer", "description": "Grows with each change; see `If-Match`"},
        cells={"type": "array", "items": _ref("NotebookCell")},
        kernel=_object(
            state={"type": "string", "enum": ["none", "starting", "idle", "busy"]},
            execution_count={"type": ["integer", "null"]},
        ),
    )


def _cell() -> dict[str, Any]:
    return _object(
        cell_id={"type": "string", "pattern": ID_PATTERN},
        kind={"type": "string", "enum": ["code", "markdown", "raw"]},
        source={"type": "string"},
        outputs={"type": "array", "items": _ref("CellOutput")},
        dropped_chars={"type": "integer", "description": "Of its outputs, beyond what is kept"},
        execution_count={"type": ["integer", "null"]},
        stream={
            "type": ["string", "null"],
            "description": "The id of its stream, while it runs or waits",
        },
    )


def _output() -> dict[str, Any]:
    """As nbformat 4.5 has outputs; which members there are depends on `output_type`."""
    schema = _object(
        output_type={"type": "string", "enum": ["stream", "display_data", "execute_result", "error"]}
    )
    schema["description"] = "An output as nbformat 4.5 has it"
    schema["properties"] |= {
        "name": {"type": "string", "enum": ["stdout", "stderr"]},
        "text": {"type": "string"},
        "data": {"type": "object", "description": "A MIME bundle"},
        "metadata": {"type": "object"},
        "execution_count": {"type": ["integer", "null"]},
        "ename": {"type": "string"},
        "evalue": {"type": "string"},
        "traceback": {"type": "array", "items": {"type": "string"}},
        "late": {"type": "boolean", "description": "Said by a thread, after the end of the cell"},
    }
    return schema


def _file() -> dict[str, Any]:
    return _object(
        nbformat={"type": "integer"},
        nbformat_minor={"type": "integer"},
        metadata={"type": "object"},
        cells={"type": "array", "items": {"type": "object"}},
    ) | {"description": "A notebook in the format of Jupyter: nbformat.readthedocs.io"}


def _older_file() -> dict[str, Any]:
    """What is taken: older formats, too, which have no cells at their top."""
    return {
        "type": "object",
        "required": ["nbformat"],
        "properties": {"nbformat": {"type": "integer"}},
        "description": "A notebook in a format of Jupyter; an older one is converted",
    }


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with just these members, all of them there."""
    return {"type": "object", "required": list(properties), "properties": properties}
