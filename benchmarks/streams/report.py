"""The report of a run: `benchmarks/results/streams.md` with its pictures, from the raw results.

    .venv/bin/python -m benchmarks.streams.report [--results FILE] [--out FOLDER]

What only people can say (what holds a goal that was missed, what a change gained) stands in `notes.toml`
beside this file. Nothing is measured here, and nothing rounded before it is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .figures import Load, Measurement, Results, Spread, paired
from .goals import IDLE, PACED, SHORT, SOON, Condition, Judged, judge
from .peers_shown import BLOCKING, is_blocking, is_part, ordered, part, title

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results" / "streams.json"
NOTES: Final = Path(__file__).with_name("notes.toml")
BLOCKING_PRODUCERS: Final = ROOT / "benchmarks" / "results" / "blocking_producers.json"

NOT_MEASURED: Final = "not measured"

MARKS: Final = {"met": "✓", "missed": "✗", NOT_MEASURED: "–"}


@dataclass(frozen=True)
class Column:
    """A figure as a column. `compared`: with its ratio to raw."""

    path: str
    heading: str
    digits: int = 0
    compared: bool = False
    factor: float = 1.0


@dataclass(frozen=True)
class Chapter:
    """A scenario: its heading, what is done in it, its columns and pictures. `everybody`: variants of Sluice
    and blocking producers stand in its tables, too."""

    scenario: str
    heading: str
    what: str
    columns: tuple[Column, ...]
    pictures: tuple[str, ...] = ()
    everybody: bool = False


CHAPTERS: Final = (
    Chapter(
        "start",
        "Time to first content, idle",
        "One stream at a time; from the request's last byte to the first content event.",
        (
            Column("first_content_us.p50", "p50, µs", compared=True),
            Column("first_content_us.p95", "p95, µs"),
            Column("first_content_us.p99", "p99, µs", compared=True),
            Column("first_content_us.max", "max, µs"),
        ),
        ("streams-start.svg",),
    ),
    Chapter(
        "paced",
        "Steady streams",
        "Tokens come at a pace. Lateness is that of the oldest token in each event, from the moment it was "
        "due; Sluice coalesces for up to 50 ms, except where it is called uncoalesced.",
        (
            Column("late_ms.p50", "late p50, ms", 2, compared=True),
            Column("late_ms.p99", "late p99, ms", 2, compared=True),
            Column("late_ms.max", "late max, ms", 1),
            Column("cpu_us_per_token", "CPU per token, µs", 1, compared=True),
            Column("cpu_us_per_stream", "CPU per stream, µs"),
            Column("cpu_share", "CPU share, %", 0, factor=100),
            Column("bytes_per_token", "bytes per token", 1, compared=True),
            Column("events_per_token", "events per token", 2),
            Column("delivered", "delivered, %", 1, factor=100),
            Column("first_content_us.p50", "first content p50, µs"),
        ),
        ("streams-lateness.svg", "streams-cpu.svg"),
    ),
    Chapter(
        "burst",
        "Full speed, in bursts",
        "The producer never waits.",
        (
            Column("tokens_per_second", "tokens/s", compared=True),
            Column("cpu_us_per_token", "CPU per token, µs", 2, compared=True),
        ),
        ("streams-tokens.svg",),
    ),
    Chapter(
        "step",
        "Full speed, a suspension for each token",
        "The producer gives way once for each token.",
        (
            Column("tokens_per_second", "tokens/s", compared=True),
            Column("cpu_us_per_token", "CPU per token, µs", 2, compared=True),
        ),
    ),
    Chapter(
        "short",
        "Short streams",
        "Streams of few tokens at full speed, one after another on each connection.",
        (
            Column("streams_per_second", "streams/s", compared=True),
            Column("cpu_us_per_stream", "CPU per stream, µs", compared=True),
        ),
        ("streams-short.svg",),
    ),
    Chapter(
        "memory",
        "Memory",
        "Streams that have sent a token and are silent.",
        (
            Column("kib_per_stream", "KiB per stream", 1, compared=True),
            Column("pss_kib", "whole process, MiB", 0, factor=1 / 1024),
            Column("open_seconds", "to open all, s", 1),
        ),
        ("streams-memory.svg",),
    ),
    Chapter(
        "capacity",
        "Streams on one core",
        "The most streams whose lateness at p99 is below 100 ms; 150 ms where the window of 50 ms is in it.",
        (Column("streams", "streams", compared=True),),
    ),
    Chapter(
        "polled_start",
        "Beside designs that poll",
        "Time to first content beyond the producer's own delay.",
        (Column("first_content_us.p50", "p50, µs", compared=True), Column("first_content_us.p99", "p99, µs")),
        everybody=True,
    ),
    Chapter(
        "statuses",
        "Status messages while waiting",
        "What a reader is told until the first token comes.",
        (Column("status_messages", "messages"),),
        everybody=True,
    ),
    Chapter(
        "switch",
        "Beside busy threads",
        "How late the event loop is while pool threads run Python.",
        (Column("late_ms.p50", "late p50, ms", 2), Column("late_ms.p99", "late p99, ms", 2)),
        everybody=True,
    ),
)

Figures = tuple[tuple[str, str, Load, str, int], ...]
"""Heading, scenario, load, figure and digits."""

Name = Callable[[str], str]
"""From a peer to another one, or to what it is called."""

PART_FIGURES: Final[Figures] = (
    ("idle start p50, µs", "start", IDLE, "first_content_us.p50", 0),
    ("streams/s", "short", SHORT, "streams_per_second", 0),
    ("CPU per stream, µs", "short", SHORT, "cpu_us_per_stream", 0),
    ("CPU per token, 500 × 50/s, µs", "paced", PACED, "cpu_us_per_token", 2),
    ("tokens/s in bursts", "burst", {}, "tokens_per_second", 0),
    ("bytes per token", "paced", PACED, "bytes_per_token", 1),
    ("KiB per stream", "memory", {"streams": 1000}, "kib_per_stream", 1),
)

BLOCKING_FIGURES: Final[Figures] = (
    ("late p50, 100 × 50/s, ms", "paced", {"streams": 100, "rate": 50}, "late_ms.p50", 2),
    ("late p99, ms", "paced", {"streams": 100, "rate": 50}, "late_ms.p99", 2),
    ("CPU per token, µs", "paced", {"streams": 100, "rate": 50}, "cpu_us_per_token", 1),
    ("tokens/s in bursts", "burst", {}, "tokens_per_second", 0),
    ("streams/s", "short", SHORT, "streams_per_second", 0),
    ("first content, producer's delay taken off, µs", "polled_start", SOON, "first_content_us.p50", 0),
)


# --- Words --------------------------------------------------------------------------------------------


def ratio_words(value: float) -> str:
    """A ratio as people read it: 1.25x, 12.3x; below a tenth 1/35.0."""
    return f"1/{_significant(1 / value)}" if 0 < value < 0.1 else f"{_significant(value)}x"


def limit_words(value: float) -> str:
    """The limit of a ratio: 0.42x, 2x, 1/10."""
    fraction = round(1 / value)
    return f"1/{fraction:,}" if fraction >= 5 and abs(fraction * value - 1) < 1e-9 else f"{value:g}x"


def times_words(value: float) -> str:
    """A ratio in a sentence: 1.25 times, 1/35.0 of."""
    return f"{ratio_words(value)} of" if value < 0.1 else f"{_significant(value)} times"


def _significant(value: float) -> str:
    """Three digits, but no fewer than the whole number has."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread_words(spread: Spread, digits: int, factor: float = 1.0) -> str:
    """The median, and from where to where the repetitions went."""
    median, low, high = (f"{factor * each:,.{digits}f}" for each in (spread.median, spread.low, spread.high))
    return median if spread.count == 1 else f"{median} ({low}–{high})"


def load_words(load: Load) -> str:
    """A load in a heading."""
    known: dict[str, Callable[[Any], str]] = {
        "streams": lambda value: f"{value:,} streams",
        "rate": lambda value: f"{value:g} tokens/s",
        "connections": lambda value: f"{value} connections",
        "tokens": lambda value: f"{value} tokens",
        "start_delay": lambda value: f"first token after {1000 * value:g} ms",
        "seconds": lambda value: f"{value:g} s",
        "keep_alive": lambda value: "kept connection" if value else "new connection for each stream",
    }
    return " × ".join(
        known[name](value) if name in known else f"{name} {value}" for name, value in load.items()
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """A table; the first `left` columns hold words, the others figures."""
    rules = ["---"] * left + ["---:"] * (len(head) - left)
    return [_row(head), _row(rules), *(_row(row) for row in rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


# --- The page -----------------------------------------------------------------------------------------


def page(
    results: Results,
    notes: Mapping[str, Any],
    pictures: Iterable[str],
    blocking_producers: Mapping[str, Any] | None = None,
) -> str:
    """The whole report as Markdown. `pictures`: the names of those that there are."""
    judged = judge(results, blocking_producers)
    drawn = set(pictures)
    blocks = [
        ["# Streams: Sluice beside what else one would take, and beside the limit"],
        _warnings(results),
        _summary(results, judged, notes),
        ["## Goals", "", *_goals(judged)],
        _missed(judged, notes),
        _gains(notes),
        *(_chapter(results, chapter, drawn) for chapter in CHAPTERS),
        _parts(results),
        _blocking(results),
        ["## Machine and method", "", *_method(results)],
    ]
    return "\n\n".join("\n".join(block).strip() for block in blocks if block) + "\n"


def _warnings(results: Results) -> list[str]:
    if results.finished:
        return []
    return ["**This run was not finished: what is missing below was not measured.**"]


def _summary(results: Results, judged: Sequence[Judged], notes: Mapping[str, Any]) -> list[str]:
    count = {verdict: sum(each.verdict == verdict for each in judged) for verdict in MARKS}
    lines = [
        f"Of {len(judged)} goals {count['met']} are met, {count['missed']} missed, "
        f"{count[NOT_MEASURED]} not (wholly) measured."
    ]
    start = results.spread("start", IDLE, "sluice", "first_content_us.p50")
    beside = results.ratio("start", IDLE, "sluice", "first_content_us.p50")
    stock = results.ratio("start", IDLE, "sluice", "first_content_us.p50", "django-auth")
    if start and beside:
        line = f"An authenticated, recorded, resumable stream starts in {start.median:,.0f} µs"
        line += f", {times_words(beside.median)} a raw ASGI application"
        lines.append(line + (f" and {times_words(stock.median)} Django with a login." if stock else "."))
    token = results.ratio("paced", PACED, "sluice", "cpu_us_per_token")
    if token:
        lines.append(f"A token costs {times_words(token.median)} the CPU of a raw ASGI application's token.")
    block = ["\n".join(lines)]
    if notes.get("summary"):
        block += ["", str(notes["summary"]).strip()]
    return block


def _goals(judged: Sequence[Judged]) -> list[str]:
    lines = [
        "Medians over the repetitions of ratios that were formed within one repetition, in brackets the "
        "least and the most. A condition in *italics* is the next aim and does not decide.",
        "",
    ]
    rows = []
    for each in judged:
        conditions = [_condition(*found) for found in each.conditions]
        rows.append(
            [
                str(each.goal.row),
                each.goal.what,
                "<br>".join(asked for asked, _ in conditions),
                "<br>".join(found for _, found in conditions),
                f"**{each.verdict}**",
            ]
        )
    return lines + table(["#", "goal", "asked", "measured", ""], rows, left=5)


def _condition(condition: Condition, spread: Spread | None, verdict: str) -> tuple[str, str]:
    sign = "≥" if condition.at_least else "≤"
    if condition.unit == "x":
        asked = f"{sign} {limit_words(condition.limit)} {condition.what}"
    else:
        asked = f"{sign} {condition.limit:g} {condition.unit} {condition.what}"
        asked = asked.removesuffix(f" {condition.unit}") if condition.what == condition.unit else asked
    if condition.beyond:
        asked = f"*{asked}*"
    if spread is None:
        return asked, f"{MARKS[verdict]} {NOT_MEASURED}"
    median, low, high = (
        ratio_words(each) if condition.unit == "x" else f"{each:,.1f}".removesuffix(".0")
        for each in (spread.median, spread.low, spread.high)
    )
    around = f" ({low} to {high})" if spread.count > 1 else ""
    return asked, f"{MARKS[verdict]} {median}{around}"


def _missed(judged: Sequence[Judged], notes: Mapping[str, Any]) -> list[str]:
    rows = notes.get("rows", {})
    said = [each for each in judged if each.verdict == "missed" or str(each.goal.row) in rows]
    if not said:
        return []
    lines = ["### What holds the missed ones, and what was tried", ""]
    for each in said:
        words = str(rows.get(str(each.goal.row), "")).strip() or "*Nobody has written yet what holds it.*"
        lines += [f"**Row {each.goal.row}, {each.verdict}.** {words}", ""]
    return lines


def _gains(notes: Mapping[str, Any]) -> list[str]:
    gains = notes.get("gains", [])
    if not gains:
        return []
    rows = [
        [str(each.get(name, "")) for name in ("change", "measured", "before", "after", "commit")]
        for each in gains
    ]
    return [
        "## Gains",
        "",
        "Each measured in turn with what was before, by the same harness.",
        "",
        *table(["change", "figure", "before", "after", "commit"], rows, left=5),
    ]


def _chapter(results: Results, chapter: Chapter, drawn: set[str]) -> list[str]:
    loads = results.loads(chapter.scenario)
    if not loads:
        return [f"## {chapter.heading}", "", f"{chapter.what} *{NOT_MEASURED.capitalize()}.*"]
    lines = [f"## {chapter.heading}", "", chapter.what, ""]
    for name in chapter.pictures:
        if name in drawn:
            lines += [f"![{chapter.heading}]({name})", ""]
    for load in loads:
        peers = [
            peer
            for peer in ordered(results.peers(chapter.scenario, load))
            if chapter.everybody or not (is_part(peer) or is_blocking(peer))
        ]
        if peers:
            lines += [f"### {load_words(load)}", ""] if load else []
            lines += [*_figures(results, chapter, load, peers), ""]
    return lines


def _figures(results: Results, chapter: Chapter, load: Load, peers: Sequence[str]) -> list[str]:
    """One load: each peer's figures, and why what failed has failed."""
    scenario = chapter.scenario
    columns = [
        column
        for column in chapter.columns
        if any(results.spread(scenario, load, peer, column.path) for peer in peers)
    ]
    compared = "raw" in peers
    head = ["peer"]
    for column in columns:
        head += [column.heading, "× raw"] if column.compared and compared else [column.heading]
    rows = []
    reasons = []
    for peer in peers:
        failures = results.failures(scenario, load, peer)
        runs = len(results.of(scenario, load, peer))
        name = f"**{title(peer)}**" if peer.startswith("sluice") else title(peer)
        cells = [f"{name} ({len(failures)} of {runs} failed)" if failures else name]
        for column in columns:
            spread = results.spread(scenario, load, peer, column.path)
            missing = "failed" if failures and len(failures) == runs else "–"
            cells.append(spread_words(spread, column.digits, column.factor) if spread else missing)
            if column.compared and compared:
                beside = results.ratio(scenario, load, peer, column.path)
                cells.append(ratio_words(beside.median) if beside and peer != "raw" else "")
        rows.append(cells)
        reasons += _reasons(title(peer), failures)
    return [*table(head, rows), *([""] if reasons else []), *reasons]


def _reasons(name: str, failures: Sequence[Measurement]) -> list[str]:
    said = [_line(each) for each in failures]
    return [f"- {name} failed {said.count(line)} ×: {line}" for line in dict.fromkeys(said)]


def _line(failure: Measurement) -> str:
    """Why it failed, in one line."""
    return " ".join((failure.failed or "").split())[:300]


def _parts(results: Results) -> list[str]:
    """What each part costs: the whole beside the same without it."""
    peers = ordered({each.peer for each in results.measurements if is_part(each.peer)})
    heading = ["## What each part costs", ""]
    if not peers:
        return [*heading, f"*{NOT_MEASURED.capitalize()}.*"]
    lines = [
        *heading,
        "Sluice with one part turned off (or on) beside Sluice as it is, in the same repetition: the "
        "figure's change, and its ratio. What is within the spread of the repetitions tells nothing.",
        "",
    ]
    return lines + _beside(results, peers, PART_FIGURES, lambda peer: "sluice", part)


def _blocking(results: Results) -> list[str]:
    peers = ordered({each.peer for each in results.measurements if is_blocking(each.peer)})
    heading = ["## Blocking producers", ""]
    if not peers:
        return [*heading, f"*{NOT_MEASURED.capitalize()}.*"]
    lines = [
        *heading,
        "The same tokens from a producer that blocks a thread, beside the same peer's asynchronous one in "
        "the same repetition.",
        "",
    ]
    return lines + _beside(results, peers, BLOCKING_FIGURES, lambda peer: peer.removesuffix(BLOCKING), title)


def _beside(
    results: Results, peers: Sequence[str], figures: Figures, base_of: Name, name_of: Name
) -> list[str]:
    """Peers beside the base of each: the median of what each repetition has for both, and the ratio."""
    used = [each for each in figures if any(results.of(each[1], each[2], peer) for peer in peers)]
    rows = []
    failed = []
    for peer in peers:
        cells = [name_of(peer)]
        for _, scenario, load, path, digits in used:
            ours = results.values(scenario, load, peer, path)
            theirs = results.values(scenario, load, base_of(peer), path)
            change = paired(ours, theirs, lambda one, other: one - other)
            beside = paired(ours, theirs, lambda one, other: one / other)
            mine = Spread.of(ours.values())
            failures = results.failures(scenario, load, peer)
            if change and beside:
                cells.append(
                    f"{round(change.median, digits) + 0.0:+,.{digits}f} ({ratio_words(beside.median)})"
                )
            elif mine:
                cells.append(spread_words(mine, digits))
            else:
                cells.append("failed" if failures else "–")
            failed += [(peer, each) for each in failures if (peer, each) not in failed]
        rows.append(cells)
    reasons = [
        f"- {name_of(peer)}, {each.scenario}, {load_words(each.load)}, repetition {each.repetition}: "
        + _line(each)
        for peer, each in failed
    ]
    return [*table(["", *(each[0] for each in used)], rows), *([""] if reasons else []), *reasons]


def _method(results: Results) -> list[str]:
    lines = [
        f"Measured from {results.started or '?'} to {results.finished or '(not finished)'} by `make bench`; "
        "rendered by `python -m benchmarks.streams.report` from "
        "[streams.json](streams.json), which has every single figure.",
        "",
        "Server and client run on processor cores of their own; the peers take turns within each repetition, "
        "each time in another order. All serve the same tokens. Sluice is measured as users run it: "
        "`manage.py serve`, production settings, API key, journal and records on. A run in which anything "
        "went wrong is a failure and has no figures.",
        "",
    ]
    rows = [
        (kind, name, value)
        for kind, facts in (
            ("machine", results.machine),
            ("versions", results.versions),
            ("method", results.method),
        )
        for name, value in facts.items()
    ]
    return lines + table(["", "", ""], [(kind, name, _plain(value)) for kind, name, value in rows], left=3)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- Files --------------------------------------------------------------------------------------------


def write(results_file: Path, out: Path, notes_file: Path = NOTES) -> list[Path]:
    """Render everything; returns the files. Raises `OSError` and `ValueError` for files that cannot be
    read."""
    # Only here, so that the page can be tested where there is nothing to draw with.
    from .plots import pictures

    results = Results.read(json.loads(results_file.read_text()))
    notes = tomllib.loads(notes_file.read_text())
    blocking = json.loads(BLOCKING_PRODUCERS.read_text()) if BLOCKING_PRODUCERS.exists() else None
    files = pictures(results)
    files["streams.md"] = page(results, notes, files, blocking)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out / name).write_text(text)
    return [out / name for name in files]


def main() -> int:
    """Render what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the raw results")
    parser.add_argument(
        "--out", type=Path, help="folder for report and pictures; default: that of the results"
    )
    arguments = parser.parse_args()
    try:
        files = write(arguments.results, arguments.out or arguments.results.parent)
    except FileNotFoundError as error:
        print(f"report: there is no {error.filename}; `make bench` measures", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"report: {error}: the extra `bench` has what draws the pictures", file=sys.stderr)
        return 1
    for each in files:
        print(each)
    return 0


if __name__ == "__main__":
    sys.exit(main())
