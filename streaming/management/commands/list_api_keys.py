"""`manage.py list_api_keys`: which keys there are, what they are for and when they were used."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from streaming.management.api_keys import moment
from streaming.models import ApiKey


class Command(BaseCommand):
    """One line for each, the newest first, with tabs between."""

    help = "List API keys: state, beginning, user, scopes, last use, end, what it replaces, name."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which ones."""
        parser.add_argument("user", nargs="?", help="Name of a user: only this one's keys")
        parser.add_argument("--valid", action="store_true", help="Only those that still speak for their user")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print them."""
        rows = ApiKey.objects.select_related("user", "replaces")
        for key in rows.iterator():
            if options["user"] not in (None, key.user.get_username()):
                continue
            if options["valid"] and key.state != ApiKey.State.VALID:
                continue
            self.stdout.write("\t".join(_columns(key)))


def _columns(key: ApiKey) -> tuple[str, ...]:
    return (
        key.state.value,
        str(key),
        key.user.get_username(),
        key.scopes.replace(" ", ","),
        f"used {moment(key.last_used_at, 'never')}",
        f"ends {moment(key.expires_at, 'never')}",
        "" if key.replaces is None else f"replaces {key.replaces}",
        key.name,
    )
