"""SIGTERM with open streams: each reader gets its end, newcomers are sent away, the process goes.

One story for each kind of server, all at the same time; the tests look at what was seen.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.client import STREAM, Reading, brief, client, eventually, generate, read_stream
from tests.support.servers import STOP_LIMIT, Server, environment, migrate, running, started

pytestmark = pytest.mark.server

KINDS = ("serve", "daphne", "uvicorn")
GRACE = 2.0

# Daphne and `serve` end by themselves; uvicorn raises the signal again when it is done.
EXIT_CODES = {"serve": 0, "daphne": 0, "uvicorn": 0}


@dataclass
class Story:
    """What was seen on one kind of server from its SIGTERM on. Moments in seconds after it."""

    streams: dict[str, Reading] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)
    whole: httpx2.Response | None = None
    refused: httpx2.Response | None = None
    refused_later: httpx2.Response | None = None
    background: httpx2.Response | None = None
    joined: Reading | None = None
    told: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    gone: float = 0.0
    log: str = ""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("shutdown")
    env = environment(folder, SSE_DRAIN_GRACE=str(GRACE), AGENT_POOL_MAX_WORKERS="4")
    migrate(env)
    return folder, env


@pytest.fixture(scope="module")
def stories(house: tuple[Path, dict[str, str]]) -> dict[str, Story]:
    return _tell_all(*house, KINDS, _live_through)


@pytest.fixture(scope="module")
def stuck_stories(house: tuple[Path, dict[str, str]]) -> dict[str, Story]:
    folder, env = house
    return _tell_all(folder, {**env, "SSE_DRAIN_GRACE": "0.3"}, ("serve", "daphne"), _hang_through)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def story(kind: str, stories: dict[str, Story]) -> Story:
    return stories[kind]


@pytest.fixture(params=["serve", "daphne"])
def stuck(request: pytest.FixtureRequest, stuck_stories: dict[str, Story]) -> Story:
    return stuck_stories[request.param]


def _tell_all(
    folder: Path,
    env: dict[str, str],
    kinds: tuple[str, ...],
    live: Callable[[Server, Story], Awaitable[None]],
) -> dict[str, Story]:
    told = {kind: Story() for kind in kinds}

    async def one(kind: str) -> None:
        # Each its own database: on a shared one `/stats` counts the tasks of all.
        own = {**env, "DATABASE_URL": f"sqlite:///{folder / kind}.sqlite3"}
        migrate(own)
        house: AbstractContextManager[Server] = started(kind, folder, own)
        server = await asyncio.to_thread(house.__enter__)
        try:
            await live(server, told[kind])
        finally:
            told[kind].log = server.log()
            house.__exit__(None, None, None)

    async def all_kinds() -> None:
        async with asyncio.timeout(100), asyncio.TaskGroup() as group:
            for kind in kinds:
                group.create_task(one(kind))

    asyncio.run(all_kinds())
    return told


async def _live_through(server: Server, story: Story) -> None:
    """Four run (asynchronous, blocking, short, unread), two wait; then SIGTERM, and a second one."""
    scripts = {
        "asynchronous": {"tokens": 10_000, "interval": 0.05},
        "blocking": {"tokens": 10_000, "interval": 0.05, "blocking": True},
        "short": {"tokens": 30, "interval": 0.1},
        "queued": {"tokens": 5},
    }
    async with client(server.url) as http:
        reading = {}
        for name in ("asynchronous", "blocking", "short"):
            reading[name] = asyncio.create_task(generate(http, user_id=name, options=scripts[name]))
        later = {"tokens": 10_000, "interval": 0.05}
        promise = (await http.post("/content/generate/async", json=brief(options=later))).json()
        await _until(http, running=4, waiting=0)
        reading["queued"] = asyncio.create_task(generate(http, user_id="queued", options=scripts["queued"]))
        whole = asyncio.create_task(
            http.post("/content/generate", json=brief(user_id="whole", options=later))
        )
        await _until(http, running=4, waiting=2)
        await asyncio.sleep(1.2)

        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        story.refused = await http.post(STREAM, json=brief(user_id="new"))
        story.joined = await read_stream(http, "GET", f"/streams/{promise['task_id']}/events")
        story.told["joined"] = time.monotonic() - begin
        for name, each in reading.items():
            story.streams[name] = await each
            story.ends[name] = story.streams[name].end.at - begin
        story.whole = await whole
    server.process.send_signal(signal.SIGTERM)
    story.exit_code = await asyncio.to_thread(server.process.wait, STOP_LIMIT)
    story.gone = time.monotonic() - begin


async def _hang_through(server: Server, story: Story) -> None:
    """A blocking producer that never comes back, then SIGTERM twice."""
    async with client(server.url) as http:
        hanging = asyncio.create_task(
            generate(http, options={"tokens": 10, "interval": 0, "blocking": True, "hang_after": 3})
        )
        await _until(http, running=1)
        await asyncio.sleep(0.3)
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        story.streams["hanging"] = await hanging
    story.exit_code = await asyncio.to_thread(server.process.wait, STOP_LIMIT)
    story.gone = time.monotonic() - begin


async def _until(http: httpx2.AsyncClient, **wanted: int) -> None:
    pool: dict[str, Any] = {}
    for _ in range(500):
        pool = (await http.get("/stats")).json()["pools"]["agent_pool"]
        if all(pool[name] == value for name, value in wanted.items()):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{wanted} never came: {pool}")


def _terminal(reading: Reading) -> list[str]:
    return [event.name for event in reading.events if event.name in ("complete", "error", "cancelled")]


# --- The readers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["asynchronous", "blocking"])
def test_each_reader_gets_exactly_one_end(story: Story, name: str):
    """That the body ended cleanly the client has checked: a cut chunked body raises there."""
    reading = story.streams[name]
    assert _terminal(reading) == ["error"]
    assert reading.end.name == "error"
    assert reading.end.data["code"] == "interrupted"
    assert reading.end.data["retryable"] is True
    assert reading.end.data["message"]
    assert reading.ids == list(range(1, len(reading.ids) + 1))


@pytest.mark.parametrize("name", ["asynchronous", "blocking"])
def test_what_was_made_before_the_end_is_delivered_in_order(story: Story, name: str):
    text = story.streams[name].text
    assert text == "".join(f"{k} " for k in range(text.count(" ")))
    assert text.count(" ") > 20


def test_what_can_finish_within_the_grace_finishes(story: Story):
    reading = story.streams["short"]
    assert _terminal(reading) == ["complete"]
    assert reading.text == "".join(f"{k} " for k in range(30))
    assert story.ends["short"] > 0, "it ran over the signal"


def test_running_streams_get_the_whole_grace_and_not_much_more(story: Story):
    for name in ("asynchronous", "blocking"):
        assert GRACE - 0.2 < story.ends[name] < GRACE + 5


def test_who_waits_is_sent_away_at_once_to_find_the_task_in_another_process(story: Story):
    assert story.ends["queued"] < GRACE
    told = [event for event in story.streams["queued"].events if event.name != "status"]
    assert [(event.name, event.data["after"]) for event in told] == [("reconnect", 0)]


def test_a_whole_answer_is_503_and_to_be_tried_again(story: Story):
    assert story.whole is not None
    assert story.whole.status_code == 503
    assert story.whole.json()["code"] == "interrupted"
    assert int(story.whole.headers["Retry-After"]) >= 1


# --- Newcomers ----------------------------------------------------------------------------------------


def test_new_work_is_refused_with_a_time_to_come_back(story: Story):
    assert story.refused is not None
    assert story.refused.status_code == 503
    assert story.refused.json()["code"] == "draining"
    assert int(story.refused.headers["Retry-After"]) >= 1


def test_an_event_source_is_never_refused(story: Story):
    """A native EventSource gives up for good after 503: it gets 200 and either the end or `reconnect`."""
    assert story.joined is not None
    assert story.joined.response.status_code == 200
    assert story.joined.retry is not None
    last = story.joined.end
    assert last.name == "reconnect" or (last.name, last.data.get("code")) == ("error", "interrupted")


# --- The process --------------------------------------------------------------------------------------


def test_the_process_is_gone_soon_after_the_grace(story: Story, kind: str):
    assert story.exit_code == EXIT_CODES[kind]
    assert story.gone < GRACE + 8


def test_nothing_in_the_log_looks_like_an_accident(story: Story):
    assert "Traceback" not in story.log, story.log[-3000:]
    assert "Warning" not in story.log.replace("Warnings", ""), story.log[-3000:]
    assert "draining" in story.log


def test_the_reader_of_a_stuck_producer_gets_its_end(stuck: Story):
    reading = stuck.streams["hanging"]
    assert _terminal(reading) == ["error"]
    assert reading.end.data["code"] == "interrupted"
    assert reading.text == "0 1 2 "


def test_a_stuck_producer_does_not_keep_the_process_alive(stuck: Story):
    assert stuck.exit_code == 0
    assert stuck.gone < 10
    assert "do not end" in stuck.log
    assert "Traceback" not in stuck.log, stuck.log[-3000:]


# --- Somebody is in a hurry ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["serve", "uvicorn", "daphne"])
async def test_a_second_ctrl_c_ends_at_once(kind: str, tmp_path: Path):
    with running(kind, tmp_path, SSE_DRAIN_GRACE="300") as server:
        async with client(server.url) as http:
            reading = asyncio.create_task(generate(http, options={"tokens": 10_000, "interval": 0.05}))
            await _until(http, running=1)
            server.process.send_signal(signal.SIGINT)

            async def drains() -> bool:
                return (await http.post(STREAM, json=brief())).status_code == 503

            assert await eventually(drains)
            server.process.send_signal(signal.SIGINT)
            await asyncio.to_thread(server.process.wait, STOP_LIMIT)
            with pytest.raises(httpx2.TransportError):
                await reading
