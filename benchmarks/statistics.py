"""How long the statistics page asks its database, with a million tasks in it, of many owners.

Tasks are made that look like a week of a busy service, then counted as servers count those of the time before
they had statistics; then everything that the page asks is asked for each range, several times, and the plans
of all queries are kept. On SQLite and on a real PostgreSQL, each with the settings of the project.

    .venv/bin/python -m benchmarks.statistics [--tasks 1000000] [--owners 100000] [--repetitions 5]
        [--only SQLite] [--to benchmarks/results/statistics.json]

It takes some minutes for each database and two gigabytes of the temporary folder. PostgreSQL is left out
where it is not installed. `--only` measures one, and leaves the figures of the other one as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine, versions
from tests.support.postgresql import cluster, find_programs
from tests.support.servers import ROOT, environment, migrate

RESULT: Final = ROOT / "benchmarks" / "results" / "statistics.json"

GOAL: Final = 1.0
"""Seconds that all queries of the page may take together."""

WEEK: Final = 7 * 86_400.0
BATCH: Final = 5000
WORDS: Final = "The new café on the corner roasts its own beans and its windows look out on the river. "


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--owners", type=int, default=100_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--to", type=Path, default=RESULT, help="the file with the figures; a page beside it")
    parser.add_argument("--only", choices=("SQLite", "PostgreSQL"))
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        json.dump(_measure(arguments.tasks, arguments.owners, arguments.repetitions), sys.stdout)
        return
    measured = dict(_databases(arguments))
    kept = arguments.to.exists() and arguments.only
    earlier = json.loads(arguments.to.read_text())["results"] if kept else {}
    # Those of another load would not bear comparison.
    load = {"tasks": arguments.tasks, "owners": arguments.owners}
    earlier = {name: each for name, each in earlier.items() if load.items() <= each.items()}
    result = {
        "what": "seconds of the statistics page in its database; medians of the repetitions",
        "goal_seconds": GOAL,
        "results": dict(sorted((earlier | measured).items(), reverse=True)),
    }
    arguments.to.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    arguments.to.with_suffix(".md").write_text(_report(result))
    print(_report(result))


def _databases(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    with tempfile.TemporaryDirectory(prefix="statistics-") as name:
        folder = Path(name)
        if arguments.only != "PostgreSQL":
            here = environment(folder, DATABASE_URL=f"sqlite:///{folder / 'measured.sqlite3'}")
            migrate(here)
            yield "SQLite", _child(arguments, here)
        if arguments.only != "SQLite" and find_programs():
            with cluster() as postgresql:
                yield "PostgreSQL", _child(arguments, environment(folder, DATABASE_URL=postgresql.migrated()))


def _child(arguments: argparse.Namespace, where: dict[str, str]) -> dict[str, Any]:
    """Django knows its database from the start: a process for each."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.statistics", "--measure"),
            *("--tasks", str(arguments.tasks), "--owners", str(arguments.owners)),
            *("--repetitions", str(arguments.repetitions)),
        ],
        cwd=ROOT,
        env={**where, "DJANGO_SETTINGS_MODULE": "settings.settings"},
        stdout=subprocess.PIPE,
        check=True,
    )
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


# In the child


def _measure(tasks: int, owners: int, repetitions: int) -> dict[str, Any]:
    import django

    django.setup()
    from django.db import connection
    from django.utils import timezone

    from streaming.storage import rollups

    now = timezone.now()
    _say(f"{connection.vendor}: {tasks} tasks of {owners} owners")
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            # For the filling only: what is measured has the connection that servers have.
            cursor.execute("PRAGMA cache_size = -1000000")
            cursor.execute("PRAGMA synchronous = OFF")
    filled = _timed(lambda: _fill(tasks, owners, now))
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
    connection.close()
    _say(f"made in {filled:.0f} s; counting")
    steps: list[float] = []
    rollups.rebuild()
    while _step(rollups.backfill_some, steps):
        pass
    merging: list[float] = []
    while _step(lambda: rollups.compact_some(now), merging):
        pass
    _say(f"counted in {sum(steps):.0f} s")
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "tasks": tasks,
        "owners": owners,
        "repetitions": repetitions,
        "filled_seconds": round(filled, 1),
        "backfill": _spread(steps),
        "merging": _spread(merging),
        "rollup_rows": _count("streaming_taskrollup"),
        "ranges": {
            name: {what: round(seconds, 4) for what, seconds in parts.items()}
            for name, parts in _page(now, repetitions).items()
        },
        "plans": _plans(now),
    }


def _step(act: Callable[[], int], seconds: list[float]) -> int:
    begun = time.perf_counter()
    done = act()
    seconds.append(time.perf_counter() - begun)
    return done


def _timed(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def _spread(seconds: list[float]) -> dict[str, float]:
    return {
        "steps": len(seconds),
        "seconds": round(sum(seconds), 2),
        "median_seconds": round(statistics.median(seconds), 4),
        "longest_seconds": round(max(seconds), 4),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _count(table: str) -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {table}")  # noqa: S608 (ours)
        return int(cursor.fetchone()[0])


def _questions(now: datetime, name: str) -> dict[str, Callable[[], object]]:
    """What the page asks for a range."""
    from streaming.alerts import open_alerts
    from streaming.cluster.statistics import last_told
    from streaming.core.rollup import RANGES
    from streaming.storage import statistics as asked

    of = RANGES[name]
    summary = asked.summary_of(of, now)
    return {
        "charts, totals, percentiles": lambda: asked.summary_of(of, now),
        "figures of the charts": lambda: list(summary.series()),
        "slowest streams": lambda: asked.slowest(summary.whole),
        "top owners": lambda: asked.top_owners(summary.whole),
        "open alerts": open_alerts,
        "live gauges": last_told,
        "whether all is counted": asked.incomplete,
    }


def _page(now: datetime, repetitions: int) -> dict[str, dict[str, float]]:
    from streaming.core.rollup import RANGES

    measured: dict[str, dict[str, float]] = {}
    for name in RANGES:
        parts = {
            what: statistics.median(_timed(act) for _ in range(repetitions))
            for what, act in _questions(now, name).items()
        }
        measured[name] = parts | {"together": sum(parts.values())}
    return measured


def _plans(now: datetime) -> dict[str, list[str]]:
    """The plan of each query, of the longest range."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    plans: dict[str, list[str]] = {}
    for what, act in _questions(now, "week").items():
        with CaptureQueriesContext(connection) as looked:
            act()
        for number, each in enumerate(looked.captured_queries):
            plans[f"{what} {number + 1}" if number else what] = _plan(each["sql"])
    return plans


def _plan(query: str) -> list[str]:
    from django.db import connection

    explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN (ANALYZE, TIMING OFF)"
    with connection.cursor() as cursor:
        cursor.execute(f"{explain} {query}")
        return [str(row[-1])[:300] for row in cursor.fetchall()]


def _fill(tasks: int, owners: int, now: datetime) -> None:
    from django.contrib.auth import get_user_model
    from django.db import transaction

    from streaming.storage.rows import write_tasks

    chance = random.Random(7)
    users = get_user_model().objects.bulk_create(
        [get_user_model()(username=f"user {number}") for number in range(owners)], batch_size=BATCH
    )
    # The first of them ask most, as it is everywhere (Zipf's law); most of the others ask a few times.
    keys = [user.pk for user in users]
    weights = list(accumulate(1 / (place + 1) for place in range(owners)))
    for start in range(0, tasks, BATCH):
        numbers = range(start, min(start + BATCH, tasks))
        chosen = chance.choices(keys, cum_weights=weights, k=len(numbers))
        with transaction.atomic():
            write_tasks(
                [
                    _task(chance, number, tasks, now, owner)
                    for number, owner in zip(numbers, chosen, strict=True)
                ]
            )


def _task(chance: random.Random, number: int, tasks: int, now: datetime, owner: Any) -> dict[str, Any]:
    """One of a week, which is divided evenly among them; a tenth of them waited."""
    accepted = now - timedelta(seconds=WEEK * (tasks - number) / tasks)
    queued = chance.random() < 0.1
    wait = chance.lognormvariate(7, 1.5) if queued else chance.uniform(0.02, 0.2)
    first = wait + chance.lognormvariate(5.5, 0.8)
    total = first + chance.lognormvariate(8.5, 0.7)
    finished = accepted + timedelta(milliseconds=total)
    state = chance.choices(("complete", "error", "cancelled"), (93, 4, 3))[0]
    chunks = chance.randrange(20, 200)
    kernel = chance.random() < 0.15
    pool = "kernel_pool" if kernel else "agent_pool"
    row: dict[str, Any] = {
        "id": f"{chance.getrandbits(128):032x}",
        "owner_id": None if chance.random() < 0.2 else owner,
        "kind": "notebook" if kernel else "content",
        "pool": pool,
        "priority": chance.choice((0, 0, 0, 1, 2)),
        "route": "queued" if queued else "direct",
        "reason": "workers_busy" if queued else "worker_free",
        "snapshot": {"pool": pool, "running": 5, "waiting": 3, "max_workers": 5, "queue_size": 30},
        "arguments": {"category": "美食探店", "topic": "新开的咖啡店", "tone": "活泼可爱"},
        "language": "zh-hans",
        "state": state,
        "created_at": accepted,
        "process": f"{number % 4:032x}",
        "counted": 2,
    }
    if finished >= now:
        return row | {"state": "running", "counted": 1}
    return row | {
        "started_at": accepted + timedelta(milliseconds=wait),
        "finished_at": finished,
        "queued_ms": round(wait, 3),
        "first_content_ms": round(first, 3),
        "total_ms": round(total, 3),
        "timing": {"route": row["route"], "coalesced_ratio": 0.4, "blocked_ms": 0.0, "resumes": 0},
        "last_event_id": chunks + 1,
        "chunks": chunks,
        "content_length": chunks * 15,
        "status_messages": 3 if queued else 1,
        "resumes": int(chance.random() < 0.02),
        "error_code": chance.choice(("upstream_timeout", "run_timeout")) if state == "error" else "",
        "cancel_reason": chance.choice(("client", "disconnect")) if state == "cancelled" else "",
        "finish_reason": "stop" if state == "complete" else "",
        "text": WORDS * 4,
    }


# The report


def _report(result: dict[str, Any]) -> str:
    lines = [
        "# The statistics page's database work",
        "",
        "Milliseconds, medians; decoding and merging in Python is in them. Goal: "
        f"{result['goal_seconds']:.0f} s together. Made by `benchmarks/statistics.py`.",
        "",
    ]
    for database, measured in result["results"].items():
        ranges, backfill, where = measured["ranges"], measured["backfill"], measured["machine"]
        lines += [
            f"## {database}",
            "",
            f"{measured['tasks']:,} tasks of one week and {measured['owners']:,} owners, "
            f"{measured['measured_at']}, {measured['repetitions']} "
            f"repetitions, {where['processors']} processors ({where['processor']}) with a load of "
            f"{where['load_average'][0]:.1f}.",
            "",
            f"| | {' | '.join(ranges)} |",
            f"| --- |{' --: |' * len(ranges)}",
        ]
        for what in next(iter(ranges.values())):
            cells = (f"{parts[what] * 1000:.1f}" for parts in ranges.values())
            lines.append(f"| {what} | {' | '.join(cells)} |")
        lines += [
            "",
            f"Rollups: {measured['rollup_rows']:,} rows. Counting all tasks anew: {backfill['steps']} steps, "
            f"{backfill['median_seconds'] * 1000:.0f} ms each (the longest "
            f"{backfill['longest_seconds'] * 1000:.0f}), {backfill['seconds']:.0f} s in all.",
            "",
            "Plans (week):",
            "",
        ]
        for what, plan in measured["plans"].items():
            lines += [f"- {what}", "", "  ```", *(f"  {step}" for step in plan), "  ```", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    # `environment` of the tests names every setting; what the shell exports shall not decide here.
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings.settings")
    main()
