"""Tickets: by which somebody who can send no header opens one stream or socket, once, within a minute.

A browser's `EventSource` and `WebSocket` send no `Authorization`. So a program that has a credential gets a
ticket for one resource and hands it to its page, which puts it into the URL. A URL is written down in many
places; what stands there is worth nothing when anybody reads it: used up, or too old.

A ticket is 256 bits of chance, and only its SHA-256 is stored (see `keys`). It stands for its maker's
credential and holds no right of its own: who uses it may do what that credential may at that moment.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.utils import timezone
from django.utils.translation import gettext as _

from . import conf, keys
from .hidden_query import MARK
from .models import Ticket
from .problems import Problem

MAX_UNUSED: Final = 1000
"""Tickets that one account, or one address without an account, may have at a time, used ones not counted. Who
asks several times in the same moment may get a few more."""

MAX_RESOURCE: Final = 255
"""Characters of a resource's name."""

COUNTS: Final = dict.fromkeys(("issued", "limited", "redeemed", "refused"), 0)
"""Tickets of this process so far, by result: `limited` were not issued (429), `refused` opened nothing.
Belongs to the event loop's thread."""

_TICKET: Final = re.compile(MARK + r"[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credential:
    """By what a ticket's maker was known. `kind`: `key`, `session` or `nobody`. `value`: the digest of a key,
    or a session's key in its table."""

    kind: str
    value: str = ""


def for_stream(task_id: str) -> str:
    """The resource that is a stream, over whatever it is read."""
    return f"stream:{task_id}"


def for_socket(place: str) -> str:
    """The resource that is a socket of more than one stream; `place`: its path, as `routing` has it."""
    return f"socket:{place}"


def is_of_stream(resource: str) -> bool:
    """Whether the resource is one stream, to be read."""
    return resource.startswith(for_stream(""))


async def issue(resource: str, holder: str, credential: Credential) -> str:
    """A new ticket for the resource. `holder`: who is counted for it. Raises `Problem` 429."""
    now, ttl = timezone.now(), conf.access().ticket_ttl
    # Others' are deleted hourly: so many as one holder makes in an hour, nobody shall leave behind.
    await Ticket.objects.filter(holder=holder, expires_at__lte=now).adelete()
    unused = Ticket.objects.filter(holder=holder, expires_at__gt=now)
    if await unused.acount() >= MAX_UNUSED:
        COUNTS["limited"] += 1
        detail = _("You have %d tickets that nobody has used yet.") % MAX_UNUSED
        raise Problem(429, "too_many_tickets", detail, retry_after=ttl, limit=MAX_UNUSED)
    text = MARK + secrets.token_urlsafe(32)
    await Ticket.objects.acreate(
        digest=keys.digest(text),
        resource=resource,
        holder=holder,
        credential_kind=credential.kind,
        credential=credential.value,
        expires_at=now + timedelta(seconds=ttl),
    )
    COUNTS["issued"] += 1
    return text


async def use(text: str, resource: str) -> Credential | None:
    """Use a ticket up: by what its maker was known, None for a ticket that is not, or not any more, good for
    the resource. Of several who use one at the same moment, in whatever process, one gets it."""
    if _TICKET.fullmatch(text) is None:
        return None
    row = Ticket.objects.filter(pk=keys.digest(text))
    ticket = await row.afirst()
    if ticket is None or ticket.resource != resource or ticket.expires_at <= timezone.now():
        return None
    # Who deletes the row has the ticket: a database deletes it once.
    if not (await row.adelete())[0]:
        return None
    return Credential(ticket.credential_kind, ticket.credential)
