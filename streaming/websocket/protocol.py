"""What a client may say: one JSON object a message, its `type` names the kind. Pure: text in, record out.

A message that is wrong is refused by a `Problem`, with the codes of HTTP's problem documents; nothing is
guessed and nothing passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any, Final

import msgspec
from django.utils.translation import gettext as _
from msgspec import Meta

from streaming.core import cursor, strict_json
from streaming.problems import FieldError, Problem
from streaming.validation import MAX_FAULTS, invalid, missing_field, unknown_field

MAX_MESSAGE: Final = 65_536
"""Bytes of one message."""

MAX_VALUES: Final = 1_000
"""Members and elements of one message; there may be a hundred a second."""

RequestId = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,128}\Z")]
"""A name that the client gives to a stream on its socket: 1 to 128 visible ASCII characters."""

EventId = Annotated[int, Meta(ge=0, le=cursor.MAX)]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """Base of what clients send."""

    @classmethod
    def name(cls) -> str:
        """Its `type` on the wire."""
        return str(cls.__struct_config__.tag)


Kinds = tuple[type[Message], ...]
"""The messages that a socket takes."""


class Ping(Message, frozen=True, kw_only=True, tag="ping"):
    """Are you there? Answered by `pong`."""


class Ack(Message, frozen=True, kw_only=True, tag="ack"):
    """Everything up to event `id` was handled."""

    id: EventId


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    """End the socket's task."""


class Named(Message, frozen=True, kw_only=True):
    """About one of several streams."""

    request_id: RequestId


class NamedAck(Named, frozen=True, kw_only=True, tag="ack"):
    """Everything of this stream up to event `id` was handled."""

    id: EventId


class NamedCancel(Named, frozen=True, kw_only=True, tag="cancel"):
    """End this stream's task."""


class Follow(Named, frozen=True, kw_only=True, tag="follow"):
    """Read a task that there is already, from the event behind `after` on."""

    task_id: Annotated[str, Meta(max_length=64)]
    after: EventId = 0


def parse(text: str, kinds: Iterable[type[Message]]) -> Message:
    """The record behind a message of one of `kinds`.

    Raises `Problem`: 400 for what is no JSON object or of no known type, 422 naming every wrong member. It
    has the `request_id` of the message as a member, if that could be read.
    """
    try:
        values = strict_json.loads_object(text.encode("utf-8", "surrogatepass"), max_values=MAX_VALUES)
    except strict_json.BadJSON as error:
        fields = (FieldError(error.field, error.code, error.detail),) if error.field else ()
        raise Problem(error.status, error.code, error.detail, fields=fields) from error
    known = {kind.name(): kind for kind in kinds}
    name = values.pop("type", None)
    kind = known.get(name) if isinstance(name, str) else None
    about = _about(values)
    if kind is None:
        detail = _("Choose one of: %s.") % ", ".join(sorted(known))
        fault = FieldError("type", "unknown_type", detail)
        raise Problem(400, "unknown_type", detail, fields=(fault,), **about)
    faults = list(islice(_faults(values, kind), MAX_FAULTS + 1))
    if faults:
        raise invalid(faults, **about)
    return msgspec.convert(values | {"type": name}, kind)


def _about(values: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"request_id": msgspec.convert(values.get("request_id"), RequestId)}
    except (msgspec.ValidationError, UnicodeEncodeError):
        return {}


def _faults(values: dict[str, Any], kind: type[Message]) -> Iterator[FieldError]:
    members = {field.name: field for field in msgspec.structs.fields(kind)}
    for name in values:
        if name not in members:
            yield unknown_field("", name)
    for name, field in members.items():
        if name not in values:
            if field.required:
                yield missing_field(name)
            continue
        try:
            msgspec.convert(values[name], field.type)
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            yield _wrong(name, values[name], error)


def _wrong(name: str, value: Any, error: Exception) -> FieldError:
    match name, value:
        case "request_id", str():
            return FieldError(name, "invalid_id", _("A request id is 1 to 128 visible ASCII characters."))
        case "task_id", str():
            return FieldError(name, "too_long", _("At most %d characters.") % 64)
        case "id" | "after", bool():
            pass
        case "id" | "after", int():
            detail = _("An event id is a whole number from 0, in plain digits.")
            return FieldError(name, "out_of_range", detail)
    return FieldError(name, "wrong_type", str(error).split(" - at")[0])
