"""The kernels of a Jupyter Server, for several processes: which one is a notebook's stands in a register that
all of them share, and so does who uses it now.

For one cell or question a process takes the notebook's entry, with a lease that it renews; others wait for
their turn. A process that is gone lets its lease expire: whoever is next interrupts what still runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

from streaming.core.errors import KernelDied, KernelNotStarted, KernelStopped, TooManyKernels

from .key import Key
from .limits import GatewayConfig, KernelLimits
from .service import Loan, Status

if TYPE_CHECKING:
    from .gateway import Gateway
    from .kernel import Late
    from .remote import RemoteKernel

logger = logging.getLogger(__name__)

LEASE: Final = 10.0
"""Seconds for which a notebook's kernel is taken; renewed three times in that time."""

TURN_INTERVALS: Final = (0.05, 0.5)
"""Seconds between two looks whether it is one's turn, at first and at last."""

CULL_INTERVAL: Final = 5.0
"""Seconds between two looks for idle and dead kernels."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands in the register of a notebook. `kernel`: the id of its kernel, empty for none. `held`:
    whether somebody uses it; `holder` is who did so last. `expired`: whoever used it never gave it back.
    `era`, `interrupts`: how often it was ended, or its start not waited for any more."""

    key: Key
    kernel: str = ""
    era: int = 0
    interrupts: int = 0
    execution_count: int | None = None
    holder: str = ""
    held: bool = False
    expired: bool = False


class Register(Protocol):
    """The register. Each call is one step that others see whole or not at all."""

    async def entries(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        """Those of these notebooks; none for a notebook that never had a kernel."""

    async def take(self, key: Key, holder: str, seconds: float) -> Entry | None:
        """Hold it for so long; as it was before. None while somebody else does."""

    async def renew(self, key: Key, holder: str, seconds: float) -> bool:
        """Hold it longer; False if somebody else holds it by now."""

    async def give_back(self, key: Key, holder: str, execution_count: int | None) -> None:
        """Hold it no longer; nothing if somebody else does. It was used now."""

    async def assign(self, key: Key, holder: str, era: int, kernel: str) -> bool:
        """The notebook has this kernel; False if it is another's turn or another era by now."""

    async def forget(self, key: Key, kernel: str) -> bool:
        """The notebook does not have this kernel any more; False if it had not."""

    async def end_era(self, key: Key) -> Entry | None:
        """The notebook has no kernel any more, by somebody's wish; the entry as it was."""

    async def do_not_wait(self, key: Key) -> None:
        """What waits for a start of the kernel is not wanted any more."""

    async def number(self, owner: str | None = None) -> int:
        """Kernels there are or start, of one owner or of all."""

    async def idle(self, seconds: float) -> list[Entry]:
        """Those with a kernel that nobody has used for so long."""


class KernelsElsewhere:
    """See the module and `KernelService`. Belongs to the running event loop."""

    def __init__(self, limits: KernelLimits, config: GatewayConfig, register: Register) -> None:
        self.limits = limits
        self._config = config
        self._register = register
        self._process = uuid.uuid4().hex
        self._turns = count(1)
        self._attached: dict[Key, RemoteKernel] = {}
        self._lent: set[Key] = set()
        self._made: Gateway | None = None
        self._culler: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        """Kernels that this process is connected with, or waits for."""
        return len(self._attached.keys() | self._lent)

    @property
    def _gateway(self) -> Gateway:
        if self._made is None:
            # Loaded late: where no cell runs nobody needs an HTTP client.
            from .gateway import Gateway

            self._made = Gateway(self._config, self.limits.output_limit)
        return self._made

    async def statuses(self, keys: Iterable[Key]) -> list[Status]:
        """What the kernels of these notebooks do, in this order; as the register has it."""
        wanted = list(keys)
        found = await self._register.entries(wanted)
        return [_status(found.get(key)) for key in wanted]

    async def era(self, key: Key) -> int:
        """How often the notebook's kernel was ended on purpose, by any process."""
        return (await self._entry(key)).era

    @asynccontextmanager
    async def lent(self, key: Key, on_late: Late, era: int | None = None) -> AsyncIterator[Loan]:
        """The notebook's kernel for one cell or question: see `KernelService`."""
        self.warm_up()
        holder = f"{self._process}-{next(self._turns)}"
        entry = await self._turn(key, holder)
        self._lent.add(key)
        keeping = asyncio.create_task(self._keep(key, holder), name="kernel is held")
        try:
            if era is not None and entry.era != era:
                raise KernelStopped(key.notebook)
            kernel = await self._kernel_of(entry, holder)
            kernel.listen(on_late)
            interrupts = (await self._entry(key)).interrupts
            yield Loan(kernel, interrupted=interrupts != entry.interrupts)
        except KernelDied:
            if (await self._entry(key)).era != entry.era:
                # Another process has ended it, for somebody who wanted that.
                raise KernelStopped(key.notebook) from None
            raise
        finally:
            keeping.cancel()
            self._lent.discard(key)
            await asyncio.shield(asyncio.ensure_future(self._give_back(key, holder)))

    async def interrupt(self, key: Key) -> bool:
        """Interrupt what the notebook's kernel runs for whichever process, or what waits until it has
        started; False if there is nothing."""
        entry = await self._entry(key)
        if not entry.held:
            return False
        if not entry.kernel:
            await self._register.do_not_wait(key)
            return True
        try:
            return await self._gateway.interrupt(entry.kernel)
        except KernelNotStarted as error:
            logger.warning("notebook %s: its kernel could not be interrupted: %s", key.notebook, error)
            return False

    async def stop(self, key: Key) -> bool:
        """End the notebook's kernel, and what runs and waits for it in whichever process; False if it has
        none."""
        entry = await self._register.end_era(key)
        if entry is None:
            return False
        kernel = self._attached.get(key)
        if kernel is not None and kernel.id == entry.kernel:
            del self._attached[key]
            await kernel.stop()
        elif entry.kernel:
            await self._delete(entry.kernel)
        return bool(entry.kernel) or entry.held

    def warm_up(self) -> None:
        """Look after idle kernels from now on, also those that former processes have left."""
        if self._culler is None or self._culler.done():
            self._culler = asyncio.create_task(self._cull_for_ever(), name="kernels are culled")

    async def close(self) -> None:
        """End those that this process used last, and let go of all."""
        self._closed = True
        if self._culler is not None:
            self._culler.cancel()
        attached = dict(self._attached)
        self._attached.clear()
        try:
            entries = await self._register.entries(attached)
        except Exception:
            logger.exception("kernels cannot be ended: the database does not answer")
            entries = {}
        await asyncio.gather(
            *(self._part_with(key, kernel, entries.get(key)) for key, kernel in attached.items()),
            return_exceptions=True,
        )
        if self._made is not None:
            await self._made.close()

    # Turns

    async def _turn(self, key: Key, holder: str) -> Entry:
        """Wait until it is one's turn."""
        pause, longest = TURN_INTERVALS
        while True:
            entry = await self._register.take(key, holder, LEASE)
            if entry is not None:
                return entry
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _keep(self, key: Key, holder: str) -> None:
        """Hold it; where that fails too long, let go of the kernel, which is somebody else's by then."""
        until = time.monotonic() + LEASE
        while time.monotonic() < until:
            await asyncio.sleep(LEASE / 3)
            try:
                if not await self._register.renew(key, holder, LEASE):
                    break
                until = time.monotonic() + LEASE
            except Exception:
                logger.exception("notebook %s: its kernel could not be held", key.notebook)
        kernel = self._attached.pop(key, None)
        if kernel is not None:
            await kernel.detach()

    async def _give_back(self, key: Key, holder: str) -> None:
        kernel = self._attached.get(key)
        if kernel is not None and not kernel.alive:
            await self._bury(key, kernel)
        try:
            await self._register.give_back(key, holder, None if kernel is None else kernel.execution_count)
        except Exception:
            logger.exception("notebook %s: its kernel is held until the lease expires", key.notebook)

    async def _entry(self, key: Key) -> Entry:
        return (await self._register.entries([key])).get(key, Entry(key))

    # Kernels

    async def _kernel_of(self, entry: Entry, holder: str) -> RemoteKernel:
        """Raises `KernelNotStarted`, `TooManyKernels`, `KernelStopped`."""
        key = entry.key
        kernel = self._attached.get(key)
        if kernel is not None and kernel.id == entry.kernel and kernel.alive and not entry.expired:
            return kernel
        if kernel is not None:
            del self._attached[key]
            await kernel.detach()
        kernel = await self._found(entry) if entry.kernel else None
        if kernel is None:
            kernel = await self._started(entry, holder)
        if self._closed:
            await kernel.stop()
            raise KernelNotStarted("the process goes down")
        self._attached[key] = kernel
        return kernel

    async def _found(self, entry: Entry) -> RemoteKernel | None:
        """The kernel that the notebook has already; None if it is gone, or does not come to rest."""
        from .gateway import KernelGone
        from .kernel import INTERRUPT_PATIENCE, START_TIMEOUT
        from .remote import RemoteKernel

        patience = START_TIMEOUT
        if entry.expired:
            # What a process that is gone has begun is nobody's.
            await self._gateway.interrupt(entry.kernel)
            patience = INTERRUPT_PATIENCE
        try:
            if await self._gateway.exists(entry.kernel):
                return await RemoteKernel.attached(self.limits, self._gateway, entry.kernel, patience)
        except KernelGone:
            pass
        except KernelNotStarted as error:
            if not entry.expired:
                raise
            logger.warning("notebook %s: its kernel is replaced: %s", entry.key.notebook, error)
            await self._delete(entry.kernel)
        await self._register.forget(entry.key, entry.kernel)
        return None

    async def _started(self, entry: Entry, holder: str) -> RemoteKernel:
        from .gateway import KernelGone
        from .remote import RemoteKernel

        key = entry.key
        if self.limits.per_owner and await self._register.number(key.owner) > self.limits.per_owner:
            raise TooManyKernels(str(self.limits.per_owner))
        if await self._register.number() > self.limits.max_kernels:
            await self.cull()
            if await self._register.number() > self.limits.max_kernels:
                raise TooManyKernels(str(self.limits.max_kernels))
        found = await self._gateway.start()
        try:
            kernel = await RemoteKernel.attached(self.limits, self._gateway, found)
            if await self._register.assign(key, holder, entry.era, found):
                return kernel
            await kernel.detach()
            raise KernelStopped(key.notebook)
        except KernelGone:
            raise KernelNotStarted("it ended at once") from None
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._delete(found)))
            raise

    async def _bury(self, key: Key, kernel: RemoteKernel) -> None:
        """It is dead, or out of reach: the notebook's next one is a new one."""
        self._attached.pop(key, None)
        await kernel.stop()
        await self._register.forget(key, kernel.id)

    async def _part_with(self, key: Key, kernel: RemoteKernel, entry: Entry | None) -> None:
        ours = entry is not None and entry.kernel == kernel.id and entry.holder.startswith(self._process)
        if ours and await self._register.forget(key, kernel.id):
            await kernel.stop()
        else:
            await kernel.detach()

    async def _delete(self, kernel: str) -> None:
        try:
            await self._gateway.delete(kernel)
        except KernelNotStarted as error:
            logger.warning("kernel %s could not be ended, and may run on: %s", kernel, error)

    # Culling

    async def _cull_for_ever(self) -> None:
        while True:
            await asyncio.sleep(CULL_INTERVAL)
            try:
                await self.cull()
            except Exception:
                logger.exception("kernels could not be culled")

    async def cull(self) -> None:
        """End kernels that no process has used for `idle_timeout`, and forget the dead. Those that work
        stay, however long."""
        entries = await self._register.entries(self._attached) if self._attached else {}
        for key, kernel in list(self._attached.items()):
            if key in self._lent or self._attached.get(key) is not kernel:
                continue
            if key in entries and entries[key].kernel != kernel.id:
                # Another process has ended it.
                del self._attached[key]
                await kernel.detach()
            elif not kernel.alive:
                logger.info("notebook %s: its kernel ends, dead", key.notebook)
                await self._bury(key, kernel)
        for entry in await self._register.idle(self.limits.idle_timeout):
            await self._end_idle(entry)

    async def _end_idle(self, entry: Entry) -> None:
        holder = f"{self._process}-{next(self._turns)}"
        taken = await self._register.take(entry.key, holder, LEASE)
        if taken is None:
            return
        try:
            if taken.kernel == entry.kernel and taken.holder == entry.holder:
                logger.info("notebook %s: its kernel ends, idle", entry.key.notebook)
                kernel = self._attached.pop(entry.key, None)
                if kernel is not None:
                    await kernel.detach()
                await self._delete(entry.kernel)
                await self._register.forget(entry.key, entry.kernel)
        finally:
            await self._register.give_back(entry.key, holder, None)


def _status(entry: Entry | None) -> Status:
    if entry is None or not (entry.kernel or entry.held):
        return Status()
    if not entry.kernel:
        return Status("starting")
    return Status("busy" if entry.held else "idle", entry.execution_count)
