"""R8, R30: processes that are killed in the middle, and readers who all come back at once."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from streaming.runtime.journals.base import LOST_IDS
from tests.faults.conftest import Figures, Scale
from tests.support.scale import SERVERS
from tests.support.servers import environment, free_port, migrate, serving
from tests.support.wire import Persistent, PersistentSocket, Refused, ask, percentile, start, until

pytestmark = pytest.mark.server

STREAMS = 50
WORKERS = 30
"""For those fifty: so many run, and the others wait."""

TOKENS = 120
INTERVAL = 0.02
TEXT = "".join(f"{k} " for k in range(TOKENS))

LOSS_LIMIT = 1.0
"""Seconds of text before a crash that may be lost."""


@pytest.fixture
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of servers that follow each other on one database."""
    limits = {
        "AGENT_POOL_MAX_WORKERS": str(WORKERS),
        "AGENT_POOL_PER_OWNER": "100",
        "SSE_MAX_FOLLOWERS": "2000",
    }
    if getattr(request, "param", "sqlite") == "postgresql":
        url = request.getfixturevalue("postgresql").migrated()
        return environment(tmp_path, **limits, DATABASE_URL=url)
    made = environment(tmp_path, **limits)
    migrate(made)
    return made


@dataclass
class Losses:
    """What crashes took from readers."""

    ends: Counter[str] = field(default_factory=Counter)
    went_on: int = 0
    """Streams of which nothing had been seen when the process was killed, and the next one completed."""
    lost_ms: list[float] = field(default_factory=list)
    lost_characters: list[int] = field(default_factory=list)
    gaps: int = 0
    forgotten_ms: list[float] = field(default_factory=list)
    """Milliseconds that streams had run of which nothing had been written yet."""
    back_after: list[float] = field(default_factory=list)
    """Seconds from the new process's first answer to a reader's first event of it."""


@pytest.mark.parametrize("env", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True)
async def test_whoever_was_reading_when_a_process_was_killed_gets_an_exact_end(
    env: dict[str, str], tmp_path: Path, scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """R8. Kill -9 at random moments while fifty streams run or wait; another process on the same port and
    database follows. Exact text, or its exact prefix and `interrupted`; what was seen and did not survive is
    told; what waited goes on. Each fifth reads by WebSocket."""
    kills = scale(1, 20)
    port = free_port()
    losses = Losses()
    server = serving("serve", tmp_path, env, port=port)
    process = await server.__aenter__()
    try:
        for _ in range(kills):
            readers = [
                (Persistent if number % 5 else PersistentSocket)(lambda: port, pause=0.05)
                for number in range(STREAMS)
            ]
            begun = time.monotonic()
            reading = [
                asyncio.create_task(_read(reader, number, dice.choice([0.0, dice.random() * 2])))
                for number, reader in enumerate(readers)
            ]
            await asyncio.sleep(dice.uniform(0.3, 2.5))
            killed = time.monotonic()
            process.stop(signal.SIGKILL)
            await server.__aexit__(None, None, None)
            server = serving("serve", tmp_path, env, port=port)
            process = await server.__aenter__()
            back = time.monotonic()
            for reader, vanished in zip(readers, await asyncio.gather(*reading), strict=True):
                await _check(port, reader, vanished, killed, back, losses)
            assert begun < killed
        log = process.log()
        assert "Traceback" not in log, log[-3000:]
    finally:
        await server.__aexit__(None, None, None)
    figures(
        "R8",
        kills=kills,
        streams=kills * STREAMS,
        **losses.ends,
        of_these_went_on_from_the_queue=losses.went_on,
        told_of_losses=losses.gaps,
        lost_ms_p50=round(percentile(losses.lost_ms, 0.5)),
        lost_ms_most=round(max(losses.lost_ms, default=0)),
        lost_characters_most=max(losses.lost_characters, default=0),
        forgotten_ms_most=round(max(losses.forgotten_ms, default=0)),
        told_within_s_p99=percentile(losses.back_after, 0.99),
    )


async def _read(reader: Persistent, number: int, delay: float) -> bool:
    """Start a stream after a while and read it to its end; whether the service does not know it any more."""
    await asyncio.sleep(delay)
    try:
        await reader.generate(user_id=f"reader {number}", options={"tokens": TOKENS, "interval": INTERVAL})
    except Refused as refusal:
        if refusal.args != (404, "not_found"):
            raise
        return True
    return False


async def _check(
    port: int, reader: Persistent, vanished: bool, killed: float, back: float, losses: Losses
) -> None:
    assert reader.violations == []
    assert TEXT.startswith(reader.text)
    if vanished:
        # Killed before the first batch was written.
        losses.ends["forgotten"] += 1
        first = reader.seen[0][1] if reader.seen else killed
        losses.forgotten_ms.append((killed - first) * 1000)
        assert killed - first < LOSS_LIMIT
        return
    assert reader.end is not None
    losses.ends[reader.end.data.get("code", reader.end.name)] += 1
    if reader.end.at > back:
        losses.back_after.append(reader.end.at - back if reader.end.name == "error" else 0.0)
    if reader.end.name == "complete":
        assert reader.text == TEXT
        assert reader.gaps == []
        losses.went_on += reader.seen[0][1] > killed
        return
    assert reader.end.data["code"] == "interrupted"
    assert reader.end.data["retryable"] is True
    record = await ask(port, f"/streams/{reader.task_id}")
    assert record["started_at"] is not None, "what waits does not end by a crash"
    survived: str = record["text"]
    assert TEXT.startswith(survived)
    if len(reader.text) > len(survived):
        assert [gap["lost"] for gap in reader.gaps] == [True]
        assert reader.gaps[0]["available_from"] == int(reader.end.id)
        losses.gaps += 1
        losses.lost_characters.append(len(reader.text) - len(survived))
        last_written = int(reader.end.id) - LOST_IDS
        first_lost = next(at for number, at, _ in reader.seen if number > last_written)
        losses.lost_ms.append((killed - first_lost) * 1000)
        assert killed - first_lost < LOSS_LIMIT
    else:
        assert reader.gaps == []
        assert reader.text == survived


# --- R30 ----------------------------------------------------------------------------------------------


@pytest.mark.load
@pytest.mark.parametrize("kind", SERVERS)
async def test_a_herd_that_comes_back_at_once_is_served(
    kind: str, env: dict[str, str], tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    """R30. All connect again at the moment at which the new process listens, without waiting for `retry`.

    A task of which nothing had been written yet begins again instead of ending, and is cancelled then.
    """
    herd, tasks = scale(200, 1_000), 20
    port = free_port()
    async with serving(kind, tmp_path, env, port=port) as first:
        ids = [
            await start(port, user_id=f"t {k}", options={"interval": 0.05, "tokens": 9_999})
            for k in range(tasks)
        ]
        readers = [Persistent(lambda: port, ids[k % tasks], pause=0.02) for k in range(herd)]
        reading = [asyncio.create_task(reader.follow()) for reader in readers]
        await until(lambda: all(reader.after for reader in readers))
        first.stop(signal.SIGKILL)
    statistics: dict[str, Any] = {}
    async with serving(kind, tmp_path, env, port=port) as second:
        back = time.monotonic()
        await until(lambda: all(reader.end or reader.restarts for reader in readers))
        # The first event that is no text: the end, or that the task begins again.
        served = [next(at for _, at, text in reader.seen if not text) - back for reader in readers]
        for task_id in ids:
            await ask(port, f"/streams/{task_id}", "DELETE")
        await asyncio.gather(*reading)
        statistics = await ask(port, "/stats")
        assert "Traceback" not in second.log(), second.log()[-3000:]
    assert all(reader.violations == [] for reader in readers)
    assert sum(reader.silent_refusals for reader in readers) == 0
    assert statistics["followers"] == 0
    figures(
        "R30",
        clients=herd,
        served=len(served),
        refused_with_retry_after=sum(sum(reader.refusals.values()) for reader in readers),
        refused_without=0,
        served_within_p50=percentile(served, 0.5),
        served_within_all=max(served),
    )
