"""Who calls, and what that caller may do.

Every view asks here by itself, so that no list of middleware decides about access. A program is known by
its API key (RFC 6750), a signed-in person by the session (with a CSRF token for anything that changes
something); an anonymous caller may come where ALLOW_ANONYMOUS says so. Who sends an `Authorization` header
is judged by it alone: a wrong key is refused, also where a session or nobody in particular would do. Else who
sends a ticket, to what takes tickets, is judged by that alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import aget_user
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.utils import timezone
from django.utils.translation import gettext as _

from . import access_tickets, conf, hosts, keys, requests, sessions
from .addresses import is_loopback, network_of
from .digests import digest
from .identities import IDENTITIES, MAX_AGE, Credential, Identity
from .last_uses import LAST_USES
from .problems import CHALLENGE, Problem
from .proxies import VIA
from .scopes import Scope, scopes_of, text_of
from .standing import Ask, Standing
from .threads import borrowed_thread

_FORWARDING: Final = re.compile(
    r"HTTP_((.*_)?FORWARDED(_.*)?|X_(ORIGINAL|ORIGINATING|REMOTE)_.*|VIA|CDN_LOOP|X_REAL_IP|.*CLIENT_?IP|.*CONNECTING_IP|.*USER_?IP|"
    r"CF_.*|X_ENVOY_.*|X_AZURE_.*|X_APPENGINE_.*)"
)
"""Headers by which a proxy speaks for somebody else, named as in `META`: a loopback peer then proves no
local user."""

_TO_READ: Final = frozenset({Scope.READ.value})
"""What a ticket for a stream may be used for, at most."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: `account` is the primary key of the user who is signed in, or for whom an API key speaks, as
    text; None for anonymous callers. `scopes`: what their API key or ticket may be used for; None: for
    everything that they may do. `standing`: by which the same can be asked again while a stream is open; None
    for those who can lose nothing."""

    account: str | None
    address: str
    staff: bool = False
    scopes: frozenset[str] | None = None
    standing: Standing | None = field(default=None, compare=False, repr=False)

    def may(self, scope: Scope) -> bool:
        """Whether the key, if there is one, may be used for it. What its user may do is another question."""
        return self.scopes is None or scope in self.scopes

    def require(self, *scopes: Scope) -> None:
        """Raises `Problem` 403 `insufficient_scope` unless they may be used for each of `scopes`."""
        if self.scopes is None or self.scopes.issuperset(scopes):
            return
        needed = text_of(scopes)
        detail = _("This API key or ticket lacks a scope. Needed here: %(needed)s; it has: %(own)s.")
        raise Problem(
            403,
            "insufficient_scope",
            detail % {"needed": needed, "own": text_of(self.scopes)},
            # RFC 6750, 3.1
            headers={"WWW-Authenticate": f'{CHALLENGE}, error="insufficient_scope", scope="{needed}"'},
            scope=needed,
        )

    def share_key(self, end_user: str) -> Hashable:
        """Who shares fairly and is limited together: account and end user, or the client's address; on
        loopback, where every local program has the same address, the end user counts there too."""
        if self.account is not None:
            return ("account", self.account, end_user)
        if conf.allow_anonymous() == "loopback":
            return ("loopback", network_of(self.address), end_user)
        return ("address", network_of(self.address))

    @property
    def payer(self) -> str:
        """Whose quotas its tasks are charged to, as a digest; empty where none are set. An account, with all
        its end users and keys, is one; an anonymous caller is its address, or its network where that has many
        (IPv6). Nobody gets more by naming end users, on loopback neither."""
        if not conf.quotas().set:
            return ""
        if self.account is not None:
            return _payer("account", self.account)
        return _payer("address", network_of(self.address))

    def may_read(self, owner: str | None) -> bool:
        """Owned streams are for their owner alone; anonymous ones for whoever knows the id."""
        return owner is None or owner == self.account


@lru_cache(maxsize=4096)
def _payer(kind: str, name: str) -> str:
    return digest([kind, name])


async def identify(
    request: HttpRequest, *needs: Scope, anybody: bool = False, resource: str | None = None
) -> Caller:
    """The caller; who is nobody, too, where `anybody` may call. `resource`: what a ticket for it opens.
    Raises `Problem` 400 (host), 401 (nobody, or a key or ticket that is not valid) or 403 (CSRF; a key
    without one of the scopes that this call `needs`).

    Who called a moment ago is remembered (see `identities`); then this waits for nothing.
    """
    _check_host(request)
    caller = await _identify_by_ticket_or(request, resource, anybody)
    caller.require(*needs)
    if not needs or caller.scopes is None or (rests := caller.standing) is None:
        return caller
    # What the key may be used for besides is nothing to this call. (`replace` would take several calls.)
    rests = Standing(rests.name, rests.identity, rests.generation, rests.ask, frozenset(needs))
    return Caller(caller.account, caller.address, caller.staff, caller.scopes, rests)


async def _identify_by_ticket_or(request: HttpRequest, resource: str | None, anybody: bool) -> Caller:
    if resource is not None and (ticket := _ticket_of(request)) is not None:
        caller = await _by_ticket(request, ticket, resource)
        if caller is None:
            raise Problem(401, "invalid_ticket", _no_ticket(), headers={"WWW-Authenticate": CHALLENGE})
        return caller
    return await _identify(request, _check_csrf, anybody)


async def identify_socket(request: HttpRequest, resource: str | None = None) -> Caller:
    """Who opens a WebSocket with `request` (see `websocket.handshake`); what its key may be used for is asked
    there. `resource`: what a ticket for it opens. Raises `Problem` as `identify`, but 403 for a ticket.

    A browser lets every page open a socket to anywhere, with this site's cookies, and asks nobody: so an
    `Origin` must be one that we know whoever calls, and a session cookie speaks only with our own (RFC 6455,
    10.2). Pages of CORS_ALLOWED_ORIGINS call without it, as over HTTP.
    """
    _check_host(request)
    origin = request.META.get("HTTP_ORIGIN")
    ticket = None if resource is None else _ticket_of(request)
    if ticket is not None:
        request.COOKIES.clear()
    if origin is None:
        # No browser, so no page either; but then nobody can tell who put a cookie there.
        allowed = "HTTP_AUTHORIZATION" in request.META or settings.SESSION_COOKIE_NAME not in request.COOKIES
    else:
        allowed = _is_own(request, origin)
        if not allowed and origin in getattr(settings, "CORS_ALLOWED_ORIGINS", ()):
            allowed = True
            request.COOKIES.clear()
    if not allowed:
        raise Problem(403, "wrong_origin", _("This page may not open sockets here."))
    if resource is None or ticket is None:
        return await _identify(request, _nothing_more, anybody=False)
    caller = await _by_ticket(request, ticket, resource)
    if caller is None:
        raise Problem(403, "invalid_ticket", _no_ticket())
    return caller


async def make_ticket(request: HttpRequest, caller: Caller, resource: str) -> str:
    """A ticket for the resource with which its user is what `caller`, who sent `request`, is. Raises
    `Problem` 403 where the caller's session cannot be looked up by others, and 429."""
    who = ["address", network_of(caller.address)] if caller.account is None else ["account", caller.account]
    return await access_tickets.issue(resource, digest(who), _credential_of(request, caller))


def _credential_of(request: HttpRequest, caller: Caller) -> access_tickets.Credential:
    header = request.META.get("HTTP_AUTHORIZATION")
    if header is not None:
        return access_tickets.Credential("key", keys.digest(_split(header)[1]))
    if caller.account is None:
        return access_tickets.Credential("nobody")
    key = sessions.key_in_database(request.session)
    if key is None:
        detail = _("Sessions are not kept in the database here; get tickets with an API key.")
        raise Problem(403, "permission_denied", detail)
    return access_tickets.Credential("session", key)


def _ticket_of(request: HttpRequest) -> str | None:
    return None if "HTTP_AUTHORIZATION" in request.META else requests.ticket(request)


async def _by_ticket(request: HttpRequest, text: str, resource: str) -> Caller | None:
    """The ticket's user, who is what its maker is by now: whose key was revoked, whose session has ended, who
    may not sign in, is nobody. A ticket of nobody in particular is good for whom would do without, too."""
    address = request.META.get("REMOTE_ADDR") or ""
    async with borrowed_thread():
        maker = await access_tickets.use(text, resource)
        if maker is None:
            caller = None
        elif maker.kind == "nobody":
            caller = Caller(None, address) if _anonymous_allowed(request, address) else None
        else:
            caller = await _in_the_place_of(maker, address)
    access_tickets.COUNTS["refused" if caller is None else "redeemed"] += 1
    if caller is None or not access_tickets.is_of_stream(resource):
        return caller
    return replace(caller, scopes=_TO_READ if caller.scopes is None else caller.scopes & _TO_READ)


async def _in_the_place_of(maker: access_tickets.Credential, address: str) -> Caller | None:
    """Whom a credential speaks for that is known by what is stored of it, looked up now."""
    generation = IDENTITIES.generation
    ask: Ask
    if maker.kind == "key":
        credential = keys.credential_of(maker.value)
        identity, ask = await _find_key(credential), partial(_ask_key, credential)
    else:
        place = sessions.place_of_key(maker.value)
        if place is None:
            return None
        credential = sessions.credential(place)
        identity, ask = await _find_session(place), partial(_ask_session, place)
    if identity is None:
        return None
    standing = Standing(credential, identity, generation, ask)
    return Caller(identity.account, address, identity.staff, identity.scopes, standing)


def _no_ticket() -> str:
    return _("No such ticket: it is for something else, was used, or is too old. Get a new one.")


def _is_own(request: HttpRequest, origin: str) -> bool:
    """Whether `origin` is, to the letter, this server's, or one that Django trusts as such."""
    own = f"{'https' if request.is_secure() else 'http'}://{request.get_host()}"
    return origin == own or ("*" not in origin and origin in settings.CSRF_TRUSTED_ORIGINS)


def _check_host(request: HttpRequest) -> None:
    try:
        hosts.check(request)
    except DisallowedHost as error:
        raise Problem(400, "bad_host", _("This server does not answer to that host name.")) from error


async def _identify(
    request: HttpRequest, check_session: Callable[[HttpRequest], None], anybody: bool
) -> Caller:
    """`check_session`: what else a session needs to speak for its user; raises `Problem` 403."""
    address = request.META.get("REMOTE_ADDR") or ""
    credentials = request.META.get("HTTP_AUTHORIZATION")
    if credentials is not None:
        return await _by_key(credentials, address)
    caller = await _signed_in(request, address)
    if caller is not None:
        check_session(request)
        return caller
    if anybody or _anonymous_allowed(request, address):
        return Caller(None, address)
    raise Problem(
        401,
        "not_authenticated",
        _("Anonymous use is not allowed here (ALLOW_ANONYMOUS); sign in, or send an API key."),
        headers={"WWW-Authenticate": CHALLENGE},
    )


async def require_operator(request: HttpRequest) -> Caller:
    """The caller, who must be staff, or come from this machine where that is allowed. Raises `Problem`."""
    caller = await identify(request)
    if caller.staff or (caller.account is None and is_local(request, caller.address)):
        # Asked last: another scope would not help who is no operator.
        caller.require(Scope.OPERATE)
        return caller
    raise Problem(403, "permission_denied", _("These numbers are for operators."))


async def _by_key(credentials: str, address: str) -> Caller:
    scheme, text = _split(credentials)
    if scheme.lower() != "bearer":
        detail = _("The Authorization header takes an API key: Bearer <key>.")
        raise Problem(401, "not_authenticated", detail, headers={"WWW-Authenticate": CHALLENGE})
    identity, generation = None, IDENTITIES.generation
    if keys.is_well_formed(text):
        credential = keys.credential(text)
        ask = partial(_ask_key, credential)
        identity = await ask(MAX_AGE)
    if identity is None:
        challenge = f'{CHALLENGE}, error="invalid_token"'
        detail = _("No such key, or it has expired or was revoked, or its user may not sign in.")
        raise Problem(401, "invalid_key", detail, headers={"WWW-Authenticate": challenge})
    if identity.key is not None:
        LAST_USES.note(identity.key)
    standing = Standing(credential, identity, generation, ask)
    return Caller(identity.account, address, identity.staff, identity.scopes, standing)


def _split(credentials: str) -> tuple[str, str]:
    """Scheme and key. Blanks around a value are none of it, and several may part the two (RFC 9110, 5.5 and
    11.4)."""
    scheme, _space, text = credentials.strip(" \t").partition(" ")
    return scheme, text.lstrip(" ")


async def _ask_key(credential: Credential, max_age: float) -> Identity | None:
    return await IDENTITIES.of(credential, partial(_find_key, credential), max_age)


async def _find_key(credential: Credential) -> Identity | None:
    _kind, _database, stored = credential
    key = await keys.find_digest(stored)
    if key is None:
        return None
    seconds = math.inf if key.expires_at is None else (key.expires_at - timezone.now()).total_seconds()
    return replace(_speaking_for(key.user, seconds), scopes=scopes_of(key.scopes), key=key.pk)


async def _signed_in(request: HttpRequest, address: str) -> Caller | None:
    # Without a cookie there is no session to read, so no visit to the database.
    if settings.SESSION_COOKIE_NAME not in request.COOKIES or not hasattr(request, "session"):
        return None
    generation, place = IDENTITIES.generation, sessions.place_of(request.session)
    identity = None if place is None else await _ask_session(place, MAX_AGE)
    if identity is None:
        user = await aget_user(request)
        if not user.is_authenticated or user.pk is None:
            return None
        identity = _speaking_for(user)
    return Caller(
        identity.account,
        address,
        identity.staff,
        standing=_standing_of(request.session, place, identity, generation),
    )


def _standing_of(
    session: SessionBase, place: sessions.Place | None, identity: Identity, generation: int
) -> Standing | None:
    key = session.session_key
    if key is None:
        return None
    ask = partial(_ask_session_again, type(session), key, place)
    return Standing(sessions.name(type(session), key, place), identity, generation, ask)


async def _ask_session(place: sessions.Place, max_age: float) -> Identity | None:
    return await IDENTITIES.of(sessions.credential(place), partial(_find_session, place), max_age)


async def _ask_session_again(
    kind: type[SessionBase], key: str, place: sessions.Place | None, max_age: float
) -> Identity | None:
    identity = None if place is None else await _ask_session(place, max_age)
    if identity is None:
        # Also one whose hash is to be renewed still speaks for its user.
        user = await sessions.user_of(kind, key)
        identity = None if user is None else _speaking_for(user)
    return identity


async def _find_session(place: sessions.Place) -> Identity | None:
    found = await sessions.find(place)
    if found is None:
        return None
    user, expires_at = found
    return _speaking_for(user, (expires_at - timezone.now()).total_seconds())


def _speaking_for(user: Any, seconds: float = math.inf) -> Identity:
    return Identity(str(user.pk), user.is_active and getattr(user, "is_staff", False), seconds)


def _check_csrf(request: HttpRequest) -> None:
    check = CsrfViewMiddleware(_no_view)
    check.process_request(request)
    if check.process_view(request, _no_view, (), {}) is not None:
        raise Problem(403, "csrf_failed", _("Send the CSRF token in the X-CSRFToken header."))


def _nothing_more(request: HttpRequest) -> None:
    """The origin was looked at already, for everybody."""


def _no_view(request: HttpRequest) -> HttpResponse:
    raise AssertionError("never called")


def _anonymous_allowed(request: HttpRequest, address: str) -> bool:
    policy = conf.allow_anonymous()
    return policy == "true" or (policy == "loopback" and is_local(request, address))


def is_local(request: HttpRequest, address: str) -> bool:
    """Whether the caller at `address` is on this machine, and no proxy between: neither one that a header
    tells of, nor one that is trusted to tell and says nothing."""
    return (
        is_loopback(address)
        and VIA not in getattr(request, "scope", ())
        and not any(map(_FORWARDING.fullmatch, request.META))
    )
