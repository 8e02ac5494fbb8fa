"""What happens when a server starts: on a developer's machine, it says how to sign in."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import OperationalError, ProgrammingError, close_old_connections

from streaming.addresses import is_loopback

from . import administrators, links


def announce(sender: Any, *, url: str, host: str, **kwargs: Any) -> list[str]:
    """Lines for `serve` to print: a one-time link for an administrator who cannot sign in yet, else how to
    make one. Nothing on a public address or without DEBUG, where output is kept and read by others."""
    if not settings.DEBUG or not is_loopback(host):
        return []
    try:
        user = administrators.newcomer()
        if user is None:
            return ["Sign in: manage.py signin_link makes a one-time link."]
        return [f"Sign in as {user} (once, within ten minutes): {links.make_url(user, url)}"]
    except (OperationalError, ProgrammingError) as error:
        return [f"Nobody can sign in: the database is not ready ({error}). Run: manage.py migrate"]
    finally:
        # This is the thread of the event loop, which keeps no connection.
        close_old_connections()
