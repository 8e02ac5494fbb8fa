"""Processes that are killed, or held for dead, while they generate: what becomes of it in another process."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Figures, Scale
from tests.faults.test_neighbours import HELD_FOR_DEAD, ends_of, house
from tests.support.servers import Server, serving
from tests.support.wire import Persistent, ask, percentile, start, until

pytestmark = pytest.mark.server

TOKENS = 120
TEXT = "".join(f"{k} " for k in range(TOKENS))
SPEAKS: dict[str, Any] = {"tokens": TOKENS, "interval": 0.04}
THINKS = SPEAKS | {"start_delay": 1.5, "interval": 0.005}
"""Says nothing for a while."""

NOTICED = 10.0
"""Seconds within which a killed process is noticed."""


async def begin(port: int, options: dict[str, Any], count: int, name: str) -> list[str]:
    return [await start(port, user_id=f"{name} {k}", options=options) for k in range(count)]


@asynccontextmanager
async def two(folder: Path, env: dict[str, str]) -> AsyncIterator[tuple[Server, Server]]:
    """Two processes that start at the same time."""
    async with AsyncExitStack() as stack:
        houses = [serving("serve", folder, env) for _ in range(2)]
        one, other = await asyncio.gather(*(stack.enter_async_context(each) for each in houses))
        yield one, other


def attempts_of(server: Server) -> dict[str, int]:
    with closing(sqlite3.connect(server.database)) as database:
        return dict(database.execute("SELECT id, attempts FROM streaming_streamtask"))


@pytest.mark.parametrize("on_lost", ["restart", pytest.param("error", marks=pytest.mark.long)])
async def test_what_a_killed_process_generated_goes_on_in_another(
    on_lost: str, tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    """Some say nothing yet, some are in the middle; read through the process that is killed and through the
    other one. Each reader ends with the exact text, or with `interrupted` where the settings want that."""
    env = house(tmp_path, CLUSTER_ON_LOST=on_lost)
    count = scale(3, 20)
    async with two(tmp_path, env) as (owner, other):
        port = owner.port
        readers: dict[str, list[Persistent]] = {}
        reading: list[asyncio.Task[None]] = []

        def read(ids: list[str]) -> None:
            for pk in ids:
                near = Persistent(lambda: port, pk, pause=0.05)
                readers[pk] = [near, Persistent(lambda: other.port, pk)]
                reading.extend(asyncio.create_task(each.follow()) for each in readers[pk])

        spoken = await begin(port, SPEAKS, count, "speaks")
        read(spoken)
        await until(lambda: all(each.after > 5 for pk in spoken for each in readers[pk]))
        silent = await begin(port, THINKS, count, "thinks")
        read(silent)
        await until(lambda: all(attempts_of(other)[pk] == 1 for pk in silent))
        assert all(each.after == 0 for pk in silent for each in readers[pk])
        killed = time.monotonic()
        owner.stop(signal.SIGKILL)
        port = other.port
        await asyncio.gather(*reading)
        for task_id, pair in readers.items():
            for reader in pair:
                assert reader.violations == []
                assert reader.end is not None
                if task_id in spoken and on_lost == "error":
                    assert reader.end.data["code"] == "interrupted"
                    assert TEXT.startswith(reader.text)
                    continue
                assert reader.end.name == "complete"
                assert reader.text == TEXT
                assert reader.gaps == []
                told = [{"type": "restart", "attempt": 2, "reason": "process_lost"}]
                assert reader.restarts == (told if task_id in spoken else []), task_id
            near, far = pair
            assert near.end == far.end or (near.end and far.end and near.end.id == far.end.id)
        assert attempts_of(other) == {pk: 1 if pk in spoken and on_lost == "error" else 2 for pk in readers}
        assert {len(ends) for ends in ends_of(other).values()} == {1}
        records = [await ask(other.port, f"/streams/{pk}") for pk in silent]
        assert {record["text"] for record in records} == {TEXT}
        log = other.log()
        assert log.count("stream started again") == (count if on_lost == "error" else 2 * count)
        assert "Traceback" not in owner.log() + log, (owner.log() + log)[-3000:]
        if on_lost == "restart":
            gone_on = [
                next(at for _, at, _ in reader.seen if at > killed) - killed
                for reader in (pair[1] for pk, pair in readers.items() if pk in spoken)
            ]
            figures(
                "R8, begun anew",
                streams=2 * count,
                first_word_again_p50=percentile(gone_on, 0.5),
                first_word_again_most=max(gone_on),
            )
            assert max(gone_on) < NOTICED


@pytest.mark.long
async def test_a_process_that_stood_still_adds_nothing_to_what_others_began_anew(
    tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    """It is held for dead, its tasks begin anew elsewhere, and it goes on: no text has a word of it."""
    env = house(tmp_path, CLUSTER_ON_LOST="restart")
    options = {"tokens": 800, "interval": 0.02}
    text = "".join(f"{k} " for k in range(800))
    async with two(tmp_path, env) as (owner, other):
        ids = await begin(owner.port, options, scale(5, 20), "n")
        readers = [
            Persistent(lambda p=port: p, task_id, pause=0.05)  # type: ignore[misc]
            for task_id in ids
            for port in (owner.port, other.port)
        ]
        reading = [asyncio.create_task(reader.follow()) for reader in readers]
        await until(lambda: all(reader.after > 20 for reader in readers))
        owner.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(scale(HELD_FOR_DEAD + 2, 15.0))
        finally:
            owner.process.send_signal(signal.SIGCONT)
        await asyncio.gather(*reading)
        assert {reader.text for reader in readers} == {text}
        assert all(reader.violations == [] and reader.end.name == "complete" for reader in readers)  # type: ignore[union-attr]
        assert {record["text"] for record in [await ask(owner.port, f"/streams/{pk}") for pk in ids]} == {
            text
        }
        assert set(attempts_of(other).values()) == {2}
        assert {len(ends) for ends in ends_of(other).values()} == {1}
        assert "Traceback" not in owner.log() + other.log()
        figures("an owner stands still, begun anew", streams=len(ids), foreign_tokens=0, ends_each=1)


@pytest.mark.long
async def test_a_task_that_kills_each_of_its_processes_ends(tmp_path: Path, figures: Figures) -> None:
    """Whoever runs it is killed, three times, while a fourth process looks on."""
    env = house(tmp_path, CLUSTER_ON_LOST="restart")
    async with serving("serve", tmp_path, env) as first:
        task_id = (await begin(first.port, SPEAKS | {"interval": 0.5}, 1, "poison"))[0]
        port = first.port
        reader = Persistent(lambda: port, task_id, pause=0.1)
        reading = asyncio.create_task(reader.follow())
        await until(lambda: reader.after)
        victim = first
        for attempt in (2, 3):
            victim.stop(signal.SIGKILL)
            house_ = serving("serve", tmp_path, env)
            victim = await house_.__aenter__()
            port = victim.port
            await until(lambda: attempts_of(victim)[task_id] == attempt)  # noqa: B023
            await until(lambda: len(reader.restarts) == attempt - 1)  # noqa: B023
        victim.stop(signal.SIGKILL)
        async with serving("serve", tmp_path, env) as last:
            port = last.port
            await reading
            assert reader.end is not None
            assert (reader.end.data["code"], reader.end.data["retryable"]) == ("interrupted", True)
            assert reader.violations == []
            assert [each["attempt"] for each in reader.restarts] == [2, 3]
            assert "it was begun 3 times" in last.log()
    figures("a task that kills its process", attempts=3)
