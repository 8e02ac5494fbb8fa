"""What came of a load: text for a terminal, and one page of HTML that needs nothing from anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from typing import Any, Final

import msgspec
from django.utils.translation import get_language, gettext_noop
from django.utils.translation import gettext as _

from streaming.core.histogram import Histogram
from streaming.core.load import Second, Tally
from streaming.doctor.report import milliseconds

from .runner import Load

WIDTH: Final = 720
HEIGHT: Final = 120
"""Of a drawing, in its own units: it is as wide as the page, whose letters are not stretched with it."""

TICKS: Final = 5
"""Labels below a drawing, at most: so many have room on a telephone."""

SHOWN: Final = 200
"""Characters of a brief on a terminal."""

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b2a2f; --muted: #5b6b70; --line: #d5dfe2; --ground: #fff;
  --bar: #0b7285; --good: #69b37c; --bad: #b3261e; --warm: #c77700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eef0; --muted: #9fb0b5; --line: #2c3c42;
  --ground: #10191c; --bar: #4fc3d9; --good: #2f7d46; --bad: #ff8a80; --warm: #f3b15f; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--ground); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .load td { text-align: left; }
td { white-space: pre-wrap; }
.wide td + td, .load td:first-child { white-space: nowrap; }
@media (max-width: 30rem) { .wide { font-size: .75rem; } .wide th, .wide td { padding: .3rem .15rem; } }
.plot { margin: 0; padding: 0 1.5rem; color: var(--muted); font-size: .8rem; }
svg { display: block; width: 100%; height: 9rem; border: solid var(--line); border-width: 1px 0; }
.ticks { position: relative; height: 1.5em; }
.ticks span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.legend span { display: inline-block; margin-right: 1.2em; }
.legend svg { display: inline-block; width: 1.2em; height: .8em; border: 0; }
.bar { fill: var(--bar); } .complete { fill: var(--good); } .failed { fill: var(--bad); }
.refused { fill: var(--warm); }
polyline { fill: none; vector-effect: non-scaling-stroke; stroke: var(--ink); stroke-width: 2; }
polyline.casing { stroke: var(--ground); stroke-width: 5; }
.verdict { padding: .5rem .8rem; border-left: 4px solid var(--good); }
.verdict.bad { border-color: var(--bad); }
"""

CODES: Final = {
    "unreachable": gettext_noop("no connection"),
    "connection_lost": gettext_noop("connection lost"),
    "timeout": gettext_noop("not over in time"),
    "no_event_stream": gettext_noop("no event stream"),
    "bad_events": gettext_noop("events not understood"),
    "cut": gettext_noop("cut before its end"),
    "cancelled": gettext_noop("cancelled"),
    "no_record": gettext_noop("no record of it"),
}
"""What codes of the reader's own mean; others are the server's."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Which load it was, when it began, and what came of it."""

    load: Load
    begun: datetime
    tally: Tally


def as_data(report: Report) -> dict[str, Any]:
    """The report as JSON values; never with the key."""
    load, tally = report.load, report.tally
    return {
        "url": load.base,
        "begun": report.begun.isoformat(timespec="seconds"),
        "load": {
            "rate": load.plan.rate,
            "streams": load.plan.streams,
            "duration": load.plan.duration,
            "timeout": load.patience,
            "brief": load.brief,
        },
        **tally.summary(),
        "histograms": {
            name: [{"up_to_ms": bound, "count": count} for bound, count in _bars_of(histogram)]
            for name, histogram in (("first_content", tally.first), ("gap", tally.gaps))
        },
        "by_second": [
            {name: getattr(second, name) for name in second.__struct_fields__} for second in tally.seconds()
        ],
    }


def as_text(report: Report) -> str:
    """The report for a terminal."""
    return "\n".join(_lines(report))


def progress(tally: Tally, seconds: float) -> str:
    """Where the load stands, on one line."""
    return _(
        "%(seconds)s s · started %(started)s · open %(open)s · complete %(complete)s · failed %(failed)s · "
        "refused %(refused)s · first p95 %(first)s"
    ) % {
        "seconds": round(seconds),
        "started": tally.started,
        "open": tally.open,
        "complete": tally.outcomes["complete"],
        "failed": tally.outcomes["failed"],
        "refused": tally.outcomes["refused"],
        "first": milliseconds(tally.first.percentile(95)),
    }


def verdict(tally: Tally) -> str:
    """The end of it, in a sentence."""
    unknown = tally.exact["not_compared"]
    if tally.outcomes["failed"] or tally.outcomes["refused"] or tally.exact["wrong"]:
        return _("Not every stream came whole and exact.")
    if unknown:
        return _(
            "Every stream came to its end, but whether the text of %(count)s is exact is not known: the "
            "server does not show the records of their tasks."
        ) % {"count": unknown}
    if not tally.is_exact:
        return _("No stream came to its end, so none was compared.")
    if tally.outcomes["unfinished"]:
        return _("Every stream that had the time came whole and exact.")
    return _("Every stream came whole and exact.")


def _load_rows(report: Report) -> Iterator[tuple[str, str]]:
    plan = report.load.plan
    yield _("began"), report.begun.strftime("%Y-%m-%d %H:%M:%S %Z")
    if plan.rate is None:
        yield _("streams"), _("%(streams)s open all the time") % {"streams": plan.streams}
    elif plan.streams is None:
        yield _("streams"), _("%(rate)g a second") % {"rate": plan.rate}
    else:
        yield (
            _("streams"),
            _("%(rate)g a second, %(streams)s at most") % {"rate": plan.rate, "streams": plan.streams},
        )
    yield _("for"), f"{plan.duration:g} s"
    yield _("brief"), json.dumps(report.load.brief, ensure_ascii=False)


def _rows(tally: Tally) -> Iterator[tuple[str, dict[str, float | None]]]:
    summary = tally.summary()
    yield _("first content"), summary["first_content_ms"]
    yield _("between pieces"), summary["gap_ms"]
    yield _("whole stream"), summary["total_ms"]
    yield _("start, late here"), summary["start_late_ms"]


def _counts(tally: Tally) -> Iterator[tuple[str, str]]:
    summary = tally.summary()
    outcomes, exact = summary["outcomes"], summary["exact"]
    yield _("started"), str(summary["started"])
    yield _("complete"), str(outcomes["complete"])
    yield _("failed"), str(outcomes["failed"])
    yield _("refused"), str(outcomes["refused"])
    yield _("unfinished"), str(outcomes["unfinished"])
    yield _("exact text"), f"{exact['exact']} / {sum(exact.values())}"
    if exact["not_compared"]:
        yield _("not compared"), str(exact["not_compared"])
    for code, count in summary["codes"].items():
        yield f"  {_(CODES[code]) if code in CODES else code}", str(count)
    for route, count in summary["routes"].items():
        yield f"  {route}", str(count)
    yield _("seconds"), f"{summary['seconds']:.1f}"
    yield _("streams a second"), f"{summary['streams_per_second']:.1f}"
    yield _("characters a second"), f"{summary['characters_per_second']:.0f}"
    yield _("events a second"), f"{summary['events_per_second']:.0f}"


def _lines(report: Report) -> Iterator[str]:
    yield f"Sluice loadtest: {report.load.base}"
    yield ""
    for name, value in _load_rows(report):
        yield f"  {name:<22} {value if len(value) <= SHOWN else value[:SHOWN] + '…'}"
    yield ""
    for name, value in _counts(report.tally):
        yield f"  {name:<22} {value:>10}"
    yield ""
    yield f"  {'':<22} " + " ".join(f"{name:>10}" for name in ("p50", "p90", "p95", "p99", "max"))
    for name, numbers in _rows(report.tally):
        yield f"  {name:<22} " + " ".join(f"{milliseconds(value):>10}" for value in numbers.values())
    yield ""
    yield verdict(report.tally)


def as_html(report: Report) -> str:
    """The report as one page."""
    tally = report.tally
    load = _table_rows((name, value) for name, value in _load_rows(report))
    counts = _table_rows(_counts(tally))
    times = _table_rows((name, *map(milliseconds, numbers.values())) for name, numbers in _rows(tally))
    head = "".join(f"<th>{name}</th>" for name in ("", "p50", "p90", "p95", "p99", "max"))
    bad = "" if tally.is_exact else " bad"
    # Not in the page's literal, where makemessages sees no calls.
    heading = escape(_("Load test of %(url)s") % {"url": report.load.base})
    of_counts, of_times = escape(_("What came of it")), escape(_("Times"))
    plots = (
        _bars(_("From the intended start to the first content"), tally.first),
        _bars(_("Between two pieces of text"), tally.gaps),
        _course(_("Second by second: open streams, and how streams ended"), tally.seconds()),
    )
    return f"""<!doctype html>
<html lang="{get_language() or "en"}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Sluice loadtest</title><style>{STYLE}</style></head><body>
<h1>{heading}</h1>
<p class="verdict{bad}">{escape(verdict(tally))}</p>
<table class="load">{load}</table>
<h2>{of_counts}</h2><table>{counts}</table>
<h2>{of_times}</h2><div class="wide"><table><tr>{head}</tr>{times}</table></div>
{"".join(plots)}
</body></html>
"""


def _table_rows(rows: Iterator[tuple[str, ...]]) -> str:
    return "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)


def _bars_of(histogram: Histogram) -> list[tuple[float, int]]:
    """Bars, the last of which ends at the longest duration: its bucket's bound nothing reached."""
    longest = histogram.max or 0.0
    return [(longest if bound is None else min(bound, longest), count) for bound, count in histogram.bars()]


def _bars(title: str, histogram: Histogram) -> str:
    bars = _bars_of(histogram)
    if not bars:
        return _plot(title)
    most = max(count for _bound, count in bars)
    step = WIDTH / len(bars)
    drawn = []
    for number, (bound, count) in enumerate(bars):
        height = count / most * HEIGHT
        drawn.append(
            f'<rect class="bar" x="{number * step:.1f}" y="{HEIGHT - height:.1f}" '
            f'width="{step * 0.9:.1f}" height="{height:.1f}">'
            f"<title>≤ {milliseconds(bound)}: {count}</title></rect>"
        )
    ticks = [((number + 0.45) / len(bars), milliseconds(bars[number][0])) for number in _spread(len(bars))]
    return _plot(title, most, drawn, ticks)


def _spread(count: int) -> list[int]:
    """Numbers of the bars that get a label: the first, the last, and as many between as have room."""
    shown = min(count, TICKS)
    return [0] if shown == 1 else [round(each * (count - 1) / (shown - 1)) for each in range(shown)]


def _course(title: str, seconds: Sequence[Second]) -> str:
    if not seconds:
        return _plot(title)
    names = {"complete": _("complete"), "failed": _("failed or unfinished"), "refused": _("refused")}
    ends = max(each.complete + each.failed + each.refused for each in seconds)
    most = max(ends, max(each.open for each in seconds), 1)
    step, scale = WIDTH / len(seconds), HEIGHT / most
    drawn, points = [], []
    for number, second in enumerate(seconds):
        x, floor = number * step, float(HEIGHT)
        for name, word in names.items():
            count = getattr(second, name)
            if count:
                floor -= count * scale
                drawn.append(
                    f'<rect class="{name}" x="{x + step * 0.05:.1f}" y="{floor:.1f}" '
                    f'width="{step * 0.9:.1f}" height="{count * scale:.1f}">'
                    f"<title>{number} s: {count} {escape(word)}</title></rect>"
                )
        y = HEIGHT - second.open * scale
        points += [f"{x:.1f},{y:.1f}", f"{x + step:.1f},{y:.1f}"]
    # Seen on whatever it crosses: light around dark, or the other way round.
    drawn += [f'<polyline class="{each}" points="{" ".join(points)}"/>' for each in ("casing", "open")]
    legend = [(f'<rect class="{name}" width="12" height="8"/>', word) for name, word in names.items()]
    legend.append(('<polyline points="0,4 12,4"/>', _("open streams")))
    return _plot(title, most, drawn, [(0, "0 s"), (1, f"{len(seconds)} s")], legend)


def _plot(
    title: str,
    most: int = 0,
    drawn: Sequence[str] = (),
    ticks: Sequence[tuple[float, str]] = (),
    legend: Sequence[tuple[str, str]] = (),
) -> str:
    """A drawing with its heading, as wide as there is room. `most`: what its upper edge means; `ticks`:
    labels with their places, from 0 to 1; `legend`: pieces of a drawing with their words."""
    title = escape(title)
    if not drawn:
        nothing = escape(_("Nothing came."))
        return f"<h2>{title}</h2><p>{nothing}</p>"
    labels = "".join(
        f'<span style="left:{place * 100:.1f}%">{escape(label)}</span>' for place, label in ticks
    )
    words = "".join(
        f'<span><svg viewBox="0 0 12 8" aria-hidden="true">{sample}</svg> {escape(word)}</span>'
        for sample, word in legend
    )
    return (
        f'<h2>{title}</h2><figure class="plot">{most}'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'preserveAspectRatio="none" role="img" aria-label="{title}">{"".join(drawn)}</svg>'
        f'<div class="ticks">{labels}</div>'
        f'<div class="legend">{words}</div></figure>'
    )
