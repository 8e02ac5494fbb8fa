"""All kernels of this process: one for each notebook, started when first needed, ended when idle.

A kernel belongs to one user's one notebook for all its life. Kernels that were started beforehand belong to
nobody yet, and come to whoever asks first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from streaming.core.errors import KernelNotStarted, KernelStopped, TooManyKernels

from .key import Key
from .limits import KernelLimits
from .service import Loan, Status

if TYPE_CHECKING:
    from .kernel import Late
    from .local import LocalKernel as Kernel

logger = logging.getLogger(__name__)

CULL_INTERVAL: Final = 5.0
"""Seconds between two looks for idle and dead kernels."""


class Kernels:
    """See the module. Belongs to the running event loop."""

    def __init__(self, limits: KernelLimits) -> None:
        self.limits = limits
        self._kernels: dict[Key, Kernel] = {}
        self._starting: dict[Key, asyncio.Task[Kernel]] = {}
        self._spare: list[Kernel] = []
        self._spares: set[asyncio.Task[None]] = set()
        self._culler: asyncio.Task[None] | None = None
        self._eras: Counter[Key] = Counter()
        self._interrupts: Counter[Key] = Counter()
        self._closed = False

    def __len__(self) -> int:
        """Kernels that run or start, those that belong to nobody included."""
        return len(self._kernels) + len(self._starting) + len(self._spare) + len(self._spares)

    def find(self, key: Key) -> Kernel | None:
        """The notebook's kernel, if it lives."""
        kernel = self._kernels.get(key)
        return kernel if kernel is not None and kernel.lives() else None

    async def statuses(self, keys: Iterable[Key]) -> list[Status]:
        """What the kernels of these notebooks do, in this order."""
        return [self._status(key) for key in keys]

    async def era(self, key: Key) -> int:
        """How often the notebook's kernel was ended on purpose: what was asked for before waits in vain."""
        return self._eras[key]

    @asynccontextmanager
    async def lent(self, key: Key, on_late: Late, era: int | None = None) -> AsyncIterator[Loan]:
        """The notebook's kernel for one cell or question: see `KernelService`."""
        if era is not None and self._eras[key] != era:
            raise KernelStopped(key.notebook)
        interrupts = self._interrupts[key]
        kernel = await self.get(key, on_late)
        yield Loan(kernel, interrupted=self._interrupts[key] != interrupts)

    async def interrupt(self, key: Key) -> bool:
        """Interrupt what the notebook's kernel runs, or what waits until it has started; False if there is
        nothing."""
        if key in self._starting:
            self._interrupts[key] += 1
            return True
        kernel = self.find(key)
        if kernel is None or not kernel.busy:
            return False
        await kernel.interrupt()
        return True

    def starting(self, key: Key) -> bool:
        """Whether the notebook's kernel is being started."""
        return key in self._starting

    async def get(self, key: Key, on_late: Late) -> Kernel:
        """The notebook's kernel; started if there is none. Raises `KernelNotStarted`, `TooManyKernels`."""
        kernel = self.find(key)
        if kernel is None:
            starting = self._starting.get(key)
            if starting is None:
                starting = self._starting[key] = asyncio.create_task(self._begin(key), name="kernel starts")
                # Where everybody has left meanwhile, nobody else looks at what it raised.
                starting.add_done_callback(lambda made: made.cancelled() or made.exception())
            kernel = await asyncio.shield(starting)
        kernel.listen(on_late)
        return kernel

    async def stop(self, key: Key) -> bool:
        """End the notebook's kernel, and what runs and waits for it; False if it has none. Also one that is
        being started."""
        self._eras[key] += 1
        starting = self._starting.get(key)
        if starting is not None:
            with suppress(Exception):
                await asyncio.shield(starting)
        kernel = self._kernels.pop(key, None)
        if kernel is None:
            return False
        await kernel.stop()
        return True

    def warm_up(self) -> None:
        """Start kernels beforehand, as many as the settings say; at least load what starts them."""
        _kernel_class()
        missing = self.limits.prestarted - len(self._spare) - len(self._spares)
        for _ in range(min(missing, self.limits.max_kernels - len(self))):
            task = asyncio.create_task(self._add_spare(), name="kernel starts beforehand")
            self._spares.add(task)
            task.add_done_callback(self._spares.discard)
        self._look_after()

    async def close(self) -> None:
        """End all of them."""
        self._closed = True
        if self._culler is not None:
            self._culler.cancel()
        await asyncio.gather(*self._starting.values(), *self._spares, return_exceptions=True)
        kernels = [*self._kernels.values(), *self._spare]
        self._kernels.clear()
        self._spare.clear()
        await asyncio.gather(*(kernel.stop() for kernel in kernels), return_exceptions=True)

    # Inside

    def _status(self, key: Key) -> Status:
        kernel = self.find(key)
        if kernel is None:
            return Status("starting" if self.starting(key) else "none")
        return Status("busy" if kernel.busy else "idle", kernel.execution_count)

    async def _begin(self, key: Key) -> Kernel:
        try:
            former = self._kernels.pop(key, None)
            if former is not None:
                await former.stop()
            if self.limits.per_owner and self._count(key.owner) > self.limits.per_owner:
                raise TooManyKernels(str(self.limits.per_owner))
            kernel = await self._spare_or_new()
            if self._closed:
                await kernel.stop()
                raise KernelNotStarted("the process goes down")
            self._kernels[key] = kernel
        finally:
            del self._starting[key]
        self.warm_up()
        return kernel

    def _count(self, owner: str) -> int:
        """Kernels of a user, those that start included."""
        return sum(key.owner == owner for key in (*self._kernels, *self._starting))

    async def _spare_or_new(self) -> Kernel:
        while True:
            while self._spare:
                kernel = self._spare.pop()
                if kernel.lives():
                    return kernel
                await kernel.stop()
            await self.cull(time.monotonic())
            # This one counts already: it is being started.
            if len(self) <= self.limits.max_kernels:
                return await _kernel_class().started(self.limits)
            if not self._spares:
                raise TooManyKernels(str(self.limits.max_kernels))
            # The last room is that of one that is to be ready beforehand: it comes to whoever needs it now.
            await asyncio.wait(self._spares, return_when=asyncio.FIRST_COMPLETED)

    async def _add_spare(self) -> None:
        try:
            kernel = await _kernel_class().started(self.limits)
        except KernelNotStarted as error:
            logger.warning("a kernel that was to be ready beforehand did not start: %s", error)
            return
        if self._closed:
            await kernel.stop()
        else:
            self._spare.append(kernel)

    def _look_after(self) -> None:
        if self._culler is None or self._culler.done():
            self._culler = asyncio.create_task(self._cull_for_ever(), name="kernels are culled")

    async def _cull_for_ever(self) -> None:
        while self._kernels or self._spare or self._starting or self._spares:
            await asyncio.sleep(CULL_INTERVAL)
            await self.cull(time.monotonic())

    async def cull(self, now: float) -> None:
        """End kernels that have done nothing for `idle_timeout`, and forget the dead. Those that work stay,
        however long."""
        for key, kernel in list(self._kernels.items()):
            idle = not kernel.busy and now - kernel.used >= self.limits.idle_timeout
            if (idle or not kernel.lives()) and self._kernels.get(key) is kernel:
                logger.info(
                    "notebook %s: its kernel ends, %s", key.notebook, "idle" if kernel.alive else "dead"
                )
                del self._kernels[key]
                await kernel.stop()
        for kernel in [each for each in self._spare if not each.lives()]:
            self._spare.remove(kernel)
            await kernel.stop()


def _kernel_class() -> type[Kernel]:
    """Loaded late: ZeroMQ and Jupyter's client take a tenth of the start of a server without kernels."""
    from .local import LocalKernel

    return LocalKernel
