"""From what one stream looked like on its arrival to what is wrong with it: pure, so each verdict is tested.

The server says in each event when it handed it to its connection (`sent_at`). Its clock and ours differ by an
amount that nobody knows, but which is the same for all events of a stream: so only differences are looked at.
An event's *delay* is how much longer it was on its way than the fastest one of the same stream. What was sent
apart and arrived together was held by somebody between; what arrived as it was sent, but was sent late, was
late in the server or at the provider.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any, Final, Literal

import msgspec

from .histogram import Histogram, histogram_of

APART: Final = 15.0
"""Milliseconds from which on two events count as sent apart."""

TOGETHER: Final = 0.25
"""The share of that distance within which they arrived together."""

BUNCHED: Final = 0.4
"""The share of pairs that arrived together from which on somebody holds the stream back."""

HELD: Final = 60.0
"""Milliseconds that the most delayed event must have been held for that verdict: less is nobody's trouble."""

FEW: Final = 3
"""Pairs without which nothing is said about bunches."""

BEHIND: Final = 0.8
"""The share of events that came just when the next one was sent, from which on a stream is one behind."""

BEHIND_FEW: Final = 4
"""Pairs without which nothing is said about that."""

NEAR: Final = 0.2
"""How near to the next sending such an arrival is, as a share of the distance."""

TICKS: Final = 8
"""Pauses between arrivals without which nothing is said about their beat."""

BEAT: Final = 0.08
"""How near to a whole number of beats a pause is, in beats."""

BEACON: Final = 102.4
"""Milliseconds after which a WLAN wakes devices that save power: no proxy's beat."""

UNEVEN: Final = 150.0
"""Milliseconds of delay (p95) from which on the network is uneven."""

LATE_ANSWER: Final = 1_000.0
"""Milliseconds from the request to the head of the answer that are long: a stream begins at once, whatever
its provider does."""

FAR: Final = 400.0
"""Milliseconds of connecting from which on the way is long."""

LATE: Final = 50.0
"""Milliseconds by which a server may miss the moments of a probe (p95) before it is busy."""

SLOW_FIRST: Final = 2_000.0
"""Milliseconds from the start of the work to its first text, by the server's clock."""

STALL: Final = 5_000.0
"""Milliseconds between two pieces of text, by the server's clock, that are a stall."""

PAUSE: Final = 1_000.0
"""Milliseconds without text, where pieces came faster than a third of it, that are no mere pause."""

LIFE: Final = 200.0
"""Milliseconds after the last text from which on what comes is a sign of life, and not a part of it."""

WAITED: Final = 250.0
"""Milliseconds in the queue that are worth telling."""

FLOOD: Final = 2.0
"""Status messages a second that are a flood, once there are FLOOD_COUNT."""

FLOOD_COUNT: Final = 10

CONTENT: Final = frozenset({"content", "output", "result"})
"""Events that carry what the reader waits for."""


class Severity(IntEnum):
    """How bad it is; the worst one is the exit code of the command."""

    INFO = 0
    SUSPICIOUS = 1
    BROKEN = 2


class Arrival(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event as it came. `at`: milliseconds since the request; `sent_at`: on the server's clock, from any
    origin. Of a probe's events: `sequence`, and `late`, the milliseconds by which the server missed its
    moment. `status`: of a status event."""

    name: str
    at: float
    sent_at: float | None = None
    sequence: int | None = None
    late: float | None = None
    status: str | None = None


Phase = Literal["resolve", "connect", "tls", "answer", "read"]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Where the exchange broke off. `kind`: `refused`, `timeout`, `certificate`, `not_tls`, `not_http`,
    `closed`, `foreign` for an event that no Sluice sends, `undecodable` for a body that is not encoded as its
    header says, or `other`; `detail`: the system's own words."""

    phase: Phase
    kind: str
    detail: str = ""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """What `/stats` says of a pool; counts of tasks."""

    running: int
    waiting: int
    max_workers: int
    queue_size: int
    stuck: int = 0


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One stream as its reader saw it. Times in milliseconds since the request began (`resolve`, `connect`,
    `tls`: how long each took), None for what did not happen.

    `target`: what was asked for. `headers`: names in lower case. `problem`: the code of a refusal. `excerpt`:
    the beginning of a body that is no stream. `reads`: when bytes came, and how many. `outcome`: `ended` with
    a terminal event, `cut` without one, or `patience` when the reader stopped waiting. `end`: the terminal
    event. `expected`: events that the probe promised. `own_lag`: by how much the reader itself was late.
    """

    target: Literal["probe", "ping", "brief"]
    failure: Failure | None = None
    resolve: float | None = None
    connect: float | None = None
    tls: float | None = None
    answered: float | None = None
    status: int | None = None
    http_version: str = ""
    headers: Mapping[str, str] = {}
    problem: str = ""
    excerpt: str = ""
    reads: Sequence[tuple[float, int]] = ()
    arrivals: Sequence[Arrival] = ()
    comments: int = 0
    outcome: Literal["ended", "cut", "patience"] = "cut"
    end: Mapping[str, Any] = {}
    expected: int = 0
    total: float = 0.0
    own_lag: float = 0.0
    pools: Mapping[str, Pool] = {}

    @property
    def encoding(self) -> str:
        """The `Content-Encoding`, empty where nothing is encoded."""
        found = self.headers.get("content-encoding", "").strip().lower()
        return "" if found == "identity" else found

    @property
    def is_stream(self) -> bool:
        """Whether an event stream was answered."""
        return self.status == 200 and self.headers.get("content-type", "").startswith("text/event-stream")


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of an observation. Milliseconds.

    `gaps`: between arrivals of content. `sent_gaps`: between its sendings. `delays`: see the module. `late`:
    how late the server made or sent a probe's events. `bunched`: the share of events sent apart that arrived
    together; `pairs`: of how many. `bursts`: groups in which everything arrived. `held`: the longest delay.
    """

    first_byte: float | None
    first_event: float | None
    first_content: float | None
    server_first_content: float | None
    longest_sent_gap: float
    gaps: Histogram
    sent_gaps: Histogram
    delays: Histogram
    late: Histogram
    bunched: float
    pairs: int
    bursts: int
    held: float
    statuses: int
    status_rate: float
    bytes: int


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to know. `code` is stable, and names its sentence; `remedy` names what to do about it, empty
    for nothing; `evidence`: the numbers and words by which it was found."""

    code: str
    severity: Severity
    evidence: dict[str, Any] = {}
    remedy: str = ""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, the worst first, and the numbers."""

    findings: Sequence[Finding]
    measures: Measures
    proxy: str

    @property
    def severity(self) -> Severity:
        """The worst one."""
        return max((finding.severity for finding in self.findings), default=Severity.INFO)

    @property
    def codes(self) -> list[str]:
        """The codes of all findings."""
        return [finding.code for finding in self.findings]


def diagnose(seen: Observation, uncompressed: Observation | None = None) -> Diagnosis:
    """What is wrong with a stream. `uncompressed`: the same once more for a reader that takes no compression,
    which tells whether compressing or buffering holds the events."""
    measures = measure(seen)
    proxy = proxy_of(seen.headers)
    findings = list(_findings(seen, measures, proxy, uncompressed))
    if not any(finding.severity for finding in findings):
        code = "fine" if measures.pairs >= FEW else "not_measured"
        findings.insert(0, Finding(code=code, severity=Severity.INFO, evidence={"pairs": measures.pairs}))
    # Stable: of the same severity, the cause that was looked for first.
    findings.sort(key=lambda finding: -finding.severity)
    return Diagnosis(findings=findings, measures=measures, proxy=proxy)


def failed(seen: Observation, error: str) -> Diagnosis:
    """What is said where the doctor itself broke off, with an `error` of that name."""
    return Diagnosis(findings=[_broken("doctor_failed", {"error": error})], measures=measure(seen), proxy="")


def measure(seen: Observation) -> Measures:
    """The numbers of an observation."""
    arrivals = seen.arrivals
    content = [each for each in arrivals if each.name in CONTENT]
    delays = _delays_of(_sent(arrivals))
    share, pairs = bunched(_sent(arrivals))
    statuses = [each for each in arrivals if each.name == "status"]
    sent_gaps = [
        second.sent_at - first.sent_at
        for first, second in pairwise(content)
        if first.sent_at is not None and second.sent_at is not None
    ]
    seconds = max(seen.total, 1.0) / 1000
    return Measures(
        first_byte=seen.reads[0][0] if seen.reads else None,
        first_event=arrivals[0].at if arrivals else None,
        first_content=content[0].at if content else None,
        server_first_content=_server_first_content(seen, content),
        longest_sent_gap=max(sent_gaps, default=0.0),
        gaps=histogram_of(second.at - first.at for first, second in pairwise(content)),
        sent_gaps=histogram_of(sent_gaps),
        delays=histogram_of(delays),
        late=histogram_of(each.late for each in arrivals if each.late is not None),
        bunched=share,
        pairs=pairs,
        bursts=1 + sum(b.at - a.at > APART for a, b in pairwise(arrivals)) if arrivals else 0,
        held=max(delays, default=0.0),
        statuses=len(statuses),
        status_rate=len(statuses) / seconds,
        bytes=sum(size for _, size in seen.reads),
    )


def bunched(events: Sequence[tuple[float, float]]) -> tuple[float, int]:
    """The share of neighbouring events (arrived, sent; milliseconds) that were sent apart but arrived
    together, and how many were sent apart at all."""
    apart = together = 0
    for (at, sent), (next_at, next_sent) in pairwise(events):
        distance = next_sent - sent
        if distance >= APART:
            apart += 1
            together += next_at - at < distance * TOGETHER
    return (together / apart if apart else 0.0), apart


Hold = Literal["", "bunches", "one_behind", "timer"]
"""How events are held: not at all; until some are together; each until the next one; until a timer goes."""


def hold_of(seen: Observation, measures: Measures) -> Hold:
    """Whether somebody between held events back. A reader that was late itself proves nothing."""
    if measures.pairs < FEW or measures.held < max(HELD, 2 * seen.own_lag):
        return ""
    events = _sent(seen.arrivals)
    if measures.bunched >= BUNCHED:
        return "bunches"
    if is_one_behind(events):
        return "one_behind"
    return "timer" if is_timed(events) else ""


def is_one_behind(events: Sequence[tuple[float, float]]) -> bool:
    """Whether nearly each of these events (arrived, sent; milliseconds) came only when the next one was sent.
    The last one has no next, so it shows what the way takes by itself."""
    fastest = min((at - sent for at, sent in events), default=0.0)
    apart = behind = 0
    for (at, sent), (_, next_sent) in pairwise(events):
        distance = next_sent - sent
        if distance >= APART:
            apart += 1
            behind += abs(at - sent - fastest - distance) <= distance * NEAR
    return apart >= BEHIND_FEW and behind >= apart * BEHIND


def is_timed(events: Sequence[tuple[float, float]]) -> bool:
    """Whether events (arrived, sent; milliseconds) came on the beat of a clock that is not the sender's:
    all pauses between arrivals are whole beats, and the typical event waited for half a beat. The unrest of a
    network has no beat; one that lost packets has it where it was sent so, but there most are in time."""
    early = [(float("-inf"), 0.0), *events]
    starts = [at for (before, _), (at, _) in pairwise(early) if at - before > APART]
    # At the end the rest comes without waiting.
    pauses = [after - before for before, after in pairwise(starts)][:-1]
    distances = (after - before for (_, before), (_, after) in pairwise(events))
    sendings = sorted(each for each in distances if each >= APART)
    if len(pauses) < TICKS or not sendings:
        return False
    least = min(pauses)
    beat = sum(pauses) / sum(round(each / least) for each in pauses)
    on_beat = sum(abs(each / beat - round(each / beat)) <= BEAT for each in pauses)
    typical = sorted(_delays_of(events))[len(events) // 2]
    own = any(abs(beat / each - 1) <= BEAT for each in (sendings[len(sendings) // 2], BEACON))
    waited = beat * 0.25 <= typical <= beat * 0.75
    return beat >= HELD and not own and waited and on_beat >= len(pauses) * 0.9


def held_at_start(seen: Observation) -> tuple[float, int]:
    """For how many milliseconds the first events of a stream were held, and how many these are, where all
    others came in time; nothing held where they did not."""
    events = _sent(seen.arrivals)
    delays = _delays_of(events)
    count = next((n for n, ((a, _), (b, _)) in enumerate(pairwise(events), 1) if b - a > APART), 0)
    rest = sorted(delays[count:])
    if count < FEW or len(rest) < FEW or rest[int(len(rest) * 0.95)] >= HELD:
        return 0.0, 0
    return delays[0], count


def _sent(arrivals: Sequence[Arrival]) -> list[tuple[float, float]]:
    return [(each.at, each.sent_at) for each in arrivals if each.sent_at is not None]


def _delays_of(events: Sequence[tuple[float, float]]) -> list[float]:
    on_the_way = [at - sent for at, sent in events]
    fastest = min(on_the_way, default=0.0)
    return [each - fastest for each in on_the_way]


def _server_first_content(seen: Observation, content: Sequence[Arrival]) -> float | None:
    """From the permit to the first content, by the server's clock."""
    timing = seen.end.get("timing") or {}
    if timing.get("first_content_ms") is not None:
        waited: float = timing.get("queued_ms") or 0.0
        first: float = timing["first_content_ms"]
        return max(0.0, first - waited)
    begun = next(
        (each.sent_at for each in seen.arrivals if each.status in ("started", "processing")),
        seen.arrivals[0].sent_at if seen.arrivals else None,
    )
    if begun is None or not content or content[0].sent_at is None:
        return None
    return content[0].sent_at - begun


# --- The proxy between -------------------------------------------------------------------------------------

_PRODUCTS: Final = (
    ("cloudflare", re.compile(r"cloudflare", re.IGNORECASE)),
    ("nginx", re.compile(r"nginx|openresty|tengine", re.IGNORECASE)),
    ("caddy", re.compile(r"caddy", re.IGNORECASE)),
    ("apache", re.compile(r"apache", re.IGNORECASE)),
    ("varnish", re.compile(r"varnish", re.IGNORECASE)),
    ("haproxy", re.compile(r"haproxy", re.IGNORECASE)),
    ("traefik", re.compile(r"traefik", re.IGNORECASE)),
    ("envoy", re.compile(r"envoy|istio", re.IGNORECASE)),
    ("iis", re.compile(r"microsoft-iis", re.IGNORECASE)),
)

_TELLTALE: Final = {
    "cf-ray": "cloudflare",
    "x-varnish": "varnish",
    "x-envoy-upstream-service-time": "envoy",
}


def proxy_of(headers: Mapping[str, str]) -> str:
    """Who answered in front of the server, by its own word: `nginx`, `caddy`, …; `unknown` for one that only
    says that it is there, and empty where none is to be seen (which proves nothing)."""
    for name, product in _TELLTALE.items():
        if name in headers:
            return product
    words = f"{headers.get('server', '')} {headers.get('via', '')}"
    for product, pattern in _PRODUCTS:
        if pattern.search(words):
            return product
    return "unknown" if "via" in headers else ""


# --- The rules ---------------------------------------------------------------------------------------------

_Findings = Iterator[Finding]


def _findings(
    seen: Observation, measures: Measures, proxy: str, uncompressed: Observation | None
) -> _Findings:
    if seen.failure is not None and seen.failure.phase != "read":
        yield _no_answer(seen.failure)
        return
    if not seen.is_stream:
        yield _refusal(seen, proxy)
        yield from _pools(seen)
        return
    if seen.failure is not None and seen.failure.kind in _SENSELESS:
        evidence = {"status": seen.status, "encoding": seen.encoding, "detail": seen.failure.detail}
        yield _broken(_SENSELESS[seen.failure.kind], evidence)
        return
    yield from _end(seen, measures, proxy)
    yield from _way(seen, measures, proxy, uncompressed)
    yield from _server(seen, measures)
    yield from _pools(seen)
    yield from _head(seen, proxy)


_SENSELESS: Final = {"foreign": "not_sluice", "undecodable": "undecodable"}
"""By the kind of a failure: a stream that cannot be measured."""


def _no_answer(failure: Failure) -> Finding:
    code = {
        "resolve": "name_unknown",
        "connect": "unreachable",
        "tls": "tls_failed",
        "answer": "no_answer",
    }[failure.phase]
    if failure.kind == "not_tls":
        code = "wrong_scheme"
    elif failure.kind == "not_http":
        code = "not_http"
    remedy = f"{code}:{failure.kind}" if code in ("unreachable", "tls_failed", "no_answer") else code
    evidence = {"kind": failure.kind, "detail": failure.detail or failure.kind}
    return Finding(code=code, severity=Severity.BROKEN, evidence=evidence, remedy=remedy)


_BY_PROBLEM: Final = {
    "queue_full": "pool_full",
    "owner_limit": "own_limit",
    "too_many_probes": "too_many_probes",
    "too_many_requests_open": "server_full",
    "storage_unavailable": "storage_away",
    "draining": "restarting",
    "not_ready": "restarting",
    "too_many_followers": "refused",
    "bad_host": "wrong_host",
    "not_authenticated": "not_authenticated",
    "invalid_key": "wrong_key",
    "not_found": "not_sluice",
    "method_not_allowed": "not_sluice",
    # By deploy/nginx_streaming_locations.conf.
    "server_away": "server_away",
}
"""By the code of a problem document, which only a Sluice sends; of others by the status."""

_GATEWAY: Final = frozenset({502, 503, 504, *range(520, 528), 530})
"""What a proxy says of a server that does not answer it; from 520 on: Cloudflare's."""


def _refusal(seen: Observation, proxy: str) -> Finding:
    evidence: dict[str, Any] = {"status": seen.status, "problem": seen.problem}
    if proxy:
        evidence["proxy"] = proxy
    if seen.problem:
        code = _of_problem(seen)
        evidence["retry_after"] = seen.headers.get("retry-after", "")
    else:
        code = _of_status(seen)
    if code == "redirected":
        evidence["location"] = seen.headers["location"]
    elif code == "not_sluice":
        evidence["content_type"] = seen.headers.get("content-type", "")
    return _broken(code, evidence)


def _of_problem(seen: Observation) -> str:
    status = seen.status or 0
    if seen.problem in _BY_PROBLEM:
        return _BY_PROBLEM[seen.problem]
    if status == 403:
        return "not_allowed"
    return "refused" if status < 500 else "server_failed"


def _of_status(seen: Observation) -> str:
    """Without a problem document somebody else answers: before the server, or instead of it."""
    status = seen.status or 0
    if status < 300:
        return "not_sluice"
    if status < 400:
        return "redirected" if seen.headers.get("location") else "not_sluice"
    if status == 400 and "HTTPS port" in seen.excerpt:
        return "wrong_scheme"
    if status == 400 and "DisallowedHost" in seen.excerpt:
        # With DEBUG on, Django has pages of its own.
        return "wrong_host"
    if status in (404, 405):
        return "not_sluice"
    if status in _GATEWAY:
        return "server_away"
    return "server_failed" if status == 500 else "proxy_refuses"


def _end(seen: Observation, measures: Measures, proxy: str) -> _Findings:
    """How it ended."""
    if seen.outcome == "ended":
        yield from _told_end(seen)
    elif seen.outcome == "patience":
        yield _patience(seen, measures)
    elif not seen.arrivals and "x-stream-id" not in seen.headers:
        yield _broken("server_away", {"status": seen.status, "proxy": proxy})
    elif any(each.name == "reconnect" for each in seen.arrivals):
        yield _broken("restarting", {"status": seen.status})
    else:
        yield _cut(seen)
    numbers = [each.sequence for each in seen.arrivals if each.sequence is not None]
    complete = numbers == list(range(1, seen.expected + 1))
    if seen.outcome == "ended" and seen.expected and not complete:
        yield _broken("lost_events", {"expected": seen.expected, "came": len(numbers)})


def _cut(seen: Observation) -> Finding:
    """A limit of time strikes in silence; who cuts while events come has another reason."""
    silent = seen.total - (seen.reads[-1][0] if seen.reads else 0.0)
    evidence = {
        "after_ms": round(seen.total),
        "silent_ms": round(silent),
        "events": len(seen.arrivals),
        "detail": seen.failure.detail if seen.failure is not None else "",
    }
    remedy = "cut:silent" if silent >= STALL else "cut:flowing"
    return Finding(code="cut", severity=Severity.BROKEN, evidence=evidence, remedy=remedy)


def _told_end(seen: Observation) -> _Findings:
    if seen.end.get("type") == "error":
        code = str(seen.end.get("code", ""))
        if code == "interrupted":
            yield _broken("restarting", {"code": code})
        elif code == "queue_timeout":
            yield _broken("pool_full", {"code": code})
        else:
            known = "provider_failed" if code.startswith("upstream_") else "task_failed"
            evidence = {"code": code, "message": seen.end.get("message", "")}
            remedy = f"{known}:{code}"
            yield Finding(code=known, severity=Severity.BROKEN, evidence=evidence, remedy=remedy)
    elif seen.end.get("type") == "cancelled":
        evidence = {"code": "cancelled", "message": seen.end.get("reason", "")}
        remedy = "task_failed:cancelled"
        yield Finding(code="task_failed", severity=Severity.BROKEN, evidence=evidence, remedy=remedy)


def _patience(seen: Observation, measures: Measures) -> Finding:
    """The reader gave up. Who shows signs of life but no text waits for a provider, or for its turn. A probe
    has neither, so one that stops was stopped on its way, or by the server."""
    last = seen.reads[-1][0] if seen.reads else 0.0
    text = max((each.at for each in seen.arrivals if each.name in CONTENT), default=0.0)
    states = [each.status for each in seen.arrivals if each.status]
    evidence = {
        "after_ms": round(seen.total),
        "silent_ms": round(seen.total - last),
        "events": len(seen.arrivals),
    }
    if states and states[-1] == "queued":
        return _broken("queued_too_long", evidence)
    if not seen.arrivals or measures.bunched >= BUNCHED:
        return _broken("silent", evidence)
    if seen.total - text < max(PAUSE, 3 * (measures.gaps.percentile(50) or 0.0)):
        return Finding(code="unfinished", severity=Severity.INFO, evidence=evidence)
    if seen.target == "brief" and last - text >= LIFE:
        return _broken("provider_hangs", evidence)
    return _broken("silent", evidence)


def _way(seen: Observation, measures: Measures, proxy: str, uncompressed: Observation | None) -> _Findings:
    """Between the server and the reader."""
    evidence: dict[str, Any] = {
        "held_ms": round(measures.held),
        "bunched_percent": round(measures.bunched * 100),
        "events": len(seen.arrivals),
        "bursts": measures.bursts,
        "proxy": proxy,
        "encoding": seen.encoding,
    }
    held = hold_of(seen, measures)
    if held:
        evidence["how"] = held
    if held and seen.encoding and uncompressed and not hold_of(uncompressed, measure(uncompressed)):
        yield Finding(
            code="compressed_without_flush",
            severity=Severity.SUSPICIOUS,
            evidence=evidence,
            remedy=f"compression:{proxy or 'unknown'}",
        )
        return
    if held:
        yield Finding(
            code="buffered_by_proxy",
            severity=Severity.SUSPICIOUS,
            evidence=evidence,
            remedy=f"buffering:{proxy or 'unknown'}",
        )
    delay = measures.delays.percentile(95) or 0.0
    if not held and delay >= max(UNEVEN, 2 * seen.own_lag):
        begin, count = held_at_start(seen)
        if begin >= UNEVEN:
            yield _suspicious("held_at_start", {"held_ms": round(begin), "events": count, "proxy": proxy})
        else:
            yield _suspicious("uneven_network", {"p95_ms": round(delay), "held_ms": round(measures.held)})
    waited = (seen.answered or 0.0) - sum(filter(None, (seen.resolve, seen.connect, seen.tls)))
    if not held and waited >= LATE_ANSWER:
        yield _suspicious("late_answer", {"waited_ms": round(waited)})
    if seen.connect is not None and seen.connect >= FAR:
        yield _suspicious("far_away", {"connect_ms": round(seen.connect)})
    if seen.own_lag >= HELD:
        yield Finding(code="reader_busy", severity=Severity.INFO, evidence={"lag_ms": round(seen.own_lag)})
    if seen.encoding:
        code = "compressed_too" if held else "compressed"
        yield Finding(
            code=code,
            severity=Severity.INFO,
            evidence={"encoding": seen.encoding},
            remedy=f"compression:{proxy or 'unknown'}" if held else "",
        )


def _server(seen: Observation, measures: Measures) -> _Findings:
    """In the server, and behind it."""
    late = measures.late.percentile(95) or 0.0
    if late >= LATE:
        yield _suspicious("busy_server", {"p95_ms": round(late), "most_ms": round(measures.late.max or 0)})
    waited = (seen.end.get("timing") or {}).get("queued_ms") or 0.0
    if seen.headers.get("x-stream-route") == "queued" and waited >= WAITED:
        yield _suspicious("queued", {"queued_ms": round(waited)})
    first, gap = measures.server_first_content, measures.longest_sent_gap
    if seen.target != "brief":
        # No provider is asked, so every pause is the server's.
        if gap >= STALL:
            yield _suspicious("server_stalls", {"gap_ms": round(gap)})
    else:
        if first is not None and first >= SLOW_FIRST:
            yield _suspicious("slow_provider", {"first_ms": round(first)})
        if gap >= STALL:
            yield _suspicious("provider_stalls", {"gap_ms": round(gap)})
    if measures.statuses >= FLOOD_COUNT and measures.status_rate >= FLOOD:
        rate = round(measures.status_rate, 1)
        yield _suspicious("status_flood", {"rate": rate, "count": measures.statuses})


def _pools(seen: Observation) -> _Findings:
    """What the server says of its pools, where it says it to this caller."""
    told = seen.problem == "queue_full"
    for name, pool in seen.pools.items():
        evidence = {"pool": name, **msgspec.to_builtins(pool)}
        if pool.stuck:
            yield _suspicious("stuck_producers", evidence)
        if pool.running < pool.max_workers:
            continue
        if told:
            # The refusal has said it; since then somebody may have left.
            continue
        if pool.waiting >= pool.queue_size:
            yield _broken("pool_full", evidence)
        elif pool.waiting:
            told = True
            yield _suspicious("pool_busy", evidence)


def _head(seen: Observation, proxy: str) -> _Findings:
    """The headers on their arrival."""
    cache = seen.headers.get("cache-control", "")
    if "no-transform" not in cache or ("no-cache" not in cache and "no-store" not in cache):
        yield _suspicious("headers_changed", {"cache_control": cache, "proxy": proxy})
    if "content-length" in seen.headers:
        length = seen.headers["content-length"]
        yield _suspicious("collected", {"content_length": length, "proxy": proxy})
    if seen.http_version == "HTTP/1.0":
        yield _suspicious("http_1_0", {"proxy": proxy})


def _broken(code: str, evidence: dict[str, Any]) -> Finding:
    return Finding(code=code, severity=Severity.BROKEN, evidence=evidence, remedy=code)


def _suspicious(code: str, evidence: dict[str, Any]) -> Finding:
    return Finding(code=code, severity=Severity.SUSPICIOUS, evidence=evidence, remedy=code)
