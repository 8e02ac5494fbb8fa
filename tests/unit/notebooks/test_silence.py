"""A kernel that has answered and does not say that it is idle: slow, or not heard any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from notebooks.kernels import kernel as module
from notebooks.kernels.kernel import Kernel
from notebooks.kernels.limits import KernelLimits
from notebooks.kernels.output import CellEnd, CellOutput
from streaming.core.errors import KernelDied

PLENTY = 3 * module.IDLE_QUESTIONS


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDLE_PATIENCE", "ASK_AGAIN"):
        monkeypatch.setattr(module, name, 0.005)


class Scripted(Kernel):
    """Answers a cell at once, without `idle`; of questions, `asked` so far, it makes what a test says."""

    def __init__(self) -> None:
        super().__init__(KernelLimits(execution_timeout=30.0, message_timeout=0.005))
        self._ids: Iterator[int] = count()
        self.asked = 0
        self.cell = ""

    def lives(self) -> bool:
        return self.alive

    def _send(self, kind: str, content: dict[str, Any]) -> str:
        message_id = f"{kind} {next(self._ids)}"
        if kind == "execute":
            self.cell = message_id
            self.answers(message_id)
        else:
            self.asked += 1
            self.is_asked(message_id)
        return message_id

    async def _signal(self) -> None:
        """Nothing obeys."""

    async def _end(self) -> None:
        self._is_dead()

    def answers(self, message_id: str) -> None:
        """On the shell channel, when it is known that it was asked."""
        message = {"parent_header": {"msg_id": message_id}, "content": {"status": "ok"}}
        asyncio.get_running_loop().call_soon(self._on_shell, message)

    def says(self, message_id: str, state: str) -> None:
        """On iopub, likewise."""
        message = {
            "parent_header": {"msg_id": message_id},
            "header": {"msg_type": "status"},
            "content": {"execution_state": state},
        }
        asyncio.get_running_loop().call_soon(self._on_iopub, message)

    def is_asked(self, message_id: str) -> None:
        """Nothing comes of it."""


class Slow(Scripted):
    """Does not answer for long, and then says at last that the cell is over."""

    def is_asked(self, message_id: str) -> None:
        if self.asked == PLENTY:
            self.says(self.cell, "idle")


class Chatty(Slow):
    """Answers, and has much else to say first."""

    def is_asked(self, message_id: str) -> None:
        self.answers(message_id)
        self.says("an older cell", "busy")
        super().is_asked(message_id)


class Unheard(Scripted):
    """Answers, and is not heard on iopub."""

    def is_asked(self, message_id: str) -> None:
        self.answers(message_id)


async def end_of(kernel: Kernel) -> CellEnd:
    *_, end = [part async for part in kernel.execute("1", CellOutput(100), "cell")]
    assert isinstance(end, CellEnd)
    return end


@pytest.mark.parametrize("kind", [Slow, Chatty])
async def test_a_kernel_that_is_slow_is_waited_for(kind: type[Scripted]) -> None:
    kernel = kind()
    assert (await end_of(kernel)).status == "ok"
    assert kernel.alive
    assert kernel.asked == PLENTY


async def test_a_kernel_that_answers_and_is_not_heard_is_ended() -> None:
    kernel = Unheard()
    with pytest.raises(KernelDied):
        await end_of(kernel)
    assert not kernel.alive
    assert kernel.asked == module.IDLE_QUESTIONS
