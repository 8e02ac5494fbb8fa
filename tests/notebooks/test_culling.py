"""What is told of a kernel that dies while somebody looks after it."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from notebooks.kernels.key import Key
from notebooks.kernels.output import CellOutput
from notebooks.kernels.table import Kernels
from streaming.core.errors import KernelDied

from .conftest import limits


async def test_a_kernel_that_dies_has_died_also_when_the_culler_sees_it_first() -> None:
    """Nobody has stopped it: `kernel_stopped` would say so."""
    kernels = Kernels(limits(message_timeout=60))
    try:
        kernel = await kernels.get(Key("1", "a"), lambda tag, parts: None)
        assert kernel.pid is not None
        begun = asyncio.Event()

        async def run() -> None:
            async for _ in kernel.execute("print('on', flush=True)\nwhile True: pass", CellOutput(99), "c"):
                begun.set()

        running = asyncio.create_task(run())
        async with asyncio.timeout(30):
            await begun.wait()
            os.kill(kernel.pid, signal.SIGKILL)
            # What `waitid` tells stays for who reaps it.
            await asyncio.to_thread(os.waitid, os.P_PID, kernel.pid, os.WEXITED | os.WNOWAIT)
            await kernels.cull(time.monotonic())
            with pytest.raises(KernelDied):
                await running
    finally:
        await kernels.close()
