"""What operations ask of all kernels, wherever these run."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from .key import Key
from .limits import KernelLimits

if TYPE_CHECKING:
    from .kernel import Kernel, Late


@dataclass(frozen=True, slots=True)
class Status:
    """What a notebook's kernel does. `execution_count`: of its last cell, None before the first."""

    state: Literal["none", "starting", "idle", "busy"] = "none"
    execution_count: int | None = None


@dataclass(frozen=True, slots=True)
class Loan:
    """A kernel for one cell or question. `interrupted`: before there was a kernel somebody said that what
    waits for it is not wanted any more."""

    kernel: Kernel
    interrupted: bool


class KernelService(Protocol):
    """One kernel for each notebook, started when first needed, ended when idle. Belongs to the running event
    loop. `table.Kernels`: those of this process. `elsewhere.KernelsElsewhere`: those of a Jupyter Server."""

    @property
    def limits(self) -> KernelLimits:
        """What bounds them."""

    def __len__(self) -> int:
        """Kernels that this process has or starts."""

    async def statuses(self, keys: Iterable[Key]) -> list[Status]:
        """What the kernels of these notebooks do, in this order."""

    async def era(self, key: Key) -> int:
        """How often the notebook's kernel was ended on purpose: what was asked for before waits in vain."""

    def lent(self, key: Key, on_late: Late, era: int | None = None) -> AbstractAsyncContextManager[Loan]:
        """The notebook's kernel, started if there is none, for one cell or question. `era`: that in which it
        was asked for, None for any.

        Raises `KernelNotStarted`, `TooManyKernels`, and `KernelStopped` in another era.
        """

    async def interrupt(self, key: Key) -> bool:
        """Interrupt what the notebook's kernel runs, or what waits until it has started; False if there is
        nothing."""

    async def stop(self, key: Key) -> bool:
        """End the notebook's kernel, and what runs and waits for it; False if it has none. Also one that is
        being started."""

    def warm_up(self) -> None:
        """Prepare at the start of the process, as the settings say."""

    async def close(self) -> None:
        """End those of this process."""
