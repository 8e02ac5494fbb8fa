"""A hundred thousand streams at once over many web and worker processes: arithmetic from measured figures,
and a simulation in virtual time of what arithmetic does not tell.

Nothing here was run on many machines. What a token, a start, an open stream and a command of Redis cost was
measured on one (`inputs` names the source of each figure, and what is only assumed); from there on it is

- arithmetic: how many streams each resource bears as processes are added; which is full first (`limits`);
- a simulation: random arrivals of owners and classes, routed by `streaming.core.routing`, waiting in one line
  for all processes in the order of `streaming.core.priority` (`Line`: the same order by heaps, as a list is
  too slow for lines of thousands; a test compares the two). It says who waits how long when more comes than
  there is room for and when processes die, and how unevenly a balancer loads them.

    .venv/bin/python -m benchmarks.simulation [--streams 100000] [--seconds 120] [--seed 1]

Deterministic by its seed; two minutes. Writes results/simulation.json, and plots where matplotlib is there.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.machine import commit
from streaming.core.routing import Route, Snapshot, decide

RESULTS: Final = Path(__file__).resolve().parent / "results"

CLASSES: Final = ("interactive", "normal", "batch")
SHARES: Final = (0.5, 0.3, 0.2)
"""Of the arrivals, by class."""


# --- Inputs -------------------------------------------------------------------------------------------


class Input(NamedTuple):
    """A figure, and where it is from."""

    value: float
    unit: str
    source: str


ASSUMED: Final = "assumed"


def inputs(results: Path = RESULTS) -> dict[str, Input]:
    """What the arithmetic begins with. Costs are those of this repository's machine (2.5 GHz, one core)."""
    stored = json.loads((results / "streams.json").read_text())["measurements"]

    def measured(scenario: str, load: Mapping[str, Any], figure: str) -> float:
        values = [
            each["figures"][figure]
            for each in stored
            if (each["scenario"], each["peer"]) == (scenario, "sluice")
            and each["load"] == load
            and figure in each["figures"]
        ]
        return float(statistics.median(values))

    paced = {"streams": 500, "rate": 50}
    open_streams = {"streams": 10_000}
    per_stream = measured("memory", open_streams, "kib_per_stream")
    total = measured("memory", open_streams, "pss_kib")
    from_streams = "streams.json, "
    found = {
        "pace": Input(50.0, "tokens/s of a stream", "the pace at which costs were measured"),
        "service": Input(30.0, "s that a stream lasts on average", ASSUMED),
        "token": Input(measured("paced", paced, "cpu_us_per_token"), "µs", from_streams + "500 × 50/s"),
        "start": Input(
            measured("short", {"connections": 16, "tokens": 20}, "cpu_us_per_stream"),
            "µs of a stream's begin and end",
            from_streams + "20 tokens, which are in it",
        ),
        "capacity": Input(
            50 * measured("capacity", {}, "streams"),
            "tokens/s of one process at p99 < 150 ms",
            from_streams + "capacity",
        ),
        "events": Input(
            measured("paced", paced, "events_per_token"), "events a token", from_streams + "500 × 50/s"
        ),
        "wire": Input(
            measured("paced", paced, "bytes_per_token"), "bytes a token", from_streams + "500 × 50/s"
        ),
        "memory": Input(per_stream, "KiB of an open stream", from_streams + "10,000 idle"),
        "process": Input(total - 10_000 * per_stream, "KiB of a process", from_streams + "10,000 idle"),
        "segments": Input(
            1 / 0.75, "rows/s of a running stream", "streaming/storage/records.py: LONGEST, under load"
        ),
        "postgresql": Input(30_000.0, "rows/s of one PostgreSQL", ASSUMED),
        "append": Input(
            16.0, "µs of Redis for an event", "a like script of five commands, redis-benchmark, by hand"
        ),
        "read": Input(8.0, "µs of Redis for an event that one other process reads", ASSUMED),
        "entry": Input(150.0, "bytes in Redis of an event", "126 entries by MEMORY USAGE, by hand"),
        "redis": Input(0.7, "of a Redis's core that may be busy", ASSUMED),
        "admission": Input(60.0, "µs of Redis for a task's way through the line", ASSUMED),
    }
    return found | _of_cluster(results / "cluster.json")


def _of_cluster(path: Path) -> dict[str, Input]:
    """What Redis was measured to need by `benchmarks.cluster`, at its largest number of streams."""
    if not path.exists():
        return {}
    stored = json.loads(path.read_text())
    by_count = {name: each for name, each in stored["cost"].get("Redis", {}).items() if name.isdigit()}
    if not by_count:
        return {}
    count = max(by_count, key=int)
    cost, tokens = by_count[count], stored["tokens_each"]
    source = f"cluster.json, {count} streams, one event a token"
    used = 1000 * cost["per_stream"].get("redis processor ms", 0.0) / tokens
    return {
        # Writing and reading were measured together.
        "append": Input(used, "µs of Redis for an event, read by one other process", source),
        "read": Input(0.0, "µs", "in the one before"),
        "entry": Input(
            cost["while_open"]["key_bytes_per_stream"] / tokens, "bytes in Redis of an event", source
        ),
    }


# --- Arithmetic ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Processes, one core each. `workers`: 0 where webs run what they are asked for. `permits`: of each
    process that runs tasks. `redis`, `postgresql`: servers that share the streams among them. `flush`:
    seconds between two segments of a stream, 0 for what a busy process does by itself."""

    webs: int
    workers: int
    permits: int
    queue: int = 0
    redis: int = 1
    postgresql: int = 1
    flush: float = 0.0

    @property
    def runners(self) -> range:
        """The processes that run tasks; those below `webs` are webs."""
        return range(self.webs, self.webs + self.workers) if self.workers else range(self.webs)


def limits(plan: Plan, given: Mapping[str, Input]) -> dict[str, float]:
    """The streams at once that each resource bears. Where a web only follows, both it and the worker are
    counted with all that a process needs which does both: an upper bound of the cost."""
    one_process = given["capacity"].value / given["pace"].value
    events = given["pace"].value * given["events"].value
    redis = 1e6 * given["redis"].value * plan.redis
    rows = 1 / plan.flush if plan.flush else given["segments"].value
    found = {
        "web processor": plan.webs * one_process,
        "PostgreSQL, events": plan.postgresql * given["postgresql"].value / rows,
        "permits": plan.permits * len(plan.runners),
    }
    if plan.workers:
        found["worker processor"] = plan.workers * one_process
    if plan.webs + plan.workers > 1:
        found["Redis, events"] = redis / (events * (given["append"].value + given["read"].value))
        # One Redis has the line, however many have the events.
        found["Redis, line"] = 1e6 * given["redis"].value * given["service"].value / given["admission"].value
    return found


def needed(streams: int, given: Mapping[str, Input]) -> dict[str, float]:
    """What so many streams at once ask for."""
    pace, events = given["pace"].value, given["pace"].value * given["events"].value
    processes = math.ceil(streams * pace / given["capacity"].value)
    used = events * (given["append"].value + given["read"].value)
    each = streams / processes
    busy = each * (pace * given["token"].value + given["start"].value / given["service"].value)
    kept = pace * given["service"].value * given["events"].value * given["entry"].value
    return {
        "web processes": processes,
        "worker processes": processes,
        "processor of a process, %": busy / 1e4,
        "memory of a process, MiB": (given["process"].value + each * given["memory"].value) / 1024,
        "starts a second": streams / given["service"].value,
        "events a second": streams * events,
        "sent to readers, MB a second": streams * pace * given["wire"].value / 1e6,
        "Redis servers for events": math.ceil(streams * used / 1e6 / given["redis"].value),
        # Its events while it lasts and for ten minutes after its end (replay_ttl).
        "kept in Redis, GB": streams * kept * (1 + 600 / given["service"].value) / 1e9,
        "PostgreSQL rows a second, 0.75 s": streams * given["segments"].value,
        "PostgreSQL rows a second, 10 s": streams / 10,
        "PostgreSQL connections": 2 * 2 * processes,
        "Redis connections": 2 * processes * 6,
    }


# --- The line -----------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Task:
    """One stream. `tag`, `sequence`, `level`: its place in line."""

    owner: int
    priority: int
    arrived: float
    service: float
    web: int
    granted: float | None = None
    ended: float | None = None
    refused: str = ""
    runner: int = -1
    attempt: int = 0
    tag: int = 0
    sequence: int = 0
    level: int | None = None


class Line:
    """The order of `streaming.core.priority.FairQueue` without promise, absence and series, in steps whose
    cost does not grow with the line."""

    def __init__(self, aging_seconds: float) -> None:
        self._aging = aging_seconds
        self._heaps: dict[int, list[tuple[int, int, Task]]] = defaultdict(list)
        self._young: dict[tuple[int, int], deque[Task]] = defaultdict(deque)
        self._virtual_time: dict[int, int] = {}
        self._last_tag: dict[tuple[int, int], int] = {}
        self._sequence = 0
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def push(self, task: Task) -> None:
        """Let it wait since `task.arrived`, which never decreases from one push to the next."""
        self._sequence += 1
        task.tag, task.sequence = self._next_tag(task.owner, task.priority), self._sequence
        self._waiting += 1
        self._stand(task, 0)

    def charge(self, task: Task) -> None:
        """Count one that was served without waiting."""
        self._serve(task.priority, self._next_tag(task.owner, task.priority))

    def pop(self, now: float) -> Task:
        """The next one. Raises `IndexError` when nobody waits."""
        self._lift(now)
        for level in sorted(self._heaps):
            heap = self._heaps[level]
            while heap:
                task = heapq.heappop(heap)[2]
                # It may stand higher by now.
                if task.level == level:
                    task.level = None
                    self._waiting -= 1
                    self._serve(task.priority, task.tag)
                    return task
            del self._heaps[level]
        raise IndexError("nobody waits")

    def _stand(self, task: Task, lifted: int) -> None:
        task.level = task.priority - lifted
        heapq.heappush(self._heaps[task.level], (task.tag, task.sequence, task))
        self._young[task.priority, lifted].append(task)

    def _lift(self, now: float) -> None:
        due = list(self._young)
        while due:
            priority, lifted = key = due.pop()
            young = self._young[key]
            while young and (young[0].level is None or int((now - young[0].arrived) / self._aging) > lifted):
                task = young.popleft()
                if task.level is not None:
                    self._stand(task, lifted + 1)
                    due.append((priority, lifted + 1))
            if not young:
                del self._young[key]

    def _next_tag(self, owner: int, priority: int) -> int:
        key = (owner, priority)
        tag = self._last_tag[key] = max(self._virtual_time.get(priority, 0), self._last_tag.get(key, -1) + 1)
        return tag

    def _serve(self, priority: int, tag: int) -> None:
        self._virtual_time[priority] = max(self._virtual_time.get(priority, 0), tag)


class Free:
    """Free permits by process; any of them, or a random one, in constant time."""

    def __init__(self, permits: Mapping[int, int]) -> None:
        self._left = dict(permits)
        self._some = [process for process, left in permits.items() if left]
        self._at = {process: place for place, process in enumerate(self._some)}

    def __bool__(self) -> bool:
        return bool(self._some)

    def __contains__(self, process: int) -> bool:
        return process in self._at

    def any(self, dice: random.Random) -> int:
        """A process that has one."""
        return self._some[dice.randrange(len(self._some))]

    def take(self, process: int) -> None:
        self._left[process] -= 1
        if not self._left[process]:
            last = self._some.pop()
            place = self._at.pop(process)
            if last != process:
                self._some[place], self._at[last] = last, place

    def give(self, process: int) -> None:
        self._left[process] += 1
        if self._left[process] == 1:
            self._at[process] = len(self._some)
            self._some.append(process)

    def lose(self, process: int) -> None:
        """A process is gone with all its permits."""
        if process in self._at:
            self._left[process] = 1
            self.take(process)
        self._left[process] = -(10**9)


# --- The simulation -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """Who comes. `streams`: at once, on average, while all are served; `rush`: so many times more from one
    owner besides, between two moments; `lost`: share of the runners that die at `lost_at`. Seconds."""

    streams: int
    service: float
    owners: int = 20_000
    per_owner: int = 10**9
    rush: float = 0.0
    rush_between: tuple[float, float] = (0.0, 0.0)
    lost: float = 0.0
    lost_at: float = math.inf
    two_choices: bool = False

    @property
    def rate(self) -> float:
        """Arrivals a second."""
        return self.streams / self.service


SPREAD: Final = 0.8
"""Of the logarithm of a stream's length: the longest percent lasts five times the average."""

GREEDY: Final = -1
"""The owner who sends the rush."""


@dataclass
class Outcome:
    """What became of everybody, and samples each second of open streams by process."""

    tasks: list[Task] = field(default_factory=list)
    at_once: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    busiest: list[float] = field(default_factory=list)
    beyond: int = 0
    samples: int = 0
    begun_anew: int = 0
    in_system: float = 0.0


class Simulation:
    """Streams come to webs at random, run where there is a permit, and are followed by their web."""

    def __init__(self, plan: Plan, load: Load, seed: int, aging: float = 30.0, bearable: float = math.inf):
        self._plan, self._load = plan, load
        self._dice = random.Random(seed)
        self._bearable = bearable
        self._line = Line(aging)
        self._free = Free(dict.fromkeys(plan.runners, plan.permits))
        self._running: dict[int, set[Task]] = {process: set() for process in plan.runners}
        self._open = [0] * (plan.webs + plan.workers)
        self._active: Counter[int] = Counter()
        self._busy = 0
        self._events: list[tuple[float, int, int, Task | None, int]] = []
        self._count = 0
        # The first of the owners ask most (Zipf's law, flattened).
        self._weights = list(accumulate(1 / (place + 50) for place in range(load.owners)))
        self._mu = math.log(load.service) - SPREAD**2 / 2
        self.outcome = Outcome()

    def run(self, seconds: float) -> Outcome:
        """From a steady state on."""
        self._begin_steady()
        self._next_arrival(0.0)
        if self._load.rush:
            self._next_rush(self._load.rush_between[0])
        self._at(self._load.lost_at, LOSS)
        self._at(1.0, SAMPLE)
        last = 0.0
        while self._events:
            now, _, kind, task, attempt = heapq.heappop(self._events)
            if now > seconds:
                break
            self.outcome.in_system += (now - last) * (self._busy + len(self._line))
            last = now
            if kind == END:
                assert task is not None
                if task.attempt == attempt:
                    self._end(task, now)
            elif kind == ARRIVAL:
                self._arrive(self._owner(), now)
                self._next_arrival(now)
            elif kind == RUSH:
                self._arrive(GREEDY, now)
                self._next_rush(now)
            elif kind == LOSS:
                self._lose(now)
            else:
                self._sample(now)
        self.outcome.in_system += (seconds - last) * (self._busy + len(self._line))
        return self.outcome

    def _at(self, moment: float, kind: int, task: Task | None = None) -> None:
        if moment < math.inf:
            self._count += 1
            attempt = task.attempt if task else 0
            heapq.heappush(self._events, (moment, self._count, kind, task, attempt))

    def _next_arrival(self, now: float) -> None:
        self._at(now + self._dice.expovariate(self._load.rate), ARRIVAL)

    def _next_rush(self, now: float) -> None:
        moment = now + self._dice.expovariate(self._load.rate * self._load.rush)
        if moment < self._load.rush_between[1]:
            self._at(moment, RUSH)

    def _owner(self) -> int:
        return self._dice.choices(range(self._load.owners), cum_weights=self._weights)[0]

    def _begin_steady(self) -> None:
        """The streams that one finds at any moment: longer than others (in proportion to their length), and
        somewhere in their midst."""
        for _ in range(min(self._load.streams, self._plan.permits * len(self._plan.runners))):
            whole = self._dice.lognormvariate(self._mu + SPREAD**2, SPREAD)
            task = self._new(self._owner(), 0.0, whole * self._dice.random())
            self._active[task.owner] += 1
            self._start(task, self._free.any(self._dice), 0.0)

    def _new(self, owner: int, now: float, service: float) -> Task:
        priority = self._dice.choices(range(len(CLASSES)), SHARES)[0]
        return Task(owner, priority, now, service, self._web())

    def _web(self) -> int:
        """Where the balancer sends it: anywhere, or to the emptier one of two (nginx: `random two`)."""
        one = self._dice.randrange(self._plan.webs)
        if not self._load.two_choices:
            return one
        other = self._dice.randrange(self._plan.webs)
        return one if self._open[one] <= self._open[other] else other

    def _arrive(self, owner: int, now: float) -> None:
        task = self._new(owner, now, self._dice.lognormvariate(self._mu, SPREAD))
        self.outcome.tasks.append(task)
        decision = decide(
            Snapshot(
                pool="agent_pool",
                running=self._busy,
                waiting=len(self._line),
                # A permit that is free nowhere else is not there for this one.
                max_workers=self._busy + bool(self._free),
                queue_size=self._plan.queue,
                owner_active=self._active[owner],
                per_owner=self._load.per_owner,
                oldest_wait_seconds=0.0,
                eligible=len(self._line),
            )
        )
        if decision.route is Route.REJECTED:
            task.refused = decision.reason.value
            return
        self._active[owner] += 1
        if decision.route is Route.DIRECT:
            self._line.charge(task)
            self._start(task, task.web if task.web in self._free else self._free.any(self._dice), now)
        else:
            self._line.push(task)

    def _start(self, task: Task, process: int, now: float) -> None:
        self._free.take(process)
        self._running[process].add(task)
        self._busy += 1
        task.runner, task.granted = process, now
        self._open[task.web] += 1
        if process != task.web:
            self._open[process] += 1
        self._at(now + task.service, END, task)

    def _stop(self, task: Task) -> None:
        self._busy -= 1
        self._open[task.web] -= 1
        if task.runner != task.web:
            self._open[task.runner] -= 1

    def _end(self, task: Task, now: float) -> None:
        self._stop(task)
        self._running[task.runner].discard(task)
        task.ended = now
        self._active[task.owner] -= 1
        self._free.give(task.runner)
        self._serve(now)

    def _serve(self, now: float) -> None:
        while len(self._line) and self._free:
            self._start(self._line.pop(now), self._free.any(self._dice), now)

    def _lose(self, now: float) -> None:
        """Some runners die. What they ran begins anew where there is room (`on_lost` is `restart`)."""
        runners = list(self._plan.runners)
        for process in self._dice.sample(runners, round(self._load.lost * len(runners))):
            for task in sorted(self._running.pop(process), key=lambda each: each.arrived):
                self._stop(task)
                task.attempt, task.granted = task.attempt + 1, None
                task.arrived = now
                self.outcome.begun_anew += 1
                self._line.push(task)
            self._free.lose(process)
        self._serve(now)

    def _sample(self, now: float) -> None:
        found = self.outcome
        found.at_once.append(self._busy)
        found.waiting.append(len(self._line))
        webs = self._open[: self._plan.webs]
        found.busiest.append(max(webs) / (sum(webs) / len(webs)) if sum(webs) else 1.0)
        found.beyond += sum(each > self._bearable for each in webs)
        found.samples += len(webs)
        self._at(now + 1.0, SAMPLE)


END, ARRIVAL, RUSH, LOSS, SAMPLE = range(5)


# --- Figures ------------------------------------------------------------------------------------------


def summary(tasks: Iterable[Task]) -> dict[str, Any]:
    """Waits in seconds, of those who got a permit; who got one at once waited for nothing."""
    asked = list(tasks)
    waits = sorted(task.granted - task.arrived for task in asked if task.granted is not None)
    return {
        "asked": len(asked),
        "granted": len(waits),
        "refused": dict(Counter(task.refused for task in asked if task.refused)),
        "waited": sum(wait > 0 for wait in waits),
        **{
            name: _quantile(waits, part)
            for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1))
        },
    }


def _quantile(ordered: Sequence[float], part: float) -> float | None:
    return round(ordered[math.ceil(part * len(ordered)) - 1], 3) if ordered else None


def scenarios(plan: Plan, streams: int, service: float, seconds: float) -> dict[str, tuple[Plan, Load]]:
    """What is simulated, by name."""
    middle = (seconds / 3, seconds / 3 + 20)
    load = Load(streams, service, per_owner=max(1, streams // 50))
    rush = replace(load, rush=0.5, rush_between=middle)
    return {
        "as planned": (plan, load),
        "as planned, to the emptier one of two": (plan, replace(load, two_choices=True)),
        "one owner sends half as much again for 20 s": (plan, rush),
        "the same rush without a limit per owner": (plan, replace(rush, per_owner=10**9)),
        "a tenth of the workers dies": (plan, replace(load, lost=0.1, lost_at=middle[0])),
    }


def simulate(plan: Plan, load: Load, seconds: float, seed: int, bearable: float) -> dict[str, Any]:
    """One scenario's figures."""
    found = Simulation(plan, load, seed, bearable=bearable).run(seconds)
    ordinary = [task for task in found.tasks if task.owner != GREEDY]
    permits = plan.permits * len(plan.runners)
    return {
        "everybody": summary(ordinary),
        "by_class": {
            name: summary(task for task in ordinary if task.priority == priority)
            for priority, name in enumerate(CLASSES)
        },
        "by_owner": {
            "the 50 who ask most": summary(task for task in ordinary if task.owner < 50),
            "all others": summary(task for task in ordinary if task.owner >= 50),
            "the greedy one": summary(task for task in found.tasks if task.owner == GREEDY),
        },
        "utilisation": round(statistics.mean(found.at_once) / permits, 4),
        "busiest_web": {
            "mean": round(statistics.mean(found.busiest), 3),
            "max": round(max(found.busiest), 3),
        },
        "web_seconds_beyond": round(found.beyond / found.samples, 4),
        "begun_anew": found.begun_anew,
        "at_once": found.at_once,
        "waiting": found.waiting,
    }


def run(streams: int, seconds: float, seed: int, given: Mapping[str, Input]) -> dict[str, Any]:
    """The whole result, as it is stored."""
    one_process = given["capacity"].value / given["pace"].value
    # Four fifths of what a process bears, so that one in five may be missing or unlucky.
    processes = math.ceil(streams / one_process / HEADROOM)
    permits = math.ceil(one_process)
    # Workers have a twentieth more permits than there are streams, so that there is something to wait for.
    plan = Plan(processes, math.ceil(1.05 * streams / permits), permits, queue=streams // 5)
    service = given["service"].value
    return {
        "what": "seconds that streams wait, and what they ask of processes and databases; all simulated",
        "seed": seed,
        "simulated_seconds_each": seconds,
        "streams": streams,
        "commit": commit(),
        "inputs": {name: each._asdict() for name, each in given.items()},
        "needed": {str(each): needed(each, given) for each in (1_000, 10_000, 100_000, 1_000_000)},
        "growth": growth(given),
        "plan": asdict(plan),
        "scenarios": {
            name: simulate(each, load, seconds, seed, one_process)
            for name, (each, load) in scenarios(plan, streams, service, seconds).items()
        },
    }


HEADROOM: Final = 0.8


def growth(given: Mapping[str, Input]) -> dict[str, list[dict[str, Any]]]:
    """The limits as web and worker processes are added: with one server of each kind, and with as many as
    there must be."""
    permits = math.ceil(given["capacity"].value / given["pace"].value)
    found: dict[str, list[dict[str, Any]]] = {"one of each": [], "shared out": []}
    for number in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        for name, plan in (
            ("one of each", Plan(number, number, permits)),
            (
                "shared out",
                Plan(number, number, permits, redis=max(1, number // 4), postgresql=1, flush=10.0),
            ),
        ):
            borne = limits(plan, given)
            first = min(borne, key=lambda each: borne[each])
            found[name].append(
                {"processes": number, "first": first, "streams": round(borne[first]), "limits": borne}
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=120.0, help="of virtual time, for each scenario")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON and the pictures")
    arguments = parser.parse_args()
    result = run(arguments.streams, arguments.seconds, arguments.seed, inputs())
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "simulation.json").write_text(
        json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    )
    print(table(result))
    try:
        from benchmarks.simulation_plot import pictures
    except ImportError:
        print("No pictures: matplotlib is not installed (requirements/bench.txt)")
    else:
        for name, picture in pictures(result).items():
            (arguments.results / name).write_text(picture)


def table(result: Mapping[str, Any]) -> str:
    """The scenarios' figures as a Markdown table; waits in seconds."""
    lines = [
        "| scenario | who | asked | refused | waited | p50 | p95 | p99 | longest |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, found in result["scenarios"].items():
        for who, row in (found["by_class"] | found["by_owner"]).items():
            if row["asked"]:
                refused = sum(row["refused"].values()) / row["asked"]
                waited = row["waited"] / row["granted"] if row["granted"] else 0.0
                waits = " | ".join(
                    "-" if row[part] is None else f"{row[part]:.1f}" for part in ("p50", "p95", "p99", "max")
                )
                lines.append(
                    f"| {name} | {who} | {row['asked']:,} | {refused:.0%} | {waited:.0%} | {waits} |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
