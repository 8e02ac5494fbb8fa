"""The brief: what a caller wants written, checked to the last field before anything starts.

One definition serves the views, the producer and the OpenAPI description. Wrong values are collected, so
that a caller learns of all of them at once; nothing is coerced.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Final, Literal

import msgspec
from django.conf import settings
from django.utils.translation import gettext as _
from msgspec import Meta

from streaming.core.events import clean_text
from streaming.problems import FieldError, Problem

from .language import detect
from .providers import ProviderUnavailable, find_provider
from .providers.scripted import ScriptedOptions

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

MIN_CHARACTERS: Final = 20
MAX_CHARACTERS: Final = 20_000

MAX_MODEL: Final = 128


class Brief(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to write, for whom, and how to run it."""

    user_id: Annotated[
        str, Meta(min_length=1, max_length=255, description="The end user on whose behalf the caller acts")
    ]
    topic: Annotated[str, Meta(min_length=1, max_length=20_000, description="What it is about")]
    category: FreeText = ""
    tone: FreeText = ""
    length: Annotated[
        str | Annotated[int, Meta(ge=MIN_CHARACTERS, le=MAX_CHARACTERS)],
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


_FIELDS: Final = {field.name: field for field in msgspec.structs.fields(Brief)}


def parse(values: dict[str, Any]) -> Brief:
    """The brief behind a JSON object, with its language and provider settled.

    Raises `Problem`: 400 for an unusable id, 404 for an unknown model, 422 naming every wrong field.
    """
    _refuse_bad_id(values.get("user_id"))
    values = {key: _cleaned(value) for key, value in values.items()}
    faults = [*_unknown_fields(values), *_wrong_values(values)]
    if faults:
        raise _invalid(faults)
    brief = msgspec.convert(values, Brief)
    language = brief.language or detect(brief.topic, brief.category, brief.tone, brief.requirements)
    brief = msgspec.structs.replace(
        brief, language=language, provider=brief.provider or settings.CONTENT_PROVIDER
    )
    _check_provider(brief)
    return brief


def _refuse_bad_id(value: Any) -> None:
    if isinstance(value, str) and any(unicodedata.category(char) in ("Cc", "Cs") for char in value):
        fault = FieldError("user_id", "invalid_id", _("Control characters are not allowed in an id."))
        raise Problem(400, "invalid_id", fault.message, fields=(fault,))


def _cleaned(value: Any) -> Any:
    """Text without NUL and lone surrogates, which neither JSON readers nor databases agree on."""
    if isinstance(value, str):
        value = value.replace("\x00", "")
        return value if value.isascii() else clean_text(value)
    if isinstance(value, dict):
        return {key: _cleaned(item) for key, item in value.items()}
    return value


def _unknown_fields(values: dict[str, Any]) -> list[FieldError]:
    return [
        FieldError(clean_text(name)[:64], "unknown_field", _("There is no such field."))
        for name in values
        if name not in _FIELDS
    ]


def _wrong_values(values: dict[str, Any]) -> list[FieldError]:
    faults: list[FieldError] = []
    for name, field in _FIELDS.items():
        if name not in values:
            if field.required:
                faults.append(FieldError(name, "missing_field", _("This field is required.")))
            continue
        fault = _wrong_value(name, values[name], field.type)
        if fault is not None:
            faults.append(fault)
    return faults


def _wrong_value(name: str, value: Any, kind: Any) -> FieldError | None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return _explained(name, str(error))
    if name in ("user_id", "topic") and _is_blank(value):
        return FieldError(name, "blank", _("This field must not be blank."))
    known: dict[str, dict[str, Any]] = {"length": LENGTH_NAMES, "priority": settings.PRIORITIES}
    choices = known.get(name, {})
    if choices and isinstance(value, str) and value not in choices:
        return FieldError(name, "not_a_choice", _("Choose one of: %s.") % ", ".join(choices))
    return None


def _explained(name: str, text: str) -> FieldError:
    """msgspec's message as a field error: the path goes into the name, the kind of fault into the code."""
    reason, _at, path = text.partition(" - at ")
    inner = path.strip("`").removeprefix("$").lstrip(".")
    if inner:
        name = f"{name}.{inner}"
    if "unknown field" in reason:
        code = "unknown_field"
    elif "Invalid enum value" in reason or "matching regex" in reason:
        code = "not_a_choice"
    elif "length" in reason:
        code = "blank" if ">=" in reason else "too_long"
    elif ">=" in reason or "<=" in reason or "out of range" in reason:
        code = "out_of_range"
    else:
        code = "wrong_type"
    return FieldError(name, code, reason)


def _is_blank(text: str) -> bool:
    """Nothing that a person could see: white space, format and control characters only."""
    return all(unicodedata.category(char) in ("Zs", "Zl", "Zp", "Cc", "Cf") for char in text)


def _check_provider(brief: Brief) -> None:
    assert brief.provider is not None
    try:
        provider = find_provider(brief.provider)
    except ProviderUnavailable as error:
        raise _invalid(
            [FieldError("provider", "not_a_choice", _("There is no such provider here."))]
        ) from error
    if brief.options is not None and not provider.takes_options:
        raise _invalid([FieldError("options", "unknown_field", _("This provider takes no options."))])
    if brief.model is not None and brief.model not in provider.models():
        if ".." in brief.model:
            raise _invalid([FieldError("model", "not_a_choice", _("Not a model's name."))])
        raise Problem(404, "unknown_model", _("There is no such model here."))


def _invalid(faults: list[FieldError]) -> Problem:
    codes = {fault.code for fault in faults}
    code = codes.pop() if len(codes) == 1 else "validation_failed"
    detail = " ".join(f"{fault.field}: {fault.message}" for fault in faults)
    return Problem(422, code, detail, fields=tuple(faults))


def schema() -> tuple[dict[str, Any], dict[str, Any]]:
    """The brief's JSON schema (a reference) and its components, for the OpenAPI description."""
    (reference,), components = msgspec.json.schema_components(
        [Brief], ref_template="#/components/schemas/{name}"
    )
    return reference, components
