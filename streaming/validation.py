"""What callers send, checked against a type to the last field: every fault with its field, a stable code and
a sentence in the reader's language; nothing is coerced.

msgspec says whether a value fits a type; its reasons are English and stop at the first, so they are told
anew.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from msgspec import inspect

from .core.events import clean_text
from .problems import FieldError, Problem

MAX_FAULTS: Final = 20
"""Faults that a refusal lists: who sends a hundred thousand unknown fields is not told of each."""

Check = Callable[[str, Any], FieldError | None]
"""What is wrong with a field's value although it is of the right type."""


def faults_of(
    values: Mapping[str, Any],
    struct: type[msgspec.Struct],
    check: Check = lambda name, value: None,
    within: str = "",
) -> Iterator[FieldError]:
    """All that keeps `values` from being a `struct`, each found when asked for. `within`: what is before each
    field's name."""
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    for name in values:
        if name not in fields:
            yield unknown_field(within, name)
    for name, field in fields.items():
        if name in values:
            fault = _wrong_value(within + name, values[name], field.type) or check(
                within + name, values[name]
            )
            if fault is not None:
                yield fault
        elif field.required:
            yield missing_field(within + name)


def invalid(faults: Iterable[FieldError], **members: Any) -> Problem:
    """422 with the first `MAX_FAULTS` of them, and whether there are more; their own code, if they are of one
    kind. `members`: others of the problem document."""
    found = tuple(islice(faults, MAX_FAULTS + 1))
    listed = found[:MAX_FAULTS]
    codes = {fault.code for fault in found}
    code = codes.pop() if len(codes) == 1 else "validation_failed"
    sentences = [f"{fault.field}: {fault.message}" for fault in listed]
    if len(found) > len(listed):
        sentences.append(_("There are more faults."))
        members["more_errors"] = True
    return Problem(422, code, " ".join(sentences), fields=listed, **members)


def unknown_field(within: str, name: str) -> FieldError:
    """A member that no such object has. `within`: what is before its name."""
    return FieldError(within + clean_text(name[:64]), "unknown_field", _("There is no such field."))


def missing_field(name: str) -> FieldError:
    """A member that must be there."""
    return FieldError(name, "missing_field", _("This field is required."))


def blank(name: str) -> FieldError:
    """A text in which there is nothing to see."""
    return FieldError(name, "blank", _("This field must not be blank."))


def is_blank(text: str) -> bool:
    """Nothing that a person could see: white space, format and control characters only."""
    if text[:1].isalnum():
        return False
    return all(unicodedata.category(char) in ("Zs", "Zl", "Zp", "Cc", "Cf") for char in text)


def not_a_choice(
    name: str, choices: Collection[Any], struct: type[msgspec.Struct] | None = None
) -> FieldError:
    """A value that is none of `choices`, nor of the numbers that the `struct` allows besides."""
    kinds: list[inspect.Type] = []
    if struct is not None:
        kind = next(field.type for field in msgspec.structs.fields(struct) if field.name == name)
        kinds = _alternatives(inspect.type_info(kind))
    return _not_a_choice(name, choices, kinds)


def is_clean(values: Iterable[Any]) -> bool:
    """Whether `cleaned` would leave all texts alone, at a quick look that says so of plain ASCII only."""
    texts: list[str] = []
    for value in values:
        if value.__class__ is str:
            texts.append(value)
        elif isinstance(value, dict) and not is_clean(value.values()):
            return False
    joined = "".join(texts)
    return joined.isascii() and "\x00" not in joined


def cleaned(value: Any) -> Any:
    """Text without NUL and lone surrogates, which neither JSON readers nor databases agree on."""
    if isinstance(value, str):
        value = value.replace("\x00", "")
        return value if value.isascii() else clean_text(value)
    if isinstance(value, dict):
        return {key: cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    return value


def _wrong_value(name: str, value: Any, kind: Any) -> FieldError | None:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError):  # the latter: a lone surrogate in a member's name
        return _explained(name, value, _alternatives(inspect.type_info(kind)))
    return None


_EXPECTED: Final[dict[type[inspect.Type], str]] = {
    inspect.StrType: gettext_noop("text"),
    inspect.LiteralType: gettext_noop("text"),
    inspect.IntType: gettext_noop("a whole number"),
    inspect.FloatType: gettext_noop("a number"),
    inspect.BoolType: gettext_noop("true or false"),
    inspect.StructType: gettext_noop("an object"),
    inspect.DictType: gettext_noop("an object"),
    inspect.ListType: gettext_noop("a list"),
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
                return FieldError(name, "not_a_choice", _("Not a valid name."))
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
    return FieldError(name, "unknown_field", _("There is no such field: %s.") % clean_text(unknown[:64]))


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
