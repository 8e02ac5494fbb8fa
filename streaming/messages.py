"""Words for people: status lines and errors in the languages that the project speaks."""

from __future__ import annotations

import contextvars
import time
from functools import lru_cache
from typing import Final

from django.conf import settings
from django.http import HttpRequest
from django.utils import translation
from django.utils.translation import gettext, gettext_noop
from django.utils.translation.trans_real import parse_accept_lang_header

from streaming.runtime.task import Task

STATUS: Final = {
    "queued": gettext_noop("Waiting in the queue: number {position}, about {eta} s to go."),
    "started": gettext_noop("Generation has started."),
    "processing": gettext_noop("Still at work after {elapsed} s."),
}

QUEUED_FOR_A_WHILE: Final = gettext_noop("Waiting in the queue: number {position}.")
"""Where nobody knows for how long."""

QUEUED_SOMEWHERE: Final = gettext_noop("Waiting in the queue.")
"""Where this process does not know the place: another one's queue, or none yet."""

ERRORS: Final = {
    "producer_failed": gettext_noop("The generation failed."),
    "interrupted": gettext_noop("The server stopped before the generation was finished. Please try again."),
    "queue_timeout": gettext_noop("The generation waited too long for its turn. Please try again."),
    "run_timeout": gettext_noop("The generation took too long and was stopped."),
    "upstream_failed": gettext_noop("The model service failed. Please try again."),
    "upstream_auth": gettext_noop("The model service refused this server's credentials."),
    "upstream_rejected": gettext_noop("The model service does not accept this request."),
    "upstream_rate_limited": gettext_noop("The model service is over its limit. Please try again later."),
    "upstream_timeout": gettext_noop("The model service did not answer in time. Please try again."),
    "upstream_truncated": gettext_noop("The model service broke off its answer. Please try again."),
    "storage_full": gettext_noop("The server has no room for more text."),
    "kernel_died": gettext_noop("The notebook's kernel died."),
    "kernel_stopped": gettext_noop("The notebook's kernel was shut down or restarted."),
    "kernel_not_started": gettext_noop("The notebook's kernel did not start."),
    "access_revoked": gettext_noop("You may not read this any more. Sign in again, or ask for access."),
    "too_many_kernels": gettext_noop("Too many kernels run; shut one down, or try again later."),
}


class DjangoMessages:
    """See `ports.Messages`: gettext in the language asked for, whatever the thread's is."""

    def status(self, task: Task, status: str, position: int | None, eta: float | None, language: str) -> str:
        """One line about where the task stands."""
        text = STATUS[status]
        if status == "queued" and eta is None:
            text = QUEUED_SOMEWHERE if position is None else QUEUED_FOR_A_WHILE
        return _translated(text, language).format(
            position=position,
            eta=round(eta or 0),
            elapsed=round(time.monotonic() - task.created),
        )

    def error(self, code: str, language: str) -> str:
        """What went wrong; unknown codes get the general sentence."""
        return _translated(ERRORS.get(code, ERRORS["producer_failed"]), language)


def language_of(request: HttpRequest, fallback: str | None) -> str:
    """`Accept-Language` if it names a language that we speak, else `fallback` (that of the work), else
    LANGUAGE_CODE (RFC 9110, 12.5.4)."""
    return accepted_language(request) or supported(fallback or "") or settings.LANGUAGE_CODE


def accepted_language(request: HttpRequest) -> str:
    """The first language of `Accept-Language` that we speak, empty if there is none."""
    return _first_spoken(request.META.get("HTTP_ACCEPT_LANGUAGE", ""))


@lru_cache(maxsize=256)
def _first_spoken(header: str) -> str:
    known = (supported(code) for code, _ in parse_accept_lang_header(header))
    return next((code for code in known if code is not None), "")


@lru_cache(maxsize=256)
def supported(code: str) -> str | None:
    """The project's language for a language tag (`zh` and `zh-CN` → `zh-hans`), None if it has none."""
    try:
        return translation.get_supported_language_variant(code)
    except LookupError:
        return None


def language_context(language: str) -> contextvars.Context:
    """Context variables with the language only, for a producer to run in: with a request's it would run in
    the request's thread."""
    return _language_context(language or settings.LANGUAGE_CODE).copy()


@lru_cache(maxsize=64)
def _language_context(language: str) -> contextvars.Context:
    context = contextvars.Context()
    context.run(translation.activate, language)
    return context


@lru_cache(maxsize=512)
def _translated(text: str, language: str) -> str:
    with translation.override(language):
        return gettext(text)
