"""A process that is killed: its readers come back to another one, and are told."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from streaming.runtime.journals.base import LOST_IDS
from tests.support.client import (
    STREAM,
    Reading,
    brief,
    check_replay,
    client,
    eventually,
    generate,
    read_stream,
)
from tests.support.servers import Server, environment, migrate, started

pytestmark = pytest.mark.server

LONG = {"tokens": 10_000, "interval": 0.01}


async def text_of(http: httpx2.AsyncClient, place: str) -> str:
    text: str = (await http.get(place)).json()["text"]
    return text


def numbered(reading: Reading) -> str:
    return "".join(event.data["delta"] for event in reading.events if event.name == "content")


async def _is_told_once(server: Server, http: httpx2.AsyncClient, record: dict[str, Any]) -> None:
    """In the log, with what the record knows, and in the metrics."""

    def lines() -> list[str]:
        return [line for line in server.log().splitlines() if "stream ended" in line]

    async def told() -> bool:
        return bool(lines())

    assert await eventually(told)
    (line,) = lines()
    members = dict(re.findall(r"(\w+)=(\S+)", line))
    assert (members["task_id"], members["outcome"], members["code"]) == (record["id"], "error", "interrupted")
    assert int(members["content_length"]) == len(record["text"]) > 0
    assert members.keys().isdisjoint({"parts", "events", "journal_bytes", "slow_readers", "owner"})
    metrics = (await http.get("/metrics")).text
    labels = {"kind": "content", "outcome": "error", "code": "interrupted", "pool": "agent_pool"}
    counts = [
        sample.value
        for family in families(metrics)
        for sample in family.samples
        if sample.name == "sluice_task_ends_total" and sample.labels == labels
    ]
    assert counts == [1]


@pytest.fixture(params=["sqlite", "postgresql"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of servers that share one database."""
    if request.param == "postgresql":
        return environment(tmp_path, DATABASE_URL=request.getfixturevalue("postgresql").migrated())
    made = environment(tmp_path)
    migrate(made)
    return made


@pytest.mark.parametrize("kind", ["serve", "daphne"])
async def test_a_killed_process_s_streams_get_their_end_from_the_next_one(
    kind: str, env: dict[str, str], tmp_path: Path
) -> None:
    with started(kind, tmp_path, env) as first:
        async with client(first.url) as http:
            before = await generate(http, until=60, options=LONG)
            await asyncio.sleep(0)
        first.stop(signal.SIGKILL)
    place = before.response.headers["location"]
    with started(kind, tmp_path, env) as second:
        async with client(second.url) as http:

            async def has_ended() -> bool:
                return bool((await http.get(place)).json()["state"] == "error")

            assert await eventually(has_ended)
            record = (await http.get(place)).json()
            assert record["error"]["code"] == "interrupted"
            assert record["error"]["retryable"] is True
            await _is_told_once(second, http, record)
            whole = await read_stream(http, "GET", f"{place}/events")
            assert whole.ids[-1] == whole.ids[-2] + LOST_IDS
            assert numbered(whole) == record["text"]
            assert "".join(f"{k} " for k in range(10_000)).startswith(record["text"])
            assert whole.end.name == "error"
            seen = before.ids[-1]
            rest = await read_stream(http, "GET", f"{place}/events?after={seen}")
            gaps = [event.data for event in rest.events if event.name == "gap"]
            survived = whole.ids[-2]
            if seen > survived:
                assert gaps == [
                    {"type": "gap", "requested": seen, "available_from": whole.ids[-1], "lost": True}
                ]
            else:
                assert gaps == []
                assert numbered(before) + numbered(rest) == record["text"]
            assert (rest.ids[-2] == survived) if seen < survived else len(rest.ids) == 1
            assert rest.end.id == whole.end.id


async def test_a_reader_whose_stream_has_no_end_yet_is_asked_to_come_back(
    env: dict[str, str], tmp_path: Path
) -> None:
    """It runs in another process, or nobody has noticed that its process is dead. A 410 would be for good."""
    with started("serve", tmp_path, env) as first, started("serve", tmp_path, env) as second:
        async with client(first.url) as http, client(second.url) as other:
            seen = await generate(http, until=20, on_disconnect="continue", options=LONG)
            place = seen.response.headers["location"]
            answer = await read_stream(other, "GET", f"{place}/events?after={seen.ids[-1]}", until=1)
            assert answer.response.status_code == 200
            await http.delete(place)


async def test_what_had_ended_before_the_crash_keeps_its_end(env: dict[str, str], tmp_path: Path) -> None:
    with started("serve", tmp_path, env) as first:
        async with client(first.url) as http:
            done = await generate(http, options={"tokens": 50, "interval": 0})
        first.stop(signal.SIGKILL)
    place = done.response.headers["location"]
    with started("serve", tmp_path, env) as second:
        async with client(second.url) as http:
            again = await read_stream(http, "GET", f"{place}/events")
            check_replay(again.durable, done.durable, 0)
            assert (await http.get(f"{place}/events?after={done.ids[-1]}")).status_code == 204


async def test_a_process_that_ends_in_order_leaves_no_trace_among_the_living(
    env: dict[str, str], tmp_path: Path
) -> None:
    with started("serve", tmp_path, env) as first:
        async with client(first.url) as http:
            await http.post(STREAM, json=brief(options={"tokens": 3, "interval": 0}))
        assert first.stop() == 0
        log = first.log()
    with started("serve", tmp_path, env) as second:
        assert "dead" not in log + second.log()
