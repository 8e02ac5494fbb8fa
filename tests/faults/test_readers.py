"""R3, R4, R5: readers who freeze, slow lines, bytes cut anywhere."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.faults.conftest import Figures, Scale
from tests.support.client import STREAM, brief, frozen
from tests.support.scale import SERVERS
from tests.support.servers import Server, environment, migrate, serving
from tests.support.toxics import Link, Toxics, always, proxy
from tests.support.wire import Persistent, ask, percentile, request, start, until

pytestmark = pytest.mark.server

MEGABYTE: Final = 1_000_000

PIECES: Final = (
    "a",
    "é",
    "ß",
    "字",
    "你好",
    "世界",
    "👍",
    "👨‍👩‍👧‍👦",
    "🇨🇳",
    "e\u0301",
    "\u2028",
    "\u0085",
    '"',
    "\\",
    "\n",
    " ",
    "\t",
    "😀",
)
"""Of one to four bytes, of several code points, and what JSON or event streams have to escape."""


def house(folder: Path, **overrides: str) -> dict[str, str]:
    limits = {"AGENT_POOL_MAX_WORKERS": "200", "AGENT_POOL_PER_OWNER": "1000"}
    env = environment(folder, **limits, **overrides)
    migrate(env)
    return env


# --- R3 -----------------------------------------------------------------------------------------------


UNREAD: Final = ("\U0001f3f4" + "\U000e0061" * 9_999) * 100
"""4 MB in clusters of 40 KB, which no replay makes smaller: more than all buffers of the kernel take."""


@pytest.mark.load
@pytest.mark.parametrize("kind", SERVERS)
async def test_frozen_readers_harm_nobody(kind: str, tmp_path: Path, scale: Scale, figures: Figures) -> None:
    """R3. The stream that nobody reads is bigger than all buffers of the kernel."""
    timeout = scale(1.5, 30.0)
    env = house(
        tmp_path,
        SSE_CONNECTION_TIMEOUT=str(timeout),
        SSE_HEARTBEAT_INTERVAL=str(timeout / 3),
        SSE_MAX_JOURNAL_BYTES="16777216",
        SERVER_MAX_BODY_BYTES="16777216",
    )
    async with serving(kind, tmp_path, env) as server:
        process = psutil.Process(server.process.pid)
        calm = await _gaps_of_a_paced_stream(server, scale(50, 1000))
        task_id = await _flood(server)
        for number in scale((50,), (1, 50)):
            before = peak = process.memory_info().rss
            already = (await ask(server.port, "/stats"))["slow_readers_closed"]
            closed_at: list[float] = []
            with ExitStack() as stack:
                begin = time.monotonic()
                for _ in range(number):
                    stack.enter_context(frozen(server, f"/streams/{task_id}"))
                beside = asyncio.create_task(_gaps_of_a_paced_stream(server, scale(50, 1000)))
                while len(closed_at) < number:
                    await asyncio.sleep(0.05)
                    peak = max(peak, process.memory_info().rss)
                    closed = (await ask(server.port, "/stats"))["slow_readers_closed"] - already
                    closed_at += [time.monotonic() - begin] * (closed - len(closed_at))
                    assert time.monotonic() - begin < timeout + 10, f"{len(closed_at)} of {number} closed"
                gaps = await beside
            assert timeout - 0.2 <= closed_at[0]
            # A single one is not told apart from what the process does besides.
            assert number == 1 or (peak - before) / number < MEGABYTE
            figures(
                "R3",
                frozen=number,
                connection_timeout=timeout,
                closed_after=f"{closed_at[0]:.1f}–{closed_at[-1]:.1f}",
                kilobytes_each=round((peak - before) / number / 1000),
                others_p99_gap=f"{percentile(calm, 0.99):.3f} → {percentile(gaps, 0.99):.3f}",
            )
        rest = Persistent(lambda: server.port, task_id)
        await rest.follow()
        assert rest.end is not None
        assert (rest.violations, rest.text) == ([], UNREAD)
        assert "Traceback" not in server.log(), server.log()[-3000:]


async def _flood(server: Server) -> str:
    """A task of 4 MB, all made."""
    task_id = await start(server.port, options={"text": UNREAD, "interval": 0})

    async def made() -> bool:
        return bool((await ask(server.port, f"/streams/{task_id}"))["state"] == "complete")

    await until(made)
    return task_id


async def _gaps_of_a_paced_stream(server: Server, tokens: int) -> list[float]:
    """Seconds between the events of a stream whose producer makes one each 20 ms."""
    reader = Persistent(lambda: server.port)
    await reader.generate(user_id="paced", options={"tokens": tokens, "interval": 0.02})
    assert reader.text == "".join(f"{k} " for k in range(tokens))
    return [later - earlier for (_, earlier, _), (_, later, _) in pairwise(reader.seen)]


# --- R4, R5 -------------------------------------------------------------------------------------------


async def test_a_slow_line_delivers_everything_in_order(
    tmp_path: Path, scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """R4. 8 KB a second, 300 ± 200 ms; the text is made at four times that."""
    tokens = scale(300, 3_000)
    streams = scale(5, 20)
    slow = Toxics(latency=0.3, jitter=0.2, rate=8_000)
    async with (
        serving("serve", tmp_path, house(tmp_path)) as server,
        proxy(server.port, always(Link(up=slow, down=slow)), dice) as line,
    ):
        readers = [Persistent(lambda: line.port) for _ in range(streams)]
        begin = time.monotonic()
        await asyncio.gather(
            *(
                reader.generate(user_id=f"slow {k}", options={"tokens": tokens, "interval": 0.004})
                for k, reader in enumerate(readers)
            )
        )
        seconds = time.monotonic() - begin
        lags = []
        for reader in readers:
            assert reader.text == "".join(f"{k} " for k in range(tokens))
            assert reader.violations == []
            assert reader.end is not None
            assert reader.end.name == "complete"
            lags.append(reader.seen[-1][1] - begin - reader.end.data["timing"]["total_ms"] / 1000)
        figures(
            "R4",
            streams=streams,
            tokens=tokens,
            lost=0,
            twice=0,
            connections=line.connections,
            behind_the_producer_at_the_end=statistics.median(lags),
            took=seconds,
        )


async def test_bytes_cut_anywhere_are_the_same_text(
    tmp_path: Path, scale: Scale, dice: random.Random, figures: Figures
) -> None:
    """R5. Writes of 1 to 7 bytes both ways; texts of one to four byte characters and clusters of several."""
    streams = scale(100, 10_000)
    sliced = Toxics(slices=(1, 7))
    env = house(tmp_path, BUFFER_FLUSH_CHARS="4", BUFFER_BUFFER_SIZE="6")
    async with (
        serving("serve", tmp_path, env) as server,
        proxy(server.port, always(Link(up=sliced, down=sliced)), dice) as line,
    ):
        texts = ["".join(dice.choices(PIECES, k=dice.randint(1, 20))) for _ in range(streams)]
        reads: list[int] = []
        turn = asyncio.Semaphore(40)

        async def one(number: int, text: str) -> bool:
            async with turn, request(line.port, "POST", STREAM, _brief(number, text)) as answer:
                reader = Persistent(lambda: line.port)
                await reader.read(answer)
                reads.append(answer.reads)
                return reader.text == text and reader.violations == []

        begin = time.monotonic()
        exact = await asyncio.gather(*(one(number, text) for number, text in enumerate(texts)))
        seconds = time.monotonic() - begin
        assert exact.count(False) == 0
        figures(
            "R5",
            streams=streams,
            characters=sum(map(len, texts)),
            exact=exact.count(True),
            pieces_a_stream=statistics.median(reads),
            took=seconds,
        )


def _brief(number: int, text: str) -> dict[str, object]:
    return brief(user_id=f"sliced {number}", options={"text": text, "interval": 0})
