"""Django with the middleware that startproject writes."""

from __future__ import annotations

from django.http import HttpRequest, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from . import django_project
from .script import HEADERS, Script, frames

django_project.configure(middleware=django_project.STARTPROJECT)


@csrf_exempt
async def generate(request: HttpRequest) -> StreamingHttpResponse:
    """The script."""
    return StreamingHttpResponse(frames(Script(request.body)), headers=HEADERS)


application = django_project.serve(generate)
