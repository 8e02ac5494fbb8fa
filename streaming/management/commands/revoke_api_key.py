"""`manage.py revoke_api_key`: a key speaks for nobody any more."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streaming import keys
from streaming.models import ApiKey


class Command(BaseCommand):
    """Keys are named by their beginning, as the admin shows it."""

    help = "Revoke the API key that begins with PREFIX."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which one."""
        parser.add_argument("prefix", help="The key's first characters, or the whole key")

    def handle(self, *args: Any, **options: Any) -> None:
        """Revoke it. Raises `CommandError` where the prefix names none, or several."""
        key = _the_key(options["prefix"][: keys.SHOWN])
        if key.revoked_at is not None:
            self.stdout.write(f"{key} was revoked already, {key.revoked_at:%Y-%m-%d %H:%M} UTC.")
            return
        keys.revoke(key)
        self.stdout.write(f"{key} of {key.user} is revoked.")


def _the_key(prefix: str) -> ApiKey:
    if not prefix:
        raise CommandError("The prefix is empty. The admin lists all keys.")
    found = list(ApiKey.objects.select_related("user").filter(prefix__startswith=prefix)[:2])
    if not found:
        raise CommandError(f"No key begins with {prefix!r}. The admin lists all keys.")
    if len(found) > 1:
        raise CommandError(f"Several keys begin with {prefix!r}: give more characters.")
    return found[0]
