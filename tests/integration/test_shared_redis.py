"""The connections to Redis: how many, what a cancelled or late answer does to others, and what callers are
told when Redis is slow, gone, full or must not write."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from streaming.core.errors import RedisAway, RedisFull
from streaming.problems import of_error
from streaming.runtime.redis.connection import Script, SharedRedis
from tests.support.redis import RedisServer, find_redis
from tests.support.redis import redis_server as make_redis_server
from tests.support.servers import free_port

PATIENCE = 20.0

ECHO = Script("echo", "return {KEYS[1], ARGV[1]}", "b51a76fbcc7ac82ef4bfaa04b7fa9e8a2d0ea5d4")
"""With a name that no Redis knows: it is brought each time."""

SLOW_ECHO = "for i = 1, 5000 do end return ARGV[1]"
"""Slow enough for a cancel between the question and its answer."""

Make = Callable[..., SharedRedis]


@pytest.fixture(scope="module")
def frail() -> Iterator[RedisServer]:
    """A Redis that tests may stop and fill."""
    if find_redis() is None:
        pytest.skip("no Redis")
    with make_redis_server() as server:
        yield server


@pytest.fixture
async def make(redis_server: RedisServer) -> AsyncIterator[Make]:
    made: list[SharedRedis] = []

    def make_one(url: str = "", **options: Any) -> SharedRedis:
        options = {"prefix": secrets.token_hex(4), "timeout": 5.0, **options}
        made.append(SharedRedis(url or redis_server.url(0), **options))
        return made[-1]

    yield make_one
    for each in made:
        await each.close()


async def until(check: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not check():  # noqa: ASYNC110 (Redis moves on)
            await asyncio.sleep(0.005)


async def test_scripts_are_brought_where_they_are_missing(make: Make) -> None:
    redis = make()
    assert await redis.call(ECHO, ["k"], ["v"]) == [b"k", b"v"]
    known = Script("echo", ECHO.text, (await redis.execute("SCRIPT LOAD", ECHO.text)).decode())
    await redis.execute("SCRIPT FLUSH")
    calls = [(["k"], [number]) for number in range(3)]
    assert await redis.calls(known, calls) == [[b"k", b"0"], [b"k", b"1"], [b"k", b"2"]]


async def test_a_script_is_named_by_what_it_says() -> None:
    script = Script.beside(SharedRedis.__module__.replace(".", "/"), "connection.py")
    assert len(script.sha) == 40
    assert "class SharedRedis" in script.text


async def test_cancelled_calls_leave_no_answer_to_others(make: Make) -> None:
    """P39: of 600 calls on four connections each second one is cancelled, at any step on its way."""
    redis = make()
    chance = random.Random(5)
    answers: dict[int, bytes] = {}

    async def ask(number: int) -> None:
        answers[number] = await redis.execute("EVAL", SLOW_ECHO, 0, number)

    for first in range(0, 600, 6):
        calls = [asyncio.create_task(ask(number)) for number in range(first, first + 6)]
        for call in calls[::2]:
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            if chance.random() < 0.5:
                await asyncio.sleep(0.0005)
            call.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert ended[1::2] == [None] * 3
    assert len(answers) >= 300
    assert {number: b"%d" % number for number in answers} == answers, "none is wrong"
    assert not redis.away
    assert await count_of(redis) <= 4


async def count_of(redis: SharedRedis) -> int:
    """Connections of this process."""
    listed: str = (await redis.execute("CLIENT LIST")).decode()
    return listed.count(f" name={redis.prefix} ")


async def test_connections_are_few_however_many_ask(make: Make) -> None:
    redis = make(connections=3)
    assert await asyncio.gather(*(redis.execute("ECHO", "x") for _ in range(200))) == [b"x"] * 200
    assert await count_of(redis) == 3


async def test_a_connection_that_redis_has_closed_is_replaced(make: Make) -> None:
    redis = make()
    assert await redis.execute("ECHO", "x") == b"x"
    admin = make(prefix="admin")
    await admin.execute("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes")
    await asyncio.sleep(0.05)
    assert await redis.execute("ECHO", "y") == b"y"
    assert redis.failures == 0


async def test_frozen(make: Make, frail: RedisServer) -> None:
    """R14: who asks is told in time, the loop is never stopped, and all goes on afterwards."""
    redis = make(frail.url(0), timeout=0.3)
    returned: list[float] = []
    redis.subscribe_to_return(lambda: returned.append(time.monotonic()))
    redis.subscribe_to_return(lambda: 1 / 0)
    redis.subscribe_to_return(lambda: returned.append(time.monotonic()))
    await redis.execute("ECHO", "x")
    frail.freeze()
    try:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.005)

        beside = asyncio.create_task(others())
        async with asyncio.timeout(10 * redis.timeout):
            calls = (redis.execute("ECHO", "x") for _ in range(50))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        beside.cancel()
        assert {type(each) for each in outcomes} == {RedisAway}
        assert turns > 5, "the loop does other things meanwhile"
        assert redis.away
        asked = redis.failures
        with pytest.raises(RedisAway):
            await redis.call(ECHO, [], [])
        assert redis.failures == asked, "at once: nobody was asked"
        assert returned == []
    finally:
        frail.thaw()
    await until(lambda: not redis.away)
    await until(lambda: len(returned) == 2)
    assert await redis.execute("ECHO", "y") == b"y"


async def test_gone_and_back(make: Make, frail: RedisServer) -> None:
    redis = make(frail.url(0), timeout=1.0)
    await asyncio.gather(*(redis.execute("ECHO", "x") for _ in range(8)))
    frail.kill()
    try:
        with pytest.raises(RedisAway):
            await redis.execute("ECHO", "x")
        assert redis.away
    finally:
        frail.start()
    await until(lambda: not redis.away)
    assert await asyncio.gather(*(redis.execute("ECHO", "x") for _ in range(8))) == [b"x"] * 8


async def test_nobody_there(make: Make) -> None:
    redis = make(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(RedisAway):
        await redis.execute("ECHO", "x")
    assert redis.away


async def test_wrong_password(make: Make, frail: RedisServer) -> None:
    redis = make(f"redis://nobody:secret@127.0.0.1:{frail.port}/0")
    with pytest.raises(RedisAway) as caught:
        await redis.execute("ECHO", "x")
    assert "secret" not in str(caught.value)


async def test_full(make: Make, frail: RedisServer) -> None:
    """R15: what needs memory is refused by its name; all else goes on."""
    redis = make(frail.url(0))
    key = redis.key("k")
    with frail.client() as admin:
        admin.config_set("maxmemory", 1)
        try:
            with pytest.raises(RedisFull):
                await redis.execute("SET", key, "v")
            with pytest.raises(RedisFull):
                await redis.call(Script("set", "return redis.call('SET', KEYS[1], 1)", "0" * 40), [key], [])
            assert await redis.execute("ECHO", "x") == b"x"
            assert not redis.away
        finally:
            admin.config_set("maxmemory", 0)


async def test_one_that_must_not_write_is_away(make: Make, frail: RedisServer) -> None:
    """As after a failover, or with a full disk: it answers every ping."""
    redis = make(frail.url(0))
    with frail.client() as admin:
        admin.replicaof("127.0.0.1", free_port())
        admin.config_set("replica-serve-stale-data", "yes")
        try:
            with pytest.raises(RedisAway):
                await redis.execute("SET", redis.key("k"), "v")
            await asyncio.sleep(0.1)
            assert redis.away
        finally:
            admin.replicaof("NO", "ONE")
    await until(lambda: not redis.away)


async def test_a_wrong_command_is_nobody_elses_trouble(make: Make) -> None:
    redis = make()
    with pytest.raises(RedisAway):
        await redis.call(Script("wrong", "return redis.call('NOSUCH')", "1" * 40), [], [])
    assert not redis.away
    assert await redis.execute("ECHO", "x") == b"x"


async def test_after_the_close_nobody_is_answered(make: Make) -> None:
    redis = make()
    await redis.execute("ECHO", "x")
    await redis.close()
    with pytest.raises(RedisAway):
        await redis.execute("ECHO", "x")


@pytest.mark.parametrize(
    ("error", "code"), [(RedisAway(), "redis_unavailable"), (RedisFull(), "storage_full")]
)
def test_callers_are_told_to_come_back(error: RedisAway, code: str) -> None:
    problem = of_error(error)
    assert (problem.status, problem.code) == (503, code)
    assert problem.retry_seconds == 2
