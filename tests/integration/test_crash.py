"""A process that is killed: its readers come back to another one, and are told."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass
class Past:
    """What processes on one database left, one after the other."""

    orderly: int
    """The exit code of the first, which ended in order."""
    logs: str
    """Its log, and that of the next one until it was killed."""
    done: Reading
    """A stream that had ended when the second was killed."""
    cut: Reading
    """One that had not."""


@pytest.fixture(scope="module", params=[("daphne", "sqlite"), ("serve", "postgresql")], ids="-".join)
def after(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Past, Server]]:
    """What was, and the process that started after the crash."""
    kind, database = request.param
    folder = tmp_path_factory.mktemp("crash")
    if database == "postgresql":
        env = environment(folder, DATABASE_URL=request.getfixturevalue("postgresql").migrated())
    else:
        env = environment(folder)
        migrate(env)

    async def end_in_order(server: Server) -> int:
        async with client(server.url) as http:
            await http.post(STREAM, json=brief(options={"tokens": 3, "interval": 0}))
        return server.stop()

    async def read(server: Server) -> tuple[Reading, Reading]:
        async with client(server.url) as http:
            done = await generate(http, options={"tokens": 50, "interval": 0})
            cut = await generate(http, until=60, options=LONG)
            await asyncio.sleep(0)
        server.stop(signal.SIGKILL)
        return done, cut

    with started("serve", folder, env) as first:
        orderly = asyncio.run(end_in_order(first))
    with started(kind, folder, env) as second:
        done, cut = asyncio.run(read(second))
    with started(kind, folder, env) as third:
        yield Past(orderly, first.log() + second.log(), done, cut), third


async def test_a_killed_process_s_streams_get_their_end_from_the_next_one(after: tuple[Past, Server]) -> None:
    past, server = after
    before, place = past.cut, past.cut.response.headers["location"]
    async with client(server.url) as http:

        async def has_ended() -> bool:
            return bool((await http.get(place)).json()["state"] == "error")

        assert await eventually(has_ended)
        record = (await http.get(place)).json()
        assert record["error"]["code"] == "interrupted"
        assert record["error"]["retryable"] is True
        await _is_told_once(server, http, record)
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
            assert gaps == [{"type": "gap", "requested": seen, "available_from": whole.ids[-1], "lost": True}]
        else:
            assert gaps == []
            assert numbered(before) + numbered(rest) == record["text"]
        assert (rest.ids[-2] == survived) if seen < survived else len(rest.ids) == 1
        assert rest.end.id == whole.end.id


async def test_what_had_ended_before_the_crash_keeps_its_end(after: tuple[Past, Server]) -> None:
    past, server = after
    place = past.done.response.headers["location"]
    async with client(server.url) as http:
        again = await read_stream(http, "GET", f"{place}/events")
        check_replay(again.durable, past.done.durable, 0)
        assert (await http.get(f"{place}/events?after={past.done.ids[-1]}")).status_code == 204


async def test_a_process_that_ends_in_order_leaves_no_trace_among_the_living(
    after: tuple[Past, Server],
) -> None:
    past, _ = after
    assert past.orderly == 0
    assert "dead" not in past.logs
