"""One kernel as all others see it, wherever it runs: the cells that it runs, and the messages of each.

Each message goes to the cell that it belongs to (`parent_header.msg_id`). A cell is over when the kernel has
answered *and* said on iopub that it is idle. What a cell's threads say later goes to `on_late`, never to
another cell. `local.py` has the kernels of this machine, `remote.py` those of a Jupyter Server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from streaming.core.errors import Interrupted, KernelDied, KernelStopped, RunTimeout

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
"""Questions that a kernel answers while nothing at all is heard on iopub, after which it counts as dead."""

Late = Callable[[str, CellOutput], object]
"""Called with a cell's tag and its output, when its threads have said something after its end."""


@dataclass(slots=True)
class Run:
    """A request under way. `tag` is the caller's name for it. It is over with `reply`, which came when
    `answered` says (monotonic seconds), and `idle`, or when the kernel is dead. `asked`: how often in vain
    whether it is idle. `in_doubt`: the way to the kernel broke meanwhile, and whether all has come is not
    known yet; `lost`: it has not."""

    tag: str
    output: CellOutput
    parts: deque[Part] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    reply: Mapping[str, Any] | None = None
    answered: float = math.inf
    asked: int = 0
    idle: bool = False
    in_doubt: bool = False
    lost: bool = False

    @property
    def over(self) -> bool:
        """Whether the kernel has said all of it."""
        return self.lost or (self.reply is not None and self.idle and not self.in_doubt)


class Kernel(ABC):
    """See the module. Belongs to the running event loop.

    `busy`: whether it works for somebody. `used`: when it last did, monotonic seconds. `execution_count`: of
    the last cell, None before the first.
    """

    def __init__(self, limits: KernelLimits) -> None:
        self._limits = limits
        self._on_late: Late | None = None
        self._runs: dict[str, Run] = {}
        self._past: OrderedDict[str, Run] = OrderedDict()
        self._dead = asyncio.get_running_loop().create_future()
        self._stopping: asyncio.Task[None] | None = None
        self._stopped_alive = False
        self._heard = 0
        self.used = time.monotonic()
        self.execution_count: int | None = None
        self.misunderstood = 0

    # What each kind does in its own way

    @abstractmethod
    def lives(self) -> bool:
        """Look whether it is there; once it is not, everybody who waits is told."""

    @abstractmethod
    def _send(self, kind: str, content: dict[str, Any]) -> str:
        """Send a request (`execute`, `complete`, `inspect`, `kernel_info`) on the shell channel; the id of
        the message."""

    @abstractmethod
    async def _signal(self) -> None:
        """Interrupt what runs, as Ctrl-C does. Raises nothing where nobody hears."""

    @abstractmethod
    async def _end(self) -> None:
        """Kill it, and forget what belongs to it. Called once."""

    # What everybody may know

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

    # What it is asked

    async def execute(self, code: str, output: CellOutput, tag: str) -> AsyncGenerator[Part | CellEnd, None]:
        """Run `code`; what it says, as it says it, and at last how it ended. `output` keeps it within bounds,
        and what is left of it; `tag` is what late output will be known by.

        Who stops reading interrupts the code; a kernel that does not obey is killed. Raises `KernelDied`,
        `RunTimeout` after `execution_timeout`, and `Interrupted` where output was lost on the way.
        """
        self._require()
        run = self._ask("execute", request(code), output, tag)
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
            reply = _reply_of(run)
            if _wants_to_leave(reply):
                await self.stop()
                raise KernelDied(tag)
            yield CellEnd(str(reply.get("status")), count_of(reply))
        finally:
            await self._leave(run)

    async def ask(self, kind: str, code: str, cursor: int) -> dict[str, Any]:
        """The answer to `complete` or `inspect` at a position in `code` (code points). Raises as
        `execute`."""
        self._require()
        detail = {} if kind == "complete" else {"detail_level": 0}
        run = self._ask(kind, {"code": code, "cursor_pos": cursor, **detail})
        deadline = time.monotonic() + self._limits.execution_timeout
        try:
            while not run.over:
                run.news.clear()
                await self._news_of(run, deadline)
            return dict(_reply_of(run))
        finally:
            await self._leave(run)

    async def interrupt(self) -> None:
        """Interrupt what runs, as Ctrl-C does; nothing if nothing runs."""
        if self._runs and self.alive:
            await self._signal()

    async def stop(self) -> None:
        """Kill it with everything that it has started, and forget its folder. Idempotent; returns when
        nothing of it is left."""
        if self._stopping is None:
            self._stopped_alive = self.lives()
            self._stopping = asyncio.create_task(self._end(), name="kernel stops")
        await asyncio.shield(self._stopping)

    # Its life

    async def _become_ready(self, seconds: float) -> Mapping[str, Any] | None:
        """Wait until it answers and is heard on iopub, so that nothing that it says can be lost. What it says
        of itself (`kernel_info_reply`); None if that takes longer."""
        end = time.monotonic() + seconds
        questions: list[Run] = []
        news = asyncio.Event()
        try:
            while self.lives() and time.monotonic() < end:
                question = self._ask("kernel_info", {})
                question.news = news
                questions.append(question)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ASK_AGAIN):
                        while not (answered := [each for each in questions if each.over]):
                            news.clear()
                            await news.wait()
                        return _reply_of(answered[0])
        finally:
            for question in questions:
                self._forget(question)
        return None

    def _is_dead(self) -> None:
        if self._dead.done():
            return
        self._dead.set_result(None)
        for run in self._runs.values():
            run.news.set()

    # Its messages

    async def _read(self, receive: Callable[[], Any], handle: Callable[[Any], None]) -> None:
        """Handle what comes, to the end (`EOFError`), if there is one."""
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
            except EOFError:
                return
            except Exception as error:
                # Whoever runs code can send what is not signed, or not a message at all, very often.
                self.misunderstood += 1
                if self.misunderstood == 1 or self.misunderstood % 10_000 == 0:
                    # Its words may quote the message.
                    word = "%d messages of a kernel are not understood, the last one: %s"
                    logger.warning(word, self.misunderstood, type(error).__name__)
                await asyncio.sleep(0)

    def _on_iopub(self, message: Mapping[str, Any]) -> None:
        self._heard += 1
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

    def _ask(
        self, kind: str, content: dict[str, Any], output: CellOutput | None = None, tag: str = ""
    ) -> Run:
        run = Run(tag, output or CellOutput(self._limits.output_limit))
        self._runs[self._send(kind, content)] = run
        if tag:
            # What its former run says from here on is of no interest any more.
            for former in [key for key, each in self._past.items() if each.tag == tag]:
                del self._past[former]
        return run

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
        comes of this run.

        A kernel that is slow is asked again. One that answers and is not heard on iopub any more has said
        what is larger than any message may be.
        """
        logger.warning("a kernel did not say that a cell was over; it is asked")
        heard = self._heard
        question = self._ask("kernel_info", {})
        try:
            async with asyncio.timeout(ASK_AGAIN):
                while not question.over and self.alive:
                    question.news.clear()
                    await question.news.wait()
            run.idle = True
        except TimeoutError:
            if question.reply is not None and self._heard == heard:
                run.asked += 1
            if run.asked == IDLE_QUESTIONS:
                await self.stop()
                raise KernelDied(run.tag) from None
            # The next silence asks again.
            run.answered = time.monotonic()
        finally:
            self._forget(question)
        run.news.set()

    def _require(self) -> None:
        if not self.lives():
            raise KernelDied


def request(code: str) -> dict[str, Any]:
    """The content of an `execute_request`."""
    return {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": False,
    }


def _reply_of(run: Run) -> Mapping[str, Any]:
    """The answer to a request that is over. Raises `Interrupted` where something was lost on the way."""
    if run.lost or run.reply is None:
        raise Interrupted(run.tag)
    return run.reply


def _wants_to_leave(reply: Mapping[str, Any]) -> bool:
    """Whether the code has said `exit()`: then the kernel is about to end."""
    payload = reply.get("payload")
    return isinstance(payload, list) and any(
        isinstance(each, dict) and each.get("source") == "ask_exit" for each in payload
    )
