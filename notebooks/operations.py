"""What can be asked of a notebook: `{notebook_id, operation: {type, …}, lang}`, checked to the last field."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Final, Literal

import msgspec
from django.utils.translation import gettext as _
from django.utils.translation import override
from msgspec import Meta

from streaming.problems import FieldError, Problem
from streaming.validation import blank, cleaned, faults_of, invalid, is_blank, missing_field, not_a_choice

MAX_CODE: Final = 1_000_000
"""Code points of a cell; a request body has its own limit."""

ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
"""Ids of notebooks, and of cells (nbformat 4.5 allows these characters, and 64 of them), as the API's
description has it."""

LANGUAGES: Final = {"en": "en", "zh": "zh-hans"}

_ID: Final = re.compile(ID_PATTERN, re.ASCII)

Code = Annotated[str, Meta(max_length=MAX_CODE, description="Source text of a cell")]
Cursor = Annotated[int, Meta(ge=0, le=MAX_CODE, description="A position in `code`, in code points")]
CellId = Annotated[
    str,
    Meta(
        description="The cell that the code is of; without it, a new one at the end",
        extra_json_schema={"pattern": ID_PATTERN},
    ),
]


class Operation(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    omit_defaults=True,
):
    """Base of all operations."""


class Ping(Operation, frozen=True, kw_only=True, tag="ping"):
    """Is anybody there? Answers without a kernel, to everybody."""


class Execute(Operation, frozen=True, kw_only=True, tag="execute"):
    """Run a cell."""

    code: Code
    cell_id: CellId | None = None


class Interrupt(Operation, frozen=True, kw_only=True, tag="interrupt"):
    """Stop the cell that runs, as Ctrl-C does."""


class Restart(Operation, frozen=True, kw_only=True, tag="restart"):
    """Begin with a new kernel; what runs ends."""


class Shutdown(Operation, frozen=True, kw_only=True, tag="shutdown"):
    """End the kernel."""


class Status(Operation, frozen=True, kw_only=True, tag="status"):
    """What the kernel does."""


class Complete(Operation, frozen=True, kw_only=True, tag="complete"):
    """How the code at the cursor may go on."""

    code: Code
    cursor: Cursor | None = None


class Inspect(Operation, frozen=True, kw_only=True, tag="inspect"):
    """What the name at the cursor is."""

    code: Code
    cursor: Cursor | None = None


class List(Operation, frozen=True, kw_only=True, tag="list"):
    """The caller's notebooks."""


class Generate(Operation, frozen=True, kw_only=True, tag="generate"):
    """Have the next cell's code written; nothing runs it but its reader."""

    prompt: Annotated[str, Meta(min_length=1, max_length=20_000, description="What the code shall do")]


OPERATIONS: Final[dict[str, type[Operation]]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (
        Ping,
        Execute,
        Interrupt,
        Restart,
        Shutdown,
        Status,
        Complete,
        Inspect,
        List,
        Generate,
    )
}


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do with which notebook. `lang`: the language of messages."""

    notebook_id: Annotated[
        str,
        Meta(description="The name that its owner gives it", extra_json_schema={"pattern": ID_PATTERN}),
    ]
    operation: dict[str, Any]
    lang: Annotated[Literal["en", "zh"] | None, Meta(description="The language of messages")] = None


def parse(values: dict[str, Any]) -> tuple[str, Operation, str | None]:
    """The notebook's id, what is asked of it, and the language.

    Raises `Problem`: 400 for an unusable id, 422 naming every wrong field.
    """
    try:
        call = msgspec.convert(values, Call)
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise invalid(faults_of(values, Call)) from None
    check_id("notebook_id", call.notebook_id)
    return call.notebook_id, operation_of(call.operation), call.lang


def is_ping(values: dict[str, Any]) -> bool:
    """Whether a call that is not checked yet says that it is for everybody."""
    operation = values.get("operation")
    return isinstance(operation, dict) and operation.get("type") == "ping"


def in_language(lang: object) -> AbstractContextManager[None]:
    """Messages in the language of a call, if it names one."""
    return override(LANGUAGES[lang]) if isinstance(lang, str) and lang in LANGUAGES else nullcontext()


def operation_of(values: dict[str, Any]) -> Operation:
    """The operation behind a JSON object. Raises `Problem` as `parse`."""
    # An id is not mended: what is wrong with it is told.
    values = {key: value if key == "cell_id" else cleaned(value) for key, value in values.items()}
    name = values.get("type")
    if "type" not in values:
        raise invalid([missing_field("operation.type")])
    if not isinstance(name, str) or name not in OPERATIONS:
        raise invalid([not_a_choice("operation.type", OPERATIONS)])
    kind = OPERATIONS[name]
    try:
        operation = msgspec.convert(values, kind)
    except (msgspec.ValidationError, UnicodeEncodeError):
        rest = {key: value for key, value in values.items() if key != "type"}
        raise invalid(faults_of(rest, kind, within="operation.")) from None
    if isinstance(operation, Execute) and operation.cell_id is not None:
        check_id("operation.cell_id", operation.cell_id)
    if isinstance(operation, Generate) and is_blank(operation.prompt):
        raise invalid([blank("operation.prompt")])
    if isinstance(operation, Complete | Inspect) and (operation.cursor or 0) > len(operation.code):
        message = _("The cursor is behind the end of the code.")
        raise invalid([FieldError("operation.cursor", "out_of_range", message)])
    return operation


def check_id(field: str, value: str) -> None:
    """Raises `Problem` 400 for what is not the id of a notebook or cell."""
    if _ID.fullmatch(value) is None:
        message = _(
            "An id is of 1 to 64 letters (a to z), digits, hyphens and underscores, a letter or digit first."
        )
        raise Problem(400, "invalid_id", message, fields=(FieldError(field, "invalid_id", message),))
