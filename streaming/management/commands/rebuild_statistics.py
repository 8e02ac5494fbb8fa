"""`manage.py rebuild_statistics`: count all tasks anew, for a database whose counts are not to be trusted."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from streaming.storage.rollups import backfill_some, rebuild


class Command(BaseCommand):
    """After an upgrade servers count the tasks of the time before by themselves."""

    help = "Count all tasks anew for the statistics; stop servers first for exact numbers."

    def handle(self, *args: Any, **options: Any) -> None:
        """Count, and say how many. If it is ended early, servers go on with it."""
        rebuild()
        tasks = 0
        while step := backfill_some():
            tasks += step
        self.stdout.write(f"Counted {tasks} tasks anew.")
