"""Django's own middleware without the thread hops, and one that Django has from version 6 on.

Django runs each hook of these classes in a thread, two hops a request and class, although none of them
waits for anything. Here the hooks run where they are; a hop is left only where a session has to be read
from or written to the database.
"""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import middleware as auth
from django.contrib.messages import middleware as messages
from django.contrib.sessions import middleware as sessions
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware import clickjacking, common, csrf, locale, security
from django.utils.deprecation import MiddlewareMixin

from . import csp, forms


class Inline:
    """Mixin before a `MiddlewareMixin` class: runs its hooks on the event loop."""

    get_response: Any

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase | None = None
        process_request = getattr(self, "process_request", None)
        if process_request is not None:
            response = process_request(request)
        if response is None:
            response = await self.get_response(request)
        return await self.finish(request, response)

    async def finish(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """`process_response`, if there is one."""
        process_response = getattr(self, "process_response", None)
        if process_response is None:
            return response
        finished: HttpResponseBase = process_response(request, response)
        return finished


class SecurityMiddleware(Inline, security.SecurityMiddleware):
    """Security headers and the redirect to TLS."""


class CommonMiddleware(Inline, common.CommonMiddleware):
    """Host check, slashes, lengths."""


class LocaleMiddleware(Inline, locale.LocaleMiddleware):
    """The language of pages."""


class AuthenticationMiddleware(Inline, auth.AuthenticationMiddleware):
    """`request.user`, made when asked for."""


class XFrameOptionsMiddleware(Inline, clickjacking.XFrameOptionsMiddleware):
    """No framing by other sites."""


class ContentSecurityPolicyMiddleware(Inline, MiddlewareMixin):
    """What pages may load and run: Django 6 has a class of that name; see `streaming.csp`."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        csp.protect(response, request)
        return response


class CsrfViewMiddleware(Inline, csrf.CsrfViewMiddleware):
    """The CSRF check of pages; API views check by themselves. It is the first to read a form, so here it is
    decided which forms are read (see `streaming.forms`)."""

    async def process_view(  # type: ignore[override]
        self, request: HttpRequest, view: Any, *args: Any
    ) -> HttpResponseBase | None:
        if getattr(view, "csrf_exempt", False):
            return super().process_view(request, view, *args)
        if (refusal := forms.refusal(request, view)) is not None:
            return refusal
        if forms.is_multipart(request):
            return await sync_to_async(super().process_view)(request, view, *args)
        return super().process_view(request, view, *args)


class SessionMiddleware(Inline, sessions.SessionMiddleware):
    """Sessions; a thread only to save one."""

    async def finish(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        session = request.session
        if session.accessed or session.modified or settings.SESSION_SAVE_EVERY_REQUEST:
            return await sync_to_async(self.process_response)(request, response)  # type: ignore[arg-type]
        return await super().finish(request, response)


class MessageMiddleware(Inline, messages.MessageMiddleware):
    """Messages of pages; a thread only where some were read or added."""

    async def finish(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        storage = getattr(request, "_messages", None)
        if storage is not None and (storage.used or storage.added_new):
            return await sync_to_async(self.process_response)(request, response)  # type: ignore[arg-type]
        return response
