"""The hot view beside the ordinary API: follow or resume a stream."""

from __future__ import annotations

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from streaming.core.errors import NotNow

from . import access_tickets
from .access import identify
from .requests import endpoint, follow_options
from .responses import EventStream, nothing_more, sent_away
from .scopes import Scope
from .service import service


@endpoint("GET")
async def events(request: HttpRequest, task_id: str) -> HttpResponseBase:
    """`GET /streams/<id>/events`: from `Last-Event-ID` or `?after=` on; 204 after the terminal event."""
    caller = await identify(request, Scope.READ, resource=access_tickets.for_stream(task_id))
    options = follow_options(request, resumed=True)
    here = service()
    try:
        follower = await here.follow(task_id, caller, options)
    except NotNow:
        retry = here.supervisor.limits.jittered_retry()
        return sent_away(request, options.framing, retry, options.after)
    if follower is None:
        return nothing_more()
    return EventStream(request, follower, options.framing.content_type)
