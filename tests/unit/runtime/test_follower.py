"""One reader: replay and live, status and signs of life, and how it is let go."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.core import sse
from streaming.core.compaction import compact
from streaming.core.errors import CursorAhead, TooManyFollowers
from streaming.core.events import Content, Output, Restart
from streaming.core.framing import NDJSON, SSE
from streaming.runtime import backlog
from streaming.runtime.backlog import STEP_BYTES
from streaming.runtime.follower import MAX_FRAMES, NEVER_READ, REVOKED_PATIENCE, FollowOptions, follow
from streaming.runtime.journals.base import LOST_IDS
from streaming.runtime.journals.memory import MemoryJournals
from streaming.runtime.task import CancelReason

from .fakes import (
    PATIENCE,
    Reader,
    check_replay,
    check_stream,
    ended,
    house,
    now,
    occupant,
    parse,
    pool_limits,
    run_virtual,
    spec,
    text_of,
    virtual_time,
)


async def silence():
    await asyncio.sleep(100_000)
    yield "never"


def counting(count, pause=0.1):
    async def source():
        for number in range(count):
            yield f"{number} "
            await asyncio.sleep(pause)

    return source


def names(events):
    return [each.name for each in events]


# --- The opening and the statuses ---------------------------------------------------------------------


@virtual_time
async def test_first_bytes_are_retry_and_a_status_that_tells_the_route():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(1)))
        reader = Reader(supervisor, task)
        events = await reader.end()
    first = parse(reader.chunks[0])
    assert names(first)[:2] == ["retry", "status"]
    assert first[0].data == 2000
    status = first[1].data
    assert (status["status"], status["route"], status["reason"]) == ("started", "direct", "worker_free")
    assert status["task_id"] == task.id
    assert re.fullmatch(r"[0-9a-f]{32}", task.id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", status["timestamp"])
    check_stream(events)


@virtual_time
async def test_ten_silent_seconds_give_two_or_three_statuses():
    async with house() as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(silence)))
        await asyncio.sleep(10.15)
        statuses = reader.named("status")
    assert [each.data["status"] for each in statuses] == ["started", "processing", "processing"]
    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(statuses)]
    assert all(5 <= gap <= 5.2 for gap in gaps), gaps
    assert statuses[-1].data["elapsed_seconds"] == pytest.approx(10, abs=0.3)


@virtual_time
async def test_no_status_while_content_flows():
    async with house() as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(counting(300))))
        await reader.end()
        assert len(reader.named("status")) == 1
        assert reader.events[-1].data["timing"]["status_messages"] == 1


@virtual_time
async def test_status_comes_back_when_content_pauses():
    async def source():
        yield "a"
        await asyncio.sleep(7)
        yield "b"

    async with house() as supervisor:
        events = await Reader(supervisor, supervisor.open(spec(source))).end()
    # "a" and the first status leave together; then 5 s of silence.
    assert [
        (each.name, each.data.get("status")) for each in events if each.name in ("status", "content")
    ] == [
        ("status", "started"),
        ("content", None),
        ("status", "processing"),
        ("content", None),
    ]


@virtual_time
async def test_status_interval_0_means_only_on_change():
    async with house(status_interval=0, heartbeat_interval=0) as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(silence)))
        await asyncio.sleep(300)
        assert names(reader.events) == ["retry", "status"]


@virtual_time
async def test_queued_with_position_and_eta_then_started():
    source, gate = occupant()
    async with house(pool=pool_limits(max_workers=1)) as supervisor:
        supervisor.open(spec(source))
        readers = [Reader(supervisor, supervisor.open(spec(counting(3)))) for _ in range(3)]
        for position, reader in enumerate(readers, 1):
            await reader.until(lambda reader: reader.named("status"))
            status = reader.named("status")[0].data
            assert (status["status"], status["route"]) == ("queued", "queued")
            assert (status["reason"], status["position"]) == ("workers_busy", position)
            assert status["eta_seconds"] == pytest.approx(position * 1.0)
        gate.set()
        for reader in readers:
            check_stream(await reader.end())
            statuses = [(each.data["status"], each.data.get("position")) for each in reader.named("status")]
            assert statuses[0][0] == "queued"
            assert [name for name, _ in statuses].count("started") == 1
            assert statuses[-1] == ("started", None)
            positions = [position for name, position in statuses if name == "queued"]
            assert positions == sorted(positions, reverse=True)


@virtual_time
async def test_positions_are_told_at_most_once_a_second():
    async with house(pool=pool_limits(max_workers=1)) as supervisor:
        supervisor.open(spec(silence))
        ahead = [supervisor.open(spec(silence)) for _ in range(20)]
        reader = Reader(supervisor, supervisor.open(spec(silence)))
        for task in ahead:  # 20 changes in two seconds
            await asyncio.sleep(0.1)
            supervisor.cancel(task, CancelReason.CLIENT)
        await asyncio.sleep(3)
        statuses = reader.named("status")
        assert [statuses[0].data["position"], statuses[-1].data["position"]] == [21, 1]
        gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(statuses)]
        assert min(gaps) >= 1.0 - 1e-6
        assert len(statuses) <= 5


@virtual_time
async def test_a_late_reader_is_told_processing():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(20)))
        await asyncio.sleep(1)
        events = await Reader(supervisor, task).end()
    assert events[1].data["status"] == "processing"


# --- Signs of life ------------------------------------------------------------------------------------


@virtual_time
async def test_heartbeat_after_silence():
    async with house(status_interval=0, heartbeat_interval=4) as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(silence)))
        await asyncio.sleep(20.5)
        beats = reader.named("comment")
        assert len(beats) in (4, 5)
        assert re.fullmatch(r"heartbeat \S+\+00:00 running 4(\.\d+)?", beats[0].data)
        gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(beats)]
        assert all(4 <= gap <= 4.2 for gap in gaps), gaps


@virtual_time
async def test_heartbeat_while_queued_and_as_typed_event():
    async with house(pool=pool_limits(max_workers=1), status_interval=0, heartbeat_interval=4) as supervisor:
        supervisor.open(spec(silence))
        reader = Reader(supervisor, supervisor.open(spec(silence)), typed_heartbeat=True)
        await asyncio.sleep(5)
        (ping,) = reader.named("ping")
        assert ping.id is None
        assert ping.data["state"] == "queued"
        assert ping.data["elapsed_seconds"] == pytest.approx(4, abs=0.3)
        assert reader.named("comment") == []


@virtual_time
async def test_any_bytes_put_the_heartbeat_off():
    async with house(status_interval=3, heartbeat_interval=4) as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(silence)))
        await asyncio.sleep(30)
        assert reader.named("comment") == []
        assert len(reader.named("status")) >= 9


@virtual_time
async def test_a_write_that_takes_a_moment_costs_no_heartbeat():
    """The timer that falls into a write must not come back only after the limit for slow readers."""
    async with house(status_interval=0, heartbeat_interval=10, connection_timeout=1_000) as supervisor:
        follower = supervisor.follow(supervisor.open(spec(silence)), FollowOptions(framing=SSE))
        comments: list[Any] = []

        async def read():
            async with aclosing(follow(follower)) as chunks:
                async for chunk in chunks:
                    comments.extend(now() for each in parse(chunk) if each.name == "comment")
                    await asyncio.sleep(10.5)  # each write takes until after the next heartbeat is due

        reading = asyncio.create_task(read())
        await asyncio.sleep(200)
        reading.cancel()
        await asyncio.wait([reading])
    assert len(comments) >= 8


@virtual_time
async def test_ndjson_heartbeat_is_an_empty_line():
    async with house(status_interval=0, heartbeat_interval=4) as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(silence)), framing=NDJSON)
        await asyncio.sleep(5)
        assert reader.chunks[1:] == [b"\n"]


@virtual_time
async def test_ndjson_holds_the_same_events():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(10)))
        plain, lines = Reader(supervisor, task), Reader(supervisor, task, framing=NDJSON)
        durable = [dict(each.data, id=each.id) for each in await plain.end() if each.id]
        await lines.end()
        found = [json.loads(line) for line in b"".join(lines.chunks).splitlines()]
    assert [each for each in found if "id" in each] == durable


@virtual_time
async def test_sent_at_with_timing():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(30)))
        timed, plain = Reader(supervisor, task, timing=True), Reader(supervisor, task)
        events = await timed.end()
        others = await plain.end()
    for each in events:
        if each.name not in ("retry", "comment"):
            assert each.data.pop("sent_at") == pytest.approx(1_700_000_000 + each.at)
    assert [each.data for each in events if each.id] == [each.data for each in others if each.id]
    assert all("sent_at" not in each.data for each in others[1:])


@virtual_time
async def test_sent_at_in_typed_heartbeats():
    async with house(status_interval=0, heartbeat_interval=4) as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(silence)), timing=True, typed_heartbeat=True)
        await reader.until(lambda reader: reader.named("ping"))
        assert "sent_at" in reader.named("ping")[0].data


# --- Cursors ------------------------------------------------------------------------------------------


@virtual_time
async def test_many_readers_at_different_cursors_see_the_same_events():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(100)))
        readers = [(0, Reader(supervisor, task))]
        while not task.state.terminal:
            await asyncio.sleep(0.37)
            for after in (0, task.journal.last_id // 2, task.journal.last_id):
                readers.append((after, Reader(supervisor, task, after=after)))
        streams = [(after, [each for each in await reader.end() if each.id]) for after, reader in readers]
    (_, everything), *others = streams
    check_stream(everything)
    assert len(others) > 50
    for after, durable in others:
        assert check_replay(durable, everything, after) == len(everything)


@settings(max_examples=30, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0.0, 0.04, 0.3])), max_size=12))
def test_reconnects_at_any_moment_lose_and_repeat_nothing(breaks):
    """Invariant 1: leave after some events, stay away for a while, come back with the last id."""

    async def main():
        async with house() as supervisor:
            task = supervisor.open(spec(counting(60, 0.03)))
            beside = Reader(supervisor, task)
            seen: list[Any] = []
            last = 0
            for count, away in [*breaks, (10_000, 0.0)]:
                reader = Reader(supervisor, task, after=last, resumed=bool(seen))
                if count == 10_000:
                    await reader.end()
                else:
                    goal = count

                    def enough(reader, goal=goal):
                        return reader.running.done() or sum(bool(each.id) for each in reader.events) >= goal

                    while not enough(reader):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                    await reader.leave()
                durable = [each for each in reader.events if each.id]
                seen += durable
                last = seen[-1].id if seen else 0
                await asyncio.sleep(away)
            check_stream(seen, compacted=True)
            assert check_replay(seen, await beside.end(), 0) == task.journal.last_id
            assert text_of(seen) == "".join(f"{number} " for number in range(60))

    run_virtual(main)


@virtual_time
async def test_a_long_backlog_comes_in_bounded_writes():
    async def source():
        for number in range(1_000):
            yield f"{number:05}" * 40

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        await ended(task)
        reader = Reader(supervisor, task)
        events = await reader.end()
    check_stream(events, compacted=True)
    assert check_replay(events, parse(b"".join(task.journal.read(0, 2_000))), 0) == task.journal.last_id
    assert len(reader.chunks) >= sum(map(len, task.journal.read(0, 2_000))) / STEP_BYTES
    assert max(map(len, reader.chunks)) <= STEP_BYTES
    assert names(events).count("status") == 0, "an ended task has no status"


@virtual_time
async def test_one_event_larger_than_a_step_is_a_step():
    text = "语" * 16_384

    async def source():
        for _ in range(6):
            yield text

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        await ended(task)
        events = await Reader(supervisor, task).end()
    check_stream(events)
    assert text_of(events) == text * 6


@virtual_time
async def test_a_reader_that_keeps_pace_gets_the_frames_of_the_journal():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(MAX_FRAMES * 3)))
        reader = Reader(supervisor, task)
        check_stream(await reader.end())
        frames = task.journal.read(0, 10_000)
        assert supervisor.backlogs.size == 0
    found = re.findall(rb"id: .*?\n\n", b"".join(reader.chunks), re.DOTALL)
    assert found == frames


@virtual_time
async def test_a_reader_that_comes_back_gets_its_backlog_in_one_event_and_then_each():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(40)))
        beside = Reader(supervisor, task)
        await beside.saw("19 ")
        back = Reader(supervisor, task, after=2, resumed=True)
        events = await back.end()
        original = await beside.end()
    ids = [each.id for each in events if each.id]
    assert ids[0] >= 20
    assert ids == list(range(ids[0], task.journal.last_id + 1)), "once it has caught up it gets what all get"
    assert check_replay(events, original, 2) == task.journal.last_id


@virtual_time
async def test_a_reader_that_was_blocked_catches_up_by_a_few_events():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(500)))
        beside = Reader(supervisor, task)
        follower = supervisor.follow(task, FollowOptions(framing=SSE))
        events = parse(follower.take())
        follower.sending(lambda: None)
        await beside.saw("399 ")
        follower.sent()
        caught_up = parse(follower.take())
        assert sum(bool(each.id) for each in caught_up) == 1
        events += caught_up
        await asyncio.sleep(0.55)
        live = parse(follower.take())
        assert sum(bool(each.id) for each in live) >= 5
        follower.close()
        await beside.end()
    assert check_replay(events + live, beside.events, 0) == live[-1].id


@pytest.mark.parametrize("resumed", [False, True])
@virtual_time
async def test_text_that_a_restart_voids_is_not_sent_to_who_comes_later(resumed):
    async def source():
        for _ in range(3):
            yield "wrong "
            await asyncio.sleep(0.1)
        yield Output(output_type="stream")
        yield Content(delta="thought", channel="reasoning")
        yield Restart(attempt=2, reason="upstream_failed")
        await asyncio.sleep(1)
        yield "right"

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        early = Reader(supervisor, task)
        await early.until(lambda reader: reader.named("restart"))
        late = Reader(supervisor, task, resumed=resumed)
        halfway = Reader(supervisor, task, after=1, resumed=resumed)
        after = Reader(supervisor, task, after=early.named("restart")[0].id, resumed=resumed)
        durable = [
            [each for each in await reader.end() if each.id] for reader in (early, late, halfway, after)
        ]
    assert text_of(durable[0]) == "wrong wrong wrong right"
    assert names(durable[1]) == names(durable[2]) == ["output", "restart", "content", "complete"]
    assert durable[1] == durable[2] == [each for each in durable[0] if each in durable[1]]
    assert names(durable[3]) == ["content", "complete"]


@virtual_time
async def test_a_long_void_text_costs_no_bytes_and_lets_others_run():
    async def source():
        for _ in range(5_000):
            yield "x" * 20
        yield Restart(attempt=2, reason="upstream_failed")
        yield "right"

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        await ended(task)
        reader = Reader(supervisor, task)
        events = await reader.end()
    assert names(events) == ["retry", "restart", "content", "complete"]
    assert len(reader.chunks) <= 3


@pytest.mark.parametrize("framing", [SSE, NDJSON])
@virtual_time
async def test_readers_at_one_cursor_share_the_compacted_bytes(framing, monkeypatch):
    made: list[int] = []

    def counted(frames, restart_id):
        made.append(len(frames))
        return compact(frames, restart_id)

    monkeypatch.setattr(backlog, "compact", counted)
    async with house() as supervisor:
        task = supervisor.open(spec(counting(1_000, 0.06)))
        await ended(task)
        readers = [Reader(supervisor, task, framing) for _ in range(20)]
        for reader in readers:
            await reader.end()
        assert len(made) <= 3
        assert len({b"".join(reader.chunks) for reader in readers}) == 1
        assert supervisor.backlogs.size > 0
        supervisor.tasks.forget(task)
        assert supervisor.backlogs.size == 0


@virtual_time
async def test_compacted_steps_in_memory_are_bounded():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(1_000, 0.06)))
        await ended(task)
        supervisor.backlogs = backlog.Backlogs(10_000)
        for after in range(0, task.journal.last_id, 7):
            await Reader(supervisor, task, after=after).end()
            assert 0 < supervisor.backlogs.size <= 10_000


@virtual_time
async def test_compacted_events_tell_when_they_were_sent():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(30)))
        plain = Reader(supervisor, task)
        await ended(task)
        end_id = task.journal.last_id
        for framing in (SSE, NDJSON):
            timed = Reader(supervisor, task, framing, timing=True)
            await timed.end()
            if framing is SSE:
                found = [dict(each.data, id=each.id) for each in timed.events if each.id]
            else:
                found = [json.loads(line) for line in b"".join(timed.chunks).splitlines()]
            assert [each.pop("sent_at") > 1_700_000_000 for each in found] == [True, True]
            events = [
                {"type": "content", "delta": text_of(plain.events), "id": end_id - 1},
                dict(plain.events[-1].data, id=end_id),
            ]
            assert found == events


@virtual_time
async def test_a_reader_with_a_backlog_lets_others_run():
    turns = []

    async def other():
        while True:
            turns.append(len(reader.chunks))
            await asyncio.sleep(0)

    async def source():
        for _ in range(10_000):
            yield "x" * 20

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        await ended(task)
        reader = Reader(supervisor, task)
        running = asyncio.create_task(other())
        await reader.end()
        running.cancel()
    assert max(later - earlier for earlier, later in itertools.pairwise(turns)) <= 20


@virtual_time
async def test_cursor_ahead_is_refused():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(3)))
        await ended(task)
        last_id = task.journal.last_id
        with pytest.raises(CursorAhead):
            supervisor.follow(task, FollowOptions(framing=SSE, after=last_id + 1))
        assert await Reader(supervisor, task, after=last_id - 1).end()
        reader = Reader(supervisor, task, after=last_id)
        await reader.end()
        assert names(reader.events) == ["retry"], "nothing is left, and the stream ends"


@virtual_time
async def test_gap_after_a_trim():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(50)))
        early = Reader(supervisor, task)
        await asyncio.sleep(2.05)
        last_id = task.journal.last_id
        task.journal.trim(11)
        late = Reader(supervisor, task, after=3)
        edge = Reader(supervisor, task, after=10)
        assert last_id > 15
        for reader, first in ((early, 1), (late, 11), (edge, 11)):
            events = await reader.end()
            durable = [each.id for each in events if each.id]
            assert durable == list(range(first, task.journal.last_id + 1))
        assert early.named("gap") == edge.named("gap") == []
        (gap,) = late.named("gap")
        assert gap.id is None
        assert gap.data == {"type": "gap", "requested": 3, "available_from": 11}
        assert names(late.events).index("gap") < names(late.events).index("content")


@virtual_time
async def test_gap_for_a_reader_that_is_behind():
    """It does not notice the trim until it reads on."""
    async with house() as supervisor:
        task = supervisor.open(spec(counting(50)))
        follower = supervisor.follow(task, FollowOptions(framing=SSE))
        await asyncio.sleep(0.5)
        before = [each for each in parse(follower.take()) if each.id]
        await ended(task)
        task.journal.trim(40)
        events = []
        while not follower.done:
            events += parse(follower.take())
        follower.close()
    assert events[0].name == "gap"
    assert events[0].data["requested"] == before[-1].id
    assert [each.id for each in events if each.id] == list(range(40, task.journal.last_id + 1))


@pytest.mark.parametrize("survived", [0, 3])
@virtual_time
async def test_after_a_crash_every_cursor_gets_what_survived_a_lost_gap_or_the_end(survived):
    async with house() as supervisor:
        task = supervisor.open(spec(counting(3, pause=0)))
        await ended(task)
        frames, end_id = task.journal.read(0, survived), survived + LOST_IDS
        original = parse(b"".join(frames))
        task.journal = MemoryJournals(1_000_000).create()
        task.journal.adopt(1, frames)
        task.journal.adopt(end_id, [sse.frame(end_id, "error", b'{"type":"error","code":"interrupted"}')])
        for cursor in (0, survived, survived + 1, survived + 40, end_id - 1):
            reader = Reader(supervisor, task, after=cursor)
            events = [each for each in await reader.end() if each.name not in ("retry", "status")]
            lost = [each.data for each in events if each.name == "gap"]
            if survived < cursor:
                assert [each.id for each in events if each.id] == [end_id]
            else:
                durable = [each for each in events if each.id]
                assert check_replay(durable[:-1], original[:survived], cursor) == survived
                assert durable[-1].id == end_id
            assert events[-1].name == "error"
            if survived < cursor:
                assert lost == [{"type": "gap", "requested": cursor, "available_from": end_id, "lost": True}]
            else:
                assert lost == []


@virtual_time
async def test_too_many_followers():
    async with house(max_followers=2) as supervisor:
        task = supervisor.open(spec(silence))
        readers = [Reader(supervisor, task) for _ in range(2)]
        with pytest.raises(TooManyFollowers):
            supervisor.follow(task, FollowOptions(framing=SSE))
        await asyncio.sleep(0)
        await readers[0].leave()
        Reader(supervisor, task)


@virtual_time
async def test_resumes_are_counted():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(20)))
        first = Reader(supervisor, task)
        await first.saw("0 ")
        await first.leave()
        events = await Reader(supervisor, task, after=1, resumed=True).end()
    assert events[-1].data["timing"]["resumes"] == 1


# --- Readers who lose the right to read ---------------------------------------------------------------


@virtual_time
async def test_who_may_not_read_any_more_is_told_so_and_gets_nothing_else():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(20), grace=3.0))
        revoked, other = Reader(supervisor, task), Reader(supervisor, task)
        await revoked.saw("4 ")
        left = []
        revoked.follower.left = lambda: left.append(revoked.follower.closed)
        revoked.follower.revoke()
        revoked.follower.revoke()
        events = await revoked.end()
        assert events[-1].name == "error"
        assert events[-1].id is None
        assert (events[-1].data["code"], events[-1].data["retryable"]) == ("access_revoked", False)
        assert "5 " not in text_of(events)
        assert left == [True], "once"
        assert supervisor.statistics()["readers_revoked"] == 1
        check_stream(await other.end())
        assert other.events[-1].name == "complete", "the other reader noticed nothing"
        assert "access_revoked" not in str(task.journal.read(0, 1000)), "it is no end of the task"


@virtual_time
async def test_who_may_not_read_any_more_has_left_as_far_as_the_task_is_concerned():
    async with house() as supervisor:
        task = supervisor.open(spec(silence, grace=5.0))
        reader = Reader(supervisor, task)
        await asyncio.sleep(1)
        reader.follower.revoke()
        await reader.end()
        gone = now()
        await ended(task)
        assert task.final.reason == CancelReason.DISCONNECT
        assert 5 <= now() - gone <= 6


@virtual_time
@pytest.mark.parametrize("framing", [SSE, NDJSON])
async def test_who_was_revoked_before_the_first_byte_gets_no_event_of_the_task(framing):
    async with house() as supervisor:
        task = supervisor.open(spec(counting(3, pause=0)))
        await ended(task)
        follower = supervisor.follow(task, FollowOptions(framing=framing, resumed=True))
        follower.revoke()
        told = follower.take()
        assert follower.done
        assert told.count(b'"code":"access_revoked"') == 1
        assert b'"delta"' not in told
        assert told.startswith(framing.retry(2.0))
        follower.close()


@virtual_time
async def test_a_revoked_reader_that_does_not_read_is_cut_off():
    async with house(connection_timeout=60) as supervisor:
        task = supervisor.open(spec(counting(1_000)))
        follower = supervisor.follow(task, FollowOptions(framing=SSE))
        reading, blocked = blocked_reader(follower)
        await blocked.wait()
        follower.revoke()
        start = now()
        await asyncio.wait([reading])
        assert now() - start <= REVOKED_PATIENCE + 0.3
        assert follower.closed
        assert supervisor.statistics()["slow_readers_closed"] == 0


# --- Slow, absent and broken readers ------------------------------------------------------------------


def blocked_reader(follower):
    """Reads one chunk and then blocks in its send for ever."""
    blocked = asyncio.Event()

    async def read():
        async with aclosing(follow(follower)) as chunks:
            async for _ in chunks:
                blocked.set()
                await asyncio.sleep(100_000)

    return asyncio.create_task(read()), blocked


@virtual_time
async def test_slow_reader_is_closed_after_connection_timeout():
    async with house(connection_timeout=60) as supervisor:
        task = supervisor.open(spec(counting(1_000), grace=0.0))
        good = Reader(supervisor, task)
        follower = supervisor.follow(task, FollowOptions(framing=SSE))
        reading, blocked = blocked_reader(follower)
        await blocked.wait()
        start = now()
        await asyncio.wait([reading])
        assert 60 <= now() - start <= 60.3
        assert reading.cancelled()
        assert follower.slow
        assert follower.closed
        assert supervisor.statistics()["slow_readers_closed"] == 1
        assert supervisor.followers == {good.follower}
        check_stream(await good.end())
        assert good.events[-1].name == "complete", "the other reader noticed nothing"


@virtual_time
async def test_slow_reader_of_an_ended_task_is_closed():
    async def source():
        for _ in range(1_000):
            yield "x" * 20

    async with house(connection_timeout=60) as supervisor:
        task = supervisor.open(spec(source))
        await ended(task)
        reading, blocked = blocked_reader(supervisor.follow(task, FollowOptions(framing=SSE)))
        await blocked.wait()
        start = now()
        await asyncio.wait([reading])
        assert 60 <= now() - start <= 60.3
        assert supervisor.followers == set()


@virtual_time
async def test_a_slow_but_moving_reader_stays():
    async with house(connection_timeout=10) as supervisor:
        task = supervisor.open(spec(counting(2_000)))
        follower = supervisor.follow(task, FollowOptions(framing=SSE))
        events = []
        async with aclosing(follow(follower)) as chunks:
            async for chunk in chunks:
                events += parse(chunk)
                await asyncio.sleep(9)
        assert not follower.slow
        check_stream(events, compacted=True)
        original = parse(b"".join(task.journal.read(0, 10_000)))
        assert check_replay(events, original, 0) == task.journal.last_id
        assert events[-1].data["timing"]["blocked_ms"] > 100_000


@virtual_time
async def test_slow_reader_costs_no_memory_beyond_the_journal():
    """It holds a cursor and its latest status only."""
    async with house() as supervisor:
        task = supervisor.open(spec(counting(1_000, 0.02)))
        follower = supervisor.follow(task, FollowOptions(framing=SSE))
        follower.take()
        await ended(task)
        assert len(follower._notices) <= 1
        follower.close()


@virtual_time
async def test_a_response_that_is_never_read_is_let_go():
    async with house() as supervisor:
        task = supervisor.open(spec(silence, grace=0.0))
        follower = supervisor.follow(task, FollowOptions(framing=SSE))
        await asyncio.sleep(NEVER_READ - 0.5)
        assert not follower.closed
        await asyncio.sleep(1)
        assert follower.closed
        assert supervisor.followers == set()
        await ended(task)
        assert task.final.reason == "disconnect"


@virtual_time
async def test_a_response_that_is_never_read_is_let_go_when_patched_small(monkeypatch):
    monkeypatch.setattr("streaming.runtime.follower.NEVER_READ", 0.2)
    async with house() as supervisor:
        task = supervisor.open(spec(counting(5)))
        await ended(task)
        follower = supervisor.follow(task, FollowOptions(framing=SSE))
        await asyncio.sleep(0.5)
        assert follower.closed


@virtual_time
async def test_a_reader_that_reads_is_not_let_go():
    async with house(pool=pool_limits(run_timeout=10_000)) as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(silence)))
        await asyncio.sleep(500)
        assert not reader.running.done()


@virtual_time
async def test_follow_of_a_closed_follower_ends_at_once():
    async with house() as supervisor:
        follower = supervisor.follow(supervisor.open(spec(silence)), FollowOptions(framing=SSE))
        follower.close()
        follower.close()
        assert [chunk async for chunk in follow(follower)] == []


@virtual_time
async def test_close_wakes_the_waiting_reader():
    async with house() as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(silence)))
        await reader.until(lambda reader: reader.events)
        reader.follower.close()
        await reader.end()


@virtual_time
async def test_never_started_iteration_is_let_go_by_close():
    """An async generator that was never started runs no `finally` (TWO-DOORS section 4, 5)."""
    async with house() as supervisor:
        task = supervisor.open(spec(silence, grace=0.0))
        follower = supervisor.follow(task, FollowOptions(framing=SSE))
        chunks = follow(follower)
        follower.close()
        await chunks.aclose()
        await ended(task)
        assert supervisor.followers == set()


class BrokenFraming:
    content_type = "x"

    def __init__(self, breaks):
        self._breaks = breaks

    def __getattr__(self, name):
        if name == self._breaks:
            raise ZeroDivisionError(name)
        return getattr(SSE, name)


@pytest.mark.parametrize("breaks", ["retry", "ephemeral", "durable"])
@virtual_time
async def test_no_exception_leaves_follow(breaks, caplog):
    async with house() as supervisor:
        task = supervisor.open(spec(counting(3)))
        other = Reader(supervisor, task)
        follower = supervisor.follow(task, FollowOptions(framing=BrokenFraming(breaks)))
        chunks = [chunk async for chunk in follow(follower)]
        assert all(each.name not in ("complete", "error") for chunk in chunks for each in parse(chunk))
        assert follower.closed
        assert "the reader's bytes failed" in caplog.text
        check_stream(await other.end())


@virtual_time
async def test_broken_heartbeat_ends_the_bytes_only():
    async with house(status_interval=0, heartbeat_interval=1) as supervisor:
        task = supervisor.open(spec(silence))
        follower = supervisor.follow(task, FollowOptions(framing=BrokenFraming("heartbeat")))
        assert len([chunk async for chunk in follow(follower)]) == 1
        assert not task.state.terminal


@virtual_time
async def test_dismissed_reader_is_told_to_come_back():
    async with house() as supervisor:
        task = supervisor.open(spec(counting(1_000)))
        reader = Reader(supervisor, task)
        await reader.saw("5 ")
        reader.follower.dismiss()
        await reader.end()
        assert names(reader.events[-2:]) == ["retry", "reconnect"]
        last = max(each.id for each in reader.events if each.id)
        assert reader.events[-1].data["after"] == last
        assert 2000 <= reader.events[-2].data <= 3000


async def test_on_the_real_loop():
    async with house() as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(counting(20, 0.001))))
        async with asyncio.timeout(PATIENCE):
            check_stream(await reader.end())
