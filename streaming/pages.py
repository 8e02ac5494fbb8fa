"""Pages for people: who reads them, and the page of one stream.

Other apps use `page` for theirs. What a page shows of a stream it gets over the same API as everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast

from asgiref.sync import sync_to_async
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_safe
from django.views.defaults import page_not_found

from streaming.core.errors import StorageUnavailable, TaskNotFound

from . import conf
from .access import Caller, identify
from .problems import Problem, of_error
from .scopes import Scope
from .service import service

P = ParamSpec("P")
PageView = Callable[Concatenate[HttpRequest, P], Coroutine[Any, Any, HttpResponseBase]]


def page(view: PageView[P]) -> PageView[P]:
    """A page: GET and HEAD only. Who must sign in is taken there and back; what is absent is a page, too."""

    @require_safe
    @wraps(view)
    async def guarded(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        try:
            return await view(request, *args, **kwargs)
        except TaskNotFound as error:
            # Also under DEBUG, where Http404 would show the developer's page.
            return await sync_to_async(page_not_found)(request, error)
        except StorageUnavailable as error:
            return of_error(error).response()
        except Problem as problem:
            if problem.status == 401:
                return redirect_to_login(request.get_full_path())
            return problem.response()

    return cast("PageView[P]", guarded)


async def show(request: HttpRequest, template: str, caller: Caller | None, **context: Any) -> HttpResponse:
    """Render a page in a thread, where templates may ask the database. `caller`: None if unknown."""
    common = {"caller": caller, "silence_limit": _silence_limit()}
    response = await sync_to_async(render)(request, template, common | context)
    # Also where the caller was known without a look into the session.
    patch_vary_headers(response, ("Cookie",))
    return response


def _silence_limit() -> float:
    """Seconds without a byte after which a page takes its connection for dead; 0: never."""
    interval = conf.sse().heartbeat_interval
    return interval and interval * 1.5 + 1


@page
async def stream_page(request: HttpRequest, task_id: str) -> HttpResponse:
    """`GET /streams/<id>/view`: a stream, live or from the record."""
    caller = await identify(request, Scope.READ)
    await service().find(task_id, caller)
    return await show(request, "streaming/stream_page.html", caller, task_id=task_id)
