"""R6, R7: connections that are cut again and again, and readers who come back too late."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Figures, Scale
from tests.support.client import client, read_stream
from tests.support.scale import SERVERS
from tests.support.servers import environment, migrate, serving
from tests.support.toxics import End, cut_after, proxy
from tests.support.wire import Persistent, PersistentSocket, ask, percentile, start, until

pytestmark = pytest.mark.server

TOKENS = 60
TEXT = "".join(f"{k} " for k in range(TOKENS))


@pytest.mark.parametrize("kind", SERVERS)
async def test_streams_that_are_cut_again_and_again_lose_and_repeat_nothing(
    kind: str, tmp_path: Path, scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """R6. Each connection ends after a random number of bytes, until the stream has had its 1 to 20 cuts.
    Each fifth reads by WebSocket. Each fifth starts its stream by reading it, with an `Idempotency-Key`: its
    connections are cut from the first byte of the answer's header on."""
    streams = scale(40, 1_000)
    env = environment(tmp_path, AGENT_POOL_MAX_WORKERS="60", AGENT_POOL_PER_OWNER="100")
    migrate(env)
    # Headers take some 500 bytes: many are cut in there.
    cutting = cut_after(lambda dice: dice.randint(1, 1_500), End.RESET, End.FIN, End.HALF)
    async with serving(kind, tmp_path, env) as server, proxy(server.port, cutting, dice) as line:
        turn = asyncio.Semaphore(20)

        async def one(number: int) -> Persistent:
            cuts = dice.randint(1, 20)
            kind_of_reader = PersistentSocket if number % 5 == 0 else Persistent
            reader = kind_of_reader(lambda: line.port if reader.cuts < cuts else server.port)
            async with turn:
                options = {"tokens": TOKENS, "interval": dice.choice([0, 0.002, 0.01])}
                if number % 5 == 1:
                    reader.key = f"key-{number}"
                    await reader.generate(user_id=f"cut {number}", options=options)
                else:
                    reader.task_id = await start(server.port, user_id=f"cut {number}", options=options)
                    await reader.follow()
            return reader

        begin = time.monotonic()
        readers = await asyncio.gather(*(one(number) for number in range(streams)))
        seconds = time.monotonic() - begin
        for reader in readers:
            assert reader.violations == []
            assert reader.gaps == []
            assert reader.text == TEXT
            assert reader.end is not None
            assert reader.end.name == "complete"
        tasks = (await ask(server.port, "/stats"))["ends"]
        assert tasks == {"complete": streams}, "a call that is repeated is one task"
        gaps = [gap for reader in readers for gap in reader.resume_gaps]
        figures(
            "R6",
            streams=streams,
            by_websocket=sum(isinstance(reader, PersistentSocket) for reader in readers),
            by_a_repeated_call=sum(bool(reader.key) for reader in readers),
            cuts=sum(reader.cuts for reader in readers),
            most_in_one=max(reader.cuts for reader in readers),
            lost=0,
            twice=0,
            resume_gap_p50=percentile(gaps, 0.5),
            resume_gap_p95=percentile(gaps, 0.95),
            took=seconds,
        )


async def test_who_comes_back_too_late_is_told(
    tmp_path: Path, scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """R7. After trimming a `gap` with the range; at the end nothing but the end; after deletion 410."""
    env = environment(
        tmp_path,
        AGENT_POOL_MAX_WORKERS="20",
        AGENT_POOL_PER_OWNER="100",
        SSE_JOURNAL_MEMORY="1048576",
        SSE_REPLAY_TTL="0.5",
        SSE_CLEANUP_INTERVAL="0.2",
    )
    migrate(env)
    told = dict.fromkeys(("trimmed", "replayed", "at the end", "deleted"), 0)
    async with serving("serve", tmp_path, env) as server, client(server.url) as http:

        async def events(task_id: str, after: int) -> Any:
            return await read_stream(http, "GET", f"/streams/{task_id}/events?after={after}")

        for _ in range(scale(2, 50)):
            before = (await ask(server.port, "/stats"))["trimmed_journals"]
            # Big enough to be trimmed while it runs: there is nothing else that could leave.
            task_id = await start(
                server.port, options={"tokens": 60_000, "interval": 0, "hang_after": 50_000}
            )
            await _until_trimmed(server.port, before)
            after = dice.randint(1, 100)
            async with http.stream("GET", f"/streams/{task_id}/events?after={after}") as response:
                start_of_it = b""
                async for chunk in response.aiter_raw():
                    start_of_it += chunk
                    if b"event: content" in start_of_it:
                        break
            assert b"event: gap" in start_of_it
            assert f'"requested":{after},"available_from":'.encode() in start_of_it
            told["trimmed"] += 1
            await http.delete(f"/streams/{task_id}")

        for _ in range(scale(5, 200)):
            reader = Persistent(lambda: server.port)
            await reader.generate(options={"tokens": dice.randint(1, 60), "interval": 0})
            if dice.random() < 0.5:
                await asyncio.sleep(0.9)  # long enough to have left the memory
            last = reader.after
            assert (await http.get(f"/streams/{reader.task_id}/events?after={last}")).status_code == 204
            only = await events(reader.task_id, last - 1)
            assert [event.name for event in only.events] == ["complete"]
            told["at the end"] += 1
            cursor = dice.randint(0, last - 1)
            rest = await events(reader.task_id, cursor)
            assert rest.text == "".join(text for number, _, text in reader.seen if number > cursor)
            assert rest.named("gap") == []
            told["replayed"] += 1
            await http.delete(f"/streams/{reader.task_id}?purge=true")
            gone = await http.get(f"/streams/{reader.task_id}/events?after={cursor}")
            assert (gone.status_code, gone.json()["code"]) == (410, "events_pruned")
            told["deleted"] += 1
        figures("R7", **{name.replace(" ", "_"): count for name, count in told.items()}, silent=0)


async def _until_trimmed(port: int, before: int) -> None:
    async def trimmed() -> bool:
        return bool((await ask(port, "/stats"))["trimmed_journals"] > before)

    await until(trimmed)
