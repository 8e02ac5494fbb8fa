"""What every peer streams: the tokens of Sluice's scripted provider, at the pace that the body asks for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

COMPLETE: Final = b'event: complete\ndata: {"type":"complete"}\n\n'

HEADERS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}

_HANG: Final = 86_400.0


class Script:
    """The options of the scripted provider that benchmarks use; contentgen/script.py says what they mean."""

    def __init__(self, body: bytes) -> None:
        options: dict[str, Any] = json.loads(body)["options"]
        self.tokens: int = options.get("tokens", 200)
        self.interval: float = options.get("interval", 0.02)
        self.start_delay: float = options.get("start_delay", 0)
        self.start_at: float | None = options.get("start_at")
        self.hang_after: int | None = options.get("hang_after")
        self.step: bool = options.get("step", False)

    def due(self) -> float:
        """When the first token is due, on the monotonic clock."""
        begun = 0.0 if self.start_at is None else self.start_at - time.time()
        return time.monotonic() + begun + self.start_delay


async def tokens(script: Script) -> AsyncIterator[str]:
    """The tokens, each when it is due."""
    due = script.due()
    for k in range(script.tokens):
        if k == script.hang_after:
            await asyncio.sleep(_HANG)
        if (pause := due + k * script.interval - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        elif script.step:
            await asyncio.sleep(0)
        yield f"{k} "


def blocking_tokens(script: Script) -> Iterator[str]:
    """The same in a thread that really sleeps."""
    due = script.due()
    for k in range(script.tokens):
        if (pause := due + k * script.interval - time.monotonic()) > 0:
            time.sleep(pause)
        yield f"{k} "


def content(token: str) -> bytes:
    """The event of one token, made in the cheapest way. No token of ours needs escaping."""
    return b'event: content\ndata: {"type":"content","delta":"%b"}\n\n' % token.encode()


def status(name: str) -> bytes:
    """A status event."""
    return b'event: status\ndata: {"type":"status","status":"%b"}\n\n' % name.encode()


async def frames(script: Script) -> AsyncIterator[bytes]:
    """The whole body, one piece for each event."""
    async for token in tokens(script):
        yield content(token)
    yield COMPLETE


def blocking_frames(script: Script) -> Iterator[bytes]:
    """The same from a producer that blocks."""
    for token in blocking_tokens(script):
        yield content(token)
    yield COMPLETE
