"""The curl of the documentation, run by the real curl against each way to start a server."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from streaming.core.sse import Decoder
from tests.support.servers import Server, environment, started

pytestmark = pytest.mark.server

CURL = (
    "curl -X POST http://localhost:8000/content/generate/stream/async -H 'Content-Type: application/json' "
    """-d '{"user_id":"test_user","category":"美食探店","topic":"新开的咖啡店","""
    """"tone":"活泼可爱","length":"中等"}'"""
)
"""As the design and the README have it."""

Shown = list[tuple[float, Any]]
"""Events, each with the moment at which curl showed it."""


def curl(server: Server) -> Shown:
    """Run the documented curl, at the server's port and with -N."""
    command = shlex.split(CURL.replace("localhost:8000", f"127.0.0.1:{server.port}"))
    decoder = Decoder()
    events: Shown = []
    with subprocess.Popen([*command, "-N", "-s", "--noproxy", "*"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            events += [(time.monotonic(), event) for event in decoder.feed(line)]
    assert process.returncode == 0
    return events


def assert_streamed(events: Shown) -> None:
    """A whole text that came piece by piece; collected on the way, all of it would have come at once."""
    names = [event.event for _, event in events]
    assert names[0] == "status"
    assert names[-1] == "complete"
    assert names.count("content") > 10
    assert events[-1][0] - events[0][0] > 1


def test_the_documented_curl_streams(server: Server) -> None:
    assert_streamed(curl(server))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[dict[str, tuple[Shown, str]]]:
    """By kind of server: what its curl showed, and the server's log."""
    folder = tmp_path_factory.mktemp("others")
    env = environment(folder)
    shutil.copy(migrated, folder)
    with ThreadPoolExecutor() as threads:

        def try_it(kind: str) -> tuple[Shown, str]:
            with started(kind, folder, env) as server:
                return curl(server), server.log()

        yield dict(zip(KINDS, threads.map(try_it, KINDS), strict=True))


KINDS = ("uvicorn", "runserver")


@pytest.mark.parametrize("kind", KINDS)
def test_the_documented_curl_streams_on(kind: str, shown: dict[str, tuple[Shown, str]]) -> None:
    events, log = shown[kind]
    assert_streamed(events)
    assert "Traceback" not in log
