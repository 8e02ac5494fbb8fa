"""Compact replay: neighbouring text of one channel goes as one event. Pure; bytes in, fewer bytes out.

The journal keeps every event under an id of its own; only what a reader is behind by is merged, on its way
to that reader. A merged event has the id of the last one in it, so it stands for every id after the
reader's cursor up to its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from streaming.core import sse

MAX_TEXT: Final = 16_384
"""Bytes of text that a merged event holds at most, as UTF-8. A single event may be larger."""

# How `sse.content_frame` writes what stands before and behind the text. No line end is in a data line, and a
# quotation mark inside a JSON string always follows a backslash, so neither can be part of a text.
_BEFORE_TEXT: Final = b'\nevent: content\ndata: {"type":"content","delta":"'
_CHANNEL: Final = b'","channel":"'
_END: Final = b'"}\n\n'

# "id: " and the digits of the largest id (2^63 - 1) stand before the name.
_HEAD: Final = 4 + 19 + len(_BEFORE_TEXT)


def compact(frames: Sequence[bytes], restart_id: int = 0) -> list[bytes]:
    """`frames` with neighbouring texts merged, and without texts that a `restart` has made void.

    The frames are a journal's, in order: ids without a hole, except before the last one. `restart_id` is
    the id of the newest `restart` in the whole journal, 0 if there is none: `content` before it is left out,
    whatever its channel. All other events stay as they are, and nothing is merged across them.
    """
    compacted: list[bytes] = []
    run: list[tuple[bytes, int, int]] = []
    size, tail = 0, b""
    void = restart_id - (sse.event_id(frames[0]) or 0) if restart_id and frames else 0
    for index, frame in enumerate(frames):
        start = frame.find(_BEFORE_TEXT, 0, _HEAD)
        if start < 0:
            compacted += _merged(run)
            run.clear()
            compacted.append(frame)
            continue
        if index < void:
            continue
        start += len(_BEFORE_TEXT)
        end = frame.rfind(_CHANNEL, start)
        if end < 0:
            end = len(frame) - len(_END)
        # JSON is never shorter than the text in it, so its length bounds both.
        if run and (size + end - start > MAX_TEXT or frame[end:] != tail):
            compacted += _merged(run)
            run.clear()
        if not run:
            size, tail = 0, frame[end:]
        size += end - start
        run.append((frame, start, end))
    compacted += _merged(run)
    return compacted


def _merged(run: list[tuple[bytes, int, int]]) -> list[bytes]:
    """Nothing, or one frame: a run's texts (from, to) between the head and the tail of its last frame."""
    if not run:
        return []
    last, start, end = run[-1]
    if len(run) == 1:
        return [last]
    texts = [frame[begin:stop] for frame, begin, stop in run]
    return [b"".join([last[:start], *texts, last[end:]])]
