"""The statistics page as plain values: what happened in a range, ready to be drawn and read.

Everything comes from rollups and a few rows (`streaming.storage.statistics`); nothing looks at all tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django.http import QueryDict
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from streaming import conf
from streaming.core.rollup import (
    DAY,
    HOUR,
    RANGES,
    WEEK,
    Figures,
    Part,
    Percentiles,
    Range,
    Rollup,
    Summary,
    figures,
    summarise,
)
from streaming.core.routing import Reason, Route
from streaming.models import StreamTask
from streaming.storage.statistics import SlowTask, incomplete, parts_between, slowest, top_owners

from . import words
from .decisions import account_of

NAMES: Final = {
    HOUR.name: gettext_lazy("Hour"),
    DAY.name: gettext_lazy("Day"),
    WEEK.name: gettext_lazy("Week"),
}
"""Of the ranges, in the order in which they are offered."""

GOOD, NEUTRAL, FAIR, BAD, CALM = "#2e9e62", "#8a94a6", "#d08700", "#d64545", "#2a86b8"
"""Colours that can be told apart on light and dark grounds; words and dashes say the same."""

SLOWEST: Final = 5
"""Tasks in each of the lists of the slowest."""

_MORE: Final = (CALM, FAIR, BAD, "#8b5fbf", NEUTRAL, GOOD)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the page is to show: a range, and one pool or kind where not all."""

    range: Range
    pool: str
    kind: str

    @classmethod
    def of(cls, values: QueryDict) -> Choice:
        """As the address says; what it says wrongly is as if it said nothing."""
        return cls(
            RANGES.get(values.get("range", ""), HOUR),
            values.get("pool", "")[:64],
            values.get("kind", "")[:64],
        )

    def takes(self, part: Part) -> bool:
        """Whether the part is to be shown. Refusals are of no kind."""
        return self.pool in ("", part.pool) and self.kind in ("", part.kind)

    def query(self, **changes: str) -> str:
        """The address of this choice, or a changed one."""
        values = {"range": self.range.name, "pool": self.pool, "kind": self.kind} | changes
        made = QueryDict(mutable=True)
        made.update({name: value for name, value in values.items() if value})
        return f"?{made.urlencode()}"


@dataclass(frozen=True, slots=True)
class Tile:
    """A number of the whole range, with what it is made of."""

    name: str
    value: str
    note: str = ""
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """A line, or a part of each bar. Values by bucket; None where there is nothing to tell."""

    name: str
    colour: str
    values: list[float | None]


@dataclass(frozen=True, slots=True)
class Row:
    """What a chart shows of one bucket, in words."""

    start: datetime
    cells: list[str]


@dataclass(frozen=True, slots=True)
class Chart:
    """`shape`: `bars` (stacked) or `lines`; `unit`: see `_UNITS`. `rows`: its table, the newest bucket first,
    without those in which nothing was."""

    id: str
    title: str
    note: str
    shape: str
    unit: str
    series: list[Series]
    rows: list[Row]

    def drawn(self) -> dict[str, Any]:
        """For the script that draws it."""
        series = [{"name": each.name, "colour": each.colour, "values": each.values} for each in self.series]
        return {"shape": self.shape, "unit": self.unit, "series": series}


@dataclass(frozen=True, slots=True)
class Slow:
    """One of the slowest. `why`: sentences about where its time went."""

    milliseconds: float
    row: StreamTask
    why: list[str]

    @property
    def took(self) -> str:
        """How long, in words."""
        return words.duration(self.milliseconds)


@dataclass(frozen=True, slots=True)
class SlowList:
    """The slowest by one measure, longest first."""

    title: str
    tasks: list[Slow]


@dataclass(frozen=True, slots=True)
class Count:
    """How often something was so, and its share of all. `name`: None for nobody's."""

    name: str | None
    number: int
    share: float

    @property
    def in_words(self) -> str:
        """The number and its share."""
        return f"{words.count(self.number)} ({words.share(self.share)})"


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of one thing, most first. `none`: what is said where there are none."""

    title: str
    none: str
    counts: list[Count]


@dataclass(frozen=True, slots=True)
class Place:
    """A pool or a kind, in numbers."""

    name: str
    query: str
    cells: list[str]


@dataclass(frozen=True, slots=True)
class Report:
    """See the module. `owners_at_least`: the owners may have asked more often than it says."""

    empty: bool
    incomplete: bool
    kinds: list[str]
    tiles: list[Tile]
    charts: list[Chart]
    slow: list[SlowList]
    counts: list[Counts]
    owners: list[Count]
    owners_at_least: bool
    pools: list[Place]
    of_kinds: list[Place]
    starts: list[float]

    def drawn(self) -> dict[str, Any]:
        """For the script that draws the charts. `starts`: of the buckets, seconds since the epoch."""
        return {"starts": self.starts, "charts": {chart.id: chart.drawn() for chart in self.charts}}


def report_of(choice: Choice, now: datetime | None = None) -> Report:
    """What the choice shows now. Raises what the database raises."""
    moment = now or timezone.now()
    seconds = moment.timestamp()
    parts = list(parts_between(choice.range.start(seconds), seconds))
    summary = summarise(filter(choice.takes, parts), choice.range, seconds)
    totals = summary.totals
    slow = slowest(summary.whole, SLOWEST)
    return Report(
        empty=not totals.asked and not totals.ended,
        incomplete=incomplete(),
        kinds=sorted({part.kind for part in parts if part.kind} | {choice.kind} - {""}),
        tiles=_tiles(totals),
        charts=_charts(summary),
        slow=[
            SlowList(_("Longest in the queue"), _slow(slow.queue_wait)),
            SlowList(_("Latest first content"), _slow(slow.first_content)),
            SlowList(_("Longest in all"), _slow(slow.total)),
            SlowList(_("In the queue in vain"), _slow(slow.in_vain)),
        ],
        counts=_counts(summary.whole),
        owners=_owners(summary.whole),
        owners_at_least=sum(summary.whole.owners.values()) < sum(summary.whole.accepted.values()),
        pools=_places(summary.pools, summary, lambda name: choice.query(pool=name)),
        of_kinds=_places(summary.kinds, summary, lambda name: choice.query(kind=name)),
        starts=summary.starts,
    )


def choices(choice: Choice, kinds: Iterable[str]) -> dict[str, Any]:
    """What else can be chosen, for the page's navigation and its form."""
    return {
        "ranges": [(name, choice.query(range=key), key == choice.range.name) for key, name in NAMES.items()],
        "pools": [*conf.pools()],
        "kinds": [*kinds],
    }


# Tiles


def _tiles(totals: Figures) -> list[Tile]:
    return [
        Tile(_("Tasks"), words.count(totals.asked), _("{0} ended").format(words.count(totals.ended))),
        Tile(_("At once"), words.share(totals.direct_share), words.count(totals.direct)),
        Tile(_("Via the queue"), words.share(totals.queued_share), words.count(totals.queued)),
        Tile(
            _("Refused"),
            words.share(totals.rejected_share),
            words.count(totals.rejected),
            totals.rejected > 0,
        ),
        Tile(_("Failed"), words.share(totals.error_share), words.count(totals.failed), totals.failed > 0),
        _percentiles_tile(_("Queue wait"), totals.queue_wait),
        _percentiles_tile(_("First content"), totals.first_content),
        Tile(
            _("Tokens per second"),
            words.decimal(totals.tokens_per_second),
            _("{0} in one stream").format(words.decimal(totals.stream_tokens_per_second)),
        ),
        Tile(
            _("Status messages"),
            words.decimal(totals.status_per_task),
            _("per task, {0} in all").format(words.count(totals.status_messages)),
        ),
        Tile(_("Resumes"), words.count(totals.resumes), _("readers who came back")),
    ]


def _percentiles_tile(name: str, of: Percentiles) -> Tile:
    rest = " · ".join(f"{each} {words.duration(value)}" for each, value in (("p50", of.p50), ("p99", of.p99)))
    return Tile(f"{name} (p95)", words.duration(of.p95), rest)


# Charts

_UNITS: Final[Mapping[str, Callable[[Any], str]]] = {
    "count": lambda value: words.NOTHING if value is None else words.count(value),
    "duration": words.duration,
    "share": words.share,
    "decimal": words.decimal,
}
"""How numbers of a unit are put into words here; the page's script does the same for the axes."""


def _charts(summary: Summary) -> list[Chart]:
    each = [bucket for _start, bucket in summary.series()]
    busy = [
        (number, datetime.fromtimestamp(start, UTC))
        for number, (start, bucket) in enumerate(summary.series())
        if bucket.asked or bucket.ended
    ]

    def chart(name: str, title: str, note: str, shape: str, unit: str, *series: Series) -> Chart:
        return Chart(name, title, note, shape, unit, [*series], _rows(busy, series, _UNITS[unit]))

    def line(name: str, colour: str, value: Callable[[Figures], float | None]) -> Series:
        return Series(name, colour, [_rounded(value(bucket)) for bucket in each])

    def percentiles(value: Callable[[Figures], Percentiles]) -> list[Series]:
        return [
            line("p50", CALM, lambda bucket: value(bucket).p50),
            line("p95", FAIR, lambda bucket: value(bucket).p95),
            line("p99", BAD, lambda bucket: value(bucket).p99),
        ]

    states = StreamTask.Status
    charts = [
        chart(
            "tasks",
            _("Tasks and errors"),
            _("Tasks by their end."),
            "bars",
            "count",
            line(str(states.COMPLETE.label), GOOD, lambda bucket: bucket.complete),
            line(str(states.CANCELLED.label), NEUTRAL, lambda bucket: bucket.cancelled),
            line(str(states.ERROR.label), BAD, lambda bucket: bucket.failed),
        ),
        chart(
            "routes",
            _("Routes"),
            _("Share of all tasks that were asked for."),
            "bars",
            "share",
            line(str(words.ROUTES[Route.DIRECT]), CALM, lambda bucket: bucket.direct_share),
            line(str(words.ROUTES[Route.QUEUED]), FAIR, lambda bucket: bucket.queued_share),
            line(str(words.ROUTES[Route.REJECTED]), BAD, lambda bucket: bucket.rejected_share),
        ),
        chart(
            "first-content",
            _("Time to first content"),
            _("From the call to the first text."),
            "lines",
            "duration",
            *percentiles(lambda bucket: bucket.first_content),
        ),
        chart(
            "queue-wait",
            _("Wait in the queue"),
            _("Of tasks that came through the queue and got a worker."),
            "lines",
            "duration",
            *percentiles(lambda bucket: bucket.queue_wait),
        ),
        chart(
            "tokens",
            _("Tokens per second"),
            _("The whole service; and one stream while it writes."),
            "lines",
            "decimal",
            line(_("service"), CALM, lambda bucket: bucket.tokens_per_second),
            line(_("one stream"), GOOD, lambda bucket: bucket.stream_tokens_per_second),
        ),
        chart(
            "status",
            _("Status messages per task"),
            _("Of the tasks that ended."),
            "lines",
            "decimal",
            line(_("per task"), CALM, lambda bucket: bucket.status_per_task),
        ),
    ]
    if refusals := _refusals(summary):
        note = _("Tasks that were not taken, by reason.")
        charts.append(chart("refusals", _("Refusals"), note, "bars", "count", *refusals))
    return charts


def _refusals(summary: Summary) -> list[Series]:
    """One for each reason that there was."""
    return [
        Series(
            words.word(reason, words.REASONS),
            _MORE[number % len(_MORE)],
            [bucket.refusals.get(reason, 0) for bucket in summary.buckets],
        )
        for number, reason in enumerate(sorted(summary.whole.refusals, key=_order_of_reason))
    ]


def _order_of_reason(reason: str) -> tuple[int, str]:
    """That of the list of reasons, so that colours stay; unknown ones come last."""
    known = [each.value for each in Reason]
    return known.index(reason) if reason in known else len(known), reason


def _rounded(value: float | None) -> float | None:
    """With the digits that one can see."""
    return value if value is None or isinstance(value, int) else round(value, 4)


def _rows(
    busy: list[tuple[int, datetime]], series: Iterable[Series], in_words: Callable[[Any], str]
) -> list[Row]:
    """Of the buckets in which something was: their numbers and starts."""
    columns = [each.values for each in series]
    rows = [(moment, [values[number] for values in columns]) for number, moment in busy]
    told = [Row(moment, [*map(in_words, cells)]) for moment, cells in rows if set(cells) != {None}]
    return told[::-1]


# Tables


def _slow(tasks: list[SlowTask]) -> list[Slow]:
    return [Slow(each.milliseconds, each.row, account_of(each.row)) for each in tasks]


def _counts(whole: Rollup) -> list[Counts]:
    return [
        Counts(_("Refused, by reason"), _("None was refused."), _shares(whole.refusals, words.REASONS)),
        Counts(_("Failed, by error code"), _("None failed."), _shares(whole.errors, {})),
        Counts(
            _("Cancelled, by whom"), _("None was cancelled."), _shares(whole.cancelled, words.CANCELLED_BY)
        ),
        Counts(
            _("Accepted, by reason of the route"),
            _("None was accepted."),
            _shares(whole.reasons, words.REASONS),
        ),
    ]


def _shares(counts: Mapping[str, int], names: Any) -> list[Count]:
    whole = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Count(words.word(name, names), number, number / whole) for name, number in ordered]


def _owners(whole: Rollup) -> list[Count]:
    accepted = sum(whole.accepted.values())
    # Nobody's name is none: all anonymous callers together.
    named = [Count(owner.name, owner.tasks, owner.tasks / accepted) for owner in top_owners(whole)]
    others = accepted - sum(count.number for count in named)
    return [*named, Count(_("all others"), others, others / accepted)] if others else named


def _places(rollups: Mapping[str, Rollup], summary: Summary, place: Callable[[str], str]) -> list[Place]:
    seconds = summary.seconds
    rows = [(name, figures(rollup, seconds)) for name, rollup in rollups.items()]
    rows.sort(key=lambda row: (-row[1].asked, row[0]))
    return [
        Place(
            name,
            place(name),
            [
                words.count(each.asked),
                words.share(each.queued_share),
                words.share(each.rejected_share),
                words.share(each.error_share),
                words.duration(each.queue_wait.p95),
                words.duration(each.first_content.p95),
                words.decimal(each.tokens_per_second),
            ],
        )
        for name, each in rows
    ]
