"""The pictures of the report: SVG, the same bytes for the same figures, readable on light and dark pages.

Colours are those of Okabe and Ito, which people with any colour vision can tell apart; in lines each peer has
a marker of its own besides.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from .figures import Load, Results, Spread
from .goals import FULL, IDLE, SHORT
from .peers_shown import is_blocking, is_part, ordered, title

PAGE: Final = "#ffffff"
INK: Final = "#24292f"
GRID: Final = "#d0d7de"

DARK: Final = {PAGE: "#0d1117", INK: "#e6edf3", GRID: "#30363d"}
"""What the page's own colours become where the reader prefers dark ones."""

SLUICE: Final = "#d55e00"
OTHERS: Final = "#56b4e9"

LOOKS: Final = {
    "raw": ("#009e73", "s"),
    "starlette": ("#0072b2", "^"),
    "fastapi": ("#56b4e9", "v"),
    "channels": ("#cc79a7", "D"),
    "django-bare": ("#999999", "P"),
    "django": ("#b58900", "X"),
    "django-auth": ("#8c6d31", "*"),
    "eventstream": ("#7f7f7f", "h"),
    "sluice": (SLUICE, "o"),
    "sluice-uncoalesced": ("#e69f00", "o"),
}
OTHER_LOOK: Final = ("#777777", ".")

STYLE: Final[Any] = {
    "svg.hashsalt": "streams",
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.facecolor": PAGE,
    "figure.facecolor": PAGE,
    "savefig.facecolor": PAGE,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "legend.edgecolor": GRID,
    "legend.facecolor": PAGE,
    "legend.framealpha": 0.9,
}

WIDTH: Final = 8.6
"""Inches."""


def pictures(results: Results) -> dict[str, str]:
    """Each picture for which there are figures, by file name."""
    drawn = {
        "streams-start.svg": bars(
            results,
            "Time to first content, idle server",
            "µs (median of repetitions' p50; logarithmic)",
            [
                ("kept connection", "start", IDLE, "first_content_us.p50"),
                ("new connection", "start", {"keep_alive": False}, "first_content_us.p50"),
            ],
            logarithmic=True,
        ),
        "streams-tokens.svg": bars(
            results,
            "Full speed on one core",
            "tokens/s",
            [
                ("in bursts", "burst", FULL, "tokens_per_second"),
                ("a suspension for each token", "step", FULL, "tokens_per_second"),
            ],
        ),
        "streams-short.svg": bars(
            results,
            "Streams of 20 tokens on one core",
            "streams/s",
            [("", "short", SHORT, "streams_per_second")],
        ),
        "streams-lateness.svg": curves(
            results,
            "paced",
            "late_ms.p99",
            "Lateness of the oldest token of an event, p99",
            "ms after its due time",
        ),
        "streams-cpu.svg": curves(
            results, "paced", "cpu_us_per_token", "Processor time per token", "µs of server CPU"
        ),
        "streams-memory.svg": curves(
            results, "memory", "kib_per_stream", "Memory per open stream", "KiB (proportional set size)"
        ),
    }
    return {name: svg for name, svg in drawn.items() if svg is not None}


Series = tuple[str, str, Load, str]
"""Label, scenario, load and figure."""


def bars(
    results: Results, heading: str, unit: str, series: Sequence[Series], logarithmic: bool = False
) -> str | None:
    """Horizontal bars by peer, with whiskers from the least to the most. None without figures."""
    spreads = [
        {
            peer: spread
            for peer in results.peers(scenario, load)
            if not is_part(peer) and (spread := results.spread(scenario, load, peer, path))
        }
        for _, scenario, load, path in series
    ]
    peers = ordered({peer for each in spreads for peer in each})
    if not peers:
        return None
    height = 0.8 / len(series)

    def draw(axes: Axes) -> None:
        for number, (found, (label, *_)) in enumerate(zip(spreads, series, strict=True)):
            for row, peer in enumerate(peers):
                if peer in found:
                    _bar(axes, row - 0.4 + height * (number + 0.5), height, found[peer], peer, number)
            if label:
                axes.barh([0], [0], color=OTHERS, alpha=1 - 0.45 * number, label=label)
        axes.set_yticks(range(len(peers)), [title(peer) for peer in peers])
        axes.invert_yaxis()
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        # Room for the figures beside the bars.
        most = max(each.high for found in spreads for each in found.values())
        axes.set_xlim(right=most * (2.5 if logarithmic else 1.15))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel(unit)
        axes.grid(axis="x")
        if len(series) > 1:
            axes.legend(loc="best")

    return svg(heading, draw, 1.1 + 0.24 * len(peers) * (1 + 0.6 * (len(series) - 1)))


def _bar(axes: Axes, y: float, height: float, spread: Spread, peer: str, number: int) -> None:
    colour = SLUICE if peer.startswith("sluice") else OTHERS
    axes.barh([y], [spread.median], height * 0.92, color=colour, alpha=1 - 0.45 * number, zorder=2)
    axes.plot([spread.low, spread.high], [y, y], color=INK, linewidth=1, zorder=3)
    axes.annotate(
        f"{spread.median:,.0f}",
        (spread.high, y),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        fontweight="bold" if peer.startswith("sluice") else "normal",
    )


def curves(results: Results, scenario: str, path: str, heading: str, unit: str) -> str | None:
    """A figure over the number of streams, a line for each peer. None where no peer has two points.

    Loads of another rate than the most usual one are points without a line.
    """
    loads = [load for load in results.loads(scenario) if "streams" in load]
    rates = [load.get("rate") for load in loads]
    usual = max(set(rates), key=lambda rate: (rates.count(rate), rate or 0)) if rates else None
    lines: dict[str, list[tuple[float, Spread]]] = {}
    points: dict[str, list[tuple[float, Spread]]] = {}
    for load in loads:
        for peer in results.peers(scenario, load):
            spread = results.spread(scenario, load, peer, path)
            if spread is not None and not is_part(peer) and not is_blocking(peer):
                where = lines if load.get("rate") == usual else points
                where.setdefault(peer, []).append((load["streams"], spread))
    lines = {peer: found for peer, found in lines.items() if len(found) > 1}
    if not lines:
        return None
    others = sorted({rate for rate in rates if rate is not None and rate != usual})

    def draw(axes: Axes) -> None:
        for peer in ordered(lines):
            colour, marker = LOOKS.get(peer, OTHER_LOOK)
            ours = peer.startswith("sluice")
            look: dict[str, Any] = {"color": colour, "marker": marker, "zorder": 4 if ours else 2}
            found = sorted(lines[peer], key=lambda each: each[0])
            x = [streams for streams, _ in found]
            axes.fill_between(
                x, [each.low for _, each in found], [each.high for _, each in found], color=colour, alpha=0.15
            )
            axes.plot(
                x,
                [each.median for _, each in found],
                linewidth=2.6 if peer == "sluice" else 1.4,
                markersize=6,
                label=title(peer),
                **look,
            )
            for streams, spread in points.get(peer, []):
                axes.plot([streams], [spread.median], markersize=7, fillstyle="none", **look)
        axes.set_xscale("log")
        axes.set_yscale("log")
        ticks = sorted({float(load["streams"]) for load in loads})
        axes.set_xticks(ticks, [f"{each:,.0f}" for each in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        plain = FuncFormatter(lambda value, _: f"{value:,g}")
        axes.yaxis.set_major_formatter(plain)
        lowest, highest = axes.get_ylim()
        # Over several decades the powers of ten are enough.
        axes.yaxis.set_minor_formatter(plain if highest < 50 * lowest else NullFormatter())
        axes.set_xlabel(_streams_label(usual, others))
        axes.set_ylabel(f"{unit} (logarithmic)")
        axes.grid()
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))

    return svg(heading, draw, 4.6)


def _streams_label(usual: float | None, others: Sequence[float]) -> str:
    label = "open streams (logarithmic)"
    if usual is not None:
        label += f", {usual:g} tokens/s each"
    if others:
        label += f"; hollow: {', '.join(f'{rate:g}' for rate in others)} tokens/s each"
    return label


def svg(heading: str, draw: Callable[[Axes], None], height: float) -> str:
    """One picture, `height` inches high."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_title(heading, loc="left", fontweight="bold")
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": heading})
    return _for_dark_pages(buffer.getvalue())


def _for_dark_pages(svg: str) -> str:
    """The SVG with a style sheet that exchanges its neutral colours where the reader prefers dark pages."""
    rules = "".join(
        f'[style*="{kind}: {light}"] {{ {kind}: {dark} !important }}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark) {{ {rules} }}</style>"
    svg = re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)
    return svg.replace("<defs>", f"{style}\n <defs>", 1)
