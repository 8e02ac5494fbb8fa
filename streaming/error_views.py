"""Django's error handlers: pages for people, problem documents for programs.

For a project's root URLconf: `handler404 = "streaming.error_views.page_not_found"`, and so on.
"""

from __future__ import annotations

import errno
import logging
import sys

from django.core.exceptions import DisallowedHost
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template import TemplateDoesNotExist, loader
from django.views import defaults

from .problems import STORAGE_RETRY, TITLES, Problem

logger = logging.getLogger("streaming")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """400: among others, a `Host` that is not served here."""
    if _wants_a_page(request):
        return defaults.bad_request(request, exception)
    code = "bad_host" if isinstance(exception, DisallowedHost) else "invalid_request"
    return Problem(400, code).response()


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """403."""
    if _wants_a_page(request):
        return defaults.permission_denied(request, exception)
    return Problem(403, "permission_denied").response()


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """404."""
    if _wants_a_page(request):
        return defaults.page_not_found(request, exception)
    return Problem(404, "not_found").response()


def server_error(request: HttpRequest) -> HttpResponseBase:
    """500; 503 while the database is away, which sessions and so nearly all pages need."""
    error = sys.exc_info()[1]
    match error:
        case OperationalError() | InterfaceError() | OSError(errno=errno.EMFILE | errno.ENFILE):
            return _database_away(request, error)
    if _wants_a_page(request):
        return defaults.server_error(request)
    return Problem(500, "server_error").response()


def _database_away(request: HttpRequest, error: Exception) -> HttpResponseBase:
    """With a line in the log instead of the stack of each page that somebody asks for meanwhile."""
    name, told = type(error).__name__, str(error).partition("\n")[0]
    logger.error("%s %s: the database does not answer (%s: %s)", request.method, request.path, name, told)
    problem = Problem(503, "storage_unavailable", retry_after=STORAGE_RETRY).response()
    if not _wants_a_page(request):
        return problem
    try:
        page = HttpResponse(loader.get_template("503.html").render(), status=503)
    except TemplateDoesNotExist:
        # A project that has none.
        page = HttpResponse(str(TITLES["storage_unavailable"]), content_type="text/plain", status=503)
    for name in ("Retry-After", "Cache-Control"):
        page[name] = problem[name]
    return page


def _wants_a_page(request: HttpRequest) -> bool:
    return request.get_preferred_type(["application/problem+json", "text/html"]) == "text/html"
