"""What came of a load: text for a terminal, and one page of HTML that needs nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Final

from django.utils.translation import gettext as _

from streaming.core.histogram import Histogram
from streaming.core.load import Second, Tally

WIDTH: Final = 720
HEIGHT: Final = 180
MARGIN: Final = 36

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b2a2f; --muted: #5b6b70; --line: #d5dfe2; --ground: #fff;
  --bar: #0b7285;  --good: #1e7b34; --bad: #b3261e; --warm: #a35200; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eef0; --muted: #9fb0b5; --line: #2c3c42;
  --ground: #10191c;  --bar: #4fc3d9; --good: #6fcf87; --bad: #ff8a80; --warm: #f3b15f; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--ground); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: auto; } svg text { fill: var(--muted); font-size: 11px; }
.bar { fill: var(--bar); } .axis { stroke: var(--line); }
.open { stroke: var(--bar); fill: none; stroke-width: 2; }
.complete { fill: var(--good); } .failed { fill: var(--bad); } .refused { fill: var(--warm); }
.verdict { padding: .5rem .8rem; border-left: 4px solid var(--good); }
.verdict.bad { border-color: var(--bad); }
"""


def as_data(url: str, tally: Tally) -> dict[str, Any]:
    """The report as JSON values."""
    return {
        "url": url,
        **tally.summary(),
        "histograms": {
            name: [{"up_to_ms": bound, "count": count} for bound, count in histogram.bars()]
            for name, histogram in (("first_content", tally.first), ("gap", tally.gaps))
        },
        "by_second": [
            {name: getattr(second, name) for name in second.__struct_fields__} for second in tally.seconds()
        ],
    }


def as_text(url: str, tally: Tally) -> str:
    """The report for a terminal."""
    return "\n".join(_lines(url, tally))


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
        "first": _ms(tally.first.percentile(95)),
    }


def verdict(tally: Tally) -> str:
    """The end of it, in a sentence."""
    if not tally.is_exact:
        return _("Not every stream came whole and exact.")
    if tally.outcomes["unfinished"]:
        return _("Every stream that had the time came whole and exact.")
    return _("Every stream came whole and exact.")


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
    yield _("exact text"), f"{exact['exact']} / {exact['exact'] + exact['wrong']}"
    for code, count in summary["codes"].items():
        yield f"  {code}", str(count)
    for route, count in summary["routes"].items():
        yield f"  {route}", str(count)
    yield _("streams a second"), f"{summary['streams_per_second']:.1f}"
    yield _("characters a second"), f"{summary['characters_per_second']:.0f}"
    yield _("events a second"), f"{summary['events_per_second']:.0f}"


def _lines(url: str, tally: Tally) -> Iterator[str]:
    yield f"Sluice loadtest: {url}"
    yield ""
    for name, value in _counts(tally):
        yield f"  {name:<22} {value:>10}"
    yield ""
    yield f"  {'':<22} " + " ".join(f"{name:>10}" for name in ("p50", "p90", "p95", "p99", "max"))
    for name, numbers in _rows(tally):
        yield f"  {name:<22} " + " ".join(f"{_ms(value):>10}" for value in numbers.values())
    yield ""
    yield verdict(tally)


def as_html(url: str, tally: Tally) -> str:
    """The report as one page."""
    counts = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in _counts(tally)
    )
    times = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{_ms(value)}</td>' for value in numbers.values())}</tr>"
        for name, numbers in _rows(tally)
    )
    head = "".join(f"<th>{name}</th>" for name in ("", "p50", "p90", "p95", "p99", "max"))
    bad = "" if tally.is_exact else " bad"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Sluice loadtest</title><style>{STYLE}</style></head><body>
<h1>{escape(_("Load test of %(url)s") % {"url": url})}</h1>
<p class="verdict{bad}">{escape(verdict(tally))}</p>
<table>{counts}</table>
<h2>{escape(_("Times"))}</h2><table><tr>{head}</tr>{times}</table>
<h2>{escape(_("From the intended start to the first content"))}</h2>{_bars(tally.first)}
<h2>{escape(_("Between two pieces of text"))}</h2>{_bars(tally.gaps)}
<h2>{escape(_("Second by second: open streams (line), ends (bars)"))}</h2>{_course(tally.seconds())}
</body></html>
"""


def _bars(histogram: Histogram) -> str:
    bars = histogram.bars()
    if not bars:
        return f"<p>{escape(_('Nothing came.'))}</p>"
    most = max(count for _bound, count in bars)
    step = (WIDTH - 2 * MARGIN) / len(bars)
    drawn = []
    for number, (bound, count) in enumerate(bars):
        height = count / most * (HEIGHT - 2 * MARGIN)
        label = f"≤ {_ms(bound)}: {count}" if bound is not None else str(count)
        drawn.append(
            f'<rect class="bar" x="{MARGIN + number * step:.1f}" y="{HEIGHT - MARGIN - height:.1f}" '
            f'width="{max(step - 1, 0.5):.1f}" height="{height:.1f}"><title>{label}</title></rect>'
        )
    every = max(1, len(bars) // 8)
    drawn += [
        f'<text x="{MARGIN + (number + 0.5) * step:.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">'
        f"{_ms(bound)}</text>"
        for number, (bound, _count) in enumerate(bars)
        if number % every == 0
    ]
    return _drawing([*drawn, _axis(most)])


def _course(seconds: Sequence[Second]) -> str:
    if not seconds:
        return f"<p>{escape(_('Nothing came.'))}</p>"
    ends = max(each.complete + each.failed + each.refused for each in seconds)
    most = max(ends, max(each.open for each in seconds), 1)
    step, scale = (WIDTH - 2 * MARGIN) / len(seconds), (HEIGHT - 2 * MARGIN) / most
    drawn, points = [], []
    for number, second in enumerate(seconds):
        x, floor = MARGIN + number * step, float(HEIGHT - MARGIN)
        for name in ("complete", "failed", "refused"):
            height = getattr(second, name) * scale
            if height:
                floor -= height
                drawn.append(
                    f'<rect class="{name}" x="{x:.1f}" y="{floor:.1f}" width="{max(step - 1, 0.5):.1f}" '
                    f'height="{height:.1f}"><title>{number} s: {getattr(second, name)} {name}</title></rect>'
                )
        points.append(f"{x + step / 2:.1f},{HEIGHT - MARGIN - second.open * scale:.1f}")
    line = f'<polyline class="open" points="{" ".join(points)}"/>'
    end = f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - MARGIN + 16}" text-anchor="end">{len(seconds)} s</text>'
    return _drawing([*drawn, line, end, _axis(most)])


def _axis(most: int) -> str:
    floor = HEIGHT - MARGIN
    return (
        f'<line class="axis" x1="{MARGIN}" y1="{floor}" x2="{WIDTH - MARGIN}" y2="{floor}"/>'
        f'<text x="{MARGIN - 4}" y="{MARGIN}" text-anchor="end">{most}</text>'
    )


def _drawing(parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.1f} ms"
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.1f} s"
