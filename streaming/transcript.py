"""The text behind a journal's frames."""

from __future__ import annotations

from collections.abc import Iterable

from streaming.core import events, sse


def main_text(frames: Iterable[bytes]) -> str:
    """The main channel's text after the last `restart`, from the frames of a task in order."""
    pieces: list[str] = []
    for frame in frames:
        name = sse.name(frame)
        if name == "restart":
            pieces.clear()
        elif name == "content":
            event = events.decode(sse.payload(frame))
            if isinstance(event, events.Content) and event.channel is None:
                pieces.append(event.delta)
    return "".join(pieces)
