"""The protocol of OpenAI's chat completions, as parts of a stream. No I/O and no clock.

Servers of this protocol differ, so the reader is strict about what ends an answer and lenient about the rest:
an answer is whole with a `finish_reason` or with `[DONE]`, and with neither it was cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from streaming.core.errors import (
    GenerationError,
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTruncated,
)
from streaming.core.events import Content, Finish, clean_text

from .secrecy import scrubbed, tells

Part = str | Content
"""Text of the answer, or of the model's reasoning (channel `reasoning`). Never empty."""

DONE: Final = "[DONE]"
REASONING: Final = "reasoning"

DETAIL_LENGTH: Final = 300
"""Code points of a foreign text that are kept."""

MAX_FOREIGN: Final = 2_000
"""Code points of a foreign text that are looked at for that."""

WITHHELD: Final = "[withheld: it repeats the key]"
"""What stands for a foreign text that tells the key in another writing."""

MAX_USAGE: Final = 16
"""Members of `usage` that are passed on."""

MAY_PASS: Final = frozenset({408, 409, 425})
"""Statuses of the 400s that are no verdict on the request: it may succeed as it is (RFC 9110, 15.5.9 and
15.5.10; RFC 8470, 5.2)."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.:/ -]{1,64}")
_REASON: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}|[0-9]{1,6}")
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9.+-]{1,64}/[a-z0-9.+-]{1,64}")
_MODEL: Final = re.compile(r"[!-~]{1,128}")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+")

_AUTH_WORDS: Final = ("invalid_api_key", "authentication", "permission", "unauthorized", "forbidden")
_LIMIT_WORDS: Final = ("rate_limit", "ratelimit", "too_many_requests", "insufficient_quota")
_REJECTED_WORDS: Final = ("invalid_request", "context_length", "model_not_found", "badrequest")


class ChatReader:
    """Reads one answer. `feed` takes the data of one event and gives its parts; `finish` says how it ended.

    `secret`: what must appear neither in the text of an error nor in a name that is passed on, should the
    service repeat it. `model`: the one that was asked for, which counts until the service names one.
    """

    def __init__(self, secret: str = "", model: str | None = None) -> None:
        self._secret = secret
        self._reason: str | None = None
        self._usage: dict[str, int] | None = None
        self._model = model
        self._halves: dict[str | None, str] = {}
        self.done = False
        """Whether the end mark has come."""

    @property
    def is_whole(self) -> bool:
        """Whether the answer has an end, so that nothing more is needed."""
        return self.done or self._reason is not None

    def feed(self, data: str, event: str = "message") -> list[Part]:
        """The parts of one event. Raises `UpstreamError` and its kin for what is no chunk, or an error."""
        if self.done:
            return []
        if data.strip() == DONE:
            self.done = True
            return []
        chunk = self._decoded(data)
        if event == "error" or chunk.get("error") or chunk.get("object") == "error":
            raise self._reported(chunk)
        self._note(chunk)
        return list(self._parts(chunk))

    def feed_whole(self, body: bytes) -> list[Part]:
        """The parts of an answer that came as one JSON document. Raises as `feed` does."""
        parts = self.feed(body.decode("utf-8", "replace"))
        self.done = True
        return parts

    def finish(self) -> Finish:
        """How the answer ended. Raises `UpstreamTruncated` if it has no end."""
        if not self.is_whole:
            raise UpstreamTruncated("the answer ended without finish_reason and without [DONE]")
        if self._reason == "error":
            raise UpstreamError("the service ended its answer with finish_reason 'error'")
        return Finish(finish_reason=self._reason or "stop", usage=self._usage, model=self._model)

    def _decoded(self, data: str) -> dict[str, Any]:
        try:
            chunk = decoded(data)
        except (ValueError, RecursionError):
            raise UpstreamError(f"{len(data)} characters that are not JSON") from None
        if not isinstance(chunk, dict):
            raise UpstreamError(f"no chunk of a chat completion, but a {type(chunk).__name__}")
        return chunk

    def _reported(self, chunk: dict[str, Any]) -> GenerationError:
        error = chunk.get("error") or chunk
        return foreign_error(kind_of_report(error), "the service reports an error", error, self._secret)

    def _note(self, chunk: dict[str, Any]) -> None:
        """What the chunk says about the whole answer."""
        model = chunk.get("model")
        if isinstance(model, str) and _MODEL.fullmatch(model) and not tells(model, self._secret):
            self._model = model
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = numbers(usage, self._secret) or self._usage

    def _parts(self, chunk: dict[str, Any]) -> Iterator[Part]:
        for choice in _choices(chunk):
            message = choice.get("delta") or choice.get("message")
            if isinstance(message, dict):
                yield from self._message_parts(message)
            reason = choice.get("finish_reason")
            if isinstance(reason, str) and reason:
                known = _REASON.fullmatch(reason) and not tells(reason, self._secret)
                self._reason = reason if known else "unknown"

    def _message_parts(self, message: dict[str, Any]) -> Iterator[Part]:
        thought = message.get("reasoning_content") or message.get("reasoning")
        pieces: list[tuple[str | None, str]] = [(REASONING, text) for _, text in _texts(thought)]
        pieces += _texts(message.get("content"))
        pieces += _texts(message.get("refusal"))
        for channel, text in pieces:
            if whole := self._joined(channel, text):
                yield whole if channel is None else Content(delta=whole, channel=channel)

    def _joined(self, channel: str | None, text: str) -> str:
        """Servers that count in UTF-16 cut between the halves of a surrogate pair: the first half waits for
        the second, and is left out if none comes."""
        text = self._halves.pop(channel, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._halves[channel] = text[-1]
            text = text[:-1]
        return clean_text(text)


def decoded(data: str) -> Any:
    """JSON as servers write it: NaN, control characters and lone surrogates are let through.

    Raises `ValueError` or `RecursionError`.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return json.loads(data, strict=False)


def numbers(usage: Mapping[str, Any], secret: str = "") -> dict[str, int]:
    """The counts of a `usage` object: whole numbers under plain names that do not tell the secret, among the
    first few."""
    counts = {
        name: value
        for name, value in usage.items()
        if type(value) is int and 0 <= value < 2**53 and _NAME.fullmatch(name)
    }
    return {name: value for name, value in list(counts.items())[:MAX_USAGE] if not tells(name, secret)}


def kind_of_status(status: int) -> type[GenerationError]:
    """What a refusal over HTTP (RFC 9110, 15.5 and 15.6) means for the task."""
    if status in MAY_PASS:
        return UpstreamError
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return UpstreamAuthFailed
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return UpstreamRateLimited
    return UpstreamRejected if 400 <= status < 500 else UpstreamError


def kind_of_report(error: Any) -> type[GenerationError]:
    """What an error inside an answer means: by its number if it is a status, else by its words."""
    if not isinstance(error, Mapping):
        return UpstreamError
    named = [error.get("status"), error.get("code"), error.get("type")]
    for value in named:
        if isinstance(value, int | str) and re.fullmatch(r"[45]\d\d", str(value)):
            return kind_of_status(int(value))
    words = " ".join(value.lower() for value in named if isinstance(value, str))
    for kind, marks in (
        (UpstreamAuthFailed, _AUTH_WORDS),
        (UpstreamRateLimited, _LIMIT_WORDS),
        (UpstreamRejected, _REJECTED_WORDS),
    ):
        if any(mark in words for mark in marks):
            return kind
    return UpstreamError


def foreign_error(kind: type[GenerationError], what: str, said: Any, secret: str) -> GenerationError:
    """The error of a service that `said` something (JSON) about its own: text is `what` and the names that
    are in it, detail are its words. Words may quote the request, so only names go into a log."""
    names = ", ".join(names_of(said, secret))
    return kind(f"{what}: {names}" if names else what, detail=one_line(words_of(said), secret))


def names_of(error: Any, secret: str) -> list[str]:
    """The code and the type of an error, as far as they are no sentences and do not tell the secret."""
    if not isinstance(error, Mapping):
        return []
    named = [str(value) for name in ("code", "type") if isinstance(value := error.get(name), int | str)]
    return [name for name in named if _CODE.fullmatch(name) and not tells(name, secret)]


def media_type(header: str, secret: str) -> str:
    """The media type in a `Content-Type`, without parameters; what is none is not repeated."""
    found = header.partition(";")[0].strip().lower()
    return found if _MEDIA_TYPE.fullmatch(found) and not tells(found, secret) else "an unknown type"


def words_of(error: Any) -> str:
    """What an error says: its code, type and message, and no other member."""
    if isinstance(error, Mapping):
        named = (error.get(name) for name in ("code", "type", "message", "detail"))
        return ", ".join(str(value) for value in named if value and isinstance(value, int | str))
    return error if isinstance(error, str) else ""


def one_line(text: str, secret: str) -> str:
    """A foreign text without the secret, in one printable line, cut."""
    if len(text) > MAX_FOREIGN:
        # A secret that was cut in two is not recognised, but it lies at the end.
        text = scrubbed(text[:MAX_FOREIGN], secret)
        text = text[: max(0, len(text) - len(secret))]
    line = scrubbed(text, secret)
    if tells(line, secret):
        return WITHHELD
    line = _UNPRINTABLE.sub(" ", line).strip()
    return line if len(line) <= DETAIL_LENGTH else f"{line[:DETAIL_LENGTH]}…"


def _choices(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of index 0; we ask for one, and a second one is none of ours."""
    choices = chunk.get("choices") or []
    if not isinstance(choices, list):
        raise UpstreamError("the choices of a chunk are not a list")
    return [choice for choice in choices if isinstance(choice, dict) and not choice.get("index")]


def _texts(content: Any) -> list[tuple[str | None, str]]:
    """Text, or a list of typed pieces of text, as channel and text."""
    if isinstance(content, str):
        return [(None, content)]
    if not isinstance(content, list):
        return []
    found: list[tuple[str | None, str]] = []
    for piece in content:
        if isinstance(piece, dict) and piece.get("type") == "thinking":
            found += [(REASONING, text) for _, text in _texts(piece.get("thinking"))]
        elif isinstance(piece, dict):
            found += _texts(piece.get("text") or piece.get("refusal"))
    return found
