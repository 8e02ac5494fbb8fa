"""`manage.py prune`: delete old records and events now, for cron or before a backup."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from streaming import conf
from streaming.storage.pruning import (
    Pruned,
    prunable,
    prune,
    prune_alerts,
    prune_some_keys,
    prune_some_tickets,
)
from streaming.storage.rollups import prune_rollups


class Command(BaseCommand):
    """Servers prune by themselves, too."""

    help = "Delete tasks, with their texts and events, that ended longer ago than retention_days."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """How old, and whether to look only."""
        parser.add_argument(
            "--days", type=_days, default=None, help="Age in days; default: SSE_CONFIG['retention_days']"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Say how much would be deleted, and delete nothing"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Delete, and say how much."""
        days = conf.sse().retention_days if options["days"] is None else options["days"]
        before = timezone.now() - timedelta(days=days)
        if options["dry_run"]:
            tasks, refusals = prunable(before)
            found = Pruned(tasks.count(), refusals.count())
        else:
            found = prune(before)
            prune_rollups(before)
            prune_alerts(before)
            self._prune_keys()
        verb = "Would delete" if options["dry_run"] else "Deleted"
        self.stdout.write(
            f"{verb} {found.tasks} tasks that ended before {before:%Y-%m-%d %H:%M} UTC, "
            f"and {found.refusals} counts of refusals."
        )

    def _prune_keys(self) -> None:
        """Keys that stand for nothing any more, and tickets; their ages are settings of their own."""
        now = timezone.now()
        while prune_some_keys(now - timedelta(seconds=conf.sse().idempotency_ttl)):
            pass
        while prune_some_tickets(now):
            pass


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days <= 36_500:
        raise ArgumentTypeError(f"{text!r} is no number of days from 0 to 36500")
    return days
