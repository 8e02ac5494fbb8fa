"""`manage.py doctor`: what is wrong with the streams of a server, and how to mend it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from streaming import alerts, conf, probe
from streaming.core.alerts import Kind
from streaming.doctor.client import Target, base_of
from streaming.doctor.report import as_data, as_line, as_text
from streaming.doctor.rounds import Monitor, Report, Round, examine
from streaming.management.arguments import key_of, seconds_of
from streaming.management.briefs import brief_of

KEY: Final = "SLUICE_API_KEY"
"""The variable of the environment that stands in for `--key`, which others on the machine can see."""

SHORTEST: Final = 0.1
"""Seconds: the least `--timeout`."""

LONGEST: Final = 86_400
"""Seconds: the most `--timeout` and `--every`."""


class Command(BaseCommand):
    """Streams as a reader would. Exit code 0: fine; 1: slow or suspicious; 2: broken."""

    help = "Say what is wrong with the streams of the server at URL, and how to mend it."
    # It looks at another server, so the settings of this one need not be sound.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """What to stream, and how to tell."""
        parser.add_argument("url", help="Any address of a Sluice: its root, a page, a call")
        parser.add_argument(
            "--count", type=_whole(*probe.COUNT[1:]), default=probe.COUNT[0], help="Events of the probe"
        )
        parser.add_argument(
            "--interval",
            type=_whole(*probe.INTERVAL[1:]),
            default=probe.INTERVAL[0],
            help="Milliseconds between them",
        )
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--ping", action="store_true", help="Send a ping, which needs no sign-in")
        what.add_argument("--brief", help="Start a real task: its brief as JSON, or a file with it")
        parser.add_argument("--key", default=os.environ.get(KEY, ""), help=f"An API key; default: {KEY}")
        parser.add_argument("--insecure", action="store_true", help="Take any certificate")
        parser.add_argument(
            "--timeout",
            type=float,
            default=None,
            help="Seconds for one stream; default: 60, or what the probe takes",
        )
        parser.add_argument("--json", action="store_true", help="Tell it as JSON")
        parser.add_argument("--watch", action="store_true", help="Go on for ever, one line for each round")
        parser.add_argument("--every", type=float, default=30.0, help="Seconds between rounds; default: 30")
        parser.add_argument(
            "--metrics-file", type=Path, help="With --watch: a .prom file for Prometheus' textfile collector"
        )
        parser.add_argument(
            "--alert",
            metavar="RULE",
            default="doctor",
            help="With --watch: the rule of ALERTS that raises the alert; default: doctor; empty: none",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Examine once, or for ever. Raises `CommandError` for what cannot be asked."""
        target = _target(options)
        every = seconds_of("--every", options["every"], 1, LONGEST)
        if options["watch"]:
            monitor = Monitor(target, every, options["metrics_file"], self._reports_to(options["alert"]))
            code = asyncio.run(self._watch(monitor, target, options["json"]))
        else:
            made = asyncio.run(examine(target))
            if options["json"]:
                text = json.dumps(as_data(target, made.seen, made.diagnosis), ensure_ascii=False, indent=2)
            else:
                text = as_text(target, made.seen, made.diagnosis)
            self.stdout.write(text)
            code = int(made.diagnosis.severity)
        sys.exit(code)

    def _reports_to(self, name: str) -> Report | None:
        """Who raises the alert; None where none is wanted, or there is no database to keep it in. Raises
        `CommandError` for a rule that takes no reports."""
        if not name:
            return None
        rule = conf.alert_rules().get(name)
        if len(name) > conf.MAX_RULE_NAME or (rule is not None and rule.kind is not Kind.REPORTED):
            raise CommandError(f"--alert: {name!r} is no rule of the kind {Kind.REPORTED.value!r}")
        try:
            alerts.open_alerts()
        except DatabaseError as error:
            self.stderr.write(f"No alerts are raised, because there is no database for them here: {error}")
            return None
        return partial(alerts.report, name)

    async def _watch(self, monitor: Monitor, target: Target, as_json: bool) -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)

        def tell(made: Round) -> None:
            now = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
            if as_json:
                data = {"at": now, **as_data(target, made.seen, made.diagnosis)}
                self.stdout.write(json.dumps(data, ensure_ascii=False))
            else:
                self.stdout.write(f"{now} {as_line(made.diagnosis)}")
            self.stdout.flush()

        return int(await monitor.run(tell, stop))


def _target(options: dict[str, Any]) -> Target:
    try:
        base = base_of(options["url"])
        brief = None if options["brief"] is None else brief_of(options["brief"])
    except ValueError as error:
        raise CommandError(str(error)) from error
    kind: Literal["probe", "ping", "brief"] = "probe" if brief is None else "brief"
    if options["ping"]:
        kind = "ping"
    patience = options["timeout"]
    if patience is None:
        # The probe promises how long it takes; a third more is not what the reader should give up over.
        promised = options["count"] * options["interval"] / 1000 * 1.5 if kind == "probe" else 0.0
        patience = max(60.0, promised)
    return Target(
        base=base,
        kind=kind,
        count=options["count"],
        interval=options["interval"],
        brief=brief,
        key=key_of(options["key"]),
        insecure=options["insecure"],
        patience=seconds_of("--timeout", patience, SHORTEST, LONGEST),
    )


def _whole(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if text.isascii() and text.isdigit() and least <= int(text) <= most:
            return int(text)
        raise ArgumentTypeError(f"a whole number from {least} to {most}")

    return number
