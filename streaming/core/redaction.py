"""What must not be in a log: secrets, and what people ask and get; cut out of lines and of their members.

Names say what a member of a mapping is, in a log line as in the text of an exception; patterns find what
looks like a secret wherever it stands. Both rather take too much than too little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
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
    "csrfmiddlewaretoken",
    "sessionid",
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


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return name.lower() in _NAMES


def _replacement(found: re.Match[str]) -> str:
    kept = next((value for name, value in found.groupdict().items() if value and name != "quote"), "")
    return f"{kept}{CUT}"
