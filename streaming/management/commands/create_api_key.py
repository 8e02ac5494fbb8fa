"""`manage.py create_api_key`: a key by which a program speaks for a user."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streaming import keys
from streaming.management.users import active_user
from streaming.models import ApiKey


class Command(BaseCommand):
    """The key alone goes to standard output, so that a shell can take it: `KEY=$(manage.py …)`."""

    help = "Make an API key for USER and print it, this once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Whose, and what for."""
        parser.add_argument("user", help="Name of the user for whom the key speaks")
        parser.add_argument("--name", default="", help="What the key is for, in your own words")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make it. Raises `CommandError` where it could never be used."""
        user = active_user(options["user"], "so a key would not work")
        limit = ApiKey._meta.get_field("name").max_length
        if limit is not None and len(options["name"]) > limit:
            raise CommandError(f"The name is longer than {limit} characters.")
        key, text = keys.issue(user, options["name"])
        self._print(key, text)
        self.stderr.write(f"This key speaks for {user}. It is not shown again: keep it in a safe place.")
        self.stderr.write("  Send it as:  Authorization: Bearer <key>")
        self.stderr.write(f"  Revoke it:   manage.py revoke_api_key {key.prefix}")

    def _print(self, key: ApiKey, text: str) -> None:
        """Raises `CommandError` where the key cannot be written; then it is revoked, for nobody has it."""
        try:
            self.stdout.write(text)
            self.stdout.flush()
        except (OSError, ValueError) as error:
            keys.revoke(key)
            raise CommandError(f"The key could not be written ({error}), so it was revoked.") from error
