"""Sockets of a server with REDIS_URL: they need nothing of Redis, and stay open while nothing comes."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.integration.conftest import assert_clean
from tests.support.redis import RedisServer
from tests.support.servers import ROOT, Server, environment, running
from tests.support.sockets import Socket, opened

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("websocket-redis")
    with running("serve", folder, REDIS_URL=redis_server.url(), CLUSTER_PREFIX="idle") as made:
        yield made
        assert_clean(made)


async def pinged(socket: Socket) -> None:
    await socket.say(type="ping")
    assert await socket.next() == {"type": "pong"}


async def of_the_server(redis_server: RedisServer) -> int:
    """Connections to Redis of all clients but the one that asks."""
    with redis_server.client() as admin:
        return len(admin.client_list()) - 1


async def test_sockets_hold_nothing_of_redis(server: Server, redis_server: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(opened(server))
        await pinged(first)
        before = await of_the_server(redis_server)
        sockets = [await stack.enter_async_context(opened(server)) for _ in range(30)]
        for socket in sockets:
            await pinged(socket)
        assert await of_the_server(redis_server) <= before


LISTENING: Final = """
import asyncio, sys
from channels.layers import get_channel_layer

async def listen():
    layer = get_channel_layer()
    channels = [await layer.new_channel() for _ in range(20)]
    waiting = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    for channel in channels:
        await layer.group_add("all", channel)
    await asyncio.sleep(float(sys.argv[1]))
    await layer.group_send("all", {"type": "wake"})
    print(len(await asyncio.wait_for(asyncio.gather(*waiting), 20)), layer.prefix)
    clients = await layer._shards[0]._redis.client_list()
    print(sum(client["db"] == sys.argv[2] for client in clients))
    await layer.flush()

import django
django.setup()
asyncio.run(listen())
"""
"""Twenty consumers of a host project, as the channel layer sees them."""


@pytest.mark.parametrize("seconds", [6.0, pytest.param(60.0, marks=pytest.mark.long)])
async def test_idle_sockets_stay_open(
    server: Server, redis_server: RedisServer, tmp_path: Path, seconds: float
) -> None:
    """R16, P37: redis-py ends what is silent for 5 s. The layer of a host project's consumers still hears
    then, and has two connections for all of them."""
    url = redis_server.url()
    env = environment(tmp_path, REDIS_URL=url, DJANGO_SETTINGS_MODULE="settings.settings")
    arguments = ("-c", LISTENING, str(seconds), url.rpartition("/")[2])
    async with opened(server) as socket:
        layer = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=env, cwd=ROOT, stdout=PIPE, stderr=PIPE
        )
        said, complaints = await layer.communicate()
        await pinged(socket)
    assert said.decode().split() == ["20", "sluice:channels:", "2"], complaints.decode()
