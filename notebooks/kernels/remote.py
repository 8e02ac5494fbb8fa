"""A kernel of a Jupyter Server: the way to it is a WebSocket, which may break and be made again.

A Jupyter Server keeps for whoever comes back what the kernel said meanwhile, unless somebody else listened,
or its settings say otherwise. So that what is missing is known, the kernel numbers what it says
(`program.py`): a cell whose output came over a broken way ends well only if no number is missing, else
`interrupted`; nothing is shown twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from streaming.core.errors import KernelNotStarted

from . import wire
from .gateway import Gateway, KernelGone
from .kernel import START_TIMEOUT, Kernel, Run, request
from .limits import PROGRAM, KernelLimits

logger = logging.getLogger(__name__)

RETURN_PATIENCE: Final = 10.0
"""Seconds for which a way that broke is tried again; then the kernel counts as dead."""

LOOK_INTERVAL: Final = 1.0
"""Seconds between two looks whether the server has a kernel that is silent at work."""

_ENDED: Final = ("restarting", "dead")
"""States of a kernel whose process has ended: a Jupyter Server starts it anew by itself."""


class RemoteKernel(Kernel):
    """See the module. Made by `attached`. `id`: what the server calls it. `socket`: the way to it, None while
    that is broken."""

    def __init__(self, limits: KernelLimits, gateway: Gateway, kernel: str) -> None:
        super().__init__(limits)
        self.id = kernel
        self._gateway = gateway
        self._session = uuid.uuid4().hex
        self._outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._tally = wire.Tally()
        self.socket: ClientConnection | None = None
        self._talk: asyncio.Task[None] | None = None
        self._surety: asyncio.Task[None] | None = None
        self._look: asyncio.Task[None] | None = None
        self._looked = time.monotonic()

    @classmethod
    async def attached(
        cls, limits: KernelLimits, gateway: Gateway, kernel: str, seconds: float = START_TIMEOUT
    ) -> RemoteKernel:
        """The kernel of that id, when it is ready. Raises `KernelGone`, and `KernelNotStarted` if it is not
        within `seconds`."""
        made = cls(limits, gateway, kernel)
        try:
            async with asyncio.timeout(seconds):
                await made._attach()
        except TimeoutError:
            await made.detach()
            raise KernelNotStarted("it does not answer") from None
        except BaseException:
            await made.detach()
            raise
        return made

    async def detach(self) -> None:
        """Let go of it, as it is. Who waits for it here takes it for dead."""
        self._is_dead()
        tasks = [task for task in (self._talk, self._surety, self._look) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def lives(self) -> bool:
        """Whether it is there, as far as is known. Looks, from time to time, while it works."""
        now = time.monotonic()
        if self.alive and self._runs and self.socket and now - self._looked > LOOK_INTERVAL:
            self._looked = now
            if self._look is None or self._look.done():
                self._look = asyncio.create_task(self._look_after(), name="kernel is looked after")
        return self.alive

    async def _attach(self) -> None:
        socket = await self._gateway.channels(self.id, self._session)
        self._talk = asyncio.create_task(self._keep_talking(socket), name="kernel channels")
        info = await self._become_ready(START_TIMEOUT)
        if info is None:
            raise KernelNotStarted("it does not answer")
        language = info.get("language_info")
        if isinstance(language, dict) and language.get("name") == "python":
            await self._prepare()

    async def _prepare(self) -> None:
        """Output comes soon, is neither lost nor misplaced, and is numbered. Nothing where that was done
        before."""
        content = request(_preparation(self._limits.output_limit)) | {"silent": True, "store_history": False}
        for run in (self._ask("execute", content), self._ask("kernel_info", {})):
            try:
                while not run.over and self.alive:
                    run.news.clear()
                    await run.news.wait()
            finally:
                self._forget(run)
        if not self._tally.counts:
            logger.warning("a kernel could not be prepared: its output comes later, and may be lost")

    # What each kind does in its own way

    def _send(self, kind: str, content: dict[str, Any]) -> str:
        message_id = uuid.uuid4().hex
        header = {
            "msg_id": message_id,
            "msg_type": f"{kind}_request",
            "session": self._session,
            "username": "",
            "date": datetime.now(UTC).isoformat(),
            "version": "5.4",
        }
        self._outgoing.put_nowait({"header": header, "parent_header": {}, "metadata": {}, "content": content})
        return message_id

    async def _signal(self) -> None:
        try:
            await self._gateway.interrupt(self.id)
        except KernelNotStarted as error:
            logger.warning("a kernel could not be interrupted: %s", error)

    async def _end(self) -> None:
        await self.detach()
        try:
            await self._gateway.delete(self.id)
        except KernelNotStarted as error:
            logger.warning("kernel %s could not be ended, and may run on: %s", self.id, error)

    # The way to it

    async def _keep_talking(self, socket: ClientConnection | None) -> None:
        try:
            while socket is not None:
                self.socket = socket
                await self._converse(socket)
                if _says_too_much(socket):
                    break
                socket = await self._return()
                if socket is not None:
                    self._make_sure()
        finally:
            self._is_dead()

    async def _converse(self, socket: ClientConnection) -> None:
        """To the end of the WebSocket."""
        writer = asyncio.create_task(self._write(socket), name="kernel requests")
        try:
            await self._read(partial(_receive, socket), self._on_message)
        finally:
            self.socket = None
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            await socket.close()

    async def _write(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = await self._outgoing.get()
                await socket.send(wire.pack(message, "shell", socket.subprotocol))

    async def _return(self) -> ClientConnection | None:
        """A new WebSocket to the same kernel; None if there is none to be had."""
        until, pause = time.monotonic() + RETURN_PATIENCE, 0.05
        while self.alive:
            try:
                if not await self._gateway.exists(self.id):
                    return None
                return await self._gateway.channels(self.id, self._session)
            except KernelGone:
                return None
            except KernelNotStarted as error:
                if time.monotonic() > until:
                    logger.warning("kernel %s is out of reach: %s", self.id, error)
                    return None
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)
        return None

    def _make_sure(self) -> None:
        """The way is there again: nobody knows yet what was lost with the former one."""
        self._tally.start_over()
        for run in self._runs.values():
            run.in_doubt = True
        if self._surety is not None:
            self._surety.cancel()
        if self._runs:
            self._surety = asyncio.create_task(self._clear_doubts(), name="kernel is asked what was lost")

    async def _clear_doubts(self) -> None:
        """A kernel takes one request after the other: with the answer to a later one it has said all of the
        earlier ones."""
        question = self._ask("kernel_info", {})
        try:
            while not question.over and self.alive:
                question.news.clear()
                await question.news.wait()
        finally:
            self._forget(question)
        for run in self._runs.values():
            if run.in_doubt:
                run.in_doubt = False
                run.lost = not (run.over and self._tally.complete)
                run.news.set()

    async def _ask_whether_idle(self, run: Run) -> None:
        if self.socket is not None and not run.in_doubt:
            await super()._ask_whether_idle(run)

    async def _look_after(self) -> None:
        with contextlib.suppress(KernelNotStarted):
            if not await self._gateway.exists(self.id):
                self._is_dead()

    # Its messages

    def _on_message(self, said: tuple[str, Mapping[str, Any]]) -> None:
        channel, message = said
        if channel == "shell":
            self._on_shell(message)
        elif channel == "iopub":
            number = message["metadata"].get("number")
            number = number if type(number) is int else None
            if message["header"]["msg_type"] == "status":
                self._on_status(message, number)
            elif number is None or self._tally.is_new(number):
                self._on_iopub(message)

    def _on_status(self, message: Mapping[str, Any], number: int | None) -> None:
        if number is not None:
            self._tally.mark(number)
        if not message["parent_header"] and message["content"].get("execution_state") in _ENDED:
            self._is_dead()
        else:
            self._on_iopub(message)


async def _receive(socket: ClientConnection) -> tuple[str, dict[str, Any]]:
    """Channel and message. Raises `EOFError` at the end, and `ValueError` for what is no message."""
    try:
        frame = await socket.recv()
    except ConnectionClosed as error:
        raise EOFError from error
    return wire.unpack(frame, socket.subprotocol)


def _says_too_much(socket: ClientConnection) -> bool:
    """Whether it was closed for a message that is larger than any may be."""
    sent = socket.protocol.close_sent
    return sent is not None and sent.code == CloseCode.MESSAGE_TOO_BIG


def _preparation(output_limit: int) -> str:
    """A first cell: `program.py`, once in the life of a kernel. It leaves no names behind."""
    program = PROGRAM.read_text(encoding="utf-8")
    given = {"__name__": "sluice", "limit": output_limit}
    # Not at once: while a cell runs IPython has replaced what the program is to replace.
    return (
        "if not hasattr(get_ipython(), '_sluice'):\n"
        "    get_ipython()._sluice = True\n"
        "    get_ipython().kernel.io_loop.add_callback(\n"
        f"        exec, compile({program!r}, 'program.py', 'exec'), {given!r}\n"
        "    )"
    )
