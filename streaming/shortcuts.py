"""From a view to an answer: a stream, a whole answer, or a promise (202).

These functions return a response in every case, refusals included, so a view is one line. They are for
asynchronous views.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Literal, ParamSpec

import msgspec
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from streaming.core.events import Cancelled, Complete, Error, clean_text
from streaming.runtime.task import Task, TaskSpec

from . import conf
from .access import Caller, identify
from .messages import language_context, language_of
from .problems import Problem, of_failed_task
from .producers import open_producer
from .requests import follow_options, problem_of, require_json_accepted
from .responses import EventStream, place_of
from .service import service

P = ParamSpec("P")

OnDisconnect = Literal["cancel", "continue"] | float
"""What happens when the last reader leaves: cancel, go on, or go on for this many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a task shall run; all of it has a sensible default.

    `kind` names it in the record and in statistics. `priority` is a name of PRIORITIES. `end_user` is on
    whose behalf the caller acts (fair share and `per_owner` count it). `language` of the work, for
    messages to callers without `Accept-Language`.
    """

    kind: str = "stream"
    pool: str = "agent_pool"
    priority: str = "interactive"
    end_user: str = ""
    on_disconnect: OnDisconnect | None = None
    language: str | None = None


def _answers(
    function: Callable[P, Coroutine[Any, Any, HttpResponseBase]],
) -> Callable[P, Coroutine[Any, Any, HttpResponseBase]]:
    @wraps(function)
    async def answering(*args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        try:
            return await function(*args, **kwargs)
        except Exception as error:
            return problem_of(error).response()

    return answering


@_answers
async def stream(
    request: HttpRequest, parts: AsyncIterable[Any] | Iterable[Any], **options: Any
) -> HttpResponseBase:
    """Stream what `parts` yields: `str` for text, or the event records of this package.

    `parts` may be asynchronous or blocking (then it runs in a pool thread); keyword arguments are those of
    `Options`. The task lives in this process: a restart ends it with `error` `interrupted`.
    """
    return await _stream(request, lambda: parts, None, Options(**options))


@_answers
async def start(
    request: HttpRequest, name: str, arguments: Mapping[str, Any], **options: Any
) -> HttpResponseBase:
    """Stream the registered producer `name`, called with `arguments` (JSON values)."""
    opens = partial(open_producer, name, arguments)
    return await _stream(request, opens, dict(arguments), Options(**{"kind": name} | options))


@_answers
async def start_and_wait(
    request: HttpRequest, name: str, arguments: Mapping[str, Any], **options: Any
) -> HttpResponseBase:
    """Run the registered producer `name` and answer whole, as JSON; its failure is a problem document.

    Defaults: priority `normal`; a caller who leaves cancels the task.
    """
    require_json_accepted(request)
    defaults: dict[str, Any] = {"kind": name, "priority": "normal", "on_disconnect": "cancel"}
    wishes = Options(**defaults | options)
    opens = partial(open_producer, name, arguments)
    task, text = await service().complete(await _spec(request, opens, dict(arguments), wishes))
    return _whole_answer(task, text)


@_answers
async def start_in_background(
    request: HttpRequest, name: str, arguments: Mapping[str, Any], **options: Any
) -> HttpResponseBase:
    """Accept the registered producer `name` for later: 202 with the task's id and URLs.

    The record is durable before the answer. Defaults: priority `batch`; the task goes on unread.
    """
    _require_asgi(request)
    require_json_accepted(request)
    defaults: dict[str, Any] = {"kind": name, "priority": "batch", "on_disconnect": "continue"}
    wishes = Options(**defaults | options)
    opens = partial(open_producer, name, arguments)
    task = await service().accept(await _spec(request, opens, dict(arguments), wishes))
    return _promise(task)


async def _stream(
    request: HttpRequest, opens: Callable[[], Any], arguments: dict[str, Any] | None, options: Options
) -> HttpResponseBase:
    _require_asgi(request)
    wishes = follow_options(request, resumed=False)
    spec = await _spec(request, opens, arguments, options)
    follower = await service().open(spec, wishes)
    return EventStream(request, follower, wishes.framing.content_type)


def _require_asgi(request: HttpRequest) -> None:
    """Raises `ImproperlyConfigured` under WSGI: the event loop ends with the view, and the task with it."""
    if not isinstance(request, ASGIRequest):
        raise ImproperlyConfigured(
            "a stream needs an ASGI server: manage.py serve, or runserver with daphne in INSTALLED_APPS"
        )


async def _spec(
    request: HttpRequest, opens: Callable[[], Any], arguments: dict[str, Any] | None, options: Options
) -> TaskSpec:
    caller = await identify(request)
    return task_spec(caller, language_of(request, options.language), opens, arguments, options)


def task_spec(
    caller: Caller,
    language: str,
    opens: Callable[[], Any],
    arguments: dict[str, Any] | None,
    options: Options,
) -> TaskSpec:
    """What the runtime must know of a task that `caller` asks for; `language` is that of its messages."""
    if arguments is not None:
        # What cannot be kept in the record is refused before anything starts.
        arguments = msgspec.to_builtins(arguments, str_keys=True)
    return TaskSpec(
        kind=options.kind,
        pool=options.pool,
        priority=conf.priorities()[options.priority],
        owner=caller.account,
        share_key=caller.share_key(options.end_user),
        end_user=clean_text(options.end_user),
        grace=_grace(options.on_disconnect),
        language=language,
        open_source=opens,
        arguments=arguments,
        context=language_context(language),
    )


def _grace(on_disconnect: OnDisconnect | None) -> float:
    match on_disconnect:
        case None:
            return conf.sse().disconnect_grace
        case "cancel":
            return 0.0
        case "continue":
            return math.inf
    return float(on_disconnect)


def _whole_answer(task: Task, text: str) -> HttpResponse:
    match task.final:
        case Complete() as end:
            body = {"task_id": task.id, "text": text, **msgspec.to_builtins(end)}
            del body["type"]
            return _json(task, body, 200)
        case Error() as end:
            raise of_failed_task(end.code, end.message, end.retryable, task_id=task.id, text=text)
        case Cancelled() as end:
            raise Problem(409, "task_cancelled", task_id=task.id, reason=end.reason, text=text)
    raise AssertionError("a task that has ended has a terminal event")


def _promise(task: Task) -> HttpResponse:
    place = place_of(task.id)
    body: dict[str, Any] = {
        "task_id": task.id,
        "state": task.state.value,
        "route": task.route,
        "reason": task.reason,
    }
    if place:
        body["urls"] = {"record": place, "events": f"{place}/events"}
    response = _json(task, body, 202)
    if place:
        response["Location"] = place
    return response


def _json(task: Task, body: dict[str, Any], status: int) -> HttpResponse:
    response = HttpResponse(msgspec.json.encode(body), content_type="application/json", status=status)
    response["Cache-Control"] = "no-store"
    response["X-Stream-Id"] = task.id
    response["X-Stream-Route"] = task.route
    return response
