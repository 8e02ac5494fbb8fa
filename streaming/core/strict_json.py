"""JSON from strangers: an object, or one refusal that says what is wrong. RFC 8259 without leniency.

The standard library's parser alone takes NaN, turns 1e400 into infinity, lets the last of two equal keys
win, guesses UTF-16 and answers deep nesting with `RecursionError`. None of that gets past this module.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import accumulate
from typing import Any, Final, Literal, NoReturn

Code = Literal[
    "invalid_json",
    "too_deep",
    "too_many_values",
    "out_of_range",
    "duplicate_key",
    "not_utf8",
    "object_expected",
]

MAX_INTEGER_DIGITS: Final = 20
"""Enough for every 64-bit integer. Python itself takes quadratic time and gives up at 4,300."""

MAX_VALUES: Final = 20_000
"""Members and elements of a body. A mebibyte has room for half a million, which take the parser, and whoever
walks through them, half a second in which nothing else happens."""

_BOM: Final = b"\xef\xbb\xbf"
_ECHO: Final = 40  # code points of input that a refusal may repeat
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_STEP: Final = {ord("["): 1, ord("]"): -1}


class BadJSON(ValueError):
    """A body that is refused.

    `code` is stable, `status` the HTTP status (422 for a number out of range, else 400), `detail` one
    English sentence and `field` the dotted path of the member at fault, or None. Both repeat at most 40
    code points of the input, unprintable ones escaped.
    """

    def __init__(self, code: Code, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field

    @property
    def status(self) -> int:
        """The HTTP status that fits."""
        return 422 if self.code == "out_of_range" else 400


def loads_object(body: bytes, *, max_depth: int = 32, max_values: int = MAX_VALUES) -> dict[str, object]:
    """The JSON object in `body`, UTF-8 with or without a byte-order mark.

    `max_depth` counts objects and lists inside one another, the outermost as 1; `max_values` members and
    elements, and lists and objects without any (commas and opening brackets). Lone surrogates and U+0000
    written as escapes stay in the strings: the caller judges them. Raises `BadJSON`, nothing else.
    """
    text = _decode(body)
    _check_size(body, max_depth, max_values)
    value = _parse(text)
    if not isinstance(value, dict):
        raise BadJSON("object_expected", "The body must be a JSON object.")
    return value


def _decode(body: bytes) -> str:
    # JSON begins with ASCII, so a NUL among the first two bytes means UTF-16 or UTF-32 without a BOM
    # (RFC 4627, section 3). A NUL further on is a control character like others.
    if b"\0" in body[:2]:
        raise BadJSON("not_utf8", "The body must be UTF-8, not UTF-16 or UTF-32.")
    try:
        return body.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start + (len(_BOM) if body.startswith(_BOM) else 0)
        raise BadJSON("not_utf8", f"The body is not valid UTF-8 at byte {offset}.") from None


def _check_size(body: bytes, max_depth: int, max_values: int) -> None:
    """Refuse deep nesting before the recursive parser sees it, and too many values before they take time.

    Up to its first syntax error, where the parser stops, the body is cut into strings and the rest
    exactly as the parser cuts it.
    """
    openings = body.count(b"[") + body.count(b"{")
    if openings <= max_depth and openings + body.count(b",") <= max_values:
        return
    without_escapes = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # A member has two strings at most, so what is before the last cut has too many values, or is no JSON.
    outside_strings = b"".join(without_escapes.split(b'"', 4 * max_values + 1)[::2])
    # Of a body with more of them there are too many values, or it is no JSON before the next one.
    brackets = outside_strings.translate(_SQUARE, _NOT_BRACKETS)[: 2 * max_values]
    attack = b"[" * (max_depth + 1)  # found at the speed of memory, counting is a thousand times slower
    if attack in brackets or max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > max_depth:
        raise BadJSON("too_deep", f"The body is nested more than {max_depth} levels deep.")
    if sum(map(outside_strings.count, (b",", b"[", b"{"))) > max_values:
        raise BadJSON("too_many_values", f"The body has more than {max_values} members and elements.")


def _parse(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (json.JSONDecodeError, RecursionError, _NumberRefused):
        return _parse_and_explain(text)


def _parse_and_explain(text: str) -> Any:
    """The value, or what is wrong with it; where it is a number, also its path."""
    numbers = _Numbers()
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=numbers.parse_float,
            parse_int=numbers.parse_int,
        )
    except json.JSONDecodeError as error:
        reason = error.msg.partition(" (")[0].rstrip(": ")
        detail = f"The body is not valid JSON: {reason} (line {error.lineno}, column {error.colno})."
        raise BadJSON("invalid_json", detail) from None
    except RecursionError:
        raise BadJSON("too_deep", "The body is nested too deeply.") from None
    if numbers.refused and isinstance(value, dict):
        path = _excerpt(".".join(_path_of_refused(value) or ()))
        raise BadJSON("out_of_range", f'The number at "{path}" is out of range.', path)
    return value


class _OutOfRange:
    """Stands for a refused number until the parser is done and its path can be told."""


class _Numbers:
    """The number hooks of one parse; they do not know which member they work for."""

    def __init__(self) -> None:
        self.refused = False

    def parse_int(self, digits: str) -> int | _OutOfRange:
        if len(digits.removeprefix("-")) > MAX_INTEGER_DIGITS:
            return self._refuse()
        return int(digits)

    def parse_float(self, digits: str) -> float | _OutOfRange:
        value = float(digits)
        return value if math.isfinite(value) else self._refuse()

    def _refuse(self) -> _OutOfRange:
        self.refused = True
        return _OutOfRange()


class _NumberRefused(Exception):
    """A number is out of range, somewhere."""


def _int(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise _NumberRefused
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _NumberRefused
    return value


def _path_of_refused(value: object) -> tuple[str, ...] | None:
    if isinstance(value, _OutOfRange):
        return ()
    members: Any = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    for key, member in members:
        path = _path_of_refused(member)
        if path is not None:
            return (str(key), *path)
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        key = _excerpt(next(key for key, count in counts.items() if count > 1))
        raise BadJSON("duplicate_key", f'The key "{key}" occurs twice in one object.', key)
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise BadJSON("invalid_json", f"{constant} is not JSON.")


def _excerpt(text: str) -> str:
    """At most 40 code points of `text`, unprintable ones (controls, direction marks, surrogates) escaped."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text[:_ECHO]
    )
    return shown if len(text) <= _ECHO else shown + "…"


# `json.loads` would make a decoder for each text, at several times the cost of reading a small one.
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_float, parse_int=_int
)
