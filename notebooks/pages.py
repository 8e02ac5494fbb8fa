"""The pages at `/notebook/`: all of one's notebooks, and one of them."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from streaming import csp
from streaming.access import Caller, identify
from streaming.pages import page, show
from streaming.problems import Problem
from streaming.scopes import Scope

from . import cells, store
from .access import account_of, require_runner
from .engine import kernels
from .operations import check_id
from .record import record_of

EMPTY: Final[dict[str, Any]] = {
    "title": "",
    "version": None,
    "cells": [],
    "kernel": {"state": "none", "execution_count": None},
}
"""What the page shows of a notebook that does not exist yet; it has no version to save over."""

FRAME_POLICY: Final[csp.Policy] = {
    "default-src": csp.NONE,
    "img-src": ("data:",),
    "style-src": ("'unsafe-inline'",),
    "font-src": ("data:",),
    "base-uri": csp.NONE,
    "form-action": csp.NONE,
    "frame-ancestors": csp.SELF,
    # As the frame's own attribute says: no scripts, whoever shows it. By its origin our page may measure it.
    "sandbox": ("allow-same-origin", "allow-popups", "allow-popups-to-escape-sandbox"),
}
"""Of the document in which the page shows a notebook's HTML."""


@page
async def notebooks(request: HttpRequest) -> HttpResponse:
    """`GET /notebook/`."""
    caller = await identify(request, Scope.READ)
    owner = account_of(caller)
    found = await cells.with_states(kernels(), owner, await sync_to_async(store.listed)(owner))
    for each in found:
        each["changed"] = datetime.fromisoformat(each["updated_at"])
    context = {"notebooks": found, "obstacle": await _obstacle(request, caller)}
    return await show(request, "notebooks/notebooks.html", caller, **context)


@page
async def notebook(request: HttpRequest, notebook_id: str) -> HttpResponse:
    """`GET /notebook/<id>/`."""
    caller = await identify(request, Scope.READ)
    account_of(caller)
    check_id("notebook_id", notebook_id)
    record = await record_of(caller, notebook_id)
    context = {
        "notebook_id": notebook_id,
        "record": record or EMPTY,
        "obstacle": await _obstacle(request, caller),
    }
    response = await show(request, "notebooks/notebook.html", caller, **context)
    # The way back must not lead to an old record.
    response["Cache-Control"] = "no-store"
    return response


@require_safe
async def frame(request: HttpRequest) -> HttpResponse:
    """`GET /notebook/frame`: an empty document, the same for everybody, for HTML that a cell has shown."""
    response = HttpResponse(_frame())
    response[csp.HEADER] = csp.header_of(FRAME_POLICY)
    response["X-Frame-Options"] = "SAMEORIGIN"
    response["Cache-Control"] = "public, max-age=3600"
    return response


@cache
def _frame() -> str:
    return render_to_string("notebooks/frame.html")


@require_POST
async def new(request: HttpRequest) -> HttpResponseBase:
    """`POST /notebook/new`: to the page of the notebook with that name."""
    name = request.POST.get("name", "").strip()
    try:
        check_id("name", name)
    except Problem:
        return HttpResponseRedirect(reverse("notebooks"))
    return HttpResponseRedirect(reverse("notebook-page", args=[name]))


async def _obstacle(request: HttpRequest, caller: Caller) -> str:
    """Why the reader cannot run code; empty if they can."""
    try:
        await require_runner(request, caller)
    except Problem as problem:
        return problem.detail
    return ""
