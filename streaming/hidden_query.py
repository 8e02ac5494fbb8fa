"""What a query holds that nobody shall read on the way: tickets (see `access_tickets`).

At the door they are taken out of the query string, before a server's own access log, a middleware, an error
page or a mail to ADMINS could quote it. `requests.query` alone puts them back.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote_to_bytes

from django.http import HttpRequest

TICKET: Final = "ticket"
"""The name of the parameter."""

MARK: Final = "sluice_ticket_"
"""How every ticket begins; what cuts keys out of log lines knows it by that, too (`core.redaction`)."""

_HIDDEN: Final = "streaming.hidden_query"
"""Where what was taken out is in the ASGI scope, as it was written."""


def hide(scope: dict[str, Any]) -> bool:
    """Take tickets out of the scope's query string, however their name is written; whether there were any."""
    query: bytes = scope.get("query_string", b"")
    if b"ticket" not in query and b"%" not in query:
        return False
    pieces = query.split(b"&")
    hidden = [piece for piece in pieces if _is_secret(piece)]
    if hidden:
        scope["query_string"] = b"&".join(piece for piece in pieces if not _is_secret(piece))
        scope[_HIDDEN] = b"&".join(hidden).decode("latin1")
    return bool(hidden)


def whole(request: HttpRequest) -> str:
    """The query string as the client sent it, but for the order of its fields."""
    query: str = request.META.get("QUERY_STRING", "")
    hidden: str | None = getattr(request, "scope", {}).get(_HIDDEN)
    if hidden is None:
        return query
    return f"{query}&{hidden}" if query else hidden


def has_ticket(request: HttpRequest) -> bool:
    """Whether the query may have a ticket; a door that is not ours hides none."""
    return TICKET in whole(request)


def _is_secret(piece: bytes) -> bool:
    """Whether it is a ticket of ours: other applications of a project have parameters of that name, too."""
    name, _, value = (unquote_to_bytes(part.replace(b"+", b" ")) for part in piece.partition(b"="))
    return name == TICKET.encode() and value.startswith(MARK.encode())
