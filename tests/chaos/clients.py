"""Clients that do what the protocol asks of them, and write down what they saw."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final

from tests.support.client import Received, brief
from tests.support.wire import Exchange, Persistent, PersistentSocket, Refused, Silence, code_of, request

from . import model
from .checker import Call, Refusal, Seen, Story
from .checker import Silence as Silent
from .plan import Client

PATIENCE: Final = 15.0
"""Seconds without a byte: seven heartbeats, and more than a dead process is noticed after."""

LATER: Final = "/content/generate/async"

Address = Callable[[int], tuple[str, int]]
"""From how often a client has connected to the name of a web, and the port that leads there."""


class Noting(Persistent):
    """A reader whose `story` is what the checker judges. `of` gives it the web to try next."""

    story: Story
    of: Address
    known: asyncio.Event
    """Set when it has the id of its task, or will never have one."""
    _turn = 0
    _node = ""
    _asked = 0.0

    def prepare(self, story: Story, of: Address) -> None:
        """To be called once, before anything else."""
        self.story, self.of = story, of
        self.known = asyncio.Event()
        self.address = self._next_address

    def _next_address(self) -> int:
        self._node, port = self.of(self._turn)
        self._turn += 1
        self._asked = time.monotonic()
        return port

    async def _once(self, method: str, path: str, body: Any) -> None:
        self.story.posts += method == "POST"
        await super()._once(method, path, body)
        self.story.task_id = self.task_id
        if self.task_id:
            self.known.set()

    async def read(self, answer: Exchange) -> None:
        self._accepted(answer.headers.get("x-stream-route", ""))
        await super().read(answer)

    def _accepted(self, route: str) -> None:
        story = self.story
        story.task_id = self.task_id
        self.known.set()
        if story.accepted_at is None and not story.follows:
            story.node, story.accepted_at, story.route = self._node, time.monotonic(), route

    async def _was_cut(self, error: Exception) -> None:
        self.story.cuts += 1
        if isinstance(error, Silence):
            now = time.monotonic()
            self.story.silences.append(Silent(now - self.patience, now, self._node))
        await super()._was_cut(error)

    async def _was_refused(self, status: int, code: str, *, told_when: bool) -> None:
        now = time.monotonic()
        self.story.refusals.append(Refusal(self._asked, now, self._node, status, code, told_when))
        await super()._was_refused(status, code, told_when=told_when)

    def _note(self, event: Received) -> None:
        if event.name == "opened":
            self._accepted(event.data.get("route", ""))
        self.story.events.append(Seen(event.at, event.name, int(event.id or 0), event.data))
        super()._note(event)

    async def ask_later(self, body: Any) -> None:
        """Make the call until it is promised (202)."""
        headers = {"Idempotency_Key": self.key} if self.key else {}
        while not self.task_id:
            self.story.posts += 1
            try:
                port = self.address()
                async with request(port, "POST", LATER, body, patience=self.patience, **headers) as answer:
                    if answer.status == 202:
                        self.task_id = (await answer.json())["task_id"]
                        self._accepted(answer.headers.get("x-stream-route", ""))
                    else:
                        await self._refused(answer)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
            except OSError as error:
                await self._was_cut(error)


class NotingSocket(Noting, PersistentSocket):
    """The same over WebSockets."""


def brief_of(client: Client) -> dict[str, Any]:
    """What it sends."""
    call = client.call
    members: dict[str, Any] = {"user_id": call.name}
    if client.priority:
        members["priority"] = client.priority
    if client.leaves_at is not None:
        members["on_disconnect"] = "cancel"
    if call.by_model:
        return brief(**members, provider="openai", topic=model.order(call), language="en")
    options = {"tokens": call.tokens, "interval": call.interval, "blocking": client.blocking}
    return brief(**members, options=options)


def reader(story: Story, of: Address, way: str = "stream", task_id: str = "") -> Noting:
    """One that has not begun yet."""
    kind = NotingSocket if way == "socket" else Noting
    made = kind(lambda: 0, task_id, pause=0.05, patience=PATIENCE)
    made.prepare(story, of)
    made.key = f"key-{story.call.name}" if story.call.key and not story.follows else ""
    return made


async def call(client: Client, made: Noting) -> None:
    """Make the call, and read to the end, or until the client leaves."""
    body = brief_of(client)
    made.story.began = time.monotonic()
    try:
        async with asyncio.timeout(client.leaves_at):
            if client.way == "later":
                await made.ask_later(body)
                await made.follow(None)
            else:
                await made.generate(**body)
    except Refused:
        return
    except TimeoutError:
        if client.leaves_at is None:
            raise
    finally:
        # Nobody shall wait for the id of a task that there will never be.
        made.known.set()


async def follow(made: Noting) -> None:
    """Read a task that somebody else asked for, to its end."""
    made.story.began = time.monotonic()
    try:
        await made.follow(None)
    except Refused:
        return


async def cancel(story: Story, of: Address) -> None:
    """DELETE, once; what it was told is noted. Whoever cannot be reached has cancelled nothing."""
    node, port = of(1)
    asked = time.monotonic()
    try:
        async with request(port, "DELETE", f"/streams/{story.task_id}", patience=PATIENCE) as answer:
            body = await answer.body()
            if answer.status == 200:
                story.told_cancelled = json.loads(body)["state"] == "cancelled"
            else:
                told_when = "retry-after" in answer.headers
                story.refusals.append(
                    Refusal(asked, time.monotonic(), node, answer.status, code_of(body), told_when)
                )
    except (Silence, OSError):
        return


def herd_call(name: str, seconds: float) -> Call:
    """What a herd reads: slow, because many do."""
    return Call(name, tokens=max(4, int(seconds / 0.2)), interval=0.2, durable=True)
