"""Exact tokens at an exact pace, for tests, demos and benchmarks. Off unless ALLOW_SCRIPTED_PROVIDER."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

import regex
from django.conf import settings

from contentgen.brief import Brief
from contentgen.script import ScriptedOptions
from streaming import Finish
from streaming.core.errors import ProducerFailed

from . import Provider

MODEL: Final = "scripted"

_CLUSTER: Final = regex.compile(r"\X")

_HANG: Final = 86_400.0


def write(brief: Brief) -> AsyncIterator[str | Finish] | Iterator[str | Finish]:
    """The script's tokens."""
    script = brief.options or ScriptedOptions()
    return _blocking(script, brief.max_tokens) if script.blocking else _async(script, brief.max_tokens)


async def _async(script: ScriptedOptions, limit: int | None) -> AsyncIterator[str | Finish]:
    due, interval = _due(script), script.interval
    for count, token in enumerate(_tokens(script, limit)):
        if count == script.hang_after:
            await asyncio.sleep(_HANG)
        # Due times are absolute, so that the pace does not drift; a pace of 0 suspends only where asked to.
        if (interval or not count) and (pause := due + count * interval - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        elif script.step:
            await asyncio.sleep(0)
        yield _made(script, token) if script.burn else token


def _blocking(script: ScriptedOptions, limit: int | None) -> Iterator[str | Finish]:
    due = _due(script)
    for count, token in enumerate(_tokens(script, limit)):
        if count == script.hang_after:
            time.sleep(_HANG)
        if (pause := due + count * script.interval - time.monotonic()) > 0:
            time.sleep(pause)
        yield _made(script, token)


def _due(script: ScriptedOptions) -> float:
    """When the first token is due, on the monotonic clock."""
    begun = 0.0 if script.start_at is None else script.start_at - time.time()
    return time.monotonic() + begun + script.start_delay


def _tokens(script: ScriptedOptions, limit: int | None) -> Iterator[str | Finish]:
    """The tokens and the finish. Raises `ProducerFailed` where the script says so."""
    count = 0
    for token in _texts(script):
        if count == script.fail_after:
            raise ProducerFailed("scripted")
        if count == limit:
            yield Finish(finish_reason="length", model=MODEL, usage={"completion_tokens": count})
            return
        yield token
        count += 1
    if count == script.fail_after:
        raise ProducerFailed("scripted")
    yield Finish(model=MODEL, usage={"completion_tokens": count})


def _texts(script: ScriptedOptions) -> Iterator[str]:
    if script.text is None:
        return map("{} ".format, range(script.tokens))
    return (match.group() for match in _CLUSTER.finditer(script.text))


def _made(script: ScriptedOptions, token: str | Finish) -> str | Finish:
    if script.burn and isinstance(token, str):
        end = time.thread_time() + script.burn / 1000
        while time.thread_time() < end:
            pass
    return token


PROVIDER: Final = Provider(
    name="scripted",
    write=write,
    models=lambda: frozenset({MODEL}),
    default_model=lambda: MODEL,
    takes_options=True,
    enabled=lambda: bool(settings.ALLOW_SCRIPTED_PROVIDER),
)
