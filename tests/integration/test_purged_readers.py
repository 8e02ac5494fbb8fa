"""Who reads a task while it is purged, by however many calls at once, gets the rest of it and one end."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from tests.support.client import STREAM, Reading, brief, generate, read_stream
from tests.support.servers import Server
from tests.support.sockets import ENDS, opened

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

PATIENT = {"tokens": 10_000, "interval": 0.01}
PURGES = 8
ROUNDS = 4


async def socket_messages(server: Server, task_id: str) -> list[dict[str, Any]]:
    async with opened(server, f"/ws/streams/{task_id}/") as socket:
        found: list[dict[str, Any]] = []
        while not found or found[-1]["type"] not in ENDS:
            found.append(await socket.next())
        return found


def check(reading: Reading) -> None:
    """Every event up to the one end, which is the last."""
    assert [event.name for event in reading.events if event.name in ENDS] == ["cancelled"]
    assert reading.end.name == "cancelled"
    assert reading.named("gap") == []
    whole = "".join(f"{number} " for number in range(10_000))
    assert reading.text
    assert whole.startswith(reading.text)


async def purged(http: httpx2.AsyncClient, place: str) -> None:
    answers = await asyncio.gather(*(http.delete(f"{place}?purge=true") for _ in range(PURGES)))
    assert {answer.status_code for answer in answers} == {204}


async def test_readers_of_a_task_that_is_purged_by_many_at_once_see_its_end(
    http: httpx2.AsyncClient, server: Server
) -> None:
    for _ in range(ROUNDS):
        begun = await generate(http, until=3, options=PATIENT)
        place, task_id = begun.response.headers["location"], begun.response.headers["x-stream-id"]
        streams = [asyncio.create_task(read_stream(http, "GET", f"{place}/events")) for _ in range(4)]
        sockets = [asyncio.create_task(socket_messages(server, task_id)) for _ in range(4)]
        await asyncio.sleep(0.2)
        await purged(http, place)
        assert (await http.get(f"{place}/events")).status_code == 410
        readings = await asyncio.gather(*streams)
        for reading in readings:
            check(reading)
        assert len({reading.text for reading in readings}) == 1
        for messages in await asyncio.gather(*sockets):
            assert "gap" not in {message["type"] for message in messages}
            assert messages[-1]["type"] == "cancelled"
            told = "".join(message["delta"] for message in messages if message["type"] == "content")
            assert told == readings[0].text
        record = (await http.get(place)).json()
        assert (record["state"], record["text"]) == ("cancelled", "")


async def test_the_caller_s_own_stream_ends_as_well(http: httpx2.AsyncClient) -> None:
    for _ in range(ROUNDS):
        location = asyncio.get_running_loop().create_future()

        async def read(location: asyncio.Future[str] = location) -> str:
            async with http.stream("POST", STREAM, json=brief(options=PATIENT)) as response:
                location.set_result(response.headers["location"])
                return (await response.aread()).decode()

        reader = asyncio.create_task(read())
        place = await location
        await asyncio.sleep(0.1)
        await purged(http, place)
        told = await reader
        assert told.count("event: cancelled\n") == 1
        assert "event: gap\n" not in told
