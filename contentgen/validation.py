"""From a caller's JSON to a brief, checked to the last field before anything starts.

Wrong values are collected, so that a caller learns of all of them at once; nothing is coerced.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from django.conf import settings
from django.utils.translation import gettext as _

from streaming.problems import FieldError, Problem
from streaming.validation import blank, cleaned, faults_of, invalid, is_blank, is_clean, not_a_choice

from .brief import LENGTH_NAMES, Brief
from .language import detect
from .providers import ProviderUnavailable, find_provider

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and surrogates: Unicode's categories Cc and Cs."""


def parse(values: dict[str, Any]) -> Brief:
    """The brief behind a JSON object, with its language and provider settled.

    Raises `Problem`: 400 for an unusable id, 404 for an unknown model, 422 naming every wrong field.
    """
    _refuse_bad_id(values.get("user_id"))
    if not is_clean(values.values()):
        values = {key: cleaned(value) for key, value in values.items()}
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
        raise invalid(faults_of(values, Brief, _unusable)) from None
    faults = [fault for name in _CHECKED if name in values and (fault := _unusable(name, values[name]))]
    if faults:
        raise invalid(faults)
    return brief


def _refuse_bad_id(value: Any) -> None:
    if isinstance(value, str) and _CONTROL.search(value):
        fault = FieldError("user_id", "invalid_id", _("Control characters are not allowed in an id."))
        raise Problem(400, "invalid_id", fault.message, fields=(fault,))


_CHECKED: Final = ("user_id", "topic", "length", "priority")


def _unusable(name: str, value: Any) -> FieldError | None:
    """What is wrong with a value of the right type."""
    if name in ("user_id", "topic") and is_blank(value):
        return blank(name)
    choices: dict[str, Any] = {}
    if name == "length":
        choices = LENGTH_NAMES
    elif name == "priority":
        choices = settings.PRIORITIES
    if choices and isinstance(value, str) and value not in choices:
        return not_a_choice(name, choices, Brief)
    return None


def _check_provider(brief: Brief) -> None:
    assert brief.provider is not None
    try:
        provider = find_provider(brief.provider)
    except ProviderUnavailable as error:
        raise invalid(
            [FieldError("provider", "not_a_choice", _("There is no such provider here."))]
        ) from error
    if brief.options is not None and not provider.takes_options:
        raise invalid([FieldError("options", "unknown_field", _("This provider takes no options."))])
    if brief.model is not None and brief.model not in provider.models():
        if ".." in brief.model:
            raise invalid([FieldError("model", "not_a_choice", _("Not a model's name."))])
        raise Problem(404, "unknown_model", _("There is no such model here."))
