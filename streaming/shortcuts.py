"""From a view to an answer: a stream, a whole answer, or a promise (202).

These functions return a response in every case, refusals included, so a view is one line. They are for
asynchronous views.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, Literal, ParamSpec, TypeVar

import msgspec
from django.core.exceptions import ImproperlyConfigured, RequestDataTooBig
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, RawPostDataException
from django.http.response import HttpResponseBase

from streaming.core.errors import Interrupted, NotNow
from streaming.core.events import Cancelled, Complete, Error, clean_text
from streaming.core.states import State
from streaming.runtime.task import Task, TaskSpec

from . import conf, quotas
from .access import Caller, identify
from .idempotency import CallKey, call_key
from .messages import DjangoMessages, language_context, language_of, supported
from .models import StreamTask
from .problems import Problem, of_failed_task
from .producers import open_producer
from .requests import (
    follow_options,
    idempotency_key,
    keyed_options,
    problem_of,
    require_json_accepted,
)
from .responses import EventStream, nothing_more, place_of, sent_away
from .reuse import fingerprint
from .scopes import Scope
from .service import service
from .telemetry.lines import ORIGIN

P = ParamSpec("P")
R = TypeVar("R", bound=HttpResponseBase)

Work = Callable[[HttpRequest, TaskSpec], list[Any]]
"""What a call asks for, as JSON values: the same for each repetition of it."""

OnDisconnect = Literal["cancel", "continue"] | float
"""What happens when the last reader leaves: cancel, go on, or go on for this many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a task shall run; all of it has a sensible default.

    `kind` names it in the record and in statistics. `priority` is a name of PRIORITIES. `end_user` is on
    whose behalf the caller acts (fair share and `per_owner` count it). `language` of the work, for
    messages to callers without `Accept-Language`. `identity`: what makes another call of this kind the same
    work (JSON values), for the cache (CACHE_CONFIG); without it each call is work of its own. `series`: tasks
    of one pool and series run one at a time, in order of arrival. `needs_worker`: whether it counts against
    the pool; without it starts at once. `eager`: text that comes after a pause does not wait for more.
    `message_language`: of messages, whatever `Accept-Language` says. `anybody`: who is nobody is served, too,
    whatever ALLOW_ANONYMOUS says. `kept`: whether it is recorded and counted, and can be replayed after its
    end; without it an `Idempotency-Key` has no effect. `uses_kernel`: the owner's quota of kernel seconds is
    charged, and not that of tokens. `scopes`: those that an API key needs to start it.
    """

    kind: str = "stream"
    pool: str = "agent_pool"
    priority: str = "interactive"
    end_user: str = ""
    on_disconnect: OnDisconnect | None = None
    language: str | None = None
    identity: Mapping[str, Any] | None = None
    series: str | None = None
    needs_worker: bool = True
    eager: bool = False
    message_language: str | None = None
    anybody: bool = False
    kept: bool = True
    uses_kernel: bool = False
    scopes: tuple[Scope, ...] = (Scope.GENERATE,)


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
    return await _stream(request, lambda: parts, None, Options(**options), _what_came)


@_answers
async def start(
    request: HttpRequest, name: str, arguments: Mapping[str, Any], **options: Any
) -> HttpResponseBase:
    """Stream the registered producer `name`, called with `arguments` (JSON values)."""
    opens = partial(open_producer, name, arguments)
    wishes = Options(**{"kind": name} | options)
    return await _stream(request, opens, dict(arguments), wishes, _named(name))


@_answers
async def start_and_wait(
    request: HttpRequest, name: str, arguments: Mapping[str, Any], **options: Any
) -> HttpResponseBase:
    """Run the registered producer `name` and answer whole, as JSON; its failure is a problem document.

    Defaults: priority `normal`; a caller who leaves cancels the task, one with an `Idempotency-Key` after
    `disconnect_grace`.
    """
    require_json_accepted(request)
    key = idempotency_key(request)
    defaults: dict[str, Any] = {"kind": name, "priority": "normal"}
    if key is None:
        # With a key the caller can come back for the answer.
        defaults["on_disconnect"] = "cancel"
    wishes = Options(**defaults | options)
    caller = await identify(request, *wishes.scopes)
    opens = partial(open_producer, name, arguments)
    spec = _spec(request, caller, opens, dict(arguments), wishes)
    if key is None:
        task, text = await service().complete(spec, caller)
        try:
            return _with_quotas(_whole_answer(task, text), task)
        except Problem as problem:
            return _with_quotas(problem.response(), task)
    call = _call(request, key, caller, spec, _named(name))
    resumed = keyed_options(request).resumed
    task, text, replayed = await service().complete_once(call, spec, caller, resumed=resumed)
    try:
        response = _whole_answer(task, text)
    except Problem as problem:
        response = problem.response()
    return _marked(response, replayed) if replayed else _with_quotas(response, task)


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
    caller = await identify(request, *wishes.scopes)
    key = idempotency_key(request)
    spec = _spec(request, caller, opens, dict(arguments), wishes)
    if key is None:
        accepted = await service().accept(spec)
        return _with_quotas(_promise(accepted), accepted)
    call = _call(request, key, caller, spec, _named(name))
    resumed = keyed_options(request).resumed
    task, replayed = await service().accept_once(call, spec, caller, resumed=resumed)
    response = _promise(task)
    return _marked(response, replayed) if replayed else _with_quotas(response, task)


async def _stream(
    request: HttpRequest,
    opens: Callable[[], Any],
    arguments: dict[str, Any] | None,
    options: Options,
    work: Work,
) -> HttpResponseBase:
    _require_asgi(request)
    wishes = follow_options(request, resumed=False)
    caller = await identify(request, *options.scopes, anybody=options.anybody)
    key = idempotency_key(request)
    spec = _spec(request, caller, opens, arguments, options)
    if options.message_language:
        wishes = replace(wishes, language=spec.language)
    if key is None or not options.kept:
        follower = await service().open(spec, caller, wishes)
        return EventStream(request, follower, wishes.framing.content_type)
    return await _stream_once(request, _call(request, key, caller, spec, work), spec, caller)


async def _stream_once(
    request: HttpRequest, call: CallKey, spec: TaskSpec, caller: Caller
) -> HttpResponseBase:
    here, wishes = service(), keyed_options(request)
    response: HttpResponseBase
    try:
        task_id, follower, replayed = await here.open_once(call, spec, caller, wishes)
    except NotNow as error:
        task_id, replayed = str(error), True
        retry = here.supervisor.limits.jittered_retry()
        response = sent_away(request, wishes.framing, retry, wishes.after)
    else:
        if follower is not None:
            response = EventStream(request, follower, wishes.framing.content_type)
            return _marked(response, replayed)
        response = nothing_more()
    response["X-Stream-Id"] = task_id
    if place := place_of(task_id):
        response["Location"] = place
    return _marked(response, replayed)


def _call(request: HttpRequest, key: str, caller: Caller, spec: TaskSpec, work: Work) -> CallKey:
    return call_key(key, caller, spec.end_user, request.path, [spec.kind, *work(request, spec)])


def _named(name: str) -> Work:
    return lambda request, spec: [name, spec.arguments]


def _what_came(request: HttpRequest, spec: TaskSpec) -> list[Any]:
    """What a view can have made an iterator from: query and body."""
    try:
        body = hashlib.sha256(request.body).hexdigest()
    except RequestDataTooBig as error:
        raise Problem(413, "body_too_large") from error
    except RawPostDataException:
        # A form with files, which Django has read already.
        uploads = request.FILES.lists()
        files = [[name, file.name, file.size] for name, several in uploads for file in several]
        return [request.META.get("QUERY_STRING", ""), request.POST.urlencode(), files]
    return [request.META.get("QUERY_STRING", ""), body]


def _marked(response: R, replayed: bool) -> R:
    if replayed:
        response["Idempotent-Replayed"] = "true"
    return response


def _with_quotas(response: R, task: Task | StreamTask) -> R:
    """How the caller stood when the task was let in."""
    if isinstance(task, Task):
        for name, value in quotas.headers(task.standings):
            response[name] = value
    return response


def _require_asgi(request: HttpRequest) -> None:
    """Raises `ImproperlyConfigured` under WSGI: the event loop ends with the view, and the task with it."""
    if not isinstance(request, ASGIRequest):
        raise ImproperlyConfigured(
            "a stream needs an ASGI server: manage.py serve, or runserver with daphne in INSTALLED_APPS"
        )


def _spec(
    request: HttpRequest,
    caller: Caller,
    opens: Callable[[], Any],
    arguments: dict[str, Any] | None,
    options: Options,
) -> TaskSpec:
    language = supported(options.message_language or "") or language_of(request, options.language)
    return task_spec(caller, language, opens, arguments, options)


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
        fingerprint=fingerprint(caller, options.end_user, options.kind, options.identity),
        series=options.series,
        needs_worker=options.needs_worker,
        eager=options.eager,
        origin=ORIGIN.get(None),
        kept=options.kept,
        payer=caller.payer,
        uses_kernel=options.uses_kernel,
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
    # The server goes down before the end of a task that another one runs.
    code = Interrupted.code
    message = DjangoMessages().error(code, task.spec.language)
    raise of_failed_task(code, message, Interrupted.retryable, task_id=task.id, text=text)


def _promise(task: Task | StreamTask) -> HttpResponse:
    place = place_of(task.id)
    body: dict[str, Any] = {
        "task_id": task.id,
        "state": State(task.state).value,
        "route": task.route,
        "reason": task.reason,
    }
    if place:
        body["urls"] = {"record": place, "events": f"{place}/events"}
    response = _json(task, body, 202)
    if place:
        response["Location"] = place
    return response


def _json(task: Task | StreamTask, body: dict[str, Any], status: int) -> HttpResponse:
    response = HttpResponse(msgspec.json.encode(body), content_type="application/json", status=status)
    response["Cache-Control"] = "no-store"
    response["X-Stream-Id"] = task.id
    response["X-Stream-Route"] = task.route
    return response
