"""`python -m tests.chaos`: rounds, one after the other in one house, until one breaks a rule."""

from __future__ import annotations

import argparse
import asyncio
import resource
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from .faults import TABLE, kinds
from .house import house
from .plan import Mode, Scale, draw
from .rounds import Report, play, tell


def main() -> int:
    """Run what the command line asks for; the exit code is 1 if a rule was broken."""
    options = _parser().parse_args()
    if options.table:
        for each in TABLE.values():
            print(f"{each.name:24}{each.rows:10}{', '.join(each.modes):30}{each.harm.__doc__}")
        return 0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    scale = Scale(clients=options.clients, seconds=options.seconds, faults=options.faults, herd=options.herd)
    numbers = [options.round] if options.round is not None else range(1, options.rounds + 1)
    folder = Path(options.keep or tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {options.seed}, {options.mode}, {len(numbers)} rounds; logs in {folder}", flush=True)
    reports: list[Report] = []
    begun = time.monotonic()
    async with house(options.mode, folder) as home:
        for number in numbers:
            choice = kinds(options.mode, options.only)
            report = await play(home, draw(options.mode, options.seed, number, choice, len(home.webs), scale))
            reports.append(report)
            print(_line(report), flush=True)
            if report.violations:
                print(tell(report, _again(options.seed, number)), flush=True)
                if not options.go_on:
                    break
    broken = [report for report in reports if report.violations]
    violations = sum(len(report.violations) for report in broken)
    print(f"{len(reports)} rounds in {time.monotonic() - begun:.0f} s: {_said(_totals(reports))}")
    print(f"{violations} violations in {len(broken)} rounds; seed {options.seed}, {options.mode}")
    return 1 if broken else 0


def _line(report: Report) -> str:
    verdict = f"{len(report.violations)} VIOLATIONS" if report.violations else "ok"
    said = f"{report.plan.describe()}: {_said(report.figures)}"
    return f"{report.plan.number:4}  {report.seconds:5.1f} s  {verdict}  {said}"


def _totals(reports: Sequence[Report]) -> dict[str, float]:
    """Sums; of seconds the most."""
    totals: dict[str, float] = {}
    for report in reports:
        for name, figure in report.figures.items():
            before = totals.get(name, 0)
            totals[name] = max(before, figure) if name.endswith("_s") else before + figure
    return totals


def _said(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {round(figure, 2):,}" for name, figure in figures.items() if figure)


def _again(seed: int, number: int) -> str:
    """The same command for that round alone."""
    return shlex.join(["scripts/chaos", *sys.argv[1:], "--seed", str(seed), "--round", str(number)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="how many (50)")
    parser.add_argument("--mode", choices=get_args(Mode), default="cluster")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9), help="else a new one")
    parser.add_argument("--round", type=int, help="only this one")
    parser.add_argument(
        "--only", nargs="*", default=(), choices=sorted(TABLE), metavar="FAULT", help="of the table"
    )
    parser.add_argument("--clients", type=int, default=Scale.clients)
    parser.add_argument(
        "--seconds", type=float, default=Scale.seconds, help="in which calls and faults begin"
    )
    parser.add_argument("--faults", type=int, default=Scale.faults, help="at most, in a round")
    parser.add_argument("--herd", type=int, default=Scale.herd, help="readers who come back at once, at most")
    parser.add_argument("--go-on", action="store_true", help="also after a round that broke a rule")
    parser.add_argument("--keep", metavar="FOLDER", help="where logs go")
    parser.add_argument("--table", action="store_true", help="say which faults there are")
    return parser


if __name__ == "__main__":
    sys.exit(main())
