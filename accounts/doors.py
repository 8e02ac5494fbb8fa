"""The guard of the pages that take a password: see `attempts` for what it bounds."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, Final
from unicodedata import normalize

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.debug import sensitive_post_parameters

from streaming.addresses import network_of
from streaming.forms import small_form

from .attempts import Busy, Checks, Failures

logger = logging.getLogger(__name__)

View = Callable[..., HttpResponseBase]

CHECKS: Final = Checks()

FAILURES: Final = Failures(time.monotonic)

RETRY: Final = 5
"""Seconds after which who found no place may come again."""

LONGEST_NAME: Final = 80
"""Characters of a user name that are counted by, and in the log."""


def guarded(view: View) -> View:
    """A page with a sign-in form: small forms only, 429 for who has failed too often, 503 where too many
    passwords are being checked; both with `Retry-After`."""

    @wraps(view)
    @sensitive_post_parameters()
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method != "POST":
            return view(request, *args, **kwargs)
        keys = _keys(request, request.POST.get("username", ""))
        try:
            if not FAILURES.wait(*keys):
                with CHECKS.place():
                    # Who was in the line before may have spent the tries.
                    if not FAILURES.wait(*keys):
                        return view(request, *args, **kwargs)
        except Busy:
            return _later(request, 503, RETRY)
        return _later(request, 429, max(1, math.ceil(FAILURES.wait(*keys))))

    return small_form(checked)


def note_failure(
    sender: Any, *, credentials: dict[str, Any], request: HttpRequest | None = None, **kwargs: Any
) -> None:
    """Receiver of `user_login_failed`: counted, and told in the log; the password is in neither."""
    name = str(credentials.get("username", ""))
    shown = ascii(name[:LONGEST_NAME])
    if request is None:
        logger.warning("a sign-in failed: user name %s", shown)
        return
    FAILURES.note(*_keys(request, name))
    logger.warning("a sign-in failed: user name %s, from %s", shown, request.META.get("REMOTE_ADDR", "-"))


def _keys(request: HttpRequest, name: str) -> tuple[Hashable, Hashable]:
    """Whose tries are counted: a network, and a name as Django's form writes it, without regard to case."""
    address = network_of(str(request.META.get("REMOTE_ADDR", "")))
    return ("address", address), ("name", normalize("NFKC", name[:LONGEST_NAME]).strip().casefold())


def _later(request: HttpRequest, status: int, seconds: int) -> HttpResponse:
    page = render(
        request, "accounts/try_later.html", {"failed": status == 429, "seconds": seconds}, status=status
    )
    page["Retry-After"] = str(seconds)
    page["Cache-Control"] = "no-store"
    return page
