"""`manage.py check_alerts`: look at the rules of alerts, for cron and for people."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError

from streaming import conf
from streaming.alerts.notices import deliver
from streaming.alerts.rounds import evaluate, open_alerts
from streaming.alerts.words import quantity
from streaming.models import Alert


class Command(BaseCommand):
    """Exit code 0: no alert is open; 1: some are; 2: nobody knows."""

    help = "Look at the rules of alerts, tell of what has changed, and list the alerts that are open."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """How to tell."""
        parser.add_argument("--json", action="store_true", help="Tell it as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Look, if no server did so within ALERT_INTERVAL, and list. Raises `CommandError` when the database
        cannot be asked."""
        try:
            evaluate(conf.alerting().interval)
            deliver()
            found = open_alerts()
        except (DatabaseError, InterfaceError) as error:
            raise CommandError(f"the database cannot be used: {error}", returncode=2) from error
        if options["json"]:
            self.stdout.write(json.dumps([_data(alert) for alert in found], ensure_ascii=False, indent=2))
        elif found:
            for alert in found:
                since = f"{alert.raised_at:%Y-%m-%d %H:%M:%S} UTC"
                now = "unknown" if alert.last is None else quantity(alert.kind, alert.last)
                worst = quantity(alert.kind, alert.worst)
                self.stdout.write(
                    f"{alert.severity} {alert.rule} since {since}: {alert.sentence} "
                    f"Now: {now}, at worst: {worst}."
                )
        else:
            self.stdout.write("No alert is open.")
        if found:
            sys.exit(1)


def _data(alert: Alert) -> dict[str, Any]:
    return {
        "rule": alert.rule,
        "kind": alert.kind,
        "severity": alert.severity,
        "sentence": alert.sentence,
        "value": alert.last,
        "worst": alert.worst,
        "threshold": alert.threshold,
        "raised_at": alert.raised_at.isoformat(),
    }
