"""The fourteen goals: what each asks for, what was measured, and whether it is met.

Each goal has one or more conditions, judged by the median over the repetitions. A goal is met when all its
conditions are, missed when one is missed, and not measured when one lacks its figures and none is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from .figures import Load, Results, Spread

Verdict = Literal["met", "missed", "not measured"]

IDLE: Final[Load] = {"keep_alive": True}
PACED: Final[Load] = {"streams": 500, "rate": 50}
SHORT: Final[Load] = {"connections": 16, "tokens": 20}
FULL: Final[Load] = {"connections": 16}
FEW: Final[Load] = {"streams": 1000}
AT_ONCE: Final[Load] = {"start_delay": 0}
SOON: Final[Load] = {"start_delay": 0.02}
MANY: Final[Load] = {"streams": 10_000}

SLUICE: Final = "sluice"
UNCOALESCED: Final = "sluice-uncoalesced"
BLOCKING: Final = "sluice-blocking"
RAW: Final = "raw"
SSE_STARLETTE: Final = "starlette"
STOCK: Final = "django"
STOCK_SIGNED_IN: Final = "django-auth"
POLLED: Final = "polled"
POLLED_FAST: Final = "polled-fast"
DEFAULT_SWITCH: Final = "sluice-default-switch"

WINDOW_MS: Final = 50.0
"""The coalescing window, which a coalesced token may wait by design."""

BLOCKING_PRODUCERS_LOAD: Final = "more than there is"
"""The load of `benchmarks/blocking_producers.py` at which all its threads are always busy."""

PACE_MS: Final = 20.0
"""The pace of the stream measured there."""

Measure = Callable[[Results], Spread | None]


@dataclass(frozen=True)
class Condition:
    """One comparison with what `what` names. `limit`: a ratio, or that many `unit`. `beyond`: a further aim
    that does not decide."""

    what: str
    measure: Measure
    limit: float
    at_least: bool = False
    unit: str = "x"
    beyond: bool = False

    def verdict(self, results: Results) -> tuple[Spread | None, Verdict]:
        """What was measured, and whether it is enough."""
        spread = self.measure(results)
        if spread is None:
            return None, "not measured"
        enough = spread.median >= self.limit if self.at_least else spread.median <= self.limit
        return spread, "met" if enough else "missed"


@dataclass(frozen=True)
class Goal:
    """One row of the goals."""

    row: int
    what: str
    conditions: tuple[Condition, ...]

    def judge(self, results: Results) -> Judged:
        """The row with its figures."""
        judged = tuple((each, *each.verdict(results)) for each in self.conditions)
        deciding = {verdict for condition, _, verdict in judged if not condition.beyond}
        verdict: Verdict = (
            "missed" if "missed" in deciding else "not measured" if "not measured" in deciding else "met"
        )
        return Judged(self, judged, verdict)


@dataclass(frozen=True)
class Judged:
    """A goal, each of its conditions with what was measured, and the verdict on the whole."""

    goal: Goal
    conditions: tuple[tuple[Condition, Spread | None, Verdict], ...]
    verdict: Verdict


def judge(results: Results, blocking_producers: Mapping[str, Any] | None = None) -> list[Judged]:
    """All rows. `blocking_producers`: the results of that benchmark, for row 13 where this run has none."""
    stored = None if "switch" in results.scenarios() else blocking_producers
    return [goal.judge(results) for goal in goals(stored)]


def _against(base: str, scenario: str, load: Load, path: str, peer: str = SLUICE) -> Measure:
    """A figure beside that of another peer in the same repetition."""
    return lambda results: results.ratio(scenario, load, peer, path, base)


def _beyond_the_window(results: Results) -> Spread | None:
    late = results.values("paced", PACED, SLUICE, "late_ms.p99")
    return Spread.of(value - WINDOW_MS for value in late.values())


def _status_messages(results: Results) -> Spread | None:
    return results.spread("statuses", {}, SLUICE, "status_messages")


def _switching(blocking_producers: Mapping[str, Any] | None) -> Condition:
    """With busy pool threads: the run's own comparison, or the stored one of gaps in a stream."""
    default = "CPython's default switch interval"
    if blocking_producers is None:
        own = _against(DEFAULT_SWITCH, "switch", {}, "late_ms.p50")
        return Condition(f"{default}, p50", own, 1 / 5)
    ours, theirs = (
        by_load[BLOCKING_PRODUCERS_LOAD]["p95_ms"] - PACE_MS
        for by_load in blocking_producers["results"].values()
    )
    stored = Spread.of([max(ours, 0.0) / theirs]) if theirs > 0 else None
    what = f"by how much gaps exceed {PACE_MS:g} ms, p95 (`blocking_producers.json`, "
    return Condition(
        f"{default}: {what}commit {blocking_producers['commit']})", lambda results: stored, 1 / 5
    )


def goals(blocking_producers: Mapping[str, Any] | None = None) -> list[Goal]:
    """The rows in their order."""
    start, cpu = "first_content_us.p50", "cpu_us_per_token"
    rate, throughput, memory = "streams_per_second", "tokens_per_second", "kib_per_stream"
    return [
        Goal(
            1,
            "Idle start of the real POST: authenticated, validated, status, ids, journal, record; p50",
            (
                Condition("raw", _against(RAW, "start", IDLE, start), 2.0),
                Condition("raw, the next aim", _against(RAW, "start", IDLE, start), 1.5, beyond=True),
                Condition(
                    "Django with a logged-in user", _against(STOCK_SIGNED_IN, "start", IDLE, start), 1 / 15
                ),
                Condition("sse-starlette", _against(SSE_STARLETTE, "start", IDLE, start), 0.6),
            ),
        ),
        Goal(
            2,
            "Start latency beside the first report's polling design",
            (Condition("polled", _against(POLLED, "polled_start", AT_ONCE, start), 1 / 1000),),
        ),
        Goal(
            3,
            "Start latency of a blocking producer, worker free, beside the first report's second design",
            (
                Condition(
                    "polled-fast",
                    _against(POLLED_FAST, "polled_start", SOON, start, BLOCKING),
                    1 / 10,
                ),
            ),
        ),
        Goal(
            4,
            "Lateness at 500 streams × 50 tokens/s on one core, one event for each token",
            (
                Condition("raw, p50", _against(RAW, "paced", PACED, "late_ms.p50", UNCOALESCED), 1.25),
                Condition("raw, p99", _against(RAW, "paced", PACED, "late_ms.p99", UNCOALESCED), 1.5),
                Condition(
                    "sse-starlette, p99",
                    _against(SSE_STARLETTE, "paced", PACED, "late_ms.p99", UNCOALESCED),
                    1 / 10,
                ),
            ),
        ),
        Goal(
            5,
            "Coalesced, 500 streams × 50 tokens/s: the oldest token beyond its window of 50 ms, p99",
            (Condition("beyond the window", _beyond_the_window, 5.0, unit="ms"),),
        ),
        Goal(
            6,
            "CPU per token of the whole path, coalesced, 500 streams × 50 tokens/s",
            (
                Condition("raw, uncoalesced", _against(RAW, "paced", PACED, cpu), 0.8),
                Condition("sse-starlette", _against(SSE_STARLETTE, "paced", PACED, cpu), 0.42),
                Condition("Django", _against(STOCK, "paced", PACED, cpu), 0.68),
            ),
        ),
        Goal(
            7,
            "CPU per token of the whole path, one event for each token, 500 streams × 50 tokens/s",
            (
                Condition("raw", _against(RAW, "paced", PACED, cpu, UNCOALESCED), 1.3),
                Condition("sse-starlette", _against(SSE_STARLETTE, "paced", PACED, cpu, UNCOALESCED), 0.65),
            ),
        ),
        Goal(
            8,
            "Streams of 20 tokens a second, authenticated, record included",
            (
                Condition("raw", _against(RAW, "short", SHORT, rate), 0.9, at_least=True),
                Condition("Django", _against(STOCK, "short", SHORT, rate), 10, at_least=True),
                Condition("sse-starlette", _against(SSE_STARLETTE, "short", SHORT, rate), 4, at_least=True),
            ),
        ),
        Goal(
            9,
            "Tokens a second at full speed: in bursts, and with a suspension for each token",
            (
                Condition("raw, in bursts", _against(RAW, "burst", FULL, throughput), 3, at_least=True),
                Condition("raw, suspended", _against(RAW, "step", FULL, throughput), 0.65, at_least=True),
                Condition(
                    "sse-starlette, in bursts",
                    _against(SSE_STARLETTE, "burst", FULL, throughput),
                    8,
                    at_least=True,
                ),
                Condition(
                    "Django, in bursts", _against(STOCK, "burst", FULL, throughput), 4.5, at_least=True
                ),
            ),
        ),
        Goal(
            10,
            "Streams per core at p99 < 150 ms (100 and the window), coalesced, beside others at 100 ms",
            (
                Condition("raw", _against(RAW, "capacity", {}, "streams"), 1.15, at_least=True),
                Condition(
                    "sse-starlette", _against(SSE_STARLETTE, "capacity", {}, "streams"), 2.5, at_least=True
                ),
            ),
        ),
        Goal(
            11,
            "Memory per open stream",
            (
                Condition("raw, 1,000 streams", _against(RAW, "memory", FEW, memory), 1.75),
                Condition("raw, 10,000 streams", _against(RAW, "memory", MANY, memory), 1.6),
                Condition("Django, 1,000 streams", _against(STOCK, "memory", FEW, memory), 0.37),
                Condition(
                    "sse-starlette, 1,000 streams", _against(SSE_STARLETTE, "memory", FEW, memory), 0.48
                ),
            ),
        ),
        Goal(
            12,
            "Bytes on the wire per token, coalesced, with ids",
            (Condition("raw", _against(RAW, "paced", PACED, "bytes_per_token"), 0.5),),
        ),
        Goal(
            13,
            "Lateness of the event loop while pool threads are busy in Python",
            (_switching(blocking_producers),),
        ),
        Goal(
            14,
            "Status messages in 10 s of waiting (and no timer for each stream: a test counts them)",
            (Condition("messages", _status_messages, 3, unit="messages"),),
        ),
    ]
