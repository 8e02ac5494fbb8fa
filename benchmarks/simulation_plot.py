"""The pictures of `simulation`: SVG, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from benchmarks.streams.plots import svg

LOOKS: Final = (
    ("#0072b2", "o"),
    ("#d55e00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#e69f00", "v"),
    ("#7f7f7f", "P"),
)


def pictures(result: Mapping[str, Any]) -> dict[str, str]:
    """Each picture by its file name."""
    return {
        "simulation-growth.svg": svg(
            "Streams at once that each resource bears (50 tokens/s each)",
            lambda axes: _growth(axes, result["growth"]["one of each"]),
            4.2,
        ),
        "simulation-line.svg": svg(
            f"{result['streams']:,} streams at once: who waits for a permit",
            lambda axes: _line(axes, result["scenarios"]),
            3.6,
        ),
    }


def _growth(axes: Axes, rows: list[dict[str, Any]]) -> None:
    processes = [row["processes"] for row in rows]
    names = [name for name in rows[0]["limits"] if name != "permits"]
    for (colour, marker), name in zip(LOOKS, names, strict=False):
        values = [row["limits"][name] for row in rows]
        axes.plot(processes, values, color=colour, marker=marker, markersize=4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("web processes, and as many workers, one core each; one Redis, one PostgreSQL")
    axes.set_ylabel("streams at once")
    axes.grid(visible=True)
    axes.legend()


def _line(axes: Axes, scenarios: Mapping[str, Any]) -> None:
    shown = {name: each["waiting"] for name, each in scenarios.items() if max(each["waiting"])}
    for (colour, _), (name, waiting) in zip(LOOKS, shown.items(), strict=False):
        axes.plot(range(1, len(waiting) + 1), waiting, color=colour, label=name)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("seconds of virtual time")
    axes.set_ylabel("streams that wait")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True)
    axes.legend()
