"""A project that has our streams and nothing else of ours: no admin, no sign-in, no home page."""

from __future__ import annotations

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import include, path

from streaming import stream


async def letters(request: HttpRequest) -> HttpResponseBase:
    return await stream(request, ["a", "b"])


urlpatterns = [path("letters", letters), path("live/", include("streaming.urls"))]
