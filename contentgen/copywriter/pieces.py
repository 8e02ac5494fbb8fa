"""Text cut with care: clusters, small parts for streaming, clean input, short forms, sentences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import cycle
from typing import Literal

Language = Literal["zh", "en"]

_JOINER = "\u200d"
_CHINESE_SIZES = (2, 1, 3, 2, 2, 1)
_LONGEST_PART = 24
_BIDI_CONTROLS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
_PUNCTUATION = " .,;:!?…。，、；：！？～"
_TAG_LIMIT = 24
_SENTENCE_END = re.compile(r"[.!?。！？…～\n]+")


def clusters(text: str) -> Iterator[str]:
    """Runs of code points that a reader takes for one character; they concatenate to ``text``.

    Knows combining marks, joiners, emoji modifiers and tags, flags, Hangul vowels and finals, surrogate pairs
    and CR LF; the full Unicode algorithm knows some rarer joins.
    """
    start = 0
    flags = 0
    for index in range(1, len(text)):
        before, here = text[index - 1], text[index]
        flags = flags + 1 if _is_flag_half(before) else 0
        if _extends(here) or before == _JOINER or _is_pair(before, here):
            continue
        if flags % 2 and _is_flag_half(here):
            continue
        yield text[start:index]
        start = index
    if text:
        yield text[start:]


def split_natural(text: str, language: Language) -> Iterator[str]:
    """Cut ``text`` into the small parts in which a writer would type it.

    English goes word by word with the white space that follows, Chinese one to three characters at a time; a
    word without end is cut after 24 characters. No part ends inside a cluster and the parts concatenate to
    ``text`` exactly; an empty text has no parts.
    """
    sizes = cycle(_CHINESE_SIZES)
    limit = next(sizes) if language == "zh" else _LONGEST_PART
    part: list[str] = []
    for cluster in clusters(text):
        word_over = language == "en" and part and part[-1][-1].isspace() and not cluster[0].isspace()
        if word_over or len(part) >= limit:
            yield "".join(part)
            part.clear()
            if language == "zh":
                limit = next(sizes)
        part.append(cluster)
    if part:
        yield "".join(part)


def clean(text: str) -> str:
    """``text`` on one line: white space and controls folded to single spaces, nothing that could turn the
    direction of what follows, and no lone surrogates (they become U+FFFD), so that it can be encoded."""
    kept = []
    for char in text:
        category = unicodedata.category(char)
        if category == "Cs":
            kept.append("\ufffd")
        elif category == "Cc":
            kept.append(" ")
        elif unicodedata.bidirectional(char) not in _BIDI_CONTROLS:
            kept.append(char)
    return " ".join("".join(kept).split())


def shorten(text: str, limit: int) -> str:
    """At most ``limit`` code points of ``text``, cut between clusters (between words where near) with ``…``."""
    if len(text) <= limit:
        return text
    end = 0
    for cluster in clusters(text):
        if end + len(cluster) > limit - 1:
            break
        end += len(cluster)
    head = text[:end]
    space = head.rfind(" ")
    if space > limit // 2 and text[end] != " ":
        head = head[:space]
    return head.rstrip() + "…"


def mention(text: str, limit: int) -> str:
    """``text`` as it can stand inside a sentence."""
    return shorten(text.rstrip(_PUNCTUATION) or text, limit)


def quotable(text: str) -> str:
    """``text`` as it can stand between curly quotation marks."""
    return text.replace("“", "‘").replace("”", "’").replace('"', "’")


def as_tag(text: str) -> str:
    """``text`` as one tag, its words joined; empty if it is too long or has no words."""
    words = "".join(char if char.isalnum() else " " for char in text).split()
    tag = "".join(word[0].upper() + word[1:] for word in words)
    return tag if len(tag) <= _TAG_LIMIT else ""


def sentences(text: str) -> list[str]:
    """The sentences of ``text`` in a comparable form: letters and digits only, folded; bare numbers left out."""
    found = []
    for part in _SENTENCE_END.split(text):
        key = "".join(char for char in part.casefold() if char.isalnum())
        if key and not key.isdigit():
            found.append(key)
    return found


def _extends(char: str) -> bool:
    code = ord(char)
    return (
        char == _JOINER
        or unicodedata.category(char) in ("Mn", "Mc", "Me")
        or 0x1F3FB <= code <= 0x1F3FF
        or 0xE0020 <= code <= 0xE007F
        or 0x1160 <= code <= 0x11FF
    )


def _is_flag_half(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _is_pair(before: str, here: str) -> bool:
    surrogates = "\ud800" <= before <= "\udbff" and "\udc00" <= here <= "\udfff"
    return surrogates or (before == "\r" and here == "\n")
