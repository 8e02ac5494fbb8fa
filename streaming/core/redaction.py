"""What must not be in a log: secrets, and what people ask and get; cut out of lines and of their members.

Names say what a member of a mapping is, in a log line as in the text of an exception; patterns find what
looks like a secret wherever it stands. What a task was asked is known, too: its arguments are cut out of what
is logged of its fault (`text_without`). All rather take too much than too little.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, Final

CUT: Final = "[cut]"
"""What stands where something was."""

_SECRET: Final = (
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api_key",
    "openai_api_key",
    "x-csrftoken",
    "csrftoken",
    "__host-csrftoken",
    "__secure-csrftoken",
    "csrfmiddlewaretoken",
    "sessionid",
    "__host-sessionid",
    "__secure-sessionid",
    "password",
    "secret_key",
)

_WORDS: Final = ("prompt", "prompts", "arguments", "text", "delta", "topic", "messages", "source")
"""Members that hold what somebody wrote, or had written."""

_NAMES: Final = frozenset({*_SECRET, *_WORDS})

_MEMBERS: Final = re.compile(
    # In JSON, in a `repr`, in a list of pairs: the name is in quotes, and the rest of the line is cut, as
    # nobody knows where a nested value ends.
    rf"""(?P<quoted>(?P<quote>\\?["'])(?:{"|".join(_NAMES)})(?P=quote)\s*[:,=]\s*).*"""
    # A header, or a keyword.
    rf"""|(?P<bare>(?<![\w-])(?:{"|".join(_SECRET)}|prompts?|arguments)\s*[:=]\s*).*"""
    rf"""|(?P<keyword>(?<![\w-])(?:{"|".join(_WORDS)})=).*""",
    re.IGNORECASE,
)

_SECRETS: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:sluice_[A-Za-z0-9_-]{16,}|sk-[A-Za-z0-9_-]{8,})"
    r"|(?P<scheme>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}"
    r"|(?P<url>://)[^/\s@'\"]*:[^/\s@'\"]*@",
    re.IGNORECASE,
)


PIECE: Final = 12
"""Characters from the beginning of a text by which it is known, should it have been shortened."""

_LONGEST: Final = 4_096
"""Characters of a text that are looked for, and four times as many those that are looked through."""

_MOST: Final = 500
"""Texts that are looked for, lines counted singly."""

_SIGNS: Final = ("sluice_", "sk-", "bearer", "basic", "://", *_NAMES)
"""What a text must hold, in lower case, to be looked at: finding that out costs next to nothing."""


def redacted(text: str) -> str:
    """`text` without secrets and prompts; the same object if there are none."""
    if text.isalnum():
        # An id, a word: most of what lines are made of.
        return text
    lower = text.lower()
    for sign in _SIGNS:
        if sign in lower:
            break
    else:
        return text
    text = _SECRETS.sub(_replacement, text)
    return _MEMBERS.sub(_replacement, text)


def redacted_member(name: str, value: Any) -> Any:
    """The value of a member of a log line, and all that is inside it."""
    if _is_secret(name):
        return CUT
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {str(key): redacted_member(str(key), each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted_member("", each) for each in value]
    return redacted(str(value))


def text_without(text: str, arguments: Any) -> str:
    """`text` without what `arguments` (JSON) say: their texts and the lines of these, plain or escaped, whole
    or shortened (see `PIECE`). Of what is longer than some pages, only the beginning."""
    text = text[: 4 * _LONGEST]
    lines = islice(_lines(_texts_in(arguments)), _MOST)
    forms = {form for each in lines for form in _forms(each[:_LONGEST])}
    for form in sorted(forms, key=len, reverse=True):
        text = _without_long(text, form) if len(form) > PIECE else _without_word(text, form)
    return text


def _texts_in(value: Any) -> Iterator[str]:
    """All strings in a JSON value, but for names of members."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, Mapping):
            left += each.values()
        elif isinstance(each, list | tuple):
            left += each


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """The texts, and their lines where there are several; without what is only a letter."""
    for text in texts:
        for each in (text, *text.splitlines()):
            bare = each.strip()
            if len(bare) > 1 or not bare.isascii():
                yield bare


def _forms(text: str) -> Iterator[str]:
    """The text as it may stand in a message."""
    yield text
    yield repr(text)[1:-1]
    yield ascii(text)[1:-1]
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield repr(text.encode("utf-8", "surrogatepass"))[2:-1]


def _without_word(text: str, word: str) -> str:
    """Without `word`, but not inside of other words of letters of ASCII."""
    if word not in text:
        return text
    return re.sub(rf"(?<!{_like(word[0])}){re.escape(word)}(?!{_like(word[-1])})", CUT, text)


def _like(character: str) -> str:
    """A pattern of what goes on with a word that begins or ends with `character`."""
    return r"[A-Za-z0-9_]" if character.isascii() and (character.isalnum() or character == "_") else r"(?!)"


def _without_long(text: str, long: str) -> str:
    """Without what begins like `long`, as far as the two agree."""
    beginning, start = long[:PIECE], 0
    while (start := text.find(beginning, start)) >= 0:
        end = start + PIECE
        while end < len(text) and end - start < len(long) and text[end] == long[end - start]:
            end += 1
        text = text[:start] + CUT + text[end:]
        start += len(CUT)
    return text


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return name.lower() in _NAMES


def _replacement(found: re.Match[str]) -> str:
    kept = next((value for name, value in found.groupdict().items() if value and name != "quote"), "")
    return f"{kept}{CUT}"
