"""Real kernels for the tests that need them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from notebooks.kernels.kernel import Kernel
from notebooks.kernels.limits import KernelLimits

DEFAULTS: dict[str, Any] = {
    "message_timeout": 0.1,
    "execution_timeout": 60.0,
    "idle_timeout": 3600.0,
    "max_kernels": 4,
    "output_limit": 1_048_576,
    "memory_limit": 2_147_483_648,
    "file_limit": 1_073_741_824,
    "cpu_limit": 600,
    "processes": 32,
    "prestarted": 0,
    "python": "",
    "sandbox": (),
    "environment": (),
}


def limits(**changes: Any) -> KernelLimits:
    return KernelLimits(**(DEFAULTS | changes))


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    made = await Kernel.started(limits())
    yield made
    await made.stop()
