"""`manage.py rotate_api_key`: a new key in the place of one, which ends a while later."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streaming import keys
from streaming.management.api_keys import key_named, moment, print_new
from streaming.management.arguments import duration_of


class Command(BaseCommand):
    """As with `create_api_key`, the new key alone goes to standard output."""

    help = "Make a new API key in the place of the one that begins with PREFIX, or is PREFIX, and print it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which one, and how long it goes on."""
        parser.add_argument("prefix", help="The old key's first characters, or the whole key")
        parser.add_argument(
            "--overlap", default="24h", help="How long the old key lasts: 90d, 12h, 30m, 0 (default: 24h)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Make it. Raises `CommandError` for a key that cannot be rotated; and where the new one cannot be
        printed, which is revoked then: the old one, before it ends, can be rotated again."""
        overlap = duration_of("--overlap", options["overlap"])
        old = key_named(options["prefix"])
        try:
            key, text = keys.rotate(old, overlap)
        except keys.KeyRefused as error:
            raise CommandError(str(error)) from error
        print_new(key, text, self.stdout)
        old.refresh_from_db()
        self.stderr.write(f"This key speaks for {key.user} in the place of {old}. It is not shown again.")
        self.stderr.write(f"  The old one ends: {moment(old.expires_at, 'never')}")
        self.stderr.write(f"  This one ends:    {moment(key.expires_at, 'never')}")
