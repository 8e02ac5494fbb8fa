"""The text behind a journal's frames."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from streaming.core import events, sse

STEP_ASIDE: Final = 1000
"""Frames after which the interpreter is offered to other threads."""


def main_text(frames: Iterable[bytes]) -> str:
    """The main channel's text after the last `restart`, from the frames of a task in order.

    Safe in a thread beside the event loop: a long text steps aside for others each millisecond or so.
    """
    pieces: list[str] = []
    for number, frame in enumerate(frames, 1):
        if number % STEP_ASIDE == 0:
            time.sleep(0)
        name = sse.name(frame)
        if name == "restart":
            pieces.clear()
        elif name == "content":
            event = events.decode(sse.payload(frame))
            if isinstance(event, events.Content) and event.channel is None:
                pieces.append(event.delta)
    return "".join(pieces)


def storable_text(frames: Iterable[bytes]) -> str:
    """`main_text` as every database takes it: PostgreSQL cannot store NUL."""
    return main_text(frames).replace("\x00", "\ufffd")
