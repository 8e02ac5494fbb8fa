"""`manage.py signin_link`: a link that signs somebody in once."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

from accounts import administrators, links
from streaming.addresses import url_of
from streaming.management.users import active_user


class Command(BaseCommand):
    """The URL alone goes to standard output, so that a shell can open it."""

    help = (
        "Make a link that signs USER in: once, within ten minutes. Earlier links of that user are not "
        "touched: each works once."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Whom, and where."""
        parser.add_argument("user", nargs="?", help="Name of the user; default: the first administrator")
        parser.add_argument("--url", help="Where the server is found; default: http://HOST:PORT")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make it. Raises `CommandError` where it could not be used."""
        base = _base_url(options["url"])
        name = options["user"]
        user = _administrator() if name is None else active_user(name, "so a link would not work")
        self.stdout.write(links.make_url(user, base))
        self.stderr.write(f"Signs {user} in: once, within ten minutes.")
        if base.startswith("http://") and settings.SESSION_COOKIE_SECURE:
            self.stderr.write(
                "Cookies are for TLS only (SECURE_COOKIES), so over plain HTTP nobody stays signed in: "
                "give --url https://…"
            )


def _base_url(given: str | None) -> str:
    if given is None:
        if settings.PORT == 0:
            raise CommandError("PORT is 0, so nobody knows where the server is: give --url.")
        return url_of(settings.HOST, settings.PORT)
    if not given.startswith(("http://", "https://")):
        raise CommandError(f"{given!r} is not a URL: it begins with http:// or https://")
    return given


def _administrator() -> User:
    user = administrators.first()
    if user is None:
        raise CommandError(
            "There is no active administrator. Make the first user with: manage.py local_admin; "
            "a further one with: manage.py createsuperuser"
        )
    return user
