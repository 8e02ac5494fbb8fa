"""The ordinary JSON routes and the OpenAPI description of everything.

The hot routes (streams) are plain Django views, because a ninja operation costs as much again as a
whole start of a stream; they are described here with `document`, so that there is one description.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI, Query
from ninja.errors import ValidationError
from ninja.openapi.schema import OpenAPISchema

from . import schema
from .access import identify, require_operator
from .problems import CONTENT_TYPE, FieldError, Problem
from .requests import problem_of, query
from .scopes import Scope
from .service import service

MAX_PAGE = 100
"""Tasks on one page of `GET /streams`."""


class DocumentedAPI(NinjaAPI):
    """A `NinjaAPI` whose description includes views that are not operations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._documented: dict[str, dict[str, Any]] = {}
        self._components: dict[str, Any] = {}

    def document(
        self,
        method: str,
        path: str,
        operation: Mapping[str, Any],
        components: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe `method` (lower case) on `path` by an OpenAPI operation object."""
        self._documented.setdefault(path, {})[method] = dict(operation)
        self._components.update(components or {})

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        described = super().get_openapi_schema(**options)
        _as_problem_documents(described["paths"])
        for path, operations in self._documented.items():
            described["paths"].setdefault(path, {}).update(operations)
        described["components"].setdefault("schemas", {}).update(self._components)
        _with_refusals_of_all(described["paths"])
        # A key, a session, or nobody in particular where ALLOW_ANONYMOUS allows that.
        described["components"]["securitySchemes"] = schema.security_schemes(settings.SESSION_COOKIE_NAME)
        described["security"] = schema.needs()["security"]
        return described


def _as_problem_documents(paths: dict[str, Any]) -> None:
    """ninja describes every answer as JSON; refusals are problem documents."""
    for operations in paths.values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400 and "application/json" in response.get("content", {}):
                    response["content"] = {CONTENT_TYPE: response["content"]["application/json"]}


def _with_refusals_of_all(paths: dict[str, Any]) -> None:
    """What any call may meet before its view, and the headers that tell a refused caller what to do."""
    for path, operations in paths.items():
        for method, operation in operations.items():
            responses = {str(status): response for status, response in operation["responses"].items()}
            for status, response in schema.REFUSALS_OF_ALL.items():
                if status != "503" or path not in schema.ALWAYS_ANSWERED:
                    responses.setdefault(status, response)
            for status, headers in schema.REFUSAL_HEADERS.items():
                if status in responses:
                    responses[status] = {**responses[status], "headers": headers}
            operations[method] = {**operation, "responses": dict(sorted(responses.items()))}


api = DocumentedAPI(
    title="Sluice",
    version="1",
    description="Streams of generated content: started, queued, followed, resumed, cancelled.",
    docs_url="/docs",
    openapi_url="/openapi.json",
    urls_namespace="sluice",
)


def _problems(*statuses: int) -> dict[int, type[schema.ProblemInfo]]:
    return dict.fromkeys(statuses, schema.ProblemInfo)


@api.exception_handler(Exception)
def _problem(request: HttpRequest, error: Exception) -> HttpResponse:
    return problem_of(error).response()


@api.exception_handler(ValidationError)
def _bad_parameters(request: HttpRequest, error: ValidationError) -> HttpResponse:
    fields = tuple(
        FieldError(".".join(str(step) for step in each["loc"][1:]), "invalid", each["msg"])
        for each in error.errors
    )
    return Problem(400, "bad_query", fields=fields).response()


@api.get(
    "/streams",
    response={200: schema.TaskPage, **_problems(400, 401, 403, 404, 503)},
    tags=["streams"],
    openapi_extra=schema.needs(Scope.READ),
)
async def list_streams(
    request: HttpRequest, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20, before: str | None = None
) -> HttpResponse:
    """The caller's own tasks, newest first. An anonymous caller owns none."""
    query(request)
    caller = await identify(request, Scope.READ)
    return _json(await service().recent(caller, limit, before))


@api.get(
    "/streams/{task_id}",
    response={200: schema.TaskRecord, **_problems(400, 401, 403, 404, 503)},
    tags=["streams"],
    openapi_extra=schema.needs(Scope.READ),
)
async def get_stream(request: HttpRequest, task_id: str) -> HttpResponse:
    """One task: its state, its text so far, its timing."""
    query(request)
    caller = await identify(request, Scope.READ)
    return _json(await service().describe(task_id, caller))


@api.delete(
    "/streams/{task_id}",
    response={200: schema.TaskRecord, 204: None, **_problems(400, 401, 403, 404, 503)},
    tags=["streams"],
    openapi_extra=schema.needs(Scope.CANCEL),
)
async def cancel_stream(request: HttpRequest, task_id: str, purge: bool = False) -> HttpResponse:
    """Cancel a task (again: no change). `purge=true` also deletes its brief, text and events. 204 without the
    record after that, and for who may not read it."""
    query(request)
    caller = await identify(request, Scope.CANCEL)
    if purge:
        await service().purge(task_id, caller)
        return HttpResponse(status=204)
    record = await service().cancel(task_id, caller)
    if record is None or not caller.may(Scope.READ):
        return HttpResponse(status=204)
    return _json(record)


@api.get(
    "/streams/{task_id}/rendered",
    response={200: schema.RenderedText, **_problems(400, 401, 403, 404, 409, 503)},
    tags=["streams"],
    openapi_extra=schema.needs(Scope.READ),
)
async def get_rendered(request: HttpRequest, task_id: str) -> HttpResponse:
    """An ended task's text, read as Markdown, as clean HTML; null if it is too long for that."""
    query(request)
    caller = await identify(request, Scope.READ)
    return _json({"id": task_id, "html": await service().rendered(task_id, caller)})


@api.get(
    "/stats",
    response={200: schema.Statistics, **_problems(400, 401, 403)},
    tags=["operations"],
    openapi_extra=schema.needs(Scope.OPERATE),
)
async def statistics(request: HttpRequest) -> HttpResponse:
    """Pools, routes and totals of all processes. For staff; for this machine where anonymous use is on."""
    query(request)
    await require_operator(request)
    return _json(await service().statistics_of_all())


@api.get("/healthz", response={200: schema.Health}, tags=["operations"])
async def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers."""
    return _json({"status": "ok"})


# An operation of its own, because the description would give both methods the same operationId.
@api.api_operation(["HEAD"], "/healthz", include_in_schema=False)
async def healthz_head(request: HttpRequest) -> HttpResponse:
    return _json({"status": "ok"})


def _refusal_of_other_methods(*allowed: str) -> dict[str, Any]:
    """Arguments of the operation that answers every method but `allowed` on a path."""
    others = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS"} - set(allowed)
    return {"methods": sorted(others), "include_in_schema": False}


def _refuse(request: HttpRequest, *allowed: str) -> HttpResponse:
    headers = {"Allow": ", ".join(allowed)}
    if request.method == "OPTIONS":
        return HttpResponse(status=204, headers=headers)
    raise Problem(405, "method_not_allowed", headers=headers)


@api.api_operation(path="/streams", **_refusal_of_other_methods("GET"))
async def refuse_on_list(request: HttpRequest) -> HttpResponse:
    return _refuse(request, "GET")


@api.api_operation(path="/streams/{task_id}", **_refusal_of_other_methods("GET", "DELETE"))
async def refuse_on_stream(request: HttpRequest, task_id: str) -> HttpResponse:
    return _refuse(request, "GET", "DELETE")


@api.api_operation(path="/streams/{task_id}/rendered", **_refusal_of_other_methods("GET"))
async def refuse_on_rendered(request: HttpRequest, task_id: str) -> HttpResponse:
    return _refuse(request, "GET")


@api.api_operation(path="/stats", **_refusal_of_other_methods("GET"))
async def refuse_on_statistics(request: HttpRequest) -> HttpResponse:
    return _refuse(request, "GET")


@api.api_operation(path="/healthz", **_refusal_of_other_methods("GET", "HEAD"))
async def refuse_on_health(request: HttpRequest) -> HttpResponse:
    return _refuse(request, "GET", "HEAD")


def _json(body: Any) -> HttpResponse:
    response = HttpResponse(msgspec.json.encode(body), content_type="application/json")
    response["Cache-Control"] = "no-store"
    return response


api.document("get", "/streams/probe", schema.PROBE)
api.document("get", "/streams/probe/report", schema.PROBE_REPORT)
api.document(
    "get",
    "/streams/{task_id}/events",
    {
        "operationId": "follow_stream",
        "summary": "Follow or resume a stream",
        "description": "Replays what follows the cursor, then goes on live. Any number of readers at once.",
        "tags": ["streams"],
        **schema.needs(Scope.READ, ticket=True),
        "parameters": [schema.TASK_ID, *schema.RESUME_PARAMETERS, *schema.STREAM_PARAMETERS],
        "responses": {
            "200": schema.stream_response(),
            "204": schema.NOTHING_MORE,
            "400": schema.problem_response("Not an event id, or a bad query"),
            "401": schema.problem_response("Not signed in, or no such ticket"),
            "403": schema.LACKS_SCOPE,
            "404": schema.problem_response("No such stream, or not the caller's"),
            "406": schema.problem_response("No acceptable format"),
            **schema.BAD_CURSORS,
        },
    },
    schema.event_components(),
)
