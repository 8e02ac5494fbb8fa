"""`manage.py revoke_api_key`: a key speaks for nobody any more."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from streaming import keys
from streaming.management.api_keys import key_named, wait_for_servers


class Command(BaseCommand):
    """Keys are named by their beginning, as the admin shows it, or by their whole text."""

    help = "Revoke the API key that begins with PREFIX, or is PREFIX."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which one."""
        parser.add_argument("prefix", help="The key's first characters, or the whole key")

    def handle(self, *args: Any, **options: Any) -> None:
        """Revoke it, and return when no server lets it in any more. Raises `CommandError` where the prefix
        names none, or several."""
        key = key_named(options["prefix"])
        if key.revoked_at is not None:
            self.stdout.write(f"{key} was revoked already, {key.revoked_at:%Y-%m-%d %H:%M} UTC.")
            return
        keys.revoke(key)
        wait_for_servers(self.stderr)
        self.stdout.write(f"{key} of {key.user} is revoked.")
