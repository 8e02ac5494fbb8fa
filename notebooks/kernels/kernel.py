"""One kernel: a process, its sockets, and the cells that it runs.

Two tasks wait on the sockets and hand each message to the cell that it belongs to (`parent_header.msg_id`);
nothing polls for output. A cell is over when the kernel has answered *and* said on iopub that it is idle.
What a cell's threads say later goes to `on_late`, never to another cell.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import select
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from streaming.core.errors import KernelDied, KernelNotStarted, KernelStopped, RunTimeout

from .launch import Folder, OnlySpec, command, environment
from .limits import KernelLimits
from .output import CellEnd, CellOutput, Part, count_of

logger = logging.getLogger(__name__)

START_TIMEOUT: Final = 30.0
"""Seconds in which a kernel must be ready."""

ASK_AGAIN: Final = 0.5
"""Seconds after which a kernel that starts is asked again: its first message may be lost before it is
heard."""

INTERRUPT_PATIENCE: Final = 3.0
"""Seconds that an interrupted cell has before its kernel is killed."""

EXIT_PATIENCE: Final = 7.0
"""Seconds until a killed kernel's keeper has taken everything down (`keeper.PATIENCE` and a bit)."""

REMEMBERED: Final = 1_000
"""Cells whose late output still finds its cell."""

UNREAD: Final = 32
"""Messages of a kernel that may wait in this process."""

LARGEST_ELSE: Final = 16_777_216
"""Bytes of a message that shows nothing (an answer to `inspect`), and of a frame's surroundings."""

SLICE: Final = 0.004
"""Seconds for which messages of one kernel are handled before others have their turn."""

PAUSE: Final = 0.001
"""Seconds that they have at least."""

IDLE_PATIENCE: Final = 1.0
"""Seconds after its answer in which a kernel must say that it is idle; then it is asked whether that was
lost."""

IDLE_QUESTIONS: Final = 3
"""Questions without any answer after which it counts as dead."""

Late = Callable[[str, CellOutput], object]
"""Called with a cell's tag and its output, when its threads have said something after its end."""


@dataclass(slots=True)
class Run:
    """A request under way. `tag` is the caller's name for it. It is over with `reply`, which came when
    `answered` says (monotonic seconds), and `idle`, or when the kernel is dead. `asked`: how often in vain
    whether it is idle."""

    tag: str
    output: CellOutput
    parts: deque[Part] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    reply: Mapping[str, Any] | None = None
    answered: float = math.inf
    asked: int = 0
    idle: bool = False

    @property
    def over(self) -> bool:
        """Whether the kernel has said all of it."""
        return self.reply is not None and self.idle


class Kernel:
    """See the module. Made by `started`; belongs to the running event loop.

    `busy`: whether it works for somebody. `used`: when it last did, monotonic seconds. `execution_count`: of
    the last cell, None before the first.
    """

    def __init__(self, limits: KernelLimits, on_late: Late | None = None) -> None:
        self._limits = limits
        self._on_late = on_late
        self._folder = Folder()
        self._runs: dict[str, Run] = {}
        self._past: OrderedDict[str, Run] = OrderedDict()
        self._readers: list[asyncio.Task[None]] = []
        self._lifeline = self._notice = -1
        self._client: AsyncKernelClient | None = None
        self._manager: AsyncKernelManager | None = None
        self._dead = asyncio.get_running_loop().create_future()
        self._stopping: asyncio.Task[None] | None = None
        self._stopped_alive = False
        self.used = time.monotonic()
        self.execution_count: int | None = None
        self.misunderstood = 0

    @classmethod
    async def started(cls, limits: KernelLimits) -> Kernel:
        """A kernel that is ready. Raises `KernelNotStarted`."""
        kernel = cls(limits)
        try:
            await kernel._start()
        except BaseException:
            await kernel.stop()
            raise
        return kernel

    def listen(self, on_late: Late) -> None:
        """Who gets what comes late."""
        self._on_late = on_late

    @property
    def alive(self) -> bool:
        """Whether its process is there."""
        return not self._dead.done()

    @property
    def busy(self) -> bool:
        """Whether it works for somebody."""
        return bool(self._runs)

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

    # What it is asked

    async def execute(self, code: str, output: CellOutput, tag: str) -> AsyncGenerator[Part | CellEnd, None]:
        """Run `code`; what it says, as it says it, and at last how it ended. `output` keeps it within bounds,
        and what is left of it; `tag` is what late output will be known by.

        Who stops reading interrupts the code; a kernel that does not obey is killed. Raises `KernelDied`, and
        `RunTimeout` after `execution_timeout`.
        """
        client = self._require()
        run = self._begin(client.execute(code, allow_stdin=False, stop_on_error=False), output, tag)
        deadline = time.monotonic() + self._limits.execution_timeout
        try:
            while True:
                run.news.clear()
                while run.parts:
                    yield run.parts.popleft()
                if run.over:
                    break
                await self._news_of(run, deadline)
            for part in output.closing():
                yield part
            assert run.reply is not None
            if _wants_to_leave(run.reply):
                await self.stop()
                raise KernelDied(tag)
            yield CellEnd(str(run.reply.get("status")), count_of(run.reply))
        finally:
            await self._leave(run)

    async def ask(self, kind: str, code: str, cursor: int) -> dict[str, Any]:
        """The answer to `complete` or `inspect` at a position in `code` (code points). Raises as
        `execute`."""
        client = self._require()
        message_id = client.complete(code, cursor) if kind == "complete" else client.inspect(code, cursor)
        run = self._begin(message_id)
        deadline = time.monotonic() + self._limits.execution_timeout
        try:
            while not run.over:
                run.news.clear()
                await self._news_of(run, deadline)
            assert run.reply is not None
            return dict(run.reply)
        finally:
            await self._leave(run)

    async def interrupt(self) -> None:
        """Interrupt what runs, as Ctrl-C does; nothing if nothing runs."""
        if self._runs and self.alive and self._manager is not None:
            with contextlib.suppress(ProcessLookupError, RuntimeError):
                await self._manager.interrupt_kernel()

    async def stop(self) -> None:
        """Kill it with everything that it has started, and forget its folder. Idempotent; returns when
        nothing of it is left."""
        if self._stopping is None:
            self._stopped_alive = self.lives()
            self._stopping = asyncio.create_task(self._stop(), name="kernel stops")
        await asyncio.shield(self._stopping)

    # Its process

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
        await self._become_ready()

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

    async def _become_ready(self) -> None:
        """Wait until it answers and is heard on iopub, so that nothing that it says can be lost."""
        assert self._client is not None
        end = time.monotonic() + START_TIMEOUT
        questions: list[Run] = []
        news = asyncio.Event()
        try:
            while self.lives() and time.monotonic() < end:
                question = self._begin(self._client.kernel_info())
                question.news = news
                questions.append(question)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ASK_AGAIN):
                        while not any(each.over for each in questions):
                            news.clear()
                            await news.wait()
                        return
        finally:
            for question in questions:
                self._forget(question)
        raise KernelNotStarted(self._folder.last_words() or "it does not answer")

    def lives(self) -> bool:
        """Look whether the process is there; once it is not, everybody who waits is told."""
        if self.alive:
            process = self._process
            if process is None or process.poll() is not None or _at_end(self._notice):
                self._is_dead()
        return self.alive

    def _is_dead(self) -> None:
        if self._dead.done():
            return
        self._dead.set_result(None)
        self._let_go_of_notice()
        for run in self._runs.values():
            run.news.set()

    def _let_go_of_notice(self) -> None:
        if self._notice >= 0:
            asyncio.get_running_loop().remove_reader(self._notice)
            os.close(self._notice)
            self._notice = -1

    async def _stop(self) -> None:
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

    # Its messages

    async def _read(self, receive: Callable[[], Any], handle: Callable[[Mapping[str, Any]], None]) -> None:
        turn = 0.0
        while True:
            try:
                asked = time.monotonic()
                handle(await receive())
                now = time.monotonic()
                if now - asked > SLICE:
                    turn = now
                elif now - turn > SLICE:
                    # Messages that are there already are received without a pause.
                    await asyncio.sleep(PAUSE)
                    turn = time.monotonic()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # Whoever runs code can send what is not signed, or not a message at all, very often.
                self.misunderstood += 1
                if self.misunderstood == 1 or self.misunderstood % 10_000 == 0:
                    # Its words may quote the message.
                    word = "%d messages of a kernel are not understood, the last one: %s"
                    logger.warning(word, self.misunderstood, type(error).__name__)
                await asyncio.sleep(0)

    def _on_iopub(self, message: Mapping[str, Any]) -> None:
        message_id = message["parent_header"].get("msg_id", "")
        run = self._runs.get(message_id)
        if run is None:
            self._late(message_id, message)
            return
        kind = message["header"]["msg_type"]
        if kind == "status":
            run.idle = run.idle or message["content"]["execution_state"] == "idle"
        elif kind == "execute_input":
            self.execution_count = count_of(message["content"])
        else:
            run.parts.extend(run.output.parts_of(message))
        run.news.set()

    def _on_shell(self, message: Mapping[str, Any]) -> None:
        run = self._runs.get(message["parent_header"].get("msg_id", ""))
        if run is not None:
            run.reply = message["content"]
            run.answered = time.monotonic()
            run.news.set()

    def _late(self, message_id: str, message: Mapping[str, Any]) -> None:
        run = self._past.get(message_id)
        if run is not None and self._on_late is not None and run.output.parts_of(message):
            self._on_late(run.tag, run.output)

    # Runs

    def _begin(self, message_id: str, output: CellOutput | None = None, tag: str = "") -> Run:
        self._look_again()
        run = self._runs[message_id] = Run(tag, output or CellOutput(self._limits.output_limit))
        if tag:
            # What its former run says from here on is of no interest any more.
            for former in [key for key, each in self._past.items() if each.tag == tag]:
                del self._past[former]
        return run

    def _look_again(self) -> None:
        """To be called after something was sent: jupyter_client sends past the asyncio socket, and may
        swallow the sign that a message has come. Nobody would be woken for it, nor for any later one
        (zmq_getsockopt(3), ZMQ_FD: who sends must look at ZMQ_EVENTS)."""
        assert self._client is not None
        self._client.shell_channel.socket.get(zmq.EVENTS)

    def _forget(self, run: Run) -> None:
        for message_id, each in list(self._runs.items()):
            if each is run:
                del self._runs[message_id]
                if run.tag:
                    self._past[message_id] = run
        while len(self._past) > REMEMBERED:
            self._past.popitem(last=False)
        self.used = time.monotonic()

    async def _leave(self, run: Run) -> None:
        """The end of a run, also of one that nobody wants any more: then it is stopped first."""
        try:
            if not run.over and self.alive:
                await self._calm(run)
        finally:
            self._forget(run)

    async def _calm(self, run: Run) -> None:
        try:
            await self.interrupt()
            async with asyncio.timeout(INTERRUPT_PATIENCE):
                while not run.over and self.alive:
                    run.parts.clear()
                    run.news.clear()
                    await run.news.wait()
        except TimeoutError:
            await self.stop()
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def _news_of(self, run: Run, deadline: float) -> None:
        """Wait until something has come, and look after the kernel while nothing does."""
        if time.monotonic() >= deadline:
            raise RunTimeout(run.tag)
        while not run.news.is_set():
            try:
                async with asyncio.timeout(self._limits.message_timeout):
                    await run.news.wait()
            except TimeoutError:
                if not self.lives():
                    break
                now = time.monotonic()
                if now >= deadline:
                    raise RunTimeout(run.tag) from None
                if now - run.answered > IDLE_PATIENCE and not run.idle:
                    await self._ask_whether_idle(run)
        if not self.alive and not run.parts and not run.over:
            raise (KernelStopped if self._stopped_alive else KernelDied)(run.tag)

    async def _ask_whether_idle(self, run: Run) -> None:
        """Messages on iopub keep their order: when the kernel is heard about a later question, nothing more
        comes of this run."""
        assert self._client is not None
        logger.warning("a kernel did not say that a cell was over; it is asked")
        question = self._begin(self._client.kernel_info())
        try:
            async with asyncio.timeout(ASK_AGAIN):
                while not question.over and self.alive:
                    question.news.clear()
                    await question.news.wait()
            run.idle = True
        except TimeoutError:
            run.asked += 1
            if run.asked == IDLE_QUESTIONS:
                # It has said what is larger than any message may be, and is not listened to any more.
                await self.stop()
                raise KernelDied(run.tag) from None
            # The next silence asks again.
            run.answered = time.monotonic()
        finally:
            self._forget(question)
        run.news.set()

    def _require(self) -> AsyncKernelClient:
        if not self.lives():
            raise KernelDied
        assert self._client is not None
        return self._client


def _wants_to_leave(reply: Mapping[str, Any]) -> bool:
    """Whether the code has said `exit()`: then the kernel is about to end."""
    payload = reply.get("payload")
    return isinstance(payload, list) and any(
        isinstance(each, dict) and each.get("source") == "ask_exit" for each in payload
    )


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
