"""Tasks: the list, also as a file, one task with everything about it, and what can be done about it."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import NoReverseMatch, path, reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST, require_safe

from streaming import conf
from streaming.cluster.neighbours import Prioritised
from streaming.core.errors import StorageUnavailable
from streaming.core.states import State
from streaming.models import StreamTask
from streaming.retry import NotRetryable, obstacle_to_retry
from streaming.runtime.ledger import PoolRefused
from streaming.runtime.task import Task

from . import process, words
from .detail import Content, detail_of
from .export import FORMATS, HEAVY, TEXTS, as_file
from .filters import ErrorFilter, KindFilter, PeriodFilter, PoolFilter, ReasonFilter, RouteFilter, StateFilter
from .theme import ChangeList, ReadOnlyAdmin

logger = logging.getLogger("streaming")

READ_CONTENT: Final = "streaming.read_content"

VIEW_TASKS: Final = "streaming.view_streamtask"

CHANGE_TASKS: Final = "streaming.change_streamtask"

UNSEARCHED: Final = frozenset({*HEAVY, "fingerprint"})
"""Columns that no hand-written URL searches in: not to be read, or told by no index. Who guesses a prompt
must not find out by its digest whether it was asked."""

AT_ONCE: Final = 100
"""Tasks that one action takes: more would hold up the request for too long."""

_ID_IS_HIDDEN: Final = gettext_lazy(
    "This task is anonymous: whoever knows its id can read it. So only people with the permission "
    "streaming.read_content may open it."
)

ACTIVE: Final = [state.value for state in State if not state.terminal]


class TaskList(ChangeList):
    """The list, which does not give away ids (see `hides_id`)."""

    def get_results(self, request: HttpRequest) -> None:
        """The rows of the page, each with `id_is_hidden`."""
        super().get_results(request)
        for row in self.result_list:
            row.id_is_hidden = hides_id(request, row)

    def url_for_result(self, result: Any) -> str:
        """The task's page. Raises `NoReverseMatch`, the list's word for no link, for hidden ids."""
        if result.id_is_hidden:
            raise NoReverseMatch
        return super().url_for_result(result)


@admin.register(StreamTask)
class StreamTaskAdmin(ReadOnlyAdmin):
    """Tasks, the newest first."""

    change_form_template = "streaming/admin/task.html"
    change_list_template = "streaming/admin/tasks.html"
    list_display = (
        "short_id",
        "state_in_words",
        "who",
        "accepted",
        "queued",
        "first_content",
        "total",
        "kind",
        "way",
        "length",
        "model_name",
    )
    list_filter = (StateFilter, PeriodFilter, KindFilter, RouteFilter, ReasonFilter, PoolFilter, ErrorFilter)
    list_select_related = ("owner",)
    list_per_page = 50
    search_fields = ("id", "end_user", "owner__username", "error_code", "model")
    search_help_text = gettext_lazy("Task id, end user, owner's name, error code or model")
    ordering = ("-created_at", "-id")
    actions = ("cancel_tasks", "retry_tasks")
    # The page is a template of its own (`detail.py`); no form shall be made of the columns.
    fieldsets = ((None, {"fields": ("id",)}),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[StreamTask]:
        """The list needs no texts, and who may not read them gets none from the database."""
        rows: QuerySet[StreamTask] = super().get_queryset(request)
        if not _is_detail(request):
            return rows.defer(*HEAVY)
        return rows if may_read(request) else rows.defer(*TEXTS)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """A hand-written URL does not search in what its author may not read, nor in what no index helps."""
        column = lookup.split("__")[0]
        if column in UNSEARCHED or (column in ("id", "pk") and not (request and may_read(request))):
            return False
        return super().lookup_allowed(lookup, value, request)  # type: ignore[arg-type]

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        """Who may not know ids cannot find them digit by digit."""
        fields = self.search_fields
        return fields if may_read(request) else ("=id", *(name for name in fields if name != "id"))

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[TaskList]:
        """The list, which hides ids."""
        return TaskList

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> StreamTask | None:
        """The task, for every page about it. Raises `PermissionDenied` where the id is not to be known."""
        row: StreamTask | None = super().get_object(request, object_id, from_field)
        if row is not None and hides_id(request, row) and self.has_view_permission(request):
            raise PermissionDenied(_ID_IS_HIDDEN)
        return row

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Whether the user may end other people's tasks."""
        return request.user.has_perm("streaming.cancel_streamtask")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Whether the user may start tasks again for their owners."""
        return request.user.has_perm("streaming.retry_streamtask")

    def has_prioritise_permission(self, request: HttpRequest) -> bool:
        """Whether the user may let tasks wait in another class. (Records are changed by nobody.)"""
        return request.user.has_perm(CHANGE_TASKS)

    # Columns

    def action_checkbox(self, obj: Any) -> SafeString:
        """None where the id is hidden: it is the value of the box."""
        return SafeString() if obj.id_is_hidden else super().action_checkbox(obj)

    @admin.display(description=gettext_lazy("task"))
    def short_id(self, row: StreamTask) -> str:
        """The first eight digits, enough to tell tasks apart."""
        return row.id[:8]

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_in_words(self, row: StreamTask) -> SafeString:
        """The state as a coloured label."""
        return words.state_label(row)

    @admin.display(description=gettext_lazy("who"), ordering="end_user")
    def who(self, row: StreamTask) -> SafeString:
        """The signed-in owner and the end user."""
        return words.who(row)

    @admin.display(description=gettext_lazy("accepted"), ordering="created_at")
    def accepted(self, row: StreamTask) -> SafeString:
        """When."""
        return words.moment(row.created_at)

    @admin.display(description=gettext_lazy("queued"), ordering="queued_ms")
    def queued(self, row: StreamTask) -> str:
        """Waiting time."""
        return words.duration(row.queued_ms)

    @admin.display(description=gettext_lazy("first content"), ordering="first_content_ms")
    def first_content(self, row: StreamTask) -> str:
        """Time from acceptance to the first content."""
        return words.duration(row.first_content_ms)

    @admin.display(description=gettext_lazy("total"), ordering="total_ms")
    def total(self, row: StreamTask) -> str:
        """Time from acceptance to the end."""
        return words.duration(row.total_ms)

    @admin.display(description=gettext_lazy("route"), ordering="reason")
    def way(self, row: StreamTask) -> str:
        """Which way, and why that one."""
        return words.verdict(row)

    @admin.display(description=gettext_lazy("length"), ordering="content_length")
    def length(self, row: StreamTask) -> str:
        """Code points of text."""
        return words.count(row.content_length)

    @admin.display(description=gettext_lazy("model"), ordering="model")
    def model_name(self, row: StreamTask) -> SafeString:
        """Who wrote."""
        return words.isolated(row.model)

    # One task

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any
    ) -> HttpResponse:
        """The page of a task, with what the user may see and do."""
        row: StreamTask = context["original"]
        detail = detail_of(row, process.in_memory(request, row.id), may_read(request))
        if detail.content is not None:
            _log_reading(request, row, detail.content)
        context |= {
            "title": f"{row.kind} {row.id[:8]}",
            "subtitle": None,
            "detail": detail,
            "may_cancel": detail.active and self.has_cancel_permission(request),
            "may_prioritise": self.has_prioritise_permission(request) and row.state == State.QUEUED.value,
            "classes": [(name, number == row.priority) for name, number in conf.priorities().items()],
            **self._retry_context(request, row),
        }
        page: HttpResponse = super().render_change_form(request, context, *args, **options)
        return page

    def _retry_context(self, request: HttpRequest, row: StreamTask) -> dict[str, Any]:
        if not State(row.state).terminal or not self.has_retry_permission(request):
            return {"may_retry": False}
        obstacle = obstacle_to_retry(row)
        return {
            "may_retry": obstacle is None,
            "no_retry": None if obstacle is None else words.OBSTACLES[obstacle],
        }

    def get_urls(self) -> list[Any]:
        """Also `<id>/cancel/`, `<id>/retry/` and `<id>/priority/`, for POST only, and the list as a file."""
        name = "streaming_streamtask_{}"
        doing = [
            path(f"<path:object_id>/{verb}/", self._posted(view), name=name.format(verb))
            for verb, view in (
                ("cancel", self.cancel_view),
                ("retry", self.retry_view),
                ("priority", self.priority_view),
            )
        ]
        exporting = [
            path(
                f"export.{ending}",
                self.admin_site.admin_view(require_safe(partial(self.export_view, ending=ending))),
                name=name.format(f"export_{ending}"),
            )
            for ending in FORMATS
        ]
        return [*exporting, *doing, *super().get_urls()]

    def _posted(self, view: Any) -> Any:
        return self.admin_site.admin_view(require_POST(view))

    def cancel_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """End the task, and show it."""
        if not self.has_cancel_permission(request):
            raise PermissionDenied
        row = self._row(request, object_id)
        self._cancel(request, [row])
        return HttpResponseRedirect(self._place(row.pk))

    def retry_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Start the work again, and show the new task; or say why not, beside the old one."""
        if not self.has_retry_permission(request):
            raise PermissionDenied
        row = self._row(request, object_id)
        started = self._retry(request, [row])
        return HttpResponseRedirect(self._place(started[0].id if started else row.pk))

    def priority_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let the task wait in another priority class, and show it."""
        if not self.has_prioritise_permission(request):
            raise PermissionDenied
        row = self._row(request, object_id)
        classes = conf.priorities()
        name = request.POST.get("priority", "")
        if name not in classes:
            self.message_user(request, _("Choose a priority class."), messages.ERROR)
            return HttpResponseRedirect(self._place(row.pk))
        self._prioritise(request, [row], name)
        return HttpResponseRedirect(self._place(row.pk))

    def export_view(self, request: HttpRequest, ending: str) -> HttpResponseBase:
        """The list as it is filtered, whole, as a file."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            tasks = self.get_changelist_instance(request).queryset
        except IncorrectLookupParameters as error:
            raise Http404 from error
        texts = may_read(request)
        logger.info(
            "user %s exports tasks as %s%s: %s",
            request.user.pk,
            ending,
            ", with prompts and texts" if texts else "",
            request.GET.urlencode() or "all",
        )
        return as_file(
            request,
            tasks,
            ending,
            texts=texts,
            shown_id=lambda row: row.id[:8] if row.owner_id is None and not texts else row.id,
        )

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list, with links to it as a file."""
        query = request.GET.urlencode()
        places = [
            (ending.upper(), f"{reverse(f'admin:streaming_streamtask_export_{ending}')}?{query}")
            for ending in FORMATS
        ]
        page: HttpResponse = super().changelist_view(request, {"exports": places, **(extra_context or {})})
        return page

    def _row(self, request: HttpRequest, object_id: str) -> StreamTask:
        row: StreamTask | None = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        return row

    def _place(self, task_id: str) -> str:
        return reverse("admin:streaming_streamtask_change", args=[task_id], current_app=self.admin_site.name)

    # Doing things about tasks

    @admin.action(permissions=["cancel"], description=gettext_lazy("Cancel"))
    def cancel_tasks(self, request: HttpRequest, queryset: QuerySet[StreamTask]) -> None:
        """End the chosen tasks."""
        rows = self._chosen(request, queryset)
        if rows:
            self._cancel(request, rows)

    @admin.action(permissions=["retry"], description=gettext_lazy("Start again"))
    def retry_tasks(self, request: HttpRequest, queryset: QuerySet[StreamTask]) -> None:
        """Start the work of the chosen tasks again."""
        rows = self._chosen(request, queryset)
        if rows:
            self._retry(request, rows)

    def get_actions(self, request: HttpRequest, action_location: Any = None) -> dict[str, Any]:
        """Also one for each priority class."""
        # Django 6.1 asks for the actions of a list or of a form; before there were only those of lists.
        place = {} if action_location is None else {"action_location": action_location}
        found: dict[str, Any] = super().get_actions(request, **place)
        # Django asks for none where there are no boxes to tick.
        if found and self.has_prioritise_permission(request):
            for name in conf.priorities():
                # Django puts the model's name into it.
                text = _("Let it wait in the class {}").format(name).replace("%", "%%")
                found[f"prioritise_{name}"] = (partial(_prioritise_tasks, name), f"prioritise_{name}", text)
        return found

    def _chosen(self, request: HttpRequest, queryset: QuerySet[StreamTask]) -> list[StreamTask]:
        rows = list(queryset[: AT_ONCE + 1])
        if len(rows) <= AT_ONCE:
            return rows
        text = _("Nothing was done: choose at most {} tasks at once.").format(AT_ONCE)
        self.message_user(request, text, messages.ERROR)
        return []

    def _cancel(self, request: HttpRequest, rows: list[StreamTask]) -> None:
        ids = [row.pk for row in rows]
        # Also tasks whose row has ended: the service flushes, so that the counts below are of this moment.
        cancelled = process.cancel(request, ids)
        active = StreamTask.objects.filter(pk__in=ids, state__in=ACTIVE).values_list("pk", flat=True)
        asked = set(active) - cancelled
        for row in rows:
            if row.pk in cancelled:
                self._note(request, row, "cancelled the task")
        text = words.outcome_of_cancel(len(cancelled), len(rows) - len(cancelled) - len(asked), len(asked))
        self.message_user(request, text, messages.SUCCESS if cancelled else messages.WARNING)

    def _prioritise(self, request: HttpRequest, rows: list[StreamTask], name: str) -> None:
        priority = conf.priorities()[name]
        found = process.prioritise(request, [row.pk for row in rows], priority)
        for row in rows:
            if found[row.pk] is Prioritised.MOVED:
                self._note(request, row, f"changed its priority class from {row.priority} to {priority}")
            elif found[row.pk] is Prioritised.ASKED:
                self._note(request, row, f"asked for the priority class {priority}, it was {row.priority}")
        for outcome, number in Counter(found.values()).items():
            level = messages.SUCCESS if outcome is Prioritised.MOVED else messages.WARNING
            self.message_user(request, words.outcome_of_prioritise(outcome, number, name), level)

    def _retry(self, request: HttpRequest, rows: list[StreamTask]) -> list[Task]:
        started = []
        refusals: Counter[str] = Counter()
        for row in rows:
            try:
                task = process.retry(request, row)
            except Exception as error:
                refusals[_why_not(error)] += 1
            else:
                self._note(request, row, f"started the task again as {task.id}")
                started.append(task)
        if started:
            text = ngettext("{} started again.", "{} started again.", len(started)).format(len(started))
            self.message_user(request, text, messages.SUCCESS)
        for why, number in refusals.items():
            text = ngettext("{} not started: {}.", "{} not started: {}.", number).format(number, why)
            self.message_user(request, text, messages.WARNING)
        return started

    def _note(self, request: HttpRequest, row: StreamTask, what: str) -> None:
        """In the log, and in the row's history."""
        logger.info("task %s: user %s %s", row.pk, request.user.pk, what)
        self.log_change(request, row, what)


def _prioritise_tasks(
    name: str, model_admin: StreamTaskAdmin, request: HttpRequest, queryset: QuerySet[StreamTask]
) -> None:
    rows = model_admin._chosen(request, queryset)
    if rows:
        model_admin._prioritise(request, rows, name)


def may_read(request: HttpRequest) -> bool:
    """Whether the user may see prompts and texts."""
    return request.user.has_perm(READ_CONTENT)


def hides_id(request: HttpRequest, row: StreamTask) -> bool:
    """Whether the user may see no more than the beginning of the id: who knows that of an anonymous task can
    read the stream over the API."""
    return row.owner_id is None and not may_read(request)


def _is_detail(request: HttpRequest) -> bool:
    return request.resolver_match is not None and "object_id" in request.resolver_match.kwargs


def _log_reading(request: HttpRequest, row: StreamTask, content: Content) -> None:
    """Looking at what is not one's own leaves a trace; where there is nothing, nothing was seen."""
    if request.user.pk != row.owner_id and (content.arguments or content.text or content.error_message):
        logger.info("task %s: user %s reads its prompt and text in the admin", row.pk, request.user.pk)


def _why_not(error: Exception) -> str:
    """Why a task was not started again, in words. Raises what is nobody's refusal."""
    match error:
        case NotRetryable():
            return str(words.OBSTACLES[error.obstacle])
        case PoolRefused():
            return words.word(error.decision.reason, words.REASONS)
        case StorageUnavailable():
            return _("the database did not answer in time")
        case process.NoStreamsHere():
            return _("this process serves no streams; use the admin of the server that does")
    raise error
