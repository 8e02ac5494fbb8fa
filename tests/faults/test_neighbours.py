"""Faults between processes that share a database, and of the database itself."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Figures, Scale
from tests.support.postgresql import Cluster
from tests.support.servers import Server, environment, free_port, migrate, serving
from tests.support.wire import Persistent, PersistentSocket, ask, percentile, request, start, until

pytestmark = pytest.mark.server

ENDLESS = {"tokens": 100_000, "interval": 0.02}

HELD_FOR_DEAD = 7.0
"""Seconds of silence after which another process has taken over: five of its own clock, and its looks."""


def house(folder: Path, **overrides: str) -> dict[str, str]:
    limits = {"AGENT_POOL_MAX_WORKERS": "50", "AGENT_POOL_PER_OWNER": "100", "SSE_MAX_FOLLOWERS": "2000"}
    env = environment(folder, **limits | overrides)
    if "DATABASE_URL" not in overrides:
        migrate(env)
    return env


def ends_of(server: Server) -> dict[str, list[bytes]]:
    """Of each task the frames behind which nothing may come, as the database has them."""
    found: dict[str, list[bytes]] = {}
    with closing(sqlite3.connect(server.database)) as database:
        rows = database.execute("SELECT task_id, frames FROM streaming_segment ORDER BY first_id")
        for task_id, frames in rows:
            ends = [
                frame
                for frame in bytes(frames).split(b"\n\n")
                if any(b"event: " + name in frame for name in (b"complete", b"error", b"cancelled"))
            ]
            found.setdefault(task_id, []).extend(ends)
    return found


@pytest.mark.parametrize("fate", [pytest.param("stopped", marks=pytest.mark.long), "killed"])
async def test_readers_on_both_sides_see_the_same_end(
    fate: str, tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    """One stream, read through its own process and through another, while the first is killed, or stands
    still for longer than the other waits and then goes on: it writes nothing more, and its readers find the
    end that the other one wrote."""
    env = house(tmp_path)
    async with serving("serve", tmp_path, env) as owner, serving("serve", tmp_path, env) as other:
        port = owner.port
        ids = [await start(owner.port, user_id=f"n {k}", options=ENDLESS) for k in range(scale(5, 20))]
        near = [Persistent(lambda: port, task_id, pause=0.05) for task_id in ids]
        far = [Persistent(lambda: other.port, task_id) for task_id in ids]
        reading = [asyncio.create_task(reader.follow()) for reader in [*near, *far]]
        await until(lambda: all(reader.after > 20 for reader in [*near, *far]))
        if fate == "stopped":
            owner.process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(HELD_FOR_DEAD + 1)
                await asyncio.gather(*reading[len(near) :])
            finally:
                owner.process.send_signal(signal.SIGCONT)
        else:
            owner.stop(signal.SIGKILL)
            port = other.port
        await asyncio.gather(*reading)
        for one, two in zip(near, far, strict=True):
            assert one.violations == two.violations == []
            assert one.end is not None
            assert two.end is not None
            assert (one.end.id, one.end.data) == (two.end.id, two.end.data)
            assert two.end.data["code"] == "interrupted"
            assert one.text.startswith(two.text) or two.text.startswith(one.text)
        if fate == "stopped":
            # Its own numbers say that it has let go of all.
            await until(lambda: _runs(owner.port, 0))
            assert [await ask(owner.port, f"/streams/{pk}") for pk in ids] == [
                await ask(other.port, f"/streams/{pk}") for pk in ids
            ]
        assert {pk: len(ends) for pk, ends in ends_of(other).items()} == dict.fromkeys(ids, 1)
        assert "Traceback" not in owner.log() + other.log(), (owner.log() + other.log())[-3000:]
        lost = [len(one.text) - len(two.text) for one, two in zip(near, far, strict=True)]
        figures(
            "an owner is " + fate, streams=len(ids), ends_each=1, ahead_of_the_others_characters=max(lost)
        )


async def _runs(port: int, wanted: int) -> bool:
    """Whether so many run in that process alone."""
    statistics = await ask(port, "/stats")
    return bool(statistics["tasks"]["active"] == wanted)


async def test_a_database_that_crashes_ends_no_stream(
    postgresql: Cluster, tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    """PostgreSQL is restarted as by a power cut, while streams run, begin, and are followed through another
    process: all get their exact text, and what was not written is written later."""
    env = house(tmp_path, DATABASE_URL=postgresql.migrated())
    tokens = 200
    text = "".join(f"{k} " for k in range(tokens))
    options = {"tokens": tokens, "interval": 0.02}
    async with serving("serve", tmp_path, env) as server, serving("serve", tmp_path, env) as other:
        for number in range(rounds := scale(1, 10)):
            readers = [Persistent(lambda: server.port, pause=0.05) for _ in range(20)]
            reading = [
                asyncio.create_task(reader.generate(user_id=f"{number} n {k}", options=options))
                for k, reader in enumerate(readers)
            ]
            await until(lambda: all(reader.after for reader in readers))  # noqa: B023 (awaited here)
            far = [Persistent(lambda: other.port, reader.task_id, pause=0.05) for reader in readers[:5]]
            reading += [asyncio.create_task(reader.follow()) for reader in far]
            await until(lambda: all(reader.after for reader in far))  # noqa: B023
            await asyncio.to_thread(postgresql.stop, signal.SIGQUIT)
            late = Persistent(lambda: server.port)
            reading.append(asyncio.create_task(late.generate(user_id=f"{number} late", options=options)))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(postgresql.start)
            await asyncio.gather(*reading)
            for reader in [*readers, *far, late]:
                assert reader.violations == []
                assert reader.gaps == []
                assert reader.text == text
                assert reader.end is not None
                assert reader.end.name == "complete"
            assert all(reader.cuts == 0 for reader in [*readers, late])

            async def written(ids: list[str]) -> bool:
                records = [await ask(other.port, f"/streams/{pk}") for pk in ids]
                return all(record.get("text") == text for record in records)

            ids = [reader.task_id for reader in [*readers, late]]
            await until(lambda: written(ids))  # noqa: B023
        records = (await ask(server.port, "/stats"))["records"]
        assert (records["dropped"], records["dropped_events"]) == (0, 0)
        assert "is dead" not in server.log() + other.log()
        figures(
            "PostgreSQL crashes", times=rounds, streams=rounds * 21, followed_elsewhere=rounds * 5, lost=0
        )


@pytest.mark.long
async def test_a_cancel_at_the_moment_of_a_crash_is_kept_or_was_not_promised(
    tmp_path: Path, scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """DELETE while the process is killed: who was told `cancelled` finds that again, the others one end."""
    env = house(tmp_path)
    ends: Counter[str] = Counter()
    told = 0
    for _ in range(rounds := scale(1, 10)):
        async with serving("serve", tmp_path, env) as first:
            ids = [await start(first.port, user_id=f"n {k}", options=ENDLESS) for k in range(30)]

            async def cancel(task_id: str, delay: float, port: int) -> bool:
                await asyncio.sleep(delay)
                try:
                    return bool((await ask(port, f"/streams/{task_id}", "DELETE"))["state"] == "cancelled")
                except OSError:
                    return False

            cancelling = [
                asyncio.create_task(cancel(task_id, 0.3 + dice.random() * 0.1, first.port)) for task_id in ids
            ]
            await asyncio.sleep(0.3 + dice.uniform(0.02, 0.1))
            first.stop(signal.SIGKILL)
            kept = await asyncio.gather(*cancelling)
        async with serving("serve", tmp_path, env) as second:
            for task_id, was_told in zip(ids, kept, strict=True):
                reader = Persistent(lambda: second.port, task_id)
                await reader.follow()
                assert reader.end is not None
                ends[reader.end.name] += 1
                told += was_told
                assert reader.end.name == "cancelled" or not was_told, "a cancel that was told is undone"
                assert reader.end.data.get("code", "interrupted") == "interrupted"
            assert {len(each) for each in ends_of(second).values()} == {1}
            assert "Traceback" not in second.log(), second.log()[-3000:]
    figures("DELETE and a crash", rounds=rounds, streams=rounds * 30, told_cancelled=told, **ends)


async def test_what_waited_at_the_shutdown_goes_on_an_hour_later(tmp_path: Path, figures: Figures) -> None:
    """SIGTERM while streams wait and nobody is there to take them; the next process starts an hour later, by
    its clock."""
    late = tmp_path / "late"
    late.mkdir()
    (late / "sitecustomize.py").write_text(AN_HOUR_LATER)
    env = house(tmp_path, AGENT_POOL_MAX_WORKERS="2", AGENT_POOL_QUEUE_TIMEOUT="30", SSE_DRAIN_GRACE="0.3")
    port = free_port()
    options = {"tokens": 20, "interval": 0.01}
    waiting: list[Persistent] = []
    async with serving("serve", tmp_path, env, port=port) as first:
        running = [await start(port, user_id=f"runs {k}", options=ENDLESS) for k in range(2)]
        waiting = [(Persistent if k % 2 else PersistentSocket)(lambda: port, pause=0.05) for k in range(6)]
        reading = [
            asyncio.create_task(reader.generate(user_id=f"waits {k}", options=options))
            for k, reader in enumerate(waiting)
        ]
        await until(lambda: all(reader.task_id for reader in waiting))
        first.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.process.wait, 30) == 0
    assert not any(each.done() for each in reading)
    async with serving("serve", tmp_path, env | {"PYTHONPATH": str(late)}, port=port) as second:
        await asyncio.gather(*reading)
        for reader in waiting:
            assert reader.violations == []
            assert reader.text == "".join(f"{k} " for k in range(20)), reader
            assert reader.end is not None
            assert reader.end.name == "complete"
        records: list[dict[str, Any]] = [await ask(port, f"/streams/{pk}") for pk in running]
        assert [record["error"]["code"] for record in records] == ["interrupted"] * 2
        assert "Traceback" not in first.log() + second.log()
    figures("an hour without a process", waited=len(waiting), went_on=len(waiting))


AN_HOUR_LATER = """
import datetime
import time

time_, real = time.time, datetime.datetime


class Meta(type(real)):
    def __instancecheck__(cls, instance):
        return isinstance(instance, real)


class Later(real, metaclass=Meta):
    @classmethod
    def now(cls, tz=None):
        return real.fromtimestamp(time.time(), tz)


time.time = lambda: time_() + 3_600
datetime.datetime = Later
"""


@pytest.mark.load
@pytest.mark.long
async def test_a_herd_of_readers_of_another_process_is_served(
    tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    """All come at once to a process that has nothing but the database to read from."""
    env = house(tmp_path)
    herd, tasks = scale(200, 1_000), 10
    text = "".join(f"{k} " for k in range(100))
    async with serving("serve", tmp_path, env) as owner, serving("serve", tmp_path, env) as other:
        ids = [
            await start(owner.port, user_id=f"t {k}", options={"tokens": 100, "interval": 0.04})
            for k in range(tasks)
        ]
        readers = [Persistent(lambda: other.port, ids[k % tasks]) for k in range(herd)]
        async with asyncio.timeout(60):
            await asyncio.gather(*(reader.follow() for reader in readers))
        for reader in readers:
            assert reader.violations == []
            assert reader.text == text
            assert reader.silent_refusals == 0
        live = sum(len({round(at, 1) for _, at, text in reader.seen if text}) > 3 for reader in readers)
        ended = [reader.end.at for reader in readers if reader.end]
        async with request(other.port, "GET", "/healthz") as answer:
            assert answer.status == 200
        assert "Traceback" not in owner.log() + other.log()
        figures(
            "a herd on a replica",
            clients=herd,
            tasks=tasks,
            live=live,
            cuts=sum(reader.cuts for reader in readers),
            ends_within=max(ended) - min(ended),
            spread_p95=percentile(sorted(each - min(ended) for each in ended), 0.95),
        )
