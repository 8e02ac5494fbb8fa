"""Django without middleware: an asynchronous view and Django's streaming response."""

from __future__ import annotations

from django.http import HttpRequest, StreamingHttpResponse

from . import django_project
from .script import HEADERS, Script, frames

django_project.configure(middleware=[])


async def generate(request: HttpRequest) -> StreamingHttpResponse:
    """The script."""
    return StreamingHttpResponse(frames(Script(request.body)), headers=HEADERS)


application = django_project.serve(generate)
