"""R28: no file descriptors left, no room on the disk."""

from __future__ import annotations

import asyncio
import http.client
import json
import resource
import socket
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import Figures, Scale
from tests.support.client import STREAM, brief, row
from tests.support.scale import SERVERS
from tests.support.servers import Server, environment, migrate, serving
from tests.support.wire import Persistent, ask, request, until

pytestmark = pytest.mark.server

FILES = 256
TOKENS = 100
TEXT = "".join(f"{k} " for k in range(TOKENS))

NO_ROOM = 4096
"""Bytes that a file may have. Not its size: SQLite begins its log anew when it can."""

EASE = 10.0
"""Seconds in which a server must be as before once it has what it lacked; the figures say how long it was."""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    made = environment(tmp_path, AGENT_POOL_MAX_WORKERS="50", AGENT_POOL_PER_OWNER="100")
    migrate(made)
    return made


@pytest.mark.load
@pytest.mark.parametrize("kind", SERVERS)
async def test_without_file_descriptors_streams_go_on(
    kind: str, env: dict[str, str], tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    """R28. As many connections as there are descriptors, and more; then they go."""
    async with serving(kind, tmp_path, env) as server:
        process = psutil.Process(server.process.pid)
        await _refuse_for_the_first_time(server)
        await _generate(server)
        recovered = []
        newcomers = set()
        for _ in range(rounds := scale(1, 10)):
            readers = [Persistent(lambda: server.port) for _ in range(10)]
            reading = [asyncio.create_task(_generate(server, reader)) for reader in readers]
            await asyncio.sleep(0.5)
            with server.limited(resource.RLIMIT_NOFILE, FILES):
                with ExitStack() as stack:
                    # Not all at once: Daphne lets the system keep fifty.
                    for _ in range(FILES // 20 + 2):
                        for _ in range(20):
                            idle = stack.enter_context(socket.socket())
                            idle.setblocking(False)
                            idle.connect_ex(("127.0.0.1", server.port))
                        await asyncio.sleep(0.05)
                    assert process.num_fds() >= FILES - 8, "nothing was used up"
                    newcomers.add(await _newcomer(server))
                    await asyncio.gather(*reading)
                begin = time.monotonic()
                await until(lambda: _works(server), EASE)
                recovered.append(time.monotonic() - begin)
            assert all(reader.text == TEXT and reader.cuts == 0 for reader in readers)
        await until(lambda: _quiet(server), EASE)
        figures(
            "R28 files",
            limit=FILES,
            rounds=rounds,
            open_streams_that_went_on=rounds * 10,
            newcomers=" or ".join(sorted(newcomers)),
            answered_again_after_most=max(recovered),
        )


async def test_a_full_disk_costs_records_and_no_stream(
    env: dict[str, str], tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    """R28. SQLite cannot grow. Streams without a promise go on, a 202 is refused, and when there is room
    again what happened meanwhile is written."""
    async with serving("serve", tmp_path, env) as server:
        await _generate(server)
        refused = served = 0
        recovered = []
        for _ in range(rounds := scale(1, 10)):
            failed = (await ask(server.port, "/stats"))["records"]["failed_writes"]
            readers = [Persistent(lambda: server.port) for _ in range(10)]
            with server.limited(resource.RLIMIT_FSIZE, NO_ROOM):
                await asyncio.gather(*(_generate(server, reader) for reader in readers))
                assert all(reader.text == TEXT and reader.cuts == 0 for reader in readers)
                served += len(readers)
                await until(partial(_writes_failed, server, failed), EASE)
                async with request(server.port, "POST", "/content/generate/async", brief()) as answer:
                    assert answer.status == 503, await answer.body()
                    assert "retry-after" in answer.headers
                    assert (await answer.json())["code"] == "storage_unavailable"
                    refused += 1
            begin = time.monotonic()
            await until(partial(_written, server, readers), EASE)
            recovered.append(time.monotonic() - begin)
            for reader in readers:
                record = row(server, "id", reader.task_id)
                assert record is not None
                assert (record["state"], record["text"]) == ("complete", TEXT)
        records = (await ask(server.port, "/stats"))["records"]
        assert (records["dropped"], records["dropped_events"]) == (0, 0)
        figures(
            "R28 disk",
            rounds=rounds,
            streams_that_went_on=served,
            promises_refused_with_503=refused,
            records_lost=0,
            all_written_after_most=max(recovered),
        )


async def _generate(server: Server, reader: Persistent | None = None) -> None:
    reader = reader or Persistent(lambda: server.port)
    await reader.generate(user_id=f"reader {id(reader)}", options={"tokens": TOKENS, "interval": 0.02})


async def _refuse_for_the_first_time(server: Server) -> None:
    """Without a single file: what a refusal takes has been read before."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with closing(connection):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
        with server.limited(resource.RLIMIT_NOFILE, psutil.Process(server.process.pid).num_fds()):
            connection.request("POST", STREAM, "{", {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["code"]) == (400, "invalid_json")


async def _newcomer(server: Server) -> str:
    """What becomes of a request for which there is no descriptor."""
    try:
        async with asyncio.timeout(1), request(server.port, "GET", "/healthz") as answer:
            return f"answered {answer.status}"
    except TimeoutError:
        return "wait"
    except OSError:
        return "closed at once"


async def _works(server: Server) -> bool:
    try:
        async with asyncio.timeout(1), request(server.port, "GET", "/healthz") as answer:
            return answer.status == 200
    except (OSError, TimeoutError):
        return False


async def _quiet(server: Server) -> bool:
    statistics = await ask(server.port, "/stats")
    return bool(statistics["followers"] == 0 and statistics["tasks"]["active"] == 0)


async def _writes_failed(server: Server, before: int) -> bool:
    return bool((await ask(server.port, "/stats"))["records"]["failed_writes"] > before)


async def _written(server: Server, readers: list[Persistent]) -> bool:
    records = [row(server, "id", reader.task_id) for reader in readers]
    return all(record is not None and record["state"] == "complete" for record in records)
