"""Real kernels for the tests that need them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import pytest_asyncio

from notebooks.kernels.limits import KernelLimits
from notebooks.kernels.local import LocalKernel as Kernel
from notebooks.kernels.output import CellOutput


def limits(**changes: Any) -> KernelLimits:
    return KernelLimits(**({"execution_timeout": 60.0, "max_kernels": 4} | changes))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a kernel share its event loop."""
    for item in items:
        if "kernel" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _usable() -> AsyncIterator[list[Kernel]]:
    """What the test before left usable."""
    kernels: list[Kernel] = []
    yield kernels
    for kernel in kernels:
        await kernel.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def kernel(_usable: list[Kernel]) -> AsyncIterator[Kernel]:
    """An empty kernel: that of the test before, if it lives, because a start takes a second of processor."""
    made = _usable.pop() if _usable else await Kernel.started(limits())
    yield made
    if not made.lives() or made.busy:
        await made.stop()
        return
    made.listen(lambda tag, output: None)
    async with aclosing(made.execute("get_ipython().reset()", CellOutput(0), "reset")) as parts:
        async for _ in parts:
            pass
    _usable.append(made)
