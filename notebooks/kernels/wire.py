"""Messages of kernels as a Jupyter Server's WebSocket carries them: pure translation, both ways.

The source of both forms is jupyter-server.readthedocs.io, "WebSocket kernel wire protocols": the default one,
JSON in text frames (with a table of offsets before it in binary ones, where buffers follow), and
`v1.kernel.websocket.jupyter.org`, the parts of a message one after the other. Buffers are left out: nothing
here shows them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

V1: Final = "v1.kernel.websocket.jupyter.org"
"""The name of the binary subprotocol."""

_PARTS: Final = ("header", "parent_header", "metadata", "content")


def pack(message: Mapping[str, Any], channel: str, subprotocol: str | None) -> bytes | str:
    """A frame, text or binary, of a message for `channel`."""
    if subprotocol != V1:
        return json.dumps({**message, "channel": channel, "buffers": []})
    parts = [channel.encode(), *(json.dumps(message[name]).encode() for name in _PARTS)]
    offsets = [8 * (len(parts) + 2)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    numbers = (len(offsets), *offsets)
    return b"".join([*(number.to_bytes(8, "little") for number in numbers), *parts])


def unpack(frame: bytes | str, subprotocol: str | None) -> tuple[str, dict[str, Any]]:
    """Channel and message of a frame. Raises `ValueError` for what is none."""
    try:
        return _unpack_v1(frame) if subprotocol == V1 else _unpack_default(frame)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unpack_default(frame: bytes | str) -> tuple[str, dict[str, Any]]:
    if isinstance(frame, bytes):
        frame = _json_of(frame)
    message = json.loads(frame)
    if not isinstance(message, dict) or not all(isinstance(message.get(name), dict) for name in _PARTS):
        raise ValueError("no message")
    return str(message.get("channel")), message


def _unpack_v1(frame: bytes | str) -> tuple[str, dict[str, Any]]:
    if isinstance(frame, str):
        raise ValueError("a text frame")
    count = int.from_bytes(frame[:8], "little")
    if not len(_PARTS) + 2 <= count <= len(frame) // 8:
        raise ValueError("no table of offsets")
    offsets = [int.from_bytes(frame[8 * k : 8 * k + 8], "little") for k in range(1, len(_PARTS) + 3)]
    channel, *parts = (frame[start:end] for start, end in pairwise(offsets))
    message = dict(zip(_PARTS, map(json.loads, parts), strict=True))
    if not all(isinstance(part, dict) for part in message.values()):
        raise ValueError("no message")
    return channel.decode(), message


def _json_of(frame: bytes) -> bytes:
    """The JSON of a binary frame of the default form: the first of several pieces."""
    count = int.from_bytes(frame[:4], "big")
    if not 1 <= count <= len(frame) // 4:
        raise ValueError("no table of offsets")
    start = int.from_bytes(frame[4:8], "big")
    end = int.from_bytes(frame[8:12], "big") if count > 1 else len(frame)
    return frame[start:end]


class Tally:
    """Which of a kernel's numbered messages have come: they are numbered from any number on, one by one, and
    may change places on the way.

    `counts`: whether they have numbers at all, which the first `mark` tells.
    """

    MOST = 10_000
    """Messages that may come before one that is missing, until that is given up."""

    def __init__(self) -> None:
        self.counts = False
        self._next = 0
        self._last = 0
        self._ahead: set[int] = set()
        self._given_up = False

    def mark(self, number: int) -> None:
        """That of this number was the last so far."""
        if not self.counts:
            self.counts, self._next = True, number + 1
        self._last = max(self._last, number)

    def is_new(self, number: int) -> bool:
        """Whether the message of this number has not come before; it has now."""
        if not self.counts:
            return True
        if number < self._next or number in self._ahead:
            return False
        self._ahead.add(number)
        self._settle()
        return True

    @property
    def complete(self) -> bool:
        """Whether none is missing among all since `start_over`."""
        return self.counts and self._next > self._last and not self._ahead and not self._given_up

    def start_over(self) -> None:
        """What is missing by now is of no interest any more."""
        self._next = max(self._next, self._last + 1, max(self._ahead, default=0) + 1)
        self._ahead.clear()
        self._given_up = False

    def _settle(self) -> None:
        while self._next in self._ahead:
            self._ahead.discard(self._next)
            self._next += 1
        if len(self._ahead) > self.MOST:
            self.start_over()
            self._given_up = True
