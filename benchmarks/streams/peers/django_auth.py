"""Django with startproject's middleware, for somebody who is signed in: session and user from SQLite.

As a program it makes the database and prints the cookie of a session.
"""

from __future__ import annotations

import sys

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from . import django_project
from .script import HEADERS, Script, frames

django_project.configure(middleware=django_project.STARTPROJECT)


@csrf_exempt
async def generate(request: HttpRequest) -> HttpResponseBase:
    """The script, for users only."""
    user = await request.auser()
    if not user.is_authenticated:
        return HttpResponse(status=401)
    return StreamingHttpResponse(frames(Script(request.body)), headers=HEADERS)


application = django_project.serve(generate)


def prepare() -> str:
    """Make the tables, a user and their session; returns the cookie."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
    from django.contrib.sessions.backends.db import SessionStore
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    user = get_user_model().objects.create_user("bench")
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return f"sessionid={session.session_key}"


if __name__ == "__main__":
    sys.stdout.write(prepare())
