"""The picture of `fairness`: an SVG of bars, readable on light and dark pages and without colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from xml.sax.saxutils import escape

WIDTH: Final = 900
LEFT: Final = 300
RIGHT: Final = 660
"""Where the scale begins and ends, in pixels."""

LONGEST: Final = 180.0
"""Seconds at the end of the scale; longer waits end in an arrow, their figures stand beside."""

# Heights in pixels.
ROW: Final = 17
GAP: Final = 6
TITLE: Final = 34
TOP: Final = 62
FOOT: Final = 30

STYLE: Final = """
    .page { fill: #ffffff; }
    text { fill: #1f2328; }
    .note { fill: #57606a; font-size: 11px; }
    .title { font-weight: 600; font-size: 14px; }
    .end { text-anchor: end; }
    .middle { text-anchor: middle; }
    .grid { stroke: #d8dee4; }
    .line0 { fill: #8c959f; stroke: #57606a; }
    .line1 { fill: #bf8700; stroke: #7d4e00; }
    .line2 { fill: #0969da; stroke: #033d8b; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117; }
      text { fill: #e6edf3; }
      .note { fill: #9da7b3; }
      .grid { stroke: #30363d; }
      .line0 { fill: #6e7681; stroke: #b1bac4; }
      .line1 { fill: #9e6a03; stroke: #e3b341; }
      .line2 { fill: #1f6feb; stroke: #79c0ff; }
    }
"""


def plot(result: dict[str, Any]) -> str:
    """The SVG of a result of `fairness.run`."""
    body: list[str] = []
    y = TOP
    for scenario in result["scenarios"].values():
        panel, y = _panel(scenario, y)
        body += panel
    return "\n".join([*_head(y + FOOT), *body, *_feet(y), "</svg>"]) + "\n"


def _head(height: int) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-labelledby="title desc" font-family="system-ui, -apple-system, \'Segoe UI\', sans-serif" '
        'font-size="12">'
    )
    yield '<title id="title">Waits by class and owner, Sluice beside FIFO</title>'
    yield '<desc id="desc">Bars of the median wait with whiskers to the 95th percentile and a mark at the '
    yield "longest, for each group of tasks and each kind of line; the figures stand beside the bars.</desc>"
    yield f"<style>{STYLE}</style>"
    yield f'<rect class="page" width="{WIDTH}" height="{height}"/>'
    yield _text(
        16, 26, "Seconds until a permit: bar to the median, whisker to p95, mark at the longest", "title"
    )
    yield _text(RIGHT + 12, 26, "median / p95 / longest · refused", "note")


def _panel(scenario: dict[str, Any], y: int) -> tuple[list[str], int]:
    """One scenario's drawing from `y` on, and where the next begins."""
    parts = [_text(16, y + 20, scenario["title"], "title")]
    y += TITLE
    names = list(scenario["lines"])
    for group in scenario["groups"]:
        parts.append(_text(16, y + 12, group))
        for name in names:
            figures = scenario["lines"][name][f"by_{scenario['by']}"][group]
            parts += _row(name, _look(names, name), figures, y)
            y += ROW
        y += GAP
    return parts, y + GAP


def _look(names: list[str], name: str) -> str:
    """The first line is always the plain queue, the last always the service as shipped."""
    return "line0" if name == names[0] else "line2" if name == names[-1] else "line1"


def _row(name: str, look: str, figures: dict[str, Any], y: int) -> Iterator[str]:
    middle = y + ROW / 2
    yield _text(LEFT - 8, middle + 4, name, "note end")
    if figures["served"]:
        median, p95, longest = (_x(figures[key]) for key in ("median", "p95", "max"))
        yield f'<rect class="{look}" x="{LEFT}" y="{y + 4}" width="{median - LEFT:.1f}" height="{ROW - 8}"/>'
        yield f'<path class="{look}" d="M{median:.1f} {middle}H{p95:.1f}"/>'
        beyond = figures["max"] > LONGEST
        mark = f"l-6 -4v8l6 -4h-{longest - p95:.1f}" if beyond else "m0 -5v10"
        yield f'<path class="{look}" d="M{longest:.1f} {middle}{mark}"/>'
    yield _text(RIGHT + 12, middle + 4, _words(figures), "note")


def _words(figures: dict[str, Any]) -> str:
    refused = 1 - figures["served"] / figures["asked"]
    if not figures["served"]:
        return "none served"
    waits = " / ".join(f"{figures[key]:,.0f}" for key in ("median", "p95", "max"))
    return f"{waits} s · {refused:.0%} refused"


def _feet(y: int) -> Iterator[str]:
    for seconds in range(0, int(LONGEST) + 1, 30):
        x = _x(seconds)
        yield f'<path class="grid" d="M{x:.1f} {TOP - 8}V{y}" stroke-opacity="0.6"/>'
        for height in (TOP - 14, y + 16):
            yield _text(x, height, f"{seconds} s", "note middle")


def _x(seconds: float) -> float:
    return LEFT + (RIGHT - LEFT) * min(seconds, LONGEST) / LONGEST


def _text(x: float, y: float, words: str, look: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{look}">{escape(words)}</text>'
