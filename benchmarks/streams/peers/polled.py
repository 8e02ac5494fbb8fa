"""The design of the first field report: a pool of threads, and responses that look at their tasks.

`POLLS` chooses how often: `fixed` looks twice a second, `adaptive` each 50, 100 and 200 ms as the task grows
older (the second design of the same report). Each look sends a status message.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from django.http import HttpRequest, StreamingHttpResponse

from . import django_project
from .script import COMPLETE, HEADERS, Script, blocking_tokens, content, status

django_project.configure(middleware=[])

_ADAPTIVE: Final = os.environ.get("POLLS") == "adaptive"

_POOL: Final = ThreadPoolExecutor(64)


class _Task:
    """What the thread and the response share."""

    def __init__(self, script: Script) -> None:
        self.tokens: list[str] = []
        self.done = False
        _POOL.submit(self._run, script)

    def _run(self, script: Script) -> None:
        for token in blocking_tokens(script):
            self.tokens.append(token)
        self.done = True


def _pause(age: float) -> float:
    if not _ADAPTIVE:
        return 0.5
    if age < 1:
        return 0.05
    return 0.1 if age < 5 else 0.2


async def _events(script: Script) -> AsyncIterator[bytes]:
    task = _Task(script)
    began = time.monotonic()
    sent = 0
    while True:
        done = task.done
        yield status("processing")
        if new := task.tokens[sent:]:
            sent += len(new)
            yield content("".join(new))
        if done:
            break
        await asyncio.sleep(_pause(time.monotonic() - began))
    yield COMPLETE


async def generate(request: HttpRequest) -> StreamingHttpResponse:
    """The script, as far as the last look saw it."""
    return StreamingHttpResponse(_events(Script(request.body)), headers=HEADERS)


application = django_project.serve(generate)
