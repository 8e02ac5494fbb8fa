"""The process's kernels, made at their first use and ended with the process."""

from __future__ import annotations

import asyncio

from streaming.metrics import gauge

from . import conf
from .kernels.service import KernelService
from .kernels.table import Kernels

_tables: dict[asyncio.AbstractEventLoop, KernelService] = {}


def kernels() -> KernelService:
    """The running loop's kernels."""
    loop = asyncio.get_running_loop()
    found = _tables.get(loop)
    if found is None:
        for closed in [each for each in _tables if each.is_closed()]:
            del _tables[closed]
        found = _tables[loop] = _made()
    return found


def _made() -> KernelService:
    config = conf.gateway()
    if not config.url:
        return Kernels(conf.limits())
    from .kernels.elsewhere import KernelsElsewhere
    from .register import DatabaseRegister

    return KernelsElsewhere(conf.limits(), config, DatabaseRegister())


@gauge("sluice_kernels_running", "Kernels of notebooks that run or start.")
def running() -> int:
    """How many kernels the running loop has, those that start included."""
    found = _tables.get(asyncio.get_running_loop())
    return 0 if found is None else len(found)


async def close_kernels() -> None:
    """End them, if there are any."""
    found = _tables.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()
