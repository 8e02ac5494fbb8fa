"""`manage.py loadtest`: many streams at a server, and what came of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from argparse import ArgumentParser
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from streaming.core.load import Plan, Tally
from streaming.doctor.client import base_of
from streaming.loadtest.report import Report, as_data, as_html, as_text, progress
from streaming.loadtest.runner import DEFAULT_BRIEF, Load, NoTargetError, look, run
from streaming.management.arguments import key_of
from streaming.management.briefs import brief_of

from .doctor import KEY

REFRESH: Final = 0.5
"""Seconds between two looks on a terminal."""

REPEAT: Final = 2.0
"""Seconds between two lines elsewhere."""


class Command(BaseCommand):
    """Exit code 0: every stream came whole and exact, and the report is written; 1: not. Ctrl-C gives the
    report so far."""

    help = "Put load on the Sluice at URL, and report what came of it."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """How much, for how long, and where the report goes."""
        parser.add_argument("url", help="Any address of a Sluice that you may put load on")
        parser.add_argument("--streams", type=int, help="Open at once; with --rate: the most in all")
        parser.add_argument("--rate", type=float, help="New streams a second, however the others fare")
        parser.add_argument("--duration", type=float, default=10.0, help="Seconds; default: 10")
        parser.add_argument("--brief", help="What each stream asks for: JSON, or a file with it")
        parser.add_argument("--key", default=os.environ.get(KEY, ""), help=f"An API key; default: {KEY}")
        parser.add_argument("--insecure", action="store_true", help="Take any certificate")
        parser.add_argument(
            "--timeout", type=float, default=300.0, help="Seconds for one stream; default: 300"
        )
        parser.add_argument("--json", type=Path, help="A file for the report as JSON; -: standard output")
        parser.add_argument("--html", type=Path, help="A file for the report as a page with plots")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run it. Raises `CommandError` for what cannot be done."""
        load = _load(options)
        json_to_stdout = str(options["json"]) == "-"
        files = {
            name: path
            for name, path in (("--html", options["html"]), ("--json", options["json"]))
            if path is not None and not (name == "--json" and json_to_stdout)
        }
        for name, path in files.items():
            _ensure_writable(name, path)
        try:
            asyncio.run(look(load))
        except NoTargetError as error:
            raise CommandError(f"{error}. `manage.py doctor` may say more.") from error
        report = Report(load=load, begun=datetime.now(UTC), tally=Tally())
        asyncio.run(self._run(load, report.tally))
        data = json.dumps(as_data(report), ensure_ascii=False, indent=2)
        written = True
        for name, path in files.items():
            try:
                path.write_text(as_html(report) if name == "--html" else data + "\n", encoding="utf-8")
            except OSError as error:
                written = False
                self.stderr.write(f"{name} {path} could not be written: {error.strerror}")
        self.stdout.write(data if json_to_stdout else as_text(report))
        sys.exit(0 if report.tally.is_exact and written else 1)

    async def _run(self, load: Load, tally: Tally) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        showing = asyncio.create_task(self._show(tally))
        try:
            await run(load, tally, stop)
        finally:
            showing.cancel()
            with suppress(asyncio.CancelledError):
                await showing

    async def _show(self, tally: Tally) -> None:
        """One line that is written over on a terminal; elsewhere one now and then. To standard error, so that
        the report is alone on standard output."""
        begun, terminal = time.monotonic(), self.stderr.isatty()
        try:
            while True:
                await asyncio.sleep(REFRESH if terminal else REPEAT)
                line = progress(tally, time.monotonic() - begun)
                # No style: standard error would be red.
                self.stderr.write(
                    f"\r\x1b[K{line}" if terminal else line, style_func=str, ending="" if terminal else "\n"
                )
                self.stderr.flush()
        finally:
            if terminal:
                self.stderr.write("\r\x1b[K", style_func=str, ending="")


def _ensure_writable(name: str, path: Path) -> None:
    """Before the load, not after it. Raises `CommandError`."""
    existed = path.exists()
    try:
        with path.open("a"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise CommandError(f"{name} {path} cannot be written: {error.strerror}") from error


def _load(options: dict[str, Any]) -> Load:
    streams = options["streams"]
    if streams is None and options["rate"] is None:
        streams = 1
    try:
        plan = Plan(duration=options["duration"], rate=options["rate"], streams=streams)
        brief = DEFAULT_BRIEF if options["brief"] is None else brief_of(options["brief"])
        base = base_of(options["url"])
    except ValueError as error:
        raise CommandError(str(error)) from error
    if not 0 < options["timeout"] <= 86_400:
        raise CommandError("--timeout: seconds, above 0, to 86400")
    return Load(
        base=base,
        plan=plan,
        brief=brief,
        key=key_of(options["key"]),
        insecure=options["insecure"],
        patience=options["timeout"],
    )
