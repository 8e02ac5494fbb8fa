"""The brief: what a caller wants written. One definition serves the views, the producer and the OpenAPI
description; `validation` makes it from what a caller sent."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from .script import ScriptedOptions

FreeText = Annotated[str, Meta(max_length=2_000)]

LENGTHS: Final = {
    "zh": {"short": 150, "medium": 400, "long": 1_000},
    "en": {"short": 350, "medium": 900, "long": 2_200},
}
"""Code points of a whole text: an English word is about as long as three Chinese characters."""

LENGTH_NAMES: Final = {
    "short": "short",
    "medium": "medium",
    "long": "long",
    "短": "short",
    "中等": "medium",
    "长": "long",
}

EXAMPLE: Final = {
    "user_id": "test_user",
    "category": "美食探店",
    "topic": "新开的咖啡店",
    "tone": "活泼可爱",
    "length": "中等",
}
"""A brief to try, as a caller sends it."""

MIN_CHARACTERS: Final = 20
MAX_CHARACTERS: Final = 20_000


class Brief(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to write, for whom, and how to run it."""

    user_id: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=255,
            description="The end user on whose behalf the caller acts; no control characters",
            extra_json_schema={"pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$"},
        ),
    ]
    topic: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=20_000,
            description="What it is about; not blank",
            extra_json_schema={"pattern": "\\S"},
        ),
    ]
    category: FreeText = ""
    tone: FreeText = ""
    length: Annotated[
        Annotated[str, Meta(extra_json_schema={"enum": list(LENGTH_NAMES)})]
        | Annotated[int, Meta(ge=MIN_CHARACTERS, le=MAX_CHARACTERS)],
        Meta(description="short, medium, long, 短, 中等, 长, or a number of characters (20 to 20000)"),
    ] = "medium"
    language: Literal["zh", "en"] | None = None
    audience: FreeText = ""
    requirements: FreeText = ""
    provider: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    model: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")] | None = None
    priority: Annotated[str, Meta(description="A priority class: interactive, normal or batch")] | None = None
    on_disconnect: Annotated[
        Literal["cancel", "continue"] | Annotated[float, Meta(ge=0, le=86_400)] | None,
        Meta(description="When the last reader leaves: cancel, continue, or seconds of grace"),
    ] = None
    max_tokens: Annotated[int, Meta(ge=1, le=32_768)] | None = None
    options: ScriptedOptions | None = None

    @property
    def characters(self) -> int:
        """The length asked for, in code points."""
        if isinstance(self.length, int):
            return self.length
        return LENGTHS[self.language or "en"][LENGTH_NAMES[self.length]]


def schema() -> tuple[dict[str, Any], dict[str, Any]]:
    """The brief's JSON schema (a reference) and its components, for the OpenAPI description."""
    (reference,), components = msgspec.json.schema_components(
        [Brief], ref_template="#/components/schemas/{name}"
    )
    return reference, components
