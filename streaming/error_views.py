"""Django's error handlers: pages for people, problem documents for programs.

For a project's root URLconf: `handler404 = "streaming.error_views.page_not_found"`, and so on.
"""

from __future__ import annotations

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.views import defaults

from .problems import Problem


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
    """500."""
    if _wants_a_page(request):
        return defaults.server_error(request)
    return Problem(500, "server_error").response()


def _wants_a_page(request: HttpRequest) -> bool:
    return request.get_preferred_type(["application/problem+json", "text/html"]) == "text/html"
