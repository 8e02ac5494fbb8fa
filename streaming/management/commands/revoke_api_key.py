"""`manage.py revoke_api_key`: a key speaks for nobody any more."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from streaming import keys
from streaming.cluster.revocations import wait_until_known
from streaming.identities import MAX_AGE
from streaming.models import ApiKey

IMPATIENCE: Final = 1.0
"""Seconds of waiting for the servers before that is said."""

PATIENCE: Final = 6.0
"""Seconds of waiting altogether: a process that has not shown life for five is dead."""


class Command(BaseCommand):
    """Keys are named by their beginning, as the admin shows it, or by their whole text."""

    help = "Revoke the API key that begins with PREFIX, or is PREFIX."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which one."""
        parser.add_argument("prefix", help="The key's first characters, or the whole key")

    def handle(self, *args: Any, **options: Any) -> None:
        """Revoke it, and return when no server lets it in any more. Raises `CommandError` where the prefix
        names none, or several."""
        key = _the_key(options["prefix"])
        if key.revoked_at is not None:
            self.stdout.write(f"{key} was revoked already, {key.revoked_at:%Y-%m-%d %H:%M} UTC.")
            return
        keys.revoke(key)
        self._wait_for_servers()
        self.stdout.write(f"{key} of {key.user} is revoked.")

    def _wait_for_servers(self) -> None:
        """Until they refuse the key; mostly half a second."""
        if not wait_until_known(IMPATIENCE):
            return
        self.stderr.write("Waiting until the server processes know…")
        silent = wait_until_known(PATIENCE - IMPATIENCE)
        if silent:
            self.stderr.write(
                f"Server processes that have not answered: {silent}. If they live, they refuse the key "
                f"within {MAX_AGE:.0f} seconds."
            )


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
