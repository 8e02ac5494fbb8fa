"""Real kernels for the tests that need them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from notebooks.kernels.kernel import Kernel
from notebooks.kernels.limits import KernelLimits


def limits(**changes: Any) -> KernelLimits:
    return KernelLimits(**({"execution_timeout": 60.0, "max_kernels": 4} | changes))


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    made = await Kernel.started(limits())
    yield made
    await made.stop()
