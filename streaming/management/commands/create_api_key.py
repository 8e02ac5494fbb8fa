"""`manage.py create_api_key`: a key by which a program speaks for a user."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streaming import keys
from streaming.management.api_keys import moment, print_new
from streaming.management.arguments import duration_of
from streaming.management.users import active_user
from streaming.models import ApiKey
from streaming.scopes import USUAL, Scope


class Command(BaseCommand):
    """The key alone goes to standard output, so that a shell can take it: `KEY=$(manage.py …)`."""

    help = "Make an API key for USER and print it, this once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Whose, what for, and for how long."""
        parser.add_argument("user", help="Name of the user for whom the key speaks")
        parser.add_argument("--name", default="", help="What the key is for, in your own words")
        parser.add_argument(
            "--scope",
            action="append",
            choices=Scope.values,
            help=f"What it may be used for; may be repeated (default: {', '.join(USUAL)})",
        )
        parser.add_argument("--expires-in", help="How long it lives: 90d, 12h, 30m (default: no end is set)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make it. Raises `CommandError` where it could never be used."""
        user = active_user(options["user"], "so a key would not work")
        limit = ApiKey._meta.get_field("name").max_length
        if limit is not None and len(options["name"]) > limit:
            raise CommandError(f"The name is longer than {limit} characters.")
        expires_in = options["expires_in"]
        lifetime = None if expires_in is None else duration_of("--expires-in", expires_in)
        try:
            key, text = keys.issue(user, options["name"], scopes=options["scope"] or USUAL, lifetime=lifetime)
        except keys.KeyRefused as error:
            raise CommandError(str(error)) from error
        print_new(key, text, self.stdout)
        self.stderr.write(f"This key speaks for {user}. It is not shown again: keep it in a safe place.")
        self.stderr.write(f"  It is for:   {key.scopes}")
        self.stderr.write(f"  It ends:     {moment(key.expires_at, 'never')}")
        self.stderr.write("  Send it as:  Authorization: Bearer <key>")
        self.stderr.write(f"  Revoke it:   manage.py revoke_api_key {key.prefix}")
