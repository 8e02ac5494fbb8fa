"""`manage.py local_admin`: somebody to begin with, without a password to invent."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from accounts import administrators


class Command(BaseCommand):
    """Called by `scripts/run` at each start; does something at the first one."""

    help = "Make a local administrator without a password, if there is no user at all."

    def handle(self, *args: Any, **options: Any) -> None:
        """Make them, and say so."""
        user = administrators.make_local()
        if user is not None:
            self.stdout.write(
                f"users: made the local administrator {user!s} (no password: sign in by a link)"
            )
