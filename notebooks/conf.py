"""The app's settings, as typed values. `checks` tells what is wrong with them before a server starts."""

from __future__ import annotations

import shlex
from typing import Any

from django.conf import settings

from .kernels.limits import KernelLimits


def kernels_enabled() -> bool:
    """Whether anybody may run code (KERNELS_ENABLED)."""
    return bool(getattr(settings, "KERNELS_ENABLED", False))


def limits() -> KernelLimits:
    """KERNEL_CONFIG."""
    values: dict[str, Any] = dict(settings.KERNEL_CONFIG)
    return KernelLimits(
        message_timeout=values["message_timeout"],
        execution_timeout=values["execution_timeout"],
        idle_timeout=values["idle_timeout"],
        max_kernels=values["max_kernels"],
        output_limit=values["output_limit"],
        memory_limit=values["memory_limit"],
        file_limit=values["file_limit"],
        cpu_limit=values["cpu_limit"],
        processes=values["processes"],
        prestarted=values["prestarted"],
        python=values["python"],
        sandbox=tuple(shlex.split(values["sandbox"])),
        environment=tuple(values["environment"]),
    )
