"""Django without middleware and a producer that blocks: each token is a visit to a thread of a pool.

Handed to Django as it is, a blocking generator would be read to its end before the first byte leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from django.http import HttpRequest, StreamingHttpResponse

from . import django_project
from .script import HEADERS, Script, blocking_frames

django_project.configure(middleware=[])

_POOL: Final = ThreadPoolExecutor(256)


async def _frames(script: Script) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    source = blocking_frames(script)
    while (frame := await loop.run_in_executor(_POOL, next, source, None)) is not None:
        yield frame


async def generate(request: HttpRequest) -> StreamingHttpResponse:
    """The script."""
    return StreamingHttpResponse(_frames(Script(request.body)), headers=HEADERS)


application = django_project.serve(generate)
