"""An observation and its diagnosis, as text for people and as plain data for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from django.utils.translation import gettext as _

from streaming.core.diagnosis import Diagnosis, Observation, Severity
from streaming.core.histogram import Histogram

from .client import Target
from .words import remedy, sentence

STEPS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
"""Milliseconds: upper bounds of the rows of a drawn histogram."""

WIDTH: Final = 40
"""Characters of its longest bar."""

LABEL: Final = 24
"""Columns of the names of numbers."""

MARKS: Final = {Severity.INFO: "·", Severity.SUSPICIOUS: "!", Severity.BROKEN: "✗"}

HEADERS: Final = (
    "content-type",
    "cache-control",
    "x-accel-buffering",
    "content-encoding",
    "server",
    "via",
    "x-stream-route",
)
"""Those that are shown."""


def as_text(target: Target, seen: Observation, diagnosis: Diagnosis) -> str:
    """All of it, in lines."""
    return "\n".join(_lines(target, seen, diagnosis))


def as_line(diagnosis: Diagnosis) -> str:
    """The numbers that matter and the worst finding, on one line."""
    measures = diagnosis.measures
    parts = [
        f"{name} {milliseconds(value)}"
        for name, value in (
            (_("first"), measures.first_content),
            (_("gap p50"), measures.gaps.percentile(50)),
            ("p95", measures.gaps.percentile(95)),
            (_("delay p95"), measures.delays.percentile(95)),
        )
    ]
    worst = diagnosis.findings[0]
    return f"{MARKS[worst.severity]} {' · '.join(parts)} · {worst.code}: {sentence(worst)}"


def as_data(target: Target, seen: Observation, diagnosis: Diagnosis) -> dict[str, Any]:
    """All of it, as JSON values. Times in milliseconds; the key is not in it."""
    measures = diagnosis.measures
    return {
        "url": target.base,
        "target": target.kind,
        "severity": diagnosis.severity.name.lower(),
        "findings": [
            {
                "code": each.code,
                "severity": each.severity.name.lower(),
                "message": sentence(each),
                "remedy": remedy(each),
                "evidence": each.evidence,
            }
            for each in diagnosis.findings
        ],
        "proxy": diagnosis.proxy,
        "connection": {
            "resolve": seen.resolve,
            "connect": seen.connect,
            "tls": seen.tls,
            "answered": seen.answered,
            "http_version": seen.http_version,
            "status": seen.status,
            "headers": {name: seen.headers[name] for name in HEADERS if name in seen.headers},
        },
        "stream": {
            "first_byte": measures.first_byte,
            "first_event": measures.first_event,
            "first_content": measures.first_content,
            "server_first_content": measures.server_first_content,
            "total": seen.total,
            "events": len(seen.arrivals),
            "reads": len(seen.reads),
            "bytes": measures.bytes,
            "heartbeats": seen.comments,
            "outcome": seen.outcome,
            "statuses": measures.statuses,
            "status_rate": measures.status_rate,
            "bunched": measures.bunched,
            "bursts": measures.bursts,
            "gaps": percentiles(measures.gaps),
            "sent_gaps": percentiles(measures.sent_gaps),
            "delays": percentiles(measures.delays),
            "late": percentiles(measures.late),
        },
        "pools": {name: msgspec.to_builtins(pool) for name, pool in seen.pools.items()},
    }


def percentiles(histogram: Histogram) -> dict[str, float | None]:
    """`p50`, `p95`, `p99` and `max`, in milliseconds."""
    return {
        **{f"p{each}": histogram.percentile(each) for each in (50, 95, 99)},
        "max": histogram.max,
    }


def milliseconds(value: float | None) -> str:
    """For people: `0.4 ms`, `350 ms`, `2.4 s`."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.1f} ms"
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.1f} s"


def drawn(histogram: Histogram) -> list[str]:
    """A bar for each step from the first with any to the last."""
    rows = [0] * (len(STEPS) + 1)
    for bound, count in histogram.bars():
        row = next(
            (number for number, step in enumerate(STEPS) if bound is not None and bound <= step * 1.01), -1
        )
        rows[row] += count
    taken = [number for number, count in enumerate(rows) if count]
    if not taken:
        return []
    most = max(rows)
    return [
        f"{_step(number):>12} {'█' * max(1, round(count / most * WIDTH)) if count else '':<{WIDTH}} {count}"
        for number, count in enumerate(rows)
        if taken[0] <= number <= taken[-1]
    ]


def _step(number: int) -> str:
    return f"> {STEPS[-1]} ms" if number == len(STEPS) else f"≤ {STEPS[number]} ms"


def _lines(target: Target, seen: Observation, diagnosis: Diagnosis) -> Iterator[str]:
    measures = diagnosis.measures
    yield f"Sluice doctor: {target.base} ({_asked(target)})"
    yield ""
    for name, value in (
        (_("name resolved"), seen.resolve),
        (_("connected"), seen.connect),
        (_("TLS"), seen.tls),
        (_("answered"), seen.answered),
        (_("first byte"), measures.first_byte),
        (_("first event"), measures.first_event),
        (_("first content"), measures.first_content),
        (_("… by the server's clock"), measures.server_first_content),
        (_("whole stream"), seen.total),
    ):
        if value is not None:
            yield _row(name, milliseconds(value))
    if seen.status is not None:
        yield _row(_("answer"), f"{seen.status} {seen.problem} {seen.http_version}".replace("  ", " "))
        for name in HEADERS:
            if name in seen.headers:
                yield _row(f"  {name}", seen.headers[name])
    if seen.arrivals:
        counts = _(
            "events: %(events)s, reads: %(reads)s, bytes: %(bytes)s, status messages: %(statuses)s"
        ) % {
            "events": len(seen.arrivals),
            "reads": len(seen.reads),
            "bytes": measures.bytes,
            "statuses": measures.statuses,
        }
        yield _row(_("came"), counts)
    yield from _histograms(diagnosis)
    yield ""
    for finding in diagnosis.findings:
        yield f"{MARKS[finding.severity]} {sentence(finding)}  [{finding.code}]"
        for line in remedy(finding).splitlines():
            yield f"    → {line}"


def _histograms(diagnosis: Diagnosis) -> Iterator[str]:
    measures = diagnosis.measures
    for name, histogram in (
        (_("between arrivals"), measures.gaps),
        (_("between sendings"), measures.sent_gaps),
        (_("delay on the way"), measures.delays),
        (_("late in the server"), measures.late),
    ):
        if histogram.count:
            numbers = percentiles(histogram)
            yield _row(name, "   ".join(f"{key} {milliseconds(value)}" for key, value in numbers.items()))
    bars = drawn(measures.gaps)
    if bars:
        yield ""
        yield _("Time between arrivals:")
        yield from bars


def _row(name: str, value: str) -> str:
    return f"  {name:<{LABEL}} {value.strip()}"


def _asked(target: Target) -> str:
    if target.kind == "probe":
        return _("probe: %(count)s events, one each %(interval)s ms") % {
            "count": target.count,
            "interval": target.interval,
        }
    return "ping" if target.kind == "ping" else _("a task of its own")
