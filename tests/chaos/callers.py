"""Callers whom faults bring: they have no story, and no record of them is judged. They must leave nothing
behind, and what they are told must be right."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Iterable
from contextlib import ExitStack, suppress
from typing import Any, Final

from tests.support.client import STREAM, brief
from tests.support.cluster import Node
from tests.support.toxics import reset
from tests.support.wire import Persistent, Refused, code_of, request, start

from .house import House

PATIENCE: Final = 10.0
"""Seconds for the head of an answer."""

LONGEST: Final = 60.0
"""Seconds within which a call has its end, whatever else happens meanwhile."""

UNREAD: Final = ("\U0001f3f4" + "\U000e0061" * 9_999) * 90
"""3.6 MB in clusters of 40 KB, which no replay makes smaller: more than all buffers of the kernel take."""

SMALL_BUFFER: Final = 4096

RST: Final = struct.pack("ii", 1, 0)
"""Of SO_LINGER: closing is a reset."""

FAILING: Final = (
    "no-end",
    "cut-mid-way",
    "reset-mid-way",
    "reset-before-header",
    "cut-before-token",
    "redirect",
    "broken-json",
    "error-frame",
    "error-frame-auth",
    "huge-event",
    "html",
    "status-401",
    "status-429",
    "status-503",
    "wait-an-hour",
)
"""Behaviours of the fake model service (tests/support/upstream.py) that end as an error, and soon."""


async def never_read(house: House, node: Node, dice: random.Random) -> None:
    """Ask for a long text, or one that is being written, with a tiny buffer; read nothing; then RST."""
    try:
        async with asyncio.timeout(PATIENCE):
            task_id = await start(node.port, user_id="frozen", options={"text": UNREAD, "interval": 0})
    except (OSError, AssertionError) as error:
        house.note(f"nothing to leave unread: {error}")
        return
    follow = f"GET /streams/{task_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    write = _request(user_id="frozen", on_disconnect="cancel", options={"tokens": 200})
    with ExitStack() as stack:
        for _ in range(dice.randint(8, 16)):
            with suppress(OSError):
                reader = stack.enter_context(_closed_by_reset())
                await _send(reader, node.port, dice.choice([follow, follow, write]))
        await asyncio.sleep(dice.uniform(1, 4))


async def leave_early(house: House, nodes: list[Node], dice: random.Random) -> None:
    """Call, and go 0 to 300 ms later, mostly at once, by RST or FIN; a third while the model writes."""
    ways: Counter[str] = Counter()

    async def one() -> None:
        node, pause = dice.choice(nodes), dice.random() ** 3 * 0.3
        way, by_model = dice.choice(["RST", "FIN"]), dice.random() < 0.3
        what: dict[str, Any] = {"options": {"tokens": 100, "blocking": dice.random() < 0.5}}
        if by_model:
            what = {"provider": "openai", "model": "endless"}
        with suppress(OSError):
            async with asyncio.timeout(PATIENCE):
                _, writer = await asyncio.open_connection("127.0.0.1", node.port)
                writer.write(_request(user_id="leaves", on_disconnect="cancel", **what))
                await asyncio.sleep(pause)
            ways[way] += 1
            if way == "RST":
                reset(writer)
            writer.close()

    await _all(one() for _ in range(dice.randint(30, 80)))
    house.note(f"left early: {dict(ways)}")


async def flood(house: House, node: Node, dice: random.Random) -> None:
    """More calls at the same moment than there are permits and places; who is refused is told when to come
    again."""
    answers: Counter[int] = Counter()

    async def one(number: int) -> None:
        stay = dice.uniform(0, 1)
        body = brief(user_id=f"flood {number}", on_disconnect="cancel", options={"tokens": 50})
        with suppress(OSError):
            async with request(node.port, "POST", STREAM, body, patience=PATIENCE) as answer:
                answers[answer.status] += 1
                if answer.status == 200:
                    await asyncio.sleep(stay)
                    return
                code = code_of(await answer.body())
                if answer.status not in (429, 503):
                    house.blame("refusal", "flood", f"{answer.status} {code} of {node.name}")
                elif "retry-after" not in answer.headers:
                    house.blame("refusal", "flood", f"{answer.status} {code} without Retry-After")

    await _all(one(number) for number in range(dice.randint(100, 180)))
    house.note(f"flood: {dict(answers)}")


async def fail_upstream(house: House, nodes: list[Node], dice: random.Random) -> None:
    """Calls whose model service fails, each in another way: each ends, with a code that says so."""

    async def one(model: str) -> None:
        end = await _read(house, model, dice.choice(nodes), provider="openai", model=model)
        if end and not end.startswith("upstream_"):
            house.blame("end", model, end)

    await _all(one(model) for model in dice.sample(FAILING, 6))


async def burden_loop(house: House, node: Node, dice: random.Random) -> None:
    """Producers that compute for each token, on the loop."""
    options = {"tokens": dice.randint(50, 150), "burn": dice.uniform(1, 5), "interval": 0}

    async def one(number: int) -> None:
        end = await _read(house, f"burden {number}", node, options=options)
        if end not in ("", "complete"):
            house.blame("end", f"burden {number}", end)

    await _all(one(number) for number in range(3))


async def take_files(node: Node, count: int, stack: ExitStack) -> None:
    """Open so many connections that say nothing; they close with the stack."""
    for _ in range(count):
        with suppress(OSError):
            await _send(stack.enter_context(_closed_by_reset()), node.port, b"")


async def _read(house: House, name: str, node: Node, **members: Any) -> str:
    """Call, and read to the end; its name, or its code. Empty where a fault has ended or forgotten it."""
    reader = Persistent(lambda: node.port, pause=0.05)
    try:
        async with asyncio.timeout(LONGEST):
            await reader.generate(user_id=name, **members)
    except Refused as refused:
        end = f"{refused.args[0]} {refused.args[1]}"
    except TimeoutError:
        house.blame("hang", name, f"no end of {reader.task_id or 'the call'} after {LONGEST:.0f} s")
        return ""
    else:
        assert reader.end is not None
        end = str(reader.end.data.get("code", reader.end.name))
    if reader.violations:
        house.blame("order", name, reader.violations[0])
    if house.hits and end in ("interrupted", "404 not_found"):
        return ""
    return end


def _request(**members: Any) -> bytes:
    body = json.dumps(brief(**members)).encode()
    head = (
        f"POST {STREAM} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _closed_by_reset() -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    return made


async def _send(connection: socket.socket, port: int, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(1):
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, data)


async def _all(calls: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*calls)
