"""Who calls, and what that caller may do.

Every view asks here by itself, so that no list of middleware decides about access. A program is known by
its API key (RFC 6750), a signed-in person by the session (with a CSRF token for anything that changes
something); an anonymous caller may come where ALLOW_ANONYMOUS says so. Who sends an `Authorization` header
is judged by it alone: a wrong key is refused, also where a session or nobody in particular would do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import aget_user
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.utils import timezone
from django.utils.translation import gettext as _

from . import conf, hosts, keys, sessions
from .addresses import is_loopback, network_of
from .digests import digest
from .identities import IDENTITIES, Identity
from .problems import Problem
from .proxies import VIA

_FORWARDING: Final = re.compile(
    r"HTTP_((X_)?FORWARDED(_.*)?|X_ORIGINAL_.*|VIA|CDN_LOOP|X_REAL_IP|.*CLIENT_?IP|.*CONNECTING_IP|.*USER_?IP|"
    r"CF_.*|X_ENVOY_.*|X_AZURE_.*|X_APPENGINE_.*)"
)
"""Headers by which a proxy speaks for somebody else, named as in `META`: a loopback peer then proves no
local user."""

CHALLENGE: Final = 'Bearer realm="sluice"'
"""`WWW-Authenticate` of every 401."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: `account` is the primary key of the user who is signed in, or for whom an API key speaks, as
    text; None for anonymous callers."""

    account: str | None
    address: str
    staff: bool = False

    def share_key(self, end_user: str) -> Hashable:
        """Who shares fairly and is limited together: account and end user, or the client's address; on
        loopback, where every local program has the same address, the end user counts there too."""
        if self.account is not None:
            return ("account", self.account, end_user)
        if conf.allow_anonymous() == "loopback":
            return ("loopback", self.address, end_user)
        return ("address", self.address)

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


async def identify(request: HttpRequest, *, anybody: bool = False) -> Caller:
    """The caller; who is nobody, too, where `anybody` may call. Raises `Problem` 400 (host), 401 (nobody, or
    a key that is not valid) or 403 (CSRF).

    Who called a moment ago is remembered (see `identities`); then this waits for nothing.
    """
    _check_host(request)
    return await _identify(request, _check_csrf, anybody)


async def identify_socket(request: HttpRequest) -> Caller:
    """Who opens a WebSocket with `request` (see `websocket.handshake`). Raises `Problem` as `identify`.

    A browser lets every page open a socket to anywhere, with this site's cookies, and asks nobody: so an
    `Origin` must be one that we know whoever calls, and a session cookie speaks only with our own (RFC 6455,
    10.2). Pages of CORS_ALLOWED_ORIGINS call without it, as over HTTP.
    """
    _check_host(request)
    origin = request.META.get("HTTP_ORIGIN")
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
    return await _identify(request, _nothing_more, anybody=False)


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
        return caller
    raise Problem(403, "permission_denied", _("These numbers are for operators."))


async def _by_key(credentials: str, address: str) -> Caller:
    # Blanks around a value are none of it, and several may part scheme and key (RFC 9110, 5.5 and 11.4).
    scheme, _space, text = credentials.strip(" \t").partition(" ")
    if scheme.lower() != "bearer":
        detail = _("The Authorization header takes an API key: Bearer <key>.")
        raise Problem(401, "not_authenticated", detail, headers={"WWW-Authenticate": CHALLENGE})
    text = text.lstrip(" ")
    identity = None
    if keys.is_well_formed(text):
        identity = await IDENTITIES.of(keys.credential(text), partial(_find_key, text))
    if identity is None:
        challenge = f'{CHALLENGE}, error="invalid_token"'
        detail = _("No such key, or it was revoked, or its user may not sign in.")
        raise Problem(401, "invalid_key", detail, headers={"WWW-Authenticate": challenge})
    return Caller(identity.account, address, identity.staff)


async def _find_key(text: str) -> Identity | None:
    key = await keys.find(text)
    return None if key is None else _speaking_for(key.user)


async def _signed_in(request: HttpRequest, address: str) -> Caller | None:
    # Without a cookie there is no session to read, so no visit to the database.
    if settings.SESSION_COOKIE_NAME not in request.COOKIES or not hasattr(request, "session"):
        return None
    identity, place = None, sessions.place_of(request.session)
    if place is not None:
        identity = await IDENTITIES.of(sessions.credential(place), partial(_find_session, place))
    if identity is None:
        user = await aget_user(request)
        if not user.is_authenticated or user.pk is None:
            return None
        identity = _speaking_for(user)
    return Caller(identity.account, address, identity.staff)


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
