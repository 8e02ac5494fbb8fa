"""`GET /metrics`, behind a guard of its own: programs that scrape have no account."""

from __future__ import annotations

import hmac

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from streaming import conf
from streaming.access import is_local
from streaming.api import api
from streaming.problems import CHALLENGE, Problem
from streaming.requests import endpoint
from streaming.schema import problem_response
from streaming.service import service

from .exposition import exposed


@endpoint("GET")
async def metrics(request: HttpRequest) -> HttpResponse:
    """The numbers of all processes that share this port."""
    _admit(request)
    samples = await service().scraping.samples()
    body, content_type = exposed(samples, request.META.get("HTTP_ACCEPT", ""))
    response = HttpResponse(body, content_type=content_type)
    response["Cache-Control"] = "no-store"
    return response


def _admit(request: HttpRequest) -> None:
    """Raises `Problem` 404 for whom there are no metrics here, and 401 for who has not shown the token."""
    config = conf.metrics()
    match config.access:
        case "true":
            return
        case "loopback" if is_local(request, request.META.get("REMOTE_ADDR") or ""):
            return
        case "token":
            scheme, _space, token = request.META.get("HTTP_AUTHORIZATION", "").strip(" \t").partition(" ")
            shown = token.strip(" ").encode("utf-8", "surrogateescape")
            if (
                scheme.lower() == "bearer"
                and config.token
                and hmac.compare_digest(shown, config.token.encode())
            ):
                return
            detail = _("Metrics are shown to who sends their token: Authorization: Bearer <METRICS_TOKEN>.")
            raise Problem(401, "not_authenticated", detail, headers={"WWW-Authenticate": CHALLENGE})
    raise Problem(404, "not_found")


api.document(
    "get",
    "/metrics",
    {
        "operationId": "metrics",
        "summary": "Metrics",
        "description": "Numbers of all processes that share this port. METRICS_ACCESS guards them.",
        "tags": ["operations"],
        "responses": {
            "200": {
                "description": "The metrics, as OpenMetrics where `Accept` asks for it",
                "content": {
                    "text/plain": {"schema": {"type": "string"}},
                    "application/openmetrics-text": {"schema": {"type": "string"}},
                },
            },
            "401": problem_response("Without the token"),
            "404": problem_response("Not shown here"),
        },
    },
)
