"""Request bodies over ASGI, bounded in size and in time."""

from __future__ import annotations

import asyncio
import io
import tempfile
from contextlib import suppress
from typing import IO, Any, Final

from django.conf import settings
from django.core.exceptions import RequestAborted
from django.urls import Resolver404, resolve

from . import conf
from .problems import Problem

Scope = dict[str, Any]

LINGER: Final = 2.0
"""Seconds for which the rest of a refused body is taken in before the connection is closed."""


async def read_body(scope: Scope, receive: Any) -> IO[bytes]:
    """The whole body, in memory or (where the limit is raised) in a file.

    Raises `Problem` 413 or 408, `RequestAborted` when the client leaves.
    """
    limits = conf.server()
    limit = limits.max_body_bytes
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            limit = _limit_of_view(scope, limit)
            if int(value) > limit:
                raise _too_large(limit)
    body_file = _new_file(limit)
    try:
        async with asyncio.timeout(limits.body_timeout):
            await _receive_body(receive, body_file, limit)
    except BaseException as error:
        body_file.close()
        if isinstance(error, TimeoutError):
            # The rest of the body may come at any time, so the connection is of no more use.
            raise Problem(408, "body_timeout", headers={"Connection": "close"}) from error
        raise
    body_file.seek(0)
    return body_file


def _limit_of_view(scope: Scope, general: int) -> int:
    """What the view takes that the path leads to (see `requests.endpoint`)."""
    path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")).rstrip("/"))
    try:
        return max(general, getattr(resolve(path).func, "max_body_bytes", 0))
    except Resolver404:
        return general


def _new_file(limit: int) -> IO[bytes]:
    in_memory: int = settings.FILE_UPLOAD_MAX_MEMORY_SIZE
    if limit <= in_memory:
        return io.BytesIO()
    return tempfile.SpooledTemporaryFile(max_size=in_memory, mode="w+b")


async def _receive_body(receive: Any, body_file: IO[bytes], limit: int) -> None:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestAborted
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        body_file.write(chunk)
        if not message.get("more_body", False):
            return


async def discard_body(receive: Any) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body", False):
                pass


def _too_large(limit: int) -> Problem:
    return Problem(413, "body_too_large", headers={"Connection": "close"}, limit=limit)
