"""From a caller's JSON to a brief, checked to the last field before anything starts.

Wrong values are collected, so that a caller learns of all of them at once; nothing is coerced.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from typing import Any, Final

import msgspec
from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from msgspec import inspect

from streaming.core.events import clean_text
from streaming.problems import FieldError, Problem

from .brief import LENGTH_NAMES, Brief
from .language import detect
from .providers import ProviderUnavailable, find_provider

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and surrogates: Unicode's categories Cc and Cs."""

_FIELDS: Final = {field.name: field for field in msgspec.structs.fields(Brief)}


def parse(values: dict[str, Any]) -> Brief:
    """The brief behind a JSON object, with its language and provider settled.

    Raises `Problem`: 400 for an unusable id, 404 for an unknown model, 422 naming every wrong field.
    """
    _refuse_bad_id(values.get("user_id"))
    if not _is_clean(values.values()):
        values = {key: _cleaned(value) for key, value in values.items()}
    brief = _converted(values)
    language = brief.language or detect(brief.topic, brief.category, brief.tone, brief.requirements)
    brief = msgspec.structs.replace(
        brief, language=language, provider=brief.provider or settings.CONTENT_PROVIDER
    )
    _check_provider(brief)
    return brief


def _converted(values: dict[str, Any]) -> Brief:
    """Raises `Problem` 422. Field by field, with an explanation for each, only where something is wrong."""
    try:
        brief = msgspec.convert(values, Brief)
    except (msgspec.ValidationError, UnicodeEncodeError):
        faults = [*_unknown_fields(values), *_wrong_values(values)]
        raise _invalid(faults) from None
    faults = [fault for name in _CHECKED if name in values and (fault := _unusable(name, values[name]))]
    if faults:
        raise _invalid(faults)
    return brief


def _refuse_bad_id(value: Any) -> None:
    if isinstance(value, str) and _CONTROL.search(value):
        fault = FieldError("user_id", "invalid_id", _("Control characters are not allowed in an id."))
        raise Problem(400, "invalid_id", fault.message, fields=(fault,))


def _is_clean(values: Iterable[Any]) -> bool:
    """Whether `_cleaned` would leave all texts alone, at a quick look that says so of plain ASCII only."""
    texts: list[str] = []
    for value in values:
        if value.__class__ is str:
            texts.append(value)
        elif isinstance(value, dict) and not _is_clean(value.values()):
            return False
    joined = "".join(texts)
    return joined.isascii() and "\x00" not in joined


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
    except (msgspec.ValidationError, UnicodeEncodeError):  # the latter: a lone surrogate in a member's name
        return _explained(name, value, _alternatives(inspect.type_info(kind)))
    return _unusable(name, value)


_CHECKED: Final = ("user_id", "topic", "length", "priority")


def _unusable(name: str, value: Any) -> FieldError | None:
    """What is wrong with a value of the right type."""
    if name in ("user_id", "topic") and _is_blank(value):
        return FieldError(name, "blank", _("This field must not be blank."))
    choices: dict[str, Any] = {}
    if name == "length":
        choices = LENGTH_NAMES
    elif name == "priority":
        choices = settings.PRIORITIES
    if choices and isinstance(value, str) and value not in choices:
        return _not_a_choice(name, choices, _alternatives(inspect.type_info(_FIELDS[name].type)))
    return None


_EXPECTED: Final[dict[type[inspect.Type], str]] = {
    inspect.StrType: gettext_noop("text"),
    inspect.LiteralType: gettext_noop("text"),
    inspect.IntType: gettext_noop("a whole number"),
    inspect.FloatType: gettext_noop("a number"),
    inspect.BoolType: gettext_noop("true or false"),
    inspect.StructType: gettext_noop("an object"),
}

_GOT: Final[dict[type, str]] = {
    str: gettext_noop("text"),
    int: gettext_noop("a number"),
    float: gettext_noop("a decimal number"),
    dict: gettext_noop("an object"),
    list: gettext_noop("a list"),
}


def _explained(name: str, value: Any, kinds: list[inspect.Type]) -> FieldError:
    """Why a refused value is none of `kinds`, in the reader's language (msgspec's reasons are English)."""
    for kind in kinds:
        match kind, value:
            case (inspect.IntType() | inspect.FloatType(), bool()):
                continue
            case (inspect.StructType(cls=struct), dict()):
                return _explained_member(name, value, struct)
            case (inspect.LiteralType(values=choices), str()):
                return _not_a_choice(name, choices, kinds)
            case (inspect.StrType(pattern=str()), str()):
                return FieldError(name, "not_a_choice", _("Not a model's name."))
            case (inspect.StrType(), ""):
                return FieldError(name, "blank", _("This field must not be blank."))
            case (inspect.StrType(max_length=limit), str()):
                return FieldError(name, "too_long", _("At most %d characters.") % limit)
            case (inspect.IntType(ge=low, le=high), int()) | (
                inspect.FloatType(ge=low, le=high),
                int() | float(),
            ):
                return FieldError(name, "out_of_range", _out_of_range(low, high))
    expected = _(" or ").join(_(_EXPECTED[type(kind)]) for kind in kinds if type(kind) in _EXPECTED)
    got = _(_GOT[type(value)]) if type(value) in _GOT else msgspec.json.encode(value).decode()
    message = _("Expected %(expected)s, got %(got)s.") % {"expected": expected, "got": got}
    return FieldError(name, "wrong_type", message)


def _explained_member(name: str, value: dict[str, Any], struct: type[msgspec.Struct]) -> FieldError:
    """Inside an object: its first wrong member, else its first unknown one."""
    kinds = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for member, kind in kinds.items():
        if member in value and (fault := _wrong_value(f"{name}.{member}", value[member], kind)):
            return fault
    unknown = next(member for member in value if member not in kinds)
    return FieldError(name, "unknown_field", _("There is no such field: %s.") % clean_text(unknown)[:64])


def _not_a_choice(name: str, choices: Collection[Any], kinds: list[inspect.Type]) -> FieldError:
    numbers = [kind for kind in kinds if isinstance(kind, inspect.IntType | inspect.FloatType)]
    listed = ", ".join([*choices, *(f"{kind.ge}–{kind.le}" for kind in numbers)])
    return FieldError(name, "not_a_choice", _("Choose one of: %s.") % listed)


def _out_of_range(low: float | None, high: float | None) -> str:
    if high is None:
        return _("Expected a number of at least %s.") % low
    return _("Expected a number from %(low)s to %(high)s.") % {"low": low, "high": high}


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    """What a union is made of, without the wrapping of descriptions."""
    match kind:
        case inspect.Metadata(type=inner):
            return _alternatives(inner)
        case inspect.UnionType(types=kinds):
            return [each for inner in kinds for each in _alternatives(inner)]
    return [kind]


def _is_blank(text: str) -> bool:
    """Nothing that a person could see: white space, format and control characters only."""
    if text[:1].isalnum():
        return False
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
