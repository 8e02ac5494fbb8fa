"""`POST /send_operation`, and notebooks as a resource."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _

from streaming import start, stream
from streaming.access import identify
from streaming.problems import Problem
from streaming.requests import endpoint, json_object
from streaming.scopes import Scope

from . import documents, operations, store
from .access import account_of
from .engine import kernels
from .kernels.key import Key
from .operations import in_language, parse
from .record import record_of
from .work import CODE, work_of

MAX_FILE: Final = 33_554_432
"""Bytes of an `.ipynb` file that is opened: figures are in it."""

MAX_FILE_VALUES: Final = 200_000
"""Members and elements of such a file, which is parsed in a thread: a figure may be a list of numbers."""

FILE_TYPE: Final = "application/x-ipynb+json"
"""What an `.ipynb` file is called."""

_VERSION: Final = re.compile(r'"[0-9]{1,9}"', re.ASCII)


@endpoint("POST")
async def send_operation(request: HttpRequest) -> HttpResponseBase:
    """`POST /send_operation`: an operation on a notebook → event stream."""
    try:
        values = json_object(request)
    except Problem:
        # Who may not call learns that, and nothing of the body.
        await identify(request)
        raise
    with in_language(values.get("lang")):
        caller = await identify(request, anybody=operations.is_ping(values))
        notebook, operation, lang = parse(values)
        work = await work_of(request, caller, notebook, operation, lang)
        if work.source is None:
            assert work.arguments is not None
            return await start(request, CODE, work.arguments, **work.options)
        response = await stream(request, work.source, **work.options)
    if stream_id := response.get("X-Stream-Id"):
        await work.accepted(stream_id)
    return response


@endpoint("GET", "PUT", "DELETE")
async def notebook(request: HttpRequest, notebook_id: str) -> HttpResponseBase:
    """`/notebooks/<id>`: read, save or delete it. The entity tag is its version. An API key that may not read
    saves, and gets no notebook back."""
    caller = await identify(request, _needed(request))
    owner = account_of(caller)
    operations.check_id("notebook_id", notebook_id)
    if request.method == "PUT":
        title, drafts = documents.parse_draft(json_object(request))
        expected = _expected_version(request)
        await sync_to_async(documents.save)(owner, notebook_id, title, drafts, expected)
    elif request.method == "DELETE":
        await kernels().stop(Key(owner, notebook_id))
        if not await sync_to_async(store.delete)(owner, notebook_id):
            raise Problem(404, "not_found")
        return HttpResponse(status=204)
    found = await record_of(caller, notebook_id)
    if found is None:
        raise Problem(404, "not_found")
    if caller.may(Scope.READ):
        response = HttpResponse(msgspec.json.encode(found), content_type="application/json")
    else:
        response = HttpResponse(status=204)
    response["ETag"] = f'"{found["version"]}"'
    response["Cache-Control"] = "no-store"
    return response


@endpoint("GET", "PUT", max_body_bytes=MAX_FILE)
async def notebook_file(request: HttpRequest, notebook_id: str) -> HttpResponseBase:
    """`/notebooks/<id>.ipynb`: the notebook as a file for Jupyter, and from one."""
    owner = account_of(await identify(request, _needed(request)))
    operations.check_id("notebook_id", notebook_id)
    if request.method == "PUT":
        await sync_to_async(_imported)(request, owner, notebook_id)
        return HttpResponse(status=204)
    text = await sync_to_async(_exported)(owner, notebook_id)
    response = HttpResponse(text, content_type=FILE_TYPE)
    response["Content-Disposition"] = f'attachment; filename="{notebook_id}.ipynb"'
    response["X-Content-Type-Options"] = "nosniff"
    response["Cache-Control"] = "no-store"
    return response


def _needed(request: HttpRequest) -> Scope:
    return Scope.READ if request.method == "GET" else Scope.NOTEBOOKS


def _exported(owner: str, slug: str) -> str:
    """Raises `Problem` 404, for absent and foreign ones alike."""
    found = store.find(owner, slug)
    if found is None:
        raise Problem(404, "not_found")
    from .ipynb import exported  # late, and only for what there is: it loads nbformat

    return exported(found)


def _imported(request: HttpRequest, owner: str, slug: str) -> None:
    values = json_object(request, MAX_FILE, ("application/json", FILE_TYPE), max_values=MAX_FILE_VALUES)
    from .ipynb import imported

    imported(owner, slug, values)


def _expected_version(request: HttpRequest) -> int | None:
    """The version of `If-Match` (RFC 9110, 13.1.1); None without one. Raises `Problem` 400."""
    tag = request.META.get("HTTP_IF_MATCH", "*").strip()
    if tag == "*":
        return None
    if _VERSION.fullmatch(tag) is None:
        message = _("If-Match is the ETag of the notebook that was read, or *.")
        raise Problem(400, "bad_entity_tag", message)
    return int(tag.strip('"'))
