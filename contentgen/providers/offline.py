"""The embedded default: a writer that needs no key, no network and no model, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from contentgen.brief import Brief
from contentgen.copywriter import CopyRequest, compose
from contentgen.copywriter.pieces import split_natural
from contentgen.sketches import sketch
from streaming import Finish

from . import CodeRequest, Provider

MODEL: Final = "offline-copywriter"

PACE: Final = 0.02
"""Seconds between two parts (a word, or one to three characters): a little faster than people read."""


async def write(brief: Brief) -> AsyncIterator[str | Finish]:
    """A post from templates and word banks; the same brief gives the same text."""
    language = brief.language or "en"
    piece = compose(
        CopyRequest(
            topic=brief.topic,
            category=brief.category,
            tone=brief.tone,
            language=language,
            characters=brief.characters,
            audience=brief.audience,
            requirements=brief.requirements,
        )
    )
    for written, part in enumerate(split_natural(piece.text, language)):
        if written == brief.max_tokens:
            yield Finish(finish_reason="length", model=MODEL)
            return
        if written:
            await asyncio.sleep(PACE)
        yield part
    yield Finish(model=MODEL)


async def write_code(wanted: CodeRequest) -> AsyncIterator[str | Finish]:
    """One of the programs that it knows by heart, line by line."""
    for line in sketch(wanted.prompt, wanted.language).splitlines(keepends=True):
        yield line
        await asyncio.sleep(PACE)
    yield Finish(model=MODEL)


PROVIDER: Final = Provider(
    name="offline",
    write=write,
    models=lambda: frozenset({MODEL}),
    default_model=lambda: MODEL,
    write_code=write_code,
)
