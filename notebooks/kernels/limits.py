"""The settings of kernels (KERNEL_CONFIG), as the kernel layer sees them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLimits:
    """Seconds, bytes, counts.

    `message_timeout`: after so much silence of a busy kernel it is looked whether it lives.
    `execution_timeout`: for one cell. `idle_timeout`: after which an idle kernel ends. `output_limit`: of one
    cell's output. `memory_limit`, `file_limit`, `cpu_limit`: of a kernel's process, 0 for none. `processes`: of
    a kernel and all that it starts. `prestarted`: kernels that are ready before somebody asks. `python`: the
    interpreter, empty for that of the server. `sandbox`: words before a kernel's command. `environment`: names
    of variables that kernels get from the server.
    """

    message_timeout: float
    execution_timeout: float
    idle_timeout: float
    max_kernels: int
    output_limit: int
    memory_limit: int
    file_limit: int
    cpu_limit: int
    processes: int
    prestarted: int
    python: str
    sandbox: tuple[str, ...]
    environment: tuple[str, ...]
