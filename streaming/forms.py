"""Forms of pages: what is read of them, and where.

The CSRF check reads the form of whoever sends a CSRF cookie, before anybody is asked who they are. Django
parses a multipart form at up to ten seconds a MiB (`django.utils.http.parse_header_parameters`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _

from .problems import Problem

ViewT = TypeVar("ViewT", bound=Callable[..., Any])

MAX_FORM: Final = 16_384
"""Bytes of a small form, and of a multipart form where no form brings files."""

_URLENCODED: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"


def small_form(view: ViewT) -> ViewT:
    """A page that strangers may send a form to: it is urlencoded, and has `MAX_FORM` bytes at most."""
    view.takes_small_form = True  # type: ignore[attr-defined]
    return view


def is_multipart(request: HttpRequest) -> bool:
    """Whether the form takes long to parse: that is work for a thread."""
    return request.method == "POST" and request.content_type == _MULTIPART


def refusal(request: HttpRequest, view: Callable[..., Any]) -> HttpResponseBase | None:
    """415 or 413 for a form that `view` does not take; None for any other request. Where Django's
    DATA_UPLOAD_MAX_NUMBER_FILES is 0, no multipart form is large."""
    if request.method != "POST":
        return None
    if getattr(view, "takes_small_form", False):
        if request.content_type not in (_URLENCODED, ""):
            detail = _("Send %(type)s.") % {"type": _URLENCODED}
            return Problem(415, "unsupported_media_type", detail, headers={"Accept": _URLENCODED}).response()
    elif request.content_type != _MULTIPART or settings.DATA_UPLOAD_MAX_NUMBER_FILES != 0:
        return None
    try:
        if len(request.body) <= MAX_FORM:
            return None
    except RequestDataTooBig:
        pass
    except ValueError:
        # A Content-Length that is no number.
        return Problem(400, "invalid_request").response()
    return Problem(413, "body_too_large", limit=MAX_FORM).response()
