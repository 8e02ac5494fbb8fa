"""Forms that count once: each carries a mark, which the session keeps until the form is sent."""

from __future__ import annotations

import secrets
import threading
from typing import Final

from django.http import HttpRequest

MARKS: Final = 20
"""Forms that one session can have open; the oldest are forgotten."""

_KEPT: Final = "streaming_forms"
_FIELD: Final = "form_mark"

_one_at_a_time = threading.Lock()


def give(request: HttpRequest) -> str:
    """A mark for a new form; one that comes back with errors keeps its own, so that it can be sent again."""
    mark = request.POST.get(_FIELD) or secrets.token_urlsafe(16)
    request.session[_KEPT] = [*request.session.get(_KEPT, []), mark][-MARKS:]
    return mark


def take(request: HttpRequest) -> bool:
    """Use up the mark of the form that was sent; False if that has happened already."""
    mark = request.POST.get(_FIELD)
    with _one_at_a_time:
        # As it is stored now: two clicks at once are two requests, and each has read the session already.
        stored = type(request.session)(request.session.session_key)
        marks = stored.get(_KEPT, [])
        if mark not in marks:
            return False
        stored[_KEPT] = request.session[_KEPT] = [each for each in marks if each != mark]
        stored.save()
    return True
