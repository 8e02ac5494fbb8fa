"""From a brief to what a model is told. The words are templates, so that an operator can change them.

In `contentgen/prompts/<language>/`, `system.txt` is who the model is, `brief.txt` what it shall write and
`tones/<tone>.txt` how it sounds; `code.txt` is who writes code for notebooks; a file of the same name in the
project's `templates/` replaces ours. What a user wrote is data: it stands between marks that it cannot
imitate, and the system prompt says what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec
from django.template import Context, Engine

from .brief import LENGTHS, Brief
from .copywriter.keywords import TONES, recognise

OTHER_TONE: Final = "other"

CHARACTERS_PER_WORD: Final = 6
"""An English word with its space."""

FIELDS: Final = ("topic", "category", "tone", "audience", "requirements")
"""What a user writes freely; each stands in the brief between `<name>` and `</name>`."""

_MARKS: Final = re.compile(
    rf"<(\s*/?\s*(?:{'|'.join((*FIELDS, 'brief', 'request'))})\b[^<>]*)>", re.IGNORECASE
)
_EMPTY_LINES: Final = re.compile(r"\n{3,}")


def messages(brief: Brief) -> list[dict[str, str]]:
    """The chat that asks for the text of `brief`, in its language."""
    values = _values(brief)
    values["tone_advice"] = _render(brief, f"tones/{tone_of(brief)}.txt", values)
    return [
        {"role": "system", "content": _render(brief, "system.txt", values)},
        {"role": "user", "content": _render(brief, "brief.txt", values)},
    ]


def code_messages(prompt: str, language: str) -> list[dict[str, str]]:
    """The chat that asks for code."""
    name = f"contentgen/prompts/{language}/code.txt"
    return [
        {"role": "system", "content": str(Engine.get_default().get_template(name).render(Context())).strip()},
        {"role": "user", "content": f"<request>\n{_as_data(prompt)}\n</request>"},
    ]


def tone_of(brief: Brief) -> str:
    """The tone whose words the brief uses, else `other`."""
    return recognise(brief.tone, TONES) or OTHER_TONE


def broken_prompts() -> Iterator[tuple[str, str]]:
    """Every file that cannot be rendered for some brief, with the reason: for all languages and tones."""
    names = ["system.txt", "brief.txt", "code.txt", *(f"tones/{tone}.txt" for tone in (*TONES, OTHER_TONE))]
    for language in LENGTHS:
        short = Brief(user_id="u", topic="t", language=language)  # type: ignore[arg-type]
        full = msgspec.structs.replace(short, **dict.fromkeys(FIELDS, "t"))
        for name in names:
            reason = _fault(short, name) or _fault(full, name)
            if reason:
                yield f"contentgen/prompts/{language}/{name}", reason


def _fault(brief: Brief, name: str) -> str:
    """Why a file cannot be rendered for `brief`; empty if it can. A template may raise anything."""
    try:
        _render(brief, name, _values(brief) | {"tone_advice": brief.tone})
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _values(brief: Brief) -> dict[str, object]:
    values: dict[str, object] = {name: _as_data(getattr(brief, name)) for name in FIELDS}
    values["characters"] = brief.characters
    values["words"] = max(1, round(brief.characters / CHARACTERS_PER_WORD))
    return values


def _render(brief: Brief, name: str, values: dict[str, object]) -> str:
    template = Engine.get_default().get_template(f"contentgen/prompts/{brief.language or 'en'}/{name}")
    text = str(template.render(Context(values, autoescape=False)))
    return _EMPTY_LINES.sub("\n\n", text).strip()


def _as_data(text: str) -> str:
    """A user's text that cannot end, nor begin, a part of the brief."""
    return _MARKS.sub(r"‹\1›", text.strip())
