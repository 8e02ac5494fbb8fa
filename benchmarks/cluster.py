"""What Redis and Celery add to a stream, beside the same stream without them, and what a stream costs them.

Real servers on one PostgreSQL (SQLite where that is not installed), each engine with a pair of its own:

    database         two `manage.py serve`; what one of them runs the other one reads from the database
    Redis            two `manage.py serve` with REDIS_URL
    Celery + Redis   two `manage.py serve` with STREAM_ENGINE=celery, and one `manage.py worker`

**Delay.** One stream at a time, an event each 50 ms, read at the same time through both servers. The script
has the moment of its first token from the request (`start_at`), so an event's lateness is exact: its arrival
less the moment at which it was due, both on this machine's wall clock. Besides, each process having one
permit: from a call to its first content, and from the moment at which the only permit comes free to the first
content of the task that waited for it. Under Celery the permits of both servers are taken, so all goes to the
worker. Engines take turns within each repetition, so that what the machine does falls on all alike.

**Cost.** 10, 100, 1,000 streams at once, begun through one server and followed through the other: commands,
bytes and processor time of Redis, writes of PostgreSQL, processor time and connections of each process, less
what all of them use while nothing runs. What is a stream's own should be the same for each number of streams,
and the connections of a process, too.

    .venv/bin/python -m benchmarks.cluster [--quick] [--only delay|cost] [--repetitions 6] [--to FILE]

An engine that is not there is named and left out. A stream that does not end whole ends the benchmark.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil

from benchmarks.machine import PACKAGES, machine, versions
from tests.support.client import STREAM, Reading, brief, client, read_stream
from tests.support.postgresql import Cluster, cluster, find_programs
from tests.support.redis import INSTALL, RedisServer, find_redis, redis_server
from tests.support.servers import ROOT, STOP_LIMIT, Server, environment, migrate, started

RESULT: Final = ROOT / "benchmarks" / "results" / "cluster.json"

LATER: Final = "/content/generate/async"

PREFIX: Final = "sluice"
"""Before all keys in Redis: CLUSTER_PREFIX."""

DATABASE: Final = "database"
REDIS: Final = "Redis"
CELERY: Final = "Celery + Redis"
ENGINES: Final = (DATABASE, REDIS, CELERY)

PAUSE: Final = 0.5
"""Seconds between two events of a stream whose cost is measured."""

STARTS: Final = 40
"""Streams a second that are surely begun and followed before the first token of any is due."""

SETTLED: Final = 1.5
"""Seconds after which everybody has written what there was to write."""

INTERVAL: Final = 0.05
"""Seconds between two events of a stream whose delay is measured."""

HEAD_START: Final = 1.0
"""Seconds from a call to its first token, so that all readers are there before it."""

FREE: Final = 0.1
"""Seconds after a stream's end in which its permit is surely free again."""

LONG: Final = 3600.0
"""Seconds that a task keeps a permit which nobody else shall get."""

LIMITS: Final = {
    "AGENT_POOL_QUEUE_SIZE": "5000",
    "AGENT_POOL_PER_OWNER": "10000",
    "AGENT_POOL_RUN_TIMEOUT": str(int(LONG)),
    "SERVER_LIMIT_CONCURRENCY": "10000",
    # One event for each token, so that the pace is the producer's and not the coalescer's.
    "BUFFER_FLUSH_CHARS": "1",
}

OURS: Final = ("info", "scan", "memory|usage", "client|list", "select")
"""Commands of the benchmark itself."""


@dataclass(frozen=True)
class House:
    """The processes of one engine. `web`: two servers; `worker`: its process, where there is one."""

    engine: str
    web: tuple[Server, Server]
    worker: subprocess.Popen[bytes] | None
    postgresql: Cluster | None
    database: str
    redis: RedisServer | None
    number: int

    def processes(self) -> dict[str, psutil.Process]:
        """By their parts in this benchmark."""
        found = {"web that runs": self.web[0].process, "web that reads": self.web[1].process}
        if self.worker is not None:
            # Its first server only takes the call.
            found = {"web that is asked": self.web[0].process, "web that reads": self.web[1].process}
            found["worker"] = self.worker
        return {name: psutil.Process(process.pid) for name, process in found.items()}


@dataclass(frozen=True)
class Machinery:
    """The databases that all houses share."""

    folder: Path
    postgresql: Cluster | None
    redis: RedisServer | None

    @contextmanager
    def house(self, engine: str, permits: int) -> Iterator[House]:
        """The processes of `engine` on databases of their own. Those that are to run tasks have `permits`
        each: both servers, or the worker, whose servers have one. Raises `LeftOut` where there is no such
        engine."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        settings = {**LIMITS, "AGENT_POOL_MAX_WORKERS": "1" if engine == CELERY else str(permits)}
        number = 0
        if engine != DATABASE:
            if self.redis is None:
                raise LeftOut(INSTALL)
            settings["REDIS_URL"] = self.redis.url()
            number = int(settings["REDIS_URL"].rpartition("/")[2])
        if engine == CELERY:
            _must_have_workers(folder)
            settings |= {"STREAM_ENGINE": "celery", "CELERY_BROKER_URL": settings["REDIS_URL"]}
        if self.postgresql is not None:
            settings["DATABASE_URL"] = self.postgresql.migrated()
        env = environment(folder, **settings)
        if self.postgresql is None:
            migrate(env)
        with ExitStack() as stack, ThreadPoolExecutor() as threads:
            pair = [started("serve", folder, env) for _ in range(2)]
            for house in pair:
                stack.push(house)
            one, other = threads.map(lambda house: house.__enter__(), pair)
            slots = {"AGENT_POOL_MAX_WORKERS": str(permits)}
            worker = stack.enter_context(_worker(folder, env | slots)) if engine == CELERY else None
            yield House(
                engine, (one, other), worker, self.postgresql, env["DATABASE_URL"], self.redis, number
            )


class LeftOut(Exception):
    """An engine cannot be measured; the text says why."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each stream whose delay counts")
    parser.add_argument("--streams", type=int, nargs="+", default=[10, 100, 1000], help="of the cost")
    parser.add_argument("--tokens", type=int, default=20, help="of each stream whose cost counts")
    parser.add_argument("--only", choices=("delay", "cost"))
    parser.add_argument("--engine", choices=ENGINES, action="append", help="measure these only")
    parser.add_argument("--quick", action="store_true", help="less than a minute and a half, rough")
    parser.add_argument("--to", type=Path, default=RESULT, help="the file with the figures; a page beside it")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repetitions, arguments.seconds = 1, 2.0
        arguments.streams, arguments.tokens = [10, 50], 5
    before = machine()
    result = {
        "what": "milliseconds of delay, and what a stream costs Redis, PostgreSQL and processes, by engine",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": before,
        "versions": versions((*PACKAGES, "redis", "hiredis", "celery", "kombu")),
        "quick": arguments.quick,
        "repetitions": arguments.repetitions,
        "events_each": round(arguments.seconds / INTERVAL),
        "tokens_each": arguments.tokens,
        **asyncio.run(_measure(arguments)),
        "load_average_after": os.getloadavg(),
    }
    arguments.to.parent.mkdir(parents=True, exist_ok=True)
    arguments.to.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    arguments.to.with_suffix(".md").write_text(report(result))
    print(report(result))


async def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Delay and cost, and why an engine is missing."""
    engines = [each for each in ENGINES if each in (arguments.engine or ENGINES)]
    found: dict[str, Any] = {"delay": {}, "cost": {}, "left_out": {}}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-")))
        postgresql = stack.enter_context(cluster()) if find_programs() else None
        redis = stack.enter_context(redis_server()) if find_redis() else None
        machinery = Machinery(folder, postgresql, redis)
        found["database"] = "PostgreSQL" if postgresql else "SQLite"
        if arguments.only != "cost":
            tokens = round(arguments.seconds / INTERVAL)
            found["delay"] = await _delays(
                machinery, engines, arguments.repetitions, tokens, found["left_out"]
            )
        if arguments.only != "delay":
            for engine in engines:
                if engine not in found["left_out"]:
                    found["cost"][engine] = await _costs(
                        machinery, engine, arguments.streams, arguments.tokens, found["left_out"]
                    )
    return found


# --- Delay --------------------------------------------------------------------------------------------

_Values = defaultdict[str, defaultdict[str, list[float]]]
"""Seconds by what is measured, and by way."""


async def _delays(
    machinery: Machinery, engines: list[str], repetitions: int, tokens: int, left_out: dict[str, str]
) -> dict[str, dict[str, Any]]:
    values: _Values = defaultdict(lambda: defaultdict(list))
    with ExitStack() as stack:
        houses = []
        for engine in engines:
            try:
                house = stack.enter_context(machinery.house(engine, 1))
                await _prove(house)
            except LeftOut as reason:
                left_out[engine] = str(reason)
                _say(f"{engine} is left out: {reason}")
                continue
            houses.append(house)
        for repetition in range(repetitions):
            for number in range(len(houses)):
                house = houses[(number + repetition) % len(houses)]
                await _lateness(house, tokens, values["lateness"])
                for _ in range(5):
                    await _first_content(house, values["first content of a call"])
                await _permit_comes_free(house, values["first content after a permit came free"])
            _say(f"delay: repetition {repetition + 1} of {repetitions}")
    return {
        what: {way: _summary(seconds) for way, seconds in by_way.items()} for what, by_way in values.items()
    }


async def _lateness(house: House, tokens: int, values: defaultdict[str, list[float]]) -> None:
    """Read one stream through both servers at the same time."""
    async with client(house.web[0].url) as here, client(house.web[1].url) as there:
        due = time.time() + HEAD_START
        task_id = await _begun(here, tokens=tokens, interval=INTERVAL, start_at=due)
        readings = await asyncio.gather(
            *(read_stream(http, "GET", f"/streams/{task_id}/events") for http in (here, there))
        )
    for way, reading in zip(_ways(house.engine), readings, strict=True):
        _must_be_whole(reading, tokens)
        values[way] += [at - due - token * INTERVAL for token, at in _arrivals(reading).items()]


def _ways(engine: str) -> tuple[str, str]:
    """Where the two readers of a stream read it."""
    if engine == CELERY:
        return "of a worker, through the server asked (Celery + Redis)", "of a worker, through another server"
    own = "through its own process" + (", Redis beside it" if engine == REDIS else "")
    return own, f"through another process ({engine})"


async def _first_content(house: House, values: defaultdict[str, list[float]]) -> None:
    """From a call to its first content, a permit being free: of its own process, else of the worker."""
    way = {DATABASE: "its own process", REDIS: "its own process, Redis beside it", CELERY: "a worker"}
    async with client(house.web[0].url) as http:
        # The connection is there already.
        await http.get("/healthz")
        began = time.monotonic()
        reading = await _stream(http, tokens=2, interval=0.01)
    values[way[house.engine]].append(_first(reading) - began)
    await asyncio.sleep(FREE)


async def _permit_comes_free(house: House, values: defaultdict[str, list[float]]) -> None:
    """From the moment at which the task that has the permit is over, by its script, to the first content of
    the one that waits for it."""
    way = {DATABASE: "from the process's own line", REDIS: "from the line in Redis", CELERY: "on a worker"}
    async with client(house.web[0].url) as here, client(house.web[1].url) as there:
        # Redis has one line for both servers, so the other one's permit is not to be free.
        taken = await _begun(there, tokens=2, interval=LONG) if house.engine == REDIS else None
        end = time.time() + 1.2
        # The script's end is due one interval after its last token.
        await _begun(here, tokens=2, interval=0.5, start_at=end - 1.0)
        await asyncio.sleep(0.3)
        reading = await _stream(here, tokens=2, interval=0.01)
        if taken is not None:
            await there.delete(f"/streams/{taken}")
    values[way[house.engine]].append(_wall(_first(reading)) - end)
    await asyncio.sleep(FREE)


async def _prove(house: House) -> None:
    """That the engine does what it is for. Under Celery this also takes the servers' own permits."""
    async with client(house.web[0].url) as here, client(house.web[1].url) as there:
        if house.engine == CELERY:
            for http in (here, there):
                await _begun(http, tokens=2, interval=LONG)
        try:
            async with asyncio.timeout(30):
                task_id = await _begun(here, tokens=5, interval=INTERVAL)
                _must_be_whole(await read_stream(there, "GET", f"/streams/{task_id}/events"), 5)
        except TimeoutError:
            raise LeftOut("a task that waits while the servers are busy is not run by the worker") from None
    if house.redis is not None and house.engine != DATABASE:
        with house.redis.client(house.number) as redis:
            if not redis.exists(f"{PREFIX}:s:{task_id}"):
                raise LeftOut("REDIS_URL has no effect: the stream is not in Redis")


# --- Cost ---------------------------------------------------------------------------------------------


async def _costs(
    machinery: Machinery, engine: str, counts: list[int], tokens: int, left_out: dict[str, str]
) -> dict[str, Any]:
    """By number of streams at once; `idle_per_second`: what is used while nothing runs."""
    try:
        with machinery.house(engine, 2 * max(counts)) as house:
            await _prove(house)
            await asyncio.sleep(SETTLED)
            meter = Meter(house)
            before = meter.read()
            await asyncio.sleep(4)
            idle = _per_second(before, meter.read())
            by_count = {}
            for count in counts:
                by_count[str(count)] = await _cost(house, meter, count, tokens, idle)
                _say(f"cost: {engine}, {count} streams")
    except LeftOut as reason:
        left_out[engine] = str(reason)
        _say(f"{engine} is left out: {reason}")
        return {}
    return {"idle_per_second": {name: round(value, 3) for name, value in sorted(idle.items())}, **by_count}


async def _cost(
    house: House, meter: Meter, count: int, tokens: int, idle: Mapping[str, float]
) -> dict[str, Any]:
    """What each of `count` streams at once costs, and what is open and kept while all of them run."""
    before, memory = meter.read(), meter.memory()
    due = time.time() + HEAD_START + count / STARTS
    turns = asyncio.Semaphore(20)
    async with client(house.web[0].url) as here, client(house.web[1].url) as there:

        async def begin() -> str:
            async with turns:
                return await _begun(here, tokens=tokens, interval=PAUSE, start_at=due)

        ids = await asyncio.gather(*(begin() for _ in range(count)))
        accepted = [asyncio.Event() for _ in ids]
        readers = [
            asyncio.create_task(read_stream(there, "GET", f"/streams/{task_id}/events", accepted=event))
            for task_id, event in zip(ids, accepted, strict=True)
        ]
        for event in accepted:
            await event.wait()
        in_time = time.time() < due
        await asyncio.sleep(max(0.0, due + (tokens - 1) * PAUSE - 0.2 - time.time()))
        open_now = {
            "connections": meter.connections(),
            "redis_memory_per_stream": round((meter.memory() - memory) / count),
            **meter.keys(set(ids), count),
        }
        readings = await asyncio.gather(*readers)
    for reading in readings:
        _must_be_whole(reading, tokens)
    late = [at - due - token * PAUSE for each in readings for token, at in _arrivals(each).items()]
    # PostgreSQL counts what a connection did up to a second later.
    await asyncio.sleep(SETTLED)
    after = meter.read()
    seconds = after["seconds"] - before["seconds"]
    per_stream = {
        name: round((after.get(name, 0) - before.get(name, 0) - idle.get(name, 0) * seconds) / count, 3)
        for name in sorted(after)
        if name != "seconds"
    }
    return {
        # Else some of the text was there before its reader, and came in one piece.
        "all_readers_in_time": in_time,
        "per_stream": {name: value for name, value in per_stream.items() if value},
        "while_open": open_now,
        "lateness": _summary(late),
    }


class Meter:
    """Counters of everything that a house uses."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._processes = house.processes()
        self._name = house.database.rpartition("/")[2]

    def read(self) -> dict[str, float]:
        """Counters that only grow, by name, and `seconds`."""
        found: dict[str, float] = {"seconds": time.monotonic()}
        for name, process in self._processes.items():
            used = process.cpu_times()
            found[f"processor ms, {name}"] = 1000 * (used.user + used.system)
        return found | self._redis() | self._postgresql()

    def _redis(self) -> dict[str, float]:
        if self._house.redis is None or self._house.engine == DATABASE:
            return {}
        with self._house.redis.client() as redis:
            said = redis.info("everything")
        calls = {
            f"redis command {name.removeprefix('cmdstat_')}": row["calls"]
            for name, row in said.items()
            if name.startswith("cmdstat_") and name.removeprefix("cmdstat_") not in OURS
        }
        return calls | {
            "redis bytes in": said["total_net_input_bytes"],
            "redis bytes out": said["total_net_output_bytes"],
            # What came in one piece from one client: a command, or several that were sent together.
            "redis requests": said["total_reads_processed"],
            "redis processor ms": 1000 * (said["used_cpu_user"] + said["used_cpu_sys"]),
        }

    def _postgresql(self) -> dict[str, float]:
        if self._house.postgresql is None:
            return {}
        row = self._house.postgresql.execute(
            "SELECT xact_commit, tup_inserted, tup_updated, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') "  # noqa: S608
            f"FROM pg_stat_database WHERE datname = '{self._name}'"
        )[0]
        names = ("transactions", "rows inserted", "rows updated", "WAL bytes")
        return {f"postgresql {name}": float(value) for name, value in zip(names, row, strict=True)}

    def memory(self) -> int:
        """Bytes that Redis uses."""
        if self._house.redis is None or self._house.engine == DATABASE:
            return 0
        with self._house.redis.client() as redis:
            return int(redis.info("memory")["used_memory"])

    def keys(self, ids: set[str], count: int) -> dict[str, float]:
        """Bytes of the keys of these streams, for each, and of all other keys."""
        if self._house.redis is None or self._house.engine == DATABASE:
            return {}
        ours = others = 0
        with self._house.redis.client(self._house.number) as redis:
            names = [name.decode() for name in redis.scan_iter(count=1000)]
            asking = redis.pipeline(transaction=False)
            for name in names:
                asking.memory_usage(name, samples=0)
            for name, size in zip(names, asking.execute(), strict=True):
                if name.rpartition(":")[2] in ids:
                    ours += size or 0
                else:
                    others += size or 0
        return {"key_bytes_per_stream": round(ours / count), "other_keys_bytes": others}

    def connections(self) -> dict[str, dict[str, int]]:
        """Connections of each process to each database."""
        remote = {}
        if self._house.redis is not None and self._house.engine != DATABASE:
            remote["Redis"] = self._house.redis.port
        if self._house.postgresql is not None:
            remote["PostgreSQL"] = self._house.postgresql.port
        return {
            name: {
                database: sum(
                    bool(each.raddr) and each.raddr.port == port
                    for member in (process, *process.children(recursive=True))
                    for each in member.net_connections("tcp")
                )
                for database, port in remote.items()
            }
            for name, process in self._processes.items()
        }


def _per_second(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    seconds = after["seconds"] - before["seconds"]
    return {
        name: (after[name] - before.get(name, 0)) / seconds
        for name in after
        if name != "seconds" and after[name] != before.get(name, 0)
    }


# --- Calls --------------------------------------------------------------------------------------------


async def _begun(http: httpx2.AsyncClient, **options: Any) -> str:
    """A stream's id. A busy database may refuse it for a moment (503 with Retry-After)."""
    for _ in range(20):
        response = await http.post(LATER, json=brief(user_id="measured", options=options))
        if response.status_code != 503:
            break
        await asyncio.sleep(0.5)
    if response.status_code != 202:
        raise RuntimeError(f"a call was answered {response.status_code}: {response.text}")
    task_id: str = response.json()["task_id"]
    return task_id


async def _stream(http: httpx2.AsyncClient, **options: Any) -> Reading:
    async with asyncio.timeout(60):
        reading = await read_stream(http, "POST", STREAM, json=brief(user_id="measured", options=options))
    _must_be_whole(reading, options["tokens"])
    return reading


def _must_be_whole(reading: Reading, tokens: int) -> None:
    if reading.response.status_code != 200 or not reading.events:
        answer = reading.response
        raise RuntimeError(f"a stream was answered {answer.status_code}: {answer.text}")
    if reading.end.name != "complete" or reading.text != "".join(f"{k} " for k in range(tokens)):
        raise RuntimeError(f"a stream ended with {reading.end}")


def _first(reading: Reading) -> float:
    return reading.named("content")[0].at


def _wall(at: float) -> float:
    """Seconds on the monotonic clock as a Unix time."""
    return at + time.time() - time.monotonic()


def _arrivals(reading: Reading) -> dict[int, float]:
    """When each token was there, in Unix seconds; pieces may have been joined."""
    return {
        int(token): _wall(event.at)
        for event in reading.named("content")
        for token in event.data["delta"].split()
    }


def _must_have_workers(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "worker", "--help"],
        cwd=ROOT,
        env=environment(folder),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise LeftOut("there is no `manage.py worker`")


@contextmanager
def _worker(folder: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A worker, which says by what it runs that it is there."""
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "worker"], cwd=ROOT, env=env, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_LIMIT)


# --- The report ---------------------------------------------------------------------------------------


def _summary(values: list[float]) -> dict[str, Any]:
    """Percentiles in milliseconds."""
    every = sorted(1000 * value for value in values)
    cuts = statistics.quantiles(every, n=100, method="inclusive") if len(every) > 1 else every * 99
    names = {"p50_ms": cuts[49], "p95_ms": cuts[94], "p99_ms": cuts[98], "max_ms": every[-1]}
    return {"count": len(every), **{name: round(value, 1) for name, value in names.items()}}


def report(result: Mapping[str, Any]) -> str:
    """The figures as a page."""
    where = result["machine"]
    quick = " --quick" if result["quick"] else ""
    lines = [
        "# Redis and Celery: what they add, and what a stream costs them",
        "",
        f"Made by `benchmarks/cluster.py`{quick} on {result['measured_at']}, "
        f"commit {result['versions']['commit']}. {where['processors']} processors ({where['processor']}) "
        "that all processes, databases and the client shared, "
        f"load {where['load_average'][0]:.1f} before and "
        f"{result['load_average_after'][0]:.1f} after; {result['database']}, without fsync.",
        "",
        *(f"**{engine}** is left out: {reason}.\n" for engine, reason in result["left_out"].items()),
    ]
    for what, by_way in result["delay"].items():
        lines += [
            f"## {what[0].upper()}{what[1:]}, ms",
            "",
            "| way | median | p95 | p99 | most | measured |",
            "| --- | --: | --: | --: | --: | --: |",
            *(
                f"| {way} | {row['p50_ms']:.1f} | {row['p95_ms']:.1f} | {row['p99_ms']:.1f} "
                f"| {row['max_ms']:.1f} | {row['count']:,} |"
                for way, row in by_way.items()
            ),
            "",
        ]
    for engine, by_count in result["cost"].items():
        if by_count:
            lines += _cost_page(engine, by_count, result["tokens_each"])
    return "\n".join(lines).rstrip() + "\n"


def _cost_page(engine: str, by_count: Mapping[str, Any], tokens: int) -> Iterator[str]:
    counts = [name for name in by_count if name != "idle_per_second"]
    open_now = {count: by_count[count]["while_open"] for count in counts}
    yield f"## Cost of a stream of {tokens} tokens: {engine}"
    yield ""
    yield "Less what is used while nothing runs, which is in the last column."
    yield ""
    yield f"| for each stream, at once: | {' | '.join(counts)} | idle, a second |"
    yield f"| --- |{' --: |' * (len(counts) + 1)}"
    names = sorted({name for count in counts for name in by_count[count]["per_stream"]})
    for name in names:
        cells = [f"{by_count[count]['per_stream'].get(name, 0):,.2f}" for count in counts]
        idle = by_count["idle_per_second"].get(name, 0)
        yield f"| {name} | {' | '.join(cells)} | {idle:,.2f} |"
    for name in ("key_bytes_per_stream", "redis_memory_per_stream"):
        if any(each.get(name) for each in open_now.values()):
            cells = [f"{open_now[count].get(name, 0):,}" for count in counts]
            yield f"| {name.replace('_', ' ')} | {' | '.join(cells)} | |"
    cells = ["yes" if by_count[count]["all_readers_in_time"] else "**no**" for count in counts]
    yield f"| all readers were there before the first token | {' | '.join(cells)} | |"
    cells = [f"{by_count[count]['lateness']['p50_ms']:,.0f}" for count in counts]
    yield f"| lateness through the other server, median, ms | {' | '.join(cells)} | |"
    yield ""
    yield f"| connections while all are open: | {' | '.join(counts)} |"
    yield f"| --- |{' --: |' * len(counts)}"
    for process, databases in open_now[counts[0]]["connections"].items():
        for database in databases:
            cells = [str(open_now[count]["connections"][process][database]) for count in counts]
            yield f"| {process} → {database} | {' | '.join(cells)} |"
    yield ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
