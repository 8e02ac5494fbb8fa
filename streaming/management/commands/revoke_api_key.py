"""`manage.py revoke_api_key`: a key speaks for nobody any more."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streaming import keys
from streaming.models import ApiKey


class Command(BaseCommand):
    """Keys are named by their beginning, as the admin shows it, or by their whole text."""

    help = "Revoke the API key that begins with PREFIX, or is PREFIX."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which one."""
        parser.add_argument("prefix", help="The key's first characters, or the whole key")

    def handle(self, *args: Any, **options: Any) -> None:
        """Revoke it. Raises `CommandError` where the prefix names none, or several."""
        key = _the_key(options["prefix"])
        if key.revoked_at is not None:
            self.stdout.write(f"{key} was revoked already, {key.revoked_at:%Y-%m-%d %H:%M} UTC.")
            return
        keys.revoke(key)
        self.stdout.write(f"{key} of {key.user} is revoked.")


def _the_key(prefix: str) -> ApiKey:
    if not prefix:
        raise CommandError("The prefix is empty. The admin lists all keys.")
    found = keys.named(prefix)
    # What was given may be a key, and errors are logged: only what is shown anyway is repeated.
    shown = prefix[: keys.SHOWN]
    if not found and len(prefix) > keys.SHOWN:
        raise CommandError(
            f"No key is the one given ({shown}…). Give the whole key, or its first {keys.SHOWN} characters."
        )
    if not found:
        raise CommandError(f"No key begins with {shown!r}. The admin lists all keys.")
    if len(found) > 1:
        raise CommandError(f"Several keys begin with {shown!r}: give more characters.")
    return found[0]
