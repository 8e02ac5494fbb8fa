"""`POST /tickets`: for programs whose pages open streams and sockets."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from urllib.parse import unquote

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _
from msgspec import Meta

from . import access_tickets, conf, schema
from .access import identify, make_ticket
from .api import api
from .hidden_query import TICKET
from .problems import FieldError
from .requests import endpoint, json_object, require_json_accepted
from .responses import place_of
from .scopes import Scope
from .service import service
from .validation import faults_of, invalid
from .websocket import handshake, routing

_PATH: Final = re.compile(r"/[!-~]*", re.ASCII)


class TicketFor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a ticket shall be for: one of the two."""

    stream_id: str | None = None
    socket: Annotated[str, Meta(max_length=200)] | None = None


@endpoint("POST")
async def tickets(request: HttpRequest) -> HttpResponseBase:
    """`POST /tickets`: what opens one stream or socket once."""
    require_json_accepted(request)
    caller = await identify(request)
    wanted = _parse(json_object(request))
    if wanted.stream_id is not None:
        caller.require(Scope.READ)
        await service().readable(wanted.stream_id, caller)
        resource, url = access_tickets.for_stream(wanted.stream_id), f"{place_of(wanted.stream_id)}/events"
    else:
        assert wanted.socket is not None
        resource, url = _socket(request, wanted.socket), wanted.socket
    text = await make_ticket(request, caller, resource)
    ttl = conf.access().ticket_ttl
    # A whole number where it is one, as in the settings.
    body = {
        "ticket": text,
        "expires_in": int(ttl) if ttl == int(ttl) else ttl,
        "url": f"{url}?{TICKET}={text}",
    }
    response = HttpResponse(msgspec.json.encode(body), content_type="application/json", status=201)
    response["Cache-Control"] = "no-store"
    return response


def _parse(values: dict[str, Any]) -> TicketFor:
    """Raises `Problem` 422, naming every wrong field."""
    try:
        wanted = msgspec.convert(values, TicketFor)
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise invalid(faults_of(values, TicketFor)) from None
    if wanted.stream_id is None and wanted.socket is None:
        message = _("Say what the ticket is for: stream_id or socket.")
        raise invalid([FieldError("stream_id", "missing_field", message)])
    if wanted.stream_id is not None and wanted.socket is not None:
        raise invalid([FieldError("socket", "not_a_choice", _("A ticket is for a stream or for a socket."))])
    return wanted


def _socket(request: HttpRequest, path: str) -> str:
    """The resource behind the path of a socket. Raises `Problem` 422."""
    resource = None
    if _PATH.fullmatch(path) and "?" not in path and "#" not in path:
        place = handshake.place_of(unquote(path), getattr(request, "scope", {}).get("root_path", ""))
        resource = routing.resource_at(place)
    if resource is None or len(resource) > access_tickets.MAX_RESOURCE or "\x00" in resource:
        raise invalid([FieldError("socket", "not_a_choice", _("There is no socket at that path."))])
    if access_tickets.is_of_stream(resource):
        message = _("A ticket for a stream is asked for by its stream_id.")
        raise invalid([FieldError("socket", "not_a_choice", message)])
    return resource


_TICKET_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["ticket", "expires_in", "url"],
    "properties": {
        "ticket": {"type": "string"},
        "expires_in": {"type": "number", "exclusiveMinimum": 0, "maximum": 60, "description": "Seconds"},
        "url": {"type": "string", "description": "The path that it opens, with it"},
    },
}


def _one_of_two(**fields: str) -> dict[str, Any]:
    """Objects with just one of these members, a text each; by name what it says."""
    return {
        "oneOf": [
            {
                "type": "object",
                "required": [name],
                "properties": {name: {"type": "string", "description": words}},
                "additionalProperties": False,
            }
            for name, words in fields.items()
        ]
    }


def _describe() -> None:
    shape = _one_of_two(
        stream_id="A task's id: to read its events, over whatever",
        socket="The path of a socket of several streams, as in its URL",
    )
    api.document(
        "post",
        "/tickets",
        {
            "operationId": "make_ticket",
            "summary": "A ticket for an EventSource or a WebSocket",
            "description": "For pages, which cannot send a key there: it opens one stream or socket, once, "
            "within seconds, as `?ticket=`.",
            "tags": ["streams"],
            "requestBody": {"required": True, "content": {"application/json": {"schema": shape}}},
            "responses": {
                "201": {
                    "description": "The ticket, which cannot be had again",
                    "content": {"application/json": {"schema": _TICKET_SCHEMA}},
                },
                "400": schema.problem_response("Not JSON, or a bad query"),
                "401": schema.problem_response("Not signed in"),
                "403": schema.problem_response(
                    "The CSRF token is missing, the right to read is gone, or no ticket for this session"
                ),
                "404": schema.problem_response("No such stream, or not the caller's"),
                "406": schema.problem_response("JSON is not accepted"),
                "413": schema.problem_response("The body is too large"),
                "415": schema.problem_response("The body is not JSON in UTF-8"),
                "422": schema.problem_response("Neither a stream nor a socket, or both"),
                "429": schema.problem_response("Too many unused tickets"),
                "503": schema.problem_response("The database is away"),
            },
        },
    )


_describe()
