"""From a kernel's messages to the parts of a stream: pure translation, with bounds.

Messages are those of the Jupyter messaging protocol 5.4 (jupyter-client.readthedocs.io, "Messaging in
Jupyter"), as the dictionaries that jupyter_client makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from streaming.core.events import Content, Output, Truncated, clean_text

Part = Content | Output | Truncated

PIECE: Final = 12_288
"""Bytes of text in one event at most, as JSON: with what waited before it an event stays below 16 KB. So has
the plain text of a MIME bundle, and an exception."""

ENVELOPE: Final = 200
"""Bytes that an output counts besides its data, so that very many small ones come to an end, too."""

LONGEST_NAME: Final = 255
"""Code points of the name of an exception, a display, or a MIME type."""

DEEPEST: Final = 20
"""Levels of a MIME bundle's JSON; what lies deeper is left out."""

_CODES: Final = {"StdinNotImplementedError": "stdin_not_supported"}
"""Exceptions that come of the way in which cells run here, and what programs may know them by."""

_TOO_LARGE: Final = "[{kind}: {size} bytes, more than a cell may show]"


@dataclass(frozen=True, slots=True)
class CellEnd:
    """How a cell ended: `ok`, `error` or `aborted`, and its number."""

    status: str
    execution_count: int | None


class CellOutput:
    """What one cell says, as long as it is not more than `limit` bytes; then what comes is counted, and left
    out. `updates`: the newest contents of displays, which may be other cells', by their ids."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit
        self._told = 0
        self._clear_next = False
        self._faulted = False
        self.dropped = 0
        self.updates: dict[str, dict[str, Any]] = {}
        self.kept: list[dict[str, Any]] = []

    def parts_of(self, message: Mapping[str, Any]) -> list[Part]:
        """What is to be streamed of a message of the iopub channel."""
        return list(self._parts_of(message))

    def _parts_of(self, message: Mapping[str, Any]) -> Iterator[Part]:
        content = message["content"]
        match message["header"]["msg_type"]:
            case "stream":
                channel = "stderr" if content["name"] == "stderr" else "stdout"
                yield from self._text(channel, _without_nul(str(content["text"])))
            case "display_data" | "execute_result" | "update_display_data" as kind:
                yield from self._rich(kind, content)
            case "error":
                yield from self._fault(content)
            case "clear_output":
                yield from self._clear(wait=bool(content.get("wait")))

    def closing(self) -> Iterator[Part]:
        """What is to be said at the end: how much was left out, if it became more."""
        if self.dropped > self._told:
            yield self._cut()

    def take(self) -> list[dict[str, Any]]:
        """What is left of it, as nbformat 4.5 has it, with the `display_id` of what may be updated; from here
        on it holds what comes after."""
        taken, self.kept = self.kept, []
        return taken

    def _text(self, channel: str, text: str) -> Iterator[Part]:
        kept, dropped = self._within(text)
        for piece in _pieces(kept):
            yield Content(delta=piece, channel=channel)
        if kept:
            self._keep_text(channel, kept)
        yield from self._say_cut(dropped)

    def _rich(self, kind: str, content: Mapping[str, Any]) -> Iterator[Part]:
        data = {_name(mime): _value(str(mime), value) for mime, value in content.get("data", {}).items()}
        data, lost = _with_short_text(data)
        metadata = _plain(dict(content.get("metadata") or {}))
        display_id = (content.get("transient") or {}).get("display_id")
        display_id = None if display_id is None else _name(display_id)
        size = _size(data) + _size(metadata)
        if size + ENVELOPE > self._left:
            lost += size
            data = {"text/plain": _TOO_LARGE.format(kind=", ".join(data)[:200], size=size)}
            metadata = {}
            size = _size(data)
        if self._takes(size + ENVELOPE):
            if kind == "update_display_data":
                self._update(display_id, data, metadata)
            else:
                kept = {"output_type": kind, "data": data, "metadata": metadata}
                if kind == "execute_result":
                    kept["execution_count"] = count_of(content)
                if display_id is not None:
                    kept["display_id"] = display_id
                self._keep(kept)
            yield Output(output_type=kind, data=data, metadata=metadata or None, display_id=display_id)
        yield from self._say_cut(lost)

    def _fault(self, content: Mapping[str, Any]) -> Iterator[Part]:
        name, value = _name(content.get("ename", "")), _fitting(_clean(content.get("evalue", "")), PIECE // 4)
        traceback = _shortened([_clean(line) for line in content.get("traceback", [])])
        size = len(name) + len(value) + sum(map(len, traceback)) + ENVELOPE
        # The first is told also where there was too much before: it says why the cell ended.
        if not self._faulted or self._takes(size):
            self._faulted = True
            self._keep({"output_type": "error", "ename": name, "evalue": value, "traceback": traceback})
            yield Output(
                output_type="error", ename=name, evalue=value, traceback=traceback, code=_CODES.get(name)
            )
        else:
            yield from self._say_cut(size)

    def _clear(self, *, wait: bool) -> Iterator[Part]:
        if self._takes(ENVELOPE):
            if not wait:
                self.kept.clear()
            self._clear_next = wait
            yield Output(output_type="clear_output", wait=wait)

    def _takes(self, size: int) -> bool:
        """Whether there is room for an output of `size` bytes, which then is taken."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def _within(self, text: str) -> tuple[str, int]:
        """As much of a text as there is room for, and how many code points are left out."""
        text = clean_text(text)
        size = len(text) if text.isascii() else len(text.encode())
        if size <= self._left:
            self._left -= size
            return text, 0
        kept = text.encode()[: self._left].decode(errors="ignore")
        self._left = 0
        return kept, len(text) - len(kept)

    def _say_cut(self, dropped: int) -> Iterator[Part]:
        self.dropped += dropped
        if self.dropped and not self._told:
            yield self._cut()

    def _cut(self) -> Truncated:
        self._told = self.dropped
        return Truncated(dropped_chars=self.dropped, limit=self._limit)

    def _keep_text(self, channel: str, text: str) -> None:
        last = self.kept[-1] if self.kept and not self._clear_next else None
        if last is not None and last.get("name") == channel:
            last["text"] += text
        else:
            self._keep({"output_type": "stream", "name": channel, "text": text})

    def _keep(self, output: dict[str, Any]) -> None:
        if self._clear_next:
            self._clear_next = False
            self.kept.clear()
        self.kept.append(output)

    def _update(self, display_id: str | None, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        if display_id is None:
            return
        self.updates[display_id] = {"data": data, "metadata": metadata}
        for output in self.kept:
            if output.get("display_id") == display_id:
                output["data"], output["metadata"] = data, metadata


def _pieces(text: str) -> Iterator[str]:
    """`text` in pieces of at most `PIECE` bytes as JSON."""
    # No code point takes more than six bytes there.
    if len(text) * 6 <= PIECE or len(msgspec.json.encode(text)) <= PIECE:
        if text:
            yield text
        return
    half = min(len(text) // 2, PIECE)
    yield from _pieces(text[:half])
    yield from _pieces(text[half:])


def _fitting(text: str, size: int) -> str:
    """The beginning of `text` that has at most `size` bytes as JSON."""
    while (encoded := len(msgspec.json.encode(text))) > size:
        text = text[: max(0, min(len(text) - 1, len(text) * size // encoded))]
    return text


def _with_short_text(data: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A bundle whose plain text is not longer than `PIECE` bytes, and how much was left out of it."""
    text = data.get("text/plain", "")
    short = _fitting(text, PIECE)
    if short == text:
        return data, 0
    return {**data, "text/plain": f"{short}…"}, len(text) - len(short)


def _value(mime: str, value: Any) -> Any:
    """A member of a MIME bundle: JSON where its type says so, else text, which some kernels send in lines."""
    if mime == "application/json" or mime.endswith("+json"):
        return _plain(value)
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "".join(value)
    return _clean(value)


def _plain(value: Any, depth: int = DEEPEST) -> Any:
    """JSON that every reader can hold: text fit for UTF-8 and databases, numbers of 53 bits, not too deep."""
    match value:
        case str():
            return _clean(value)
        case bool() | None:
            return value
        case int():
            return value if abs(value) < 2**53 else str(value)
        case float():
            return value if math.isfinite(value) else None
        case dict() if depth:
            return {_plain(str(key)): _plain(each, depth - 1) for key, each in value.items()}
        case list() if depth:
            return [_plain(each, depth - 1) for each in value]
    return "…"


def _clean(value: Any) -> str:
    """As text, fit for UTF-8 and for databases."""
    return clean_text(_without_nul(str(value)))


def _name(value: Any) -> str:
    """A word that is not meant to be long."""
    return _clean(value)[:LONGEST_NAME]


def _without_nul(text: str) -> str:
    return text.replace("\x00", "")


def count_of(content: Mapping[str, Any]) -> int | None:
    """The number of a cell; None for what is none that a database keeps."""
    number = content.get("execution_count")
    return number if type(number) is int and 0 <= number < 2**31 else None


def _size(value: Any) -> int:
    """Bytes as JSON."""
    return len(msgspec.json.encode(value))


def _shortened(lines: list[str]) -> list[str]:
    """A traceback of about half a `PIECE`: its beginning, and its end, which says what happened."""
    if _size(lines) <= PIECE // 2:
        return lines
    text, part = "\n".join(lines), PIECE // 4
    return [_fitting(text, part), "…", _fitting(text[-part:][::-1], part)[::-1]]
