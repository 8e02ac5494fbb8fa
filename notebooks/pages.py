"""The pages at `/notebook/`: all of one's notebooks, and one of them."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_POST

from streaming.access import identify
from streaming.pages import page, show
from streaming.problems import Problem

from . import cells, store
from .access import require_runner, user_of
from .engine import kernels
from .kernels.table import Key
from .operations import check_id


@page
async def notebooks(request: HttpRequest) -> HttpResponse:
    """`GET /notebook/`."""
    owner = await user_of(request)
    caller = await identify(request)
    found = await sync_to_async(store.listed)(owner)
    for each in found:
        each["kernel"] = cells.status(kernels(), Key(owner, each["notebook_id"]))["state"]
    context = {"notebooks": found, "problem": await _obstacle(owner)}
    return await show(request, "notebooks/notebooks.html", caller, **context)


@page
async def notebook(request: HttpRequest, notebook_id: str) -> HttpResponse:
    """`GET /notebook/<id>/`."""
    owner = await user_of(request)
    caller = await identify(request)
    check_id("notebook_id", notebook_id)
    context = {"notebook_id": notebook_id, "problem": await _obstacle(owner)}
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


async def _obstacle(owner: str) -> str:
    """Why the reader cannot run code; empty if they can."""
    try:
        await require_runner(owner)
    except Problem as problem:
        return problem.detail
    return ""
