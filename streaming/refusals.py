"""URLs of requests that were refused before a view could see them: every path leads to the refusal.

The handler sets this as the request's URLconf, so that the answer passes through the middleware like any
other one: in the reader's language, with the headers of CORS and of security.
"""

from __future__ import annotations

from typing import Final

from django.http import HttpRequest, HttpResponse
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt

from .problems import Problem

_KEY: Final = "streaming.refusal"
"""In `request.META`, where no header of a client can have this name."""


def refuse(request: HttpRequest, problem: Problem) -> None:
    """Have `request` answered with `problem`."""
    request.urlconf = __name__
    request.META[_KEY] = problem


@csrf_exempt
async def refused(request: HttpRequest) -> HttpResponse:
    """The refusal. With its length the client knows the answer's end before the connection's."""
    problem: Problem = request.META[_KEY]
    response = problem.response()
    response["Content-Length"] = str(len(response.content))
    return response


urlpatterns = [re_path("", refused)]

handler400 = "streaming.error_views.bad_request"
handler500 = "streaming.error_views.server_error"
