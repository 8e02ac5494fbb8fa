"""The pages at `/notebook/`: all of one's notebooks, and one of them."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_POST

from streaming.access import Caller, identify
from streaming.pages import page, show
from streaming.problems import Problem

from . import cells, store
from .access import account_of, require_runner
from .engine import kernels
from .kernels.table import Key
from .operations import check_id


@page
async def notebooks(request: HttpRequest) -> HttpResponse:
    """`GET /notebook/`."""
    caller = await identify(request)
    owner = account_of(caller)
    found = await sync_to_async(store.listed)(owner)
    for each in found:
        each["kernel"] = cells.status(kernels(), Key(owner, each["notebook_id"]))["state"]
    context = {"notebooks": found, "problem": await _obstacle(request, caller)}
    return await show(request, "notebooks/notebooks.html", caller, **context)


@page
async def notebook(request: HttpRequest, notebook_id: str) -> HttpResponse:
    """`GET /notebook/<id>/`."""
    caller = await identify(request)
    account_of(caller)
    check_id("notebook_id", notebook_id)
    context = {"notebook_id": notebook_id, "problem": await _obstacle(request, caller)}
    return await show(request, "notebooks/notebook.html", caller, **context)


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
