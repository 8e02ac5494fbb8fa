"""What happened in a period, in counts and histograms: what the statistics page and alerts are computed from,
whatever the number of tasks.

A `Rollup` is about the tasks of one pool and kind in one period. Rollups merge in any order and grouping,
without loss (but for owners who ask seldom, where there are many); so it does not matter in which processes
and minutes tasks were counted. A `Summary` lays those of a range out for charts. Everything about a task is
counted at its end, in the minute of its end; only that it was accepted is counted in the minute when it was.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from .histogram import Histogram

SLOWEST: Final = 10
"""Tasks that are kept by name in each of a rollup's lists."""

OWNERS: Final = 100
"""Owners whose tasks an encoded rollup counts by name: those with the most."""

OWNERS_IN_MEMORY: Final = 2000
"""The same while it is being counted, so that who asks often is not lost among those who ask once."""

NOBODY: Final = ""
"""All anonymous callers together, among the owners."""

Counts = dict[str, int]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a task went. Durations in milliseconds since it was accepted, None for what never came about.

    `state`: `complete`, `error` or `cancelled`; `code`: of the error; `cancelled_by`: `client`, `admin`,
    `disconnect`. `started`: whether it got a worker, or needed none. `chunks`: content events; `tokens`: what
    the model says it made, else the producer's parts.
    """

    task_id: str
    route: str
    state: str
    code: str = ""
    cancelled_by: str = ""
    started: bool = True
    queued_ms: float | None = None
    first_content_ms: float | None = None
    total_ms: float | None = None
    status_messages: int = 0
    resumes: int = 0
    chunks: int = 0
    tokens: int = 0
    code_points: int = 0


class Slow(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A task by how long something took it, in milliseconds."""

    milliseconds: float
    task_id: str


class Rollup(msgspec.Struct, omit_defaults=True):
    """What happened in a period. Counts of tasks unless said otherwise.

    `accepted`: by route (`direct`, `queued`); `reasons`: the same ones by the reason of the route; `owners`:
    the same ones by the owner's key (`NOBODY`: anonymous ones). Of owners there may be any number, so a
    rollup names those with the most, `OWNERS` where it is encoded: exact up to so many, and never too much
    beyond.
    `refusals`: by reason, not in `accepted`. `ends`: by state (`complete`, `error`, `cancelled`); `errors`:
    by error code; `cancelled`: by who cancelled. Of those that ended: `status_messages`, `resumes`, content
    events (`chunks`), `tokens`, `code_points`; `writing_us`, microseconds from their first content to their
    end. Histograms: `queue_wait` of those that came through the queue and got a worker; `first_content` of
    those that had any; `total` of all that ended. The slowest of each, longest first; `in_vain`: those that
    ended in the queue, by their `total`.
    """

    accepted: Counts = {}
    reasons: Counts = {}
    owners: Counts = {}
    refusals: Counts = {}
    ends: Counts = {}
    errors: Counts = {}
    cancelled: Counts = {}
    status_messages: int = 0
    resumes: int = 0
    chunks: int = 0
    tokens: int = 0
    code_points: int = 0
    writing_us: int = 0
    queue_wait: Histogram = msgspec.field(default_factory=Histogram)
    first_content: Histogram = msgspec.field(default_factory=Histogram)
    total: Histogram = msgspec.field(default_factory=Histogram)
    longest_wait: list[Slow] = []
    latest_content: list[Slow] = []
    longest: list[Slow] = []
    in_vain: list[Slow] = []

    def accept(self, route: str, reason: str, owner: str = NOBODY) -> None:
        """Count a task that was admitted."""
        _add(self.accepted, route, 1)
        _add(self.reasons, reason, 1)
        _add(self.owners, owner, 1)
        self._bound_owners()

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count tasks that were not admitted."""
        _add(self.refusals, reason, count)

    def end(self, end: End) -> None:
        """Count a task that ended."""
        _add(self.ends, end.state, 1)
        if end.code:
            _add(self.errors, end.code, 1)
        if end.cancelled_by:
            _add(self.cancelled, end.cancelled_by, 1)
        self.status_messages += end.status_messages
        self.resumes += end.resumes
        self.chunks += end.chunks
        self.tokens += end.tokens
        self.code_points += end.code_points
        if end.queued_ms is not None and end.route == QUEUED and end.started:
            self.queue_wait.add(end.queued_ms)
            _keep(self.longest_wait, end.queued_ms, end.task_id)
        if end.first_content_ms is not None:
            self.first_content.add(end.first_content_ms)
            _keep(self.latest_content, end.first_content_ms, end.task_id)
        if end.total_ms is not None:
            self.total.add(end.total_ms)
            _keep(self.longest, end.total_ms, end.task_id)
            if not end.started and end.route == QUEUED:
                _keep(self.in_vain, end.total_ms, end.task_id)
            if end.first_content_ms is not None:
                self.writing_us += max(round((end.total_ms - end.first_content_ms) * 1000), 0)

    def merge(self, other: Rollup) -> None:
        """Count everything that `other` has counted, too. Nothing of `other` is shared afterwards."""
        for name in _COUNTS:
            mine = getattr(self, name)
            for key, count in getattr(other, name).items():
                _add(mine, key, count)
        self._bound_owners()
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _HISTOGRAMS:
            getattr(self, name).merge(getattr(other, name))
        for name in _LISTS:
            theirs: list[Slow] = getattr(other, name)
            if theirs:
                setattr(self, name, sorted([*getattr(self, name), *theirs], reverse=True)[:SLOWEST])

    def encode(self) -> bytes:
        """Compact JSON, of bounded size."""
        whole = self
        if len(self.owners) > OWNERS:
            whole = msgspec.structs.replace(self, owners=_most(self.owners, OWNERS))
        return msgspec.json.encode(whole)

    def top_owners(self, limit: int) -> Counts:
        """Who asked most, most first."""
        return _most(self.owners, limit)

    def _bound_owners(self) -> None:
        if len(self.owners) > OWNERS_IN_MEMORY:
            # Half of them, so that the next ones have room and this is seldom.
            self.owners = _most(self.owners, OWNERS_IN_MEMORY // 2)


DIRECT: Final = "direct"
QUEUED: Final = "queued"

_COUNTS: Final = ("accepted", "reasons", "owners", "refusals", "ends", "errors", "cancelled")
_SUMS: Final = ("status_messages", "resumes", "chunks", "tokens", "code_points", "writing_us")
_HISTOGRAMS: Final = ("queue_wait", "first_content", "total")
_LISTS: Final = ("longest_wait", "latest_content", "longest", "in_vain")

_decoder: Final = msgspec.json.Decoder(Rollup)


def decode(data: bytes | str) -> Rollup:
    """What `Rollup.encode` made, also that of other versions: what they lack is empty, what is unknown is
    left out. Raises `msgspec.DecodeError`."""
    return _decoder.decode(data)


def merged(rollups: Iterable[Rollup]) -> Rollup:
    """All of them as one."""
    made = Rollup()
    for each in rollups:
        made.merge(each)
    return made


def _add(counts: Counts, key: str, count: int) -> None:
    counts[key] = counts.get(key, 0) + count


def _most(counts: Counts, limit: int) -> Counts:
    """Those counted most, most first; of equals those who came first."""
    return dict(heapq.nlargest(limit, counts.items(), key=lambda item: item[1]))


def _keep(slowest: list[Slow], milliseconds: float, task_id: str) -> None:
    # Most are not among them; of equals the id decides, so that the order of counting does not.
    if len(slowest) < SLOWEST or milliseconds >= slowest[-1].milliseconds:
        slowest.append(Slow(milliseconds, task_id))
        slowest.sort(reverse=True)
        del slowest[SLOWEST:]


@dataclass(frozen=True, slots=True)
class Range:
    """What a page shows: the last `seconds`, in buckets of `step` seconds."""

    name: str
    seconds: int
    step: int

    def start(self, now: float) -> float:
        """Of the first bucket. The last one is that of `now`; both in seconds since the epoch."""
        return now // self.step * self.step + self.step - self.seconds


HOUR: Final = Range("hour", 3600, 60)
DAY: Final = Range("day", 86_400, 600)
WEEK: Final = Range("week", 604_800, 3600)

RANGES: Final = {each.name: each for each in (HOUR, DAY, WEEK)}


class Percentiles(msgspec.Struct, frozen=True):
    """Of `count` durations, in milliseconds; None without any."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None

    @classmethod
    def of(cls, histogram: Histogram) -> Percentiles:
        """The percentiles of a histogram."""
        p50, p95, p99 = (histogram.percentile(each) for each in (50, 95, 99))
        return cls(histogram.count, p50, p95, p99, histogram.max)


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A rollup as what people read. Shares from 0 to 1, None where there is nothing to be a share of.

    `asked`: accepted and refused. `direct_share`, `queued_share`, `rejected_share`: of those asked for.
    `error_share`: of those that ended. `tokens_per_second`, `code_points_per_second`: of the whole service,
    over `seconds`. `stream_tokens_per_second`: of one stream while it writes, None without text.
    `status_per_task`: status messages sent per ended task.
    """

    seconds: float
    asked: int
    direct: int
    queued: int
    rejected: int
    ended: int
    complete: int
    failed: int
    cancelled: int
    resumes: int
    status_messages: int
    tokens: int
    code_points: int
    direct_share: float | None
    queued_share: float | None
    rejected_share: float | None
    error_share: float | None
    tokens_per_second: float
    code_points_per_second: float
    stream_tokens_per_second: float | None
    status_per_task: float | None
    queue_wait: Percentiles
    first_content: Percentiles
    total: Percentiles


def figures(rollup: Rollup, seconds: float) -> Figures:
    """What happened in so many seconds (more than 0)."""
    direct, queued = rollup.accepted.get(DIRECT, 0), rollup.accepted.get(QUEUED, 0)
    rejected, ended = sum(rollup.refusals.values()), sum(rollup.ends.values())
    asked, failed = sum(rollup.accepted.values()) + rejected, rollup.ends.get("error", 0)
    writing = rollup.writing_us / 1_000_000
    return Figures(
        seconds=seconds,
        asked=asked,
        direct=direct,
        queued=queued,
        rejected=rejected,
        ended=ended,
        complete=rollup.ends.get("complete", 0),
        failed=failed,
        cancelled=rollup.ends.get("cancelled", 0),
        resumes=rollup.resumes,
        status_messages=rollup.status_messages,
        tokens=rollup.tokens,
        code_points=rollup.code_points,
        direct_share=_share(direct, asked),
        queued_share=_share(queued, asked),
        rejected_share=_share(rejected, asked),
        error_share=_share(failed, ended),
        tokens_per_second=rollup.tokens / seconds,
        code_points_per_second=rollup.code_points / seconds,
        stream_tokens_per_second=_share(rollup.tokens, writing),
        status_per_task=_share(rollup.status_messages, ended),
        queue_wait=Percentiles.of(rollup.queue_wait),
        first_content=Percentiles.of(rollup.first_content),
        total=Percentiles.of(rollup.total),
    )


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


@dataclass(frozen=True, slots=True)
class Part:
    """A rollup and where it belongs: `start` of its period in seconds since the epoch, pool, kind. `kind` is
    empty for refusals, which are the pool's."""

    start: float
    pool: str
    kind: str
    rollup: Rollup


@dataclass(slots=True)
class Summary:
    """A range, as series for charts and as totals. `now`, `start`: seconds since the epoch. `buckets`: one
    for each step of the range, oldest first, empty ones too; the last one is not over yet."""

    range: Range
    now: float
    buckets: list[Rollup]
    whole: Rollup
    pools: dict[str, Rollup] = field(default_factory=dict)
    kinds: dict[str, Rollup] = field(default_factory=dict)

    @property
    def start(self) -> float:
        """Of the first bucket."""
        return self.range.start(self.now)

    @property
    def starts(self) -> list[float]:
        """Of the buckets."""
        return [self.start + number * self.range.step for number in range(len(self.buckets))]

    @property
    def seconds(self) -> float:
        """What rates of the range are over: from the first bucket in which anything happened up to now. A
        service that is minutes old shall not look slow because the range is a week."""
        empty = Rollup()
        busy = (start for start, each in zip(self.starts, self.buckets, strict=True) if each != empty)
        return max(self.now - next(busy, self.start), 1.0)

    @property
    def totals(self) -> Figures:
        """Of the whole range, up to now."""
        return figures(self.whole, self.seconds)

    def series(self) -> Iterator[tuple[float, Figures]]:
        """Start and figures of each bucket; the last one's rates are over the part of it that has passed, a
        second at least."""
        for start, bucket in zip(self.starts, self.buckets, strict=True):
            yield start, figures(bucket, min(max(self.now - start, 1.0), self.range.step))


def summarise(parts: Iterable[Part], of: Range, now: float) -> Summary:
    """Lay out what happened in the range that ends `now`; parts of other times are left out. A part whose
    period is longer than a bucket counts where it begins."""
    start, count = of.start(now), of.seconds // of.step
    buckets = [Rollup() for _ in range(count)]
    places: dict[tuple[str, str], Rollup] = {}
    for part in parts:
        number = int((part.start - start) // of.step)
        if 0 <= number < count:
            buckets[number].merge(part.rollup)
            places.setdefault((part.pool, part.kind), Rollup()).merge(part.rollup)
    made = Summary(of, now, buckets, merged(places.values()))
    for (pool, kind), rollup in places.items():
        made.pools.setdefault(pool, Rollup()).merge(rollup)
        if kind:
            made.kinds.setdefault(kind, Rollup()).merge(rollup)
    return made
