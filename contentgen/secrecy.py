"""Whether a foreign text repeats our key, in whatever writing. Pure.

A service may answer with what it was sent: plainly, escaped for JSON, HTML or a URL, in another case, broken
over lines, or in base64. So texts are compared decoded, without case, and by their letters and digits alone.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

PIECE: Final = 12
"""Letters and digits in a row that give a key away; fewer are in too many harmless words."""

LEAST: Final = 8
"""Letters and digits of a key that is one. Less is a word for a service that wants none, such as `none`."""

_ROUNDS: Final = 3
"""How often a text may be escaped over again: JSON inside JSON, and once more."""

_ESCAPE: Final = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|[nrt/])")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{16,}")
_URL_SAFE: Final = str.maketrans("+/", "-_")
_BLANK: Final = re.compile(r"\s+")
_NEITHER: Final = re.compile(r"[\W_]+")


@lru_cache(maxsize=256)
def tells(text: str, secret: str) -> bool:
    """Whether `text` holds the secret, or a long piece of it. Never, for a secret that is none (`LEAST`)."""
    key = _plain(secret)
    if len(key) < LEAST:
        return False
    size = min(PIECE, len(key))
    pieces = set(_pieces(key, size))
    return any(piece in pieces for form in _forms(text) for piece in _pieces(form, size))


def scrubbed(text: str, secret: str) -> str:
    """A text without the secret where it stands plainly; slashes in it may be escaped."""
    if not secret:
        return text
    pattern = r"\\*/".join(re.escape(piece) for piece in secret.split("/"))
    return re.sub(pattern, "[key]", text)


def _forms(text: str) -> Iterator[str]:
    """The letters and digits of `text`, as it stands, decoded, and of what it holds in base64."""
    yield _plain(text)
    for _ in range(_ROUNDS):
        text = _ESCAPE.sub(_character, html.unescape(unquote(text)))
        yield _plain(text)
    for run in _BASE64.findall(_BLANK.sub("", text)):
        # Where it begins inside the run is not known.
        for start in range(4):
            yield _plain(_from_base64(run[start:]))


def _character(found: re.Match[str]) -> str:
    code = found[1] or found[2]
    return chr(int(code, 16)) if code else " "


def _from_base64(run: str) -> str:
    # One character more than whole bytes need is none of theirs.
    usable = run[:-1] if len(run) % 4 == 1 else run
    padded = usable.translate(_URL_SAFE) + "=" * (-len(usable) % 4)
    return base64.urlsafe_b64decode(padded).decode("latin-1")


def _plain(text: str) -> str:
    return _NEITHER.sub("", text.casefold())


def _pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(len(text) - size + 1))
