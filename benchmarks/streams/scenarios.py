"""What is measured, under which loads, and how the figures come from what the client and the server say."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from . import client
from .client import Failed
from .servers import Server, rest

Load = dict[str, Any]
Figures = dict[str, Any]

CLIENT_LIMIT: Final = 0.9
"""Share of its core from which on the client may have been what was measured."""

DELIVERED_LIMIT: Final = 0.9
"""Share of the due tokens below which a peer did not carry the load."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How long each thing is measured: seconds, and counts."""

    window: float = 3.0
    full_speed: float = 2.0
    samples: int = 250
    warmup: int = 20
    pause: float = 0.003
    """Between two streams of an idle server; the longer, the colder."""
    capacity_window: float = 3.0


QUICK: Final = Sizes(window=2.0, full_speed=1.0, samples=100, capacity_window=2.0)


@dataclass
class Subject:
    """A server that is measured with a client beside it."""

    server: Server
    client_core: int
    sizes: Sizes
    earlier: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the peer's last measurement of the same scenario and load."""

    def run(
        self, script: dict[str, Any], members: Mapping[str, object] | None = None, **options: Any
    ) -> Figures:
        """One run of the client. Raises `Failed`."""
        peer = self.server.peer
        sent = client.request(
            {**script, **peer.options}, self.server.headers, **{**peer.members, **(members or {})}
        )
        return client.run(
            self.server.port, self.client_core, sent, end_by_event=not peer.keeps_alive, **options
        )


class Meter:
    """The server's processor time between the client's marks."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.seconds = self.cpu = 0.0

    def __call__(self, mark: str) -> None:
        sign = -1 if mark == "begin" else 1
        self.seconds += sign * time.monotonic()
        self.cpu += sign * self._server.cpu_seconds()


# --- Measurements -------------------------------------------------------------------------------------


def start(subject: Subject, load: Load) -> Figures:
    """Time to the first content of one stream at a time, on a server that has nothing else to do."""
    sizes = subject.sizes
    result = subject.run(
        {"tokens": 2, "interval": 0.003},
        mode="start",
        tokens=2,
        samples=sizes.samples,
        warmup=sizes.warmup,
        pause=sizes.pause,
        keep_alive=load["keep_alive"],
    )
    return {"first_content_us": _times(result, "first_content_us"), "samples": sizes.samples}


def paced(subject: Subject, load: Load) -> Figures:
    """Many streams at a steady pace, watched while all of them are open."""
    return _paced(subject, load["streams"], load["rate"], subject.sizes.window)


def _paced(subject: Subject, streams: int, rate: float, window: float) -> Figures:
    ramp = min(max(streams / 250, 0.2), 6.0)
    settle = 0.5
    tokens = round((ramp + settle + window) * rate)
    meter = Meter(subject.server)
    before = subject.server.cpu_seconds()
    result = subject.run(
        {"tokens": tokens, "interval": 1 / rate, "start_at": None},
        mode="paced",
        connections=streams,
        tokens=tokens,
        interval=1 / rate,
        ramp=ramp,
        settle=settle,
        seconds=window,
        on_mark=meter,
    )
    total = subject.server.cpu_seconds() - before
    _check_client(result)
    if not result["tokens"] or result["delivered"] < DELIVERED_LIMIT:
        raise Failed(
            f"only {result.get('delivered', 0):.1%} of the tokens arrived within a second of their time"
        )
    return {
        "late_ms": _times(result, "late_ms"),
        "first_content_us": _times(result, "first_content_us"),
        "cpu_us_per_token": 1e6 * meter.cpu / result["tokens"],
        "cpu_us_per_stream": 1e6 * total / streams,
        "cpu_share": meter.cpu / meter.seconds,
        "bytes_per_token": result["bytes"] / result["tokens"],
        "events_per_token": result["events"] / result["tokens"],
        "delivered": result["delivered"],
        "tokens": result["tokens"],
        "client_cpu_share": result["client_cpu_share"],
    }


def full_speed(subject: Subject, load: Load, step: bool) -> Figures:
    """Streams one after another on each connection, with no pause between tokens."""
    result, meter = _loop(subject, load["connections"], 2000, step)
    return {
        "tokens_per_second": result["tokens"] / meter.seconds,
        "cpu_us_per_token": 1e6 * meter.cpu / result["tokens"],
        "cpu_share": meter.cpu / meter.seconds,
        "events_per_token": result["events"] / result["tokens"],
        "bytes_per_token": result["bytes"] / result["tokens"],
        "client_cpu_share": result["client_cpu_share"],
    }


def burst(subject: Subject, load: Load) -> Figures:
    """Full speed; the producer never suspends."""
    return full_speed(subject, load, step=False)


def step(subject: Subject, load: Load) -> Figures:
    """Full speed; the producer suspends once for each token."""
    return full_speed(subject, load, step=True)


def short(subject: Subject, load: Load) -> Figures:
    """Full speed with streams of few tokens: what a whole stream costs."""
    result, meter = _loop(subject, load["connections"], load["tokens"], False)
    return {
        "streams_per_second": result["streams"] / meter.seconds,
        "cpu_us_per_stream": 1e6 * meter.cpu / result["streams"],
        "cpu_share": meter.cpu / meter.seconds,
        "client_cpu_share": result["client_cpu_share"],
    }


def _loop(subject: Subject, connections: int, tokens: int, step: bool) -> tuple[Figures, Meter]:
    meter = Meter(subject.server)
    result = subject.run(
        {"tokens": tokens, "interval": 0, "step": step},
        mode="loop",
        connections=connections,
        tokens=tokens,
        ramp=0.5,
        seconds=subject.sizes.full_speed,
        on_mark=meter,
    )
    _check_client(result)
    if not result["tokens"] or not result["streams"]:
        raise Failed("nothing arrived within the window")
    return result, meter


def memory(subject: Subject, load: Load) -> Figures:
    """Streams that have sent one token and are silent: what each holds."""
    streams = load["streams"]
    # What the first streams bring into memory once and for all belongs to the server, not to a stream.
    subject.run({"tokens": 20, "interval": 0}, mode="start", tokens=20, samples=20)
    before = subject.server.pss_kib()
    held: list[int] = []

    def look(_: str) -> None:
        time.sleep(1.0)  # what goes on behind the first content, as writing records
        held.append(subject.server.pss_kib())

    result = subject.run(
        {"tokens": 2, "interval": 0, "hang_after": 1},
        {"on_disconnect": "cancel"},
        mode="idle",
        connections=streams,
        tokens=2,
        ramp=streams / 1000,
        patience=200,
        on_mark=look,
    )
    return {
        "kib_per_stream": (held[0] - before) / streams,
        "pss_kib": held[0],
        "open_seconds": result["open_seconds"],
    }


def capacity(subject: Subject, load: Load) -> Figures:
    """The highest number of streams of 50 tokens a second whose p99 lateness is below the limit: 100 ms, and
    50 more for the window of a coalescer."""

    def measure(streams: int) -> Figures:
        rest([subject.server])
        return _paced(subject, streams, 50, subject.sizes.capacity_window)

    return highest(
        measure,
        limit_ms=150 if subject.server.peer.coalesces else 100,
        first=subject.earlier.get("streams", 1000),
    )


def highest(
    measure: Callable[[int], Figures],
    limit_ms: float,
    first: int,
    least: int = 50,
    most: int = 4000,
    step: int = 50,
) -> Figures:
    """Search the highest multiple of `step` that keeps to the limit, beginning at `first`.

    Raises `Failed` if not even `least` does.
    """
    tried: dict[int, float | None] = {}

    def holds(streams: int) -> bool:
        try:
            tried[streams] = measure(streams)["late_ms"]["p99"]
        except Failed:
            tried[streams] = None
        late = tried[streams]
        return late is not None and late < limit_ms

    low, high = 0, most + step  # the highest known to hold, the lowest known not to
    guess, stride = min(max(first // step * step, least), most), 4 * step
    while high - low > step:
        if holds(guess):
            low = guess
            guess = low + stride if high > most else (low + high) // 2
        else:
            high = guess
            guess = high - stride if low == 0 else (low + high) // 2
        stride *= 2
        guess = min(max(guess // step * step, low + step), high - step)
    if not low:
        raise Failed(f"not even {least} streams: {tried}")
    return {"streams": low, "late_ms_by_streams": {str(n): late for n, late in sorted(tried.items())}}


def polled_start(subject: Subject, load: Load) -> Figures:
    """Time to the first content beyond the producer's own delay, where polling is what costs."""
    delay = load["start_delay"]
    slow = subject.server.peer.polls
    result = subject.run(
        {"tokens": 2, "interval": 0.003, "start_delay": delay},
        mode="start",
        tokens=2,
        samples=max(subject.sizes.samples // 20, 5) if slow else subject.sizes.samples // 2,
        warmup=2 if slow else subject.sizes.warmup,
        pause=subject.sizes.pause,
    )
    times = _times(result, "first_content_us")
    return {"first_content_us": {name: value - 1e6 * delay for name, value in times.items()}}


def statuses(subject: Subject, load: Load) -> Figures:
    """Status messages that a reader gets in ten seconds of waiting for the first token."""
    seconds = 10
    result = subject.run(
        {"tokens": 1, "interval": 0, "start_delay": seconds}, mode="start", tokens=1, patience=seconds + 15
    )
    return {"status_messages": result["statuses"]}


def switch(subject: Subject, load: Load) -> Figures:
    """The lateness of asynchronous streams while two threads of the pool are busy in Python."""
    measured: Figures = {}
    subject.run(
        {"tokens": 1_000_000, "interval": 0.001, "blocking": True, "burn": 2},
        {"on_disconnect": "cancel"},
        mode="idle",
        connections=2,
        tokens=1_000_000,
        on_mark=lambda _: measured.update(_paced(subject, 20, 50, subject.sizes.window)),
    )
    return measured


def _times(result: Figures, name: str) -> dict[str, float]:
    found = result[name]
    if not found:
        raise Failed(f"no {name}")
    return {key: found[key] for key in ("p50", "p95", "p99", "max")}


def _check_client(result: Figures) -> None:
    if result["client_cpu_share"] > CLIENT_LIMIT:
        raise Failed(f"the client used {result['client_cpu_share']:.0%} of its core")


# --- Which peers under which loads --------------------------------------------------------------------

MAIN: Final = ("raw", "starlette", "django", "sluice", "sluice-uncoalesced")

OTHERS: Final = ("fastapi", "channels", "django-bare", "django-auth", "eventstream")

PARTS: Final = (
    "sluice-anonymous",
    "sluice-no-records",
    "sluice-no-events",
    "sluice-one-door",
    "sluice-gzip",
)

BLOCKING: Final = ("starlette-blocking", "django-blocking", "sluice-blocking")


SELDOM: Final = 3
"""How many repetitions measure those whom no goal names."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One load and the peers that are measured under it; `seldom`: in the first `SELDOM` repetitions only.
    Where not `quick`, it is left out of a quick run."""

    load: Load
    peers: tuple[str, ...]
    seldom: tuple[str, ...] = ()
    quick: bool = True


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A measurement under its loads. `repetitions` is the most that are made of it.

    Where `together`, the servers of all peers run side by side, so that peers take turns under each load;
    else each measurement has a server of its own. `settings` are in the environment of all servers.
    """

    name: str
    measure: Callable[[Subject, Load], Figures]
    cases: tuple[Case, ...]
    repetitions: int = 1000
    together: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="start",
            measure=start,
            cases=(
                Case(
                    load={"keep_alive": True},
                    peers=(*MAIN, "django-auth"),
                    seldom=(*OTHERS[:3], "eventstream", *PARTS),
                ),
                Case(load={"keep_alive": False}, peers=MAIN),
            ),
        ),
        Scenario(
            name="paced",
            measure=paced,
            cases=(
                Case(load={"streams": 1, "rate": 50}, peers=MAIN, quick=False),
                Case(load={"streams": 100, "rate": 50}, peers=MAIN, seldom=(*OTHERS, *BLOCKING)),
                Case(load={"streams": 500, "rate": 50}, peers=MAIN, seldom=PARTS),
                Case(load={"streams": 1000, "rate": 50}, peers=MAIN),
                Case(load={"streams": 2000, "rate": 25}, peers=MAIN, quick=False),
            ),
        ),
        Scenario(
            name="burst",
            measure=burst,
            cases=(Case(load={"connections": 16}, peers=MAIN, seldom=(*OTHERS, *BLOCKING, *PARTS)),),
        ),
        Scenario(name="step", measure=step, cases=(Case(load={"connections": 16}, peers=MAIN),)),
        Scenario(
            name="short",
            measure=short,
            cases=(
                Case(load={"connections": 16, "tokens": 20}, peers=MAIN, seldom=(*OTHERS, *BLOCKING, *PARTS)),
            ),
        ),
        Scenario(
            name="polled_start",
            measure=polled_start,
            cases=(
                Case(
                    load={"start_delay": 0},
                    peers=("raw", "polled", "polled-fast", "sluice", "sluice-blocking"),
                ),
                Case(load={"start_delay": 0.02}, peers=("raw", "polled-fast", "sluice", "sluice-blocking")),
            ),
            repetitions=5,
        ),
        Scenario(
            name="statuses",
            measure=statuses,
            cases=(Case(load={}, peers=("polled", "sluice")),),
            repetitions=1,
        ),
        Scenario(
            name="switch",
            measure=switch,
            cases=(Case(load={}, peers=("sluice", "sluice-default-switch")),),
            # The window of the coalescer would be most of the lateness.
            settings={"BUFFER_FLUSH_CHARS": "1"},
        ),
        Scenario(
            name="memory",
            measure=memory,
            cases=(
                Case(load={"streams": 1000}, peers=MAIN, seldom=OTHERS),
                Case(load={"streams": 5000}, peers=("raw", "starlette", "django", "sluice"), quick=False),
                Case(load={"streams": 10_000}, peers=("raw", "starlette", "sluice"), quick=False),
            ),
            repetitions=2,
            together=False,
        ),
        Scenario(
            name="capacity",
            measure=capacity,
            cases=(Case(load={}, peers=("raw", "starlette", "sluice", "sluice-uncoalesced"), quick=False),),
            repetitions=2,
        ),
    )
}
