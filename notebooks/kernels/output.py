"""From a kernel's messages to the parts of a stream: pure translation, with bounds.

Messages are those of the Jupyter messaging protocol 5.4 (jupyter-client.readthedocs.io, "Messaging in
Jupyter"), as the dictionaries that jupyter_client makes of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from streaming.core.events import Content, Output, Truncated

Part = Content | Output | Truncated

PIECE: Final = 16_384
"""Code points of text in one event at most; the same for each text of a MIME bundle that cannot be cut."""

LARGEST: Final = 8_388_608
"""Bytes of a MIME bundle at most (an image)."""

_TOO_LARGE: Final = "[{kind}: {size} bytes, more than a cell may show]"


class CellOutput:
    """What one cell says, as long as it is not more than `limit` bytes; then what comes is counted, and left
    out. Terminal `complete` follows by itself."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit
        self._told = 0
        self._clear_next = False
        self.dropped = 0
        self.kept: list[dict[str, Any]] = []

    def parts_of(self, message: Mapping[str, Any]) -> Iterator[Part]:
        """What is to be streamed of a message of the iopub channel."""
        content = message["content"]
        match message["header"]["msg_type"]:
            case "stream":
                yield from self._text(str(content["name"]), str(content["text"]))
            case "display_data" | "execute_result" | "update_display_data" as kind:
                yield from self._rich(kind, content)
            case "error":
                yield from self._fault(content)
            case "clear_output":
                wait = bool(content.get("wait"))
                if not wait:
                    self.kept.clear()
                self._clear_next = wait
                yield Output(output_type="clear_output", wait=wait)

    def closing(self) -> Iterator[Part]:
        """What is to be said at the end: how much was left out, if it became more."""
        if self.dropped > self._told:
            yield self._cut()

    def _text(self, channel: str, text: str) -> Iterator[Part]:
        kept, dropped = self._within(text)
        for start in range(0, len(kept), PIECE):
            yield Content(delta=kept[start : start + PIECE], channel=channel)
        if kept:
            self._keep_text(channel, kept)
        yield from self._say_cut(dropped)

    def _rich(self, kind: str, content: Mapping[str, Any]) -> Iterator[Part]:
        data = {mime: _whole(value) for mime, value in content.get("data", {}).items()}
        metadata = dict(content.get("metadata") or {})
        display_id = (content.get("transient") or {}).get("display_id")
        size = _size(data)
        if size > min(self._left, LARGEST):
            if self._left < PIECE:
                yield from self._say_cut(size)
                return
            data = {"text/plain": _TOO_LARGE.format(kind=", ".join(data), size=size)}
            metadata = {}
            size = _size(data)
            self.dropped += size
        self._left -= size
        if kind == "update_display_data":
            self._update(display_id, data, metadata)
        else:
            number = {"execution_count": content.get("execution_count")} if kind == "execute_result" else {}
            self._keep(
                {"output_type": kind, "data": data, "metadata": metadata, **number, "_display_id": display_id}
            )
        yield Output(output_type=kind, data=data, metadata=metadata or None, display_id=display_id)

    def _fault(self, content: Mapping[str, Any]) -> Iterator[Part]:
        # The last thing that a cell says is told also where there was too much before.
        name, value = str(content.get("ename", "")), str(content.get("evalue", ""))[:PIECE]
        traceback = _shortened([str(line) for line in content.get("traceback", [])])
        self._keep({"output_type": "error", "ename": name, "evalue": value, "traceback": traceback})
        yield Output(output_type="error", ename=name, evalue=value, traceback=traceback)

    def _within(self, text: str) -> tuple[str, int]:
        """As much of a text as there is room for, and how many code points are left out."""
        size = len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
        if size <= self._left:
            self._left -= size
            return text, 0
        kept = text.encode(errors="surrogatepass")[: self._left].decode(errors="ignore")
        self._left = 0
        return kept, len(text) - len(kept)

    def _say_cut(self, dropped: int) -> Iterator[Part]:
        self.dropped += dropped
        if dropped and not self._told:
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
        for output in self.kept:
            if display_id is not None and output.get("_display_id") == display_id:
                output["data"], output["metadata"] = data, metadata

    def outputs(self) -> list[dict[str, Any]]:
        """What is left of it at the end, in the format of notebooks (nbformat 4.5)."""
        return [{name: value for name, value in kept.items() if name != "_display_id"} for kept in self.kept]


def _whole(value: Any) -> Any:
    """Some kernels send a text in lines."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value


def _size(data: Mapping[str, Any]) -> int:
    return sum(len(value) if isinstance(value, str) else len(repr(value)) for value in data.values())


def _shortened(lines: list[str]) -> list[str]:
    """A traceback of `PIECE` code points at most: its beginning, and its end, which says what happened."""
    if sum(map(len, lines)) <= PIECE:
        return lines
    text = "\n".join(lines)
    half = PIECE // 2
    return [text[:half], "…", text[-half:]]
