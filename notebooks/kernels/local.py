"""A kernel of this machine: a process and its sockets.

Two tasks wait on the sockets; nothing polls for output.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
from typing import Any, Final

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from streaming.core.errors import KernelNotStarted

from .kernel import LARGEST_ELSE, START_TIMEOUT, UNREAD, Kernel
from .launch import Folder, OnlySpec, command, environment
from .limits import KernelLimits

logger = logging.getLogger(__name__)

EXIT_PATIENCE: Final = 7.0
"""Seconds until a killed kernel's keeper has taken everything down (`keeper.PATIENCE` and a bit)."""


class LocalKernel(Kernel):
    """See the module. Made by `started`."""

    def __init__(self, limits: KernelLimits) -> None:
        super().__init__(limits)
        self._folder = Folder()
        self._readers: list[asyncio.Task[None]] = []
        self._lifeline = self._notice = -1
        self._client: AsyncKernelClient | None = None
        self._manager: AsyncKernelManager | None = None

    @classmethod
    async def started(cls, limits: KernelLimits) -> LocalKernel:
        """A kernel that is ready. Raises `KernelNotStarted`."""
        kernel = cls(limits)
        try:
            await kernel._start()
        except BaseException:
            await kernel.stop()
            raise
        return kernel

    @property
    def work(self) -> str:
        """The folder in which code runs."""
        return str(self._folder.work)

    @property
    def pid(self) -> int | None:
        """Process id of its keeper, while there is one."""
        return None if self._process is None else int(self._process.pid)

    @property
    def _process(self) -> Any:
        """The keeper, as `subprocess.Popen`; None before the start."""
        return getattr(getattr(self._manager, "provisioner", None), "process", None)

    async def _start(self) -> None:
        lifeline, self._lifeline = os.pipe()
        self._notice, notice = os.pipe()
        try:
            with self._folder.log.open("wb") as log:
                await self._launch(lifeline, notice, log)
        except OSError as error:
            raise KernelNotStarted(str(error)) from error
        finally:
            os.close(lifeline)
            os.close(notice)
        asyncio.get_running_loop().add_reader(self._notice, self._is_dead)
        assert self._manager is not None
        self._client = self._manager.client(context=self._manager.context)
        self._client.start_channels(stdin=False, hb=False)
        self._readers = [
            asyncio.create_task(self._read(self._client.get_iopub_msg, self._on_iopub), name="kernel iopub"),
            asyncio.create_task(self._read(self._client.get_shell_msg, self._on_shell), name="kernel shell"),
        ]
        if await self._become_ready(START_TIMEOUT) is None:
            raise KernelNotStarted(self._folder.last_words() or "it does not answer")

    async def _launch(self, lifeline: int, notice: int, log: Any) -> None:
        self._manager = AsyncKernelManager(
            transport="ipc",
            ip=str(self._folder.sockets),
            connection_file=str(self._folder.connection_file),
            kernel_spec_manager=OnlySpec(command(self._limits, lifeline, notice)),
            context=_context(self._limits.output_limit),
        )
        await self._manager.start_kernel(
            cwd=self.work,
            env=environment(self._folder, self._limits.environment),
            pass_fds=(lifeline, notice),
            stdout=log,
            stderr=log,
        )

    def lives(self) -> bool:
        """Look whether the process is there; once it is not, everybody who waits is told."""
        if self.alive:
            process = self._process
            if process is None or process.poll() is not None or _at_end(self._notice):
                self._is_dead()
        return self.alive

    def _send(self, kind: str, content: dict[str, Any]) -> str:
        assert self._client is not None
        message = self._client.session.msg(f"{kind}_request", content)
        self._client.shell_channel.send(message)
        # jupyter_client sends past the asyncio socket, and may swallow the sign that a message has come.
        # Nobody would be woken for it, nor for any later one (zmq_getsockopt(3), ZMQ_FD: who sends must look
        # at ZMQ_EVENTS).
        self._client.shell_channel.socket.get(zmq.EVENTS)
        return str(message["header"]["msg_id"])

    async def _signal(self) -> None:
        if self._manager is not None:
            with contextlib.suppress(ProcessLookupError, RuntimeError):
                await self._manager.interrupt_kernel()

    def _is_dead(self) -> None:
        super()._is_dead()
        if self._notice >= 0:
            asyncio.get_running_loop().remove_reader(self._notice)
            os.close(self._notice)
            self._notice = -1

    async def _end(self) -> None:
        if self._lifeline >= 0:
            # The keeper sees its end, and kills everything below it.
            os.close(self._lifeline)
            self._lifeline = -1
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        if self._process is not None:
            await asyncio.to_thread(_wait_for, self._process)
        self._is_dead()
        if self._client is not None:
            self._client.stop_channels()
        if self._manager is not None:
            await self._manager.cleanup_resources()
        await asyncio.to_thread(self._folder.remove)


def _at_end(descriptor: int) -> bool:
    """Whether the other end of a pipe into which nobody writes is closed."""
    # select(2) takes low numbers only.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _context(output_limit: int) -> zmq.asyncio.Context:
    """For the sockets of one kernel: what is not read yet waits in the kernel, and no message is much larger
    than what a cell may show."""
    # One for all kernels underneath: each would have threads of its own.
    context = zmq.asyncio.Context.shadow(zmq.Context.instance())
    context.setsockopt(zmq.RCVHWM, UNREAD)
    context.setsockopt(zmq.MAXMSGSIZE, 4 * output_limit + LARGEST_ELSE)
    return context


def _wait_for(process: Any) -> None:
    """Until the keeper is gone; it is killed if it takes too long (blocks)."""
    try:
        process.wait(EXIT_PATIENCE)
    except Exception:
        logger.warning("kernel %s: its keeper does not end", process.pid)
        process.kill()
        process.wait()
