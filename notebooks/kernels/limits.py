"""What bounds kernels, and where they are: KERNEL_CONFIG and KERNEL_GATEWAY, with ranges and defaults."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

PROGRAM: Final = Path(__file__).with_name("program.py")
"""What kernels run, which keeps some of these bounds from within."""

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Bytes = Annotated[int, Meta(ge=0, le=1_099_511_627_776)]


class KernelLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """KERNEL_CONFIG. Times in seconds, sizes in bytes; see docs/settings.md.

    `message_timeout`: after so much silence of a busy kernel it is looked whether it lives.
    `execution_timeout`: for one cell. `idle_timeout`: after which an idle kernel ends. `max_kernels`: of a
    server process. `per_owner`: kernels of one user, 0 for any number. `output_limit`: of one cell's output.
    `memory_limit`, `file_limit`, `cpu_limit`: of each process of a kernel, 0 for none. `processes`: of a
    kernel and all that it starts, 0 for any number. `prestarted`: kernels that are ready at once.
    `python`: the interpreter, empty for the server's. `sandbox`: words before a kernel's command.
    `environment`: names of variables that kernels get from the server.
    """

    message_timeout: Annotated[float, Meta(ge=0.01, le=60)] = 0.1
    execution_timeout: Seconds = 300
    idle_timeout: Seconds = 3600
    max_kernels: Annotated[int, Meta(ge=1, le=10_000)] = 8
    per_owner: Annotated[int, Meta(ge=0, le=10_000)] = 4
    output_limit: Annotated[int, Meta(ge=1_024, le=1_073_741_824)] = 1_048_576
    memory_limit: Bytes = 2_147_483_648
    file_limit: Bytes = 1_073_741_824
    cpu_limit: Annotated[int, Meta(ge=0, le=31_536_000)] = 7200
    processes: Annotated[int, Meta(ge=0, le=100_000)] = 64
    prestarted: Annotated[int, Meta(ge=0, le=1_000)] = 0
    python: str = ""
    sandbox: str = ""
    environment: list[str] = []

    @property
    def sandbox_words(self) -> list[str]:
        """`sandbox` as a shell splits it; `{folder}` in a word stands for the kernel's private folder. Raises
        `ValueError` for a quote that is not closed, and for any other word in braces."""
        for name in re.findall(r"\{(\w*)\}", self.sandbox):
            if name != "folder":
                raise ValueError(f"{{{name}}} stands for nothing: only {{folder}} does")
        return shlex.split(self.sandbox)


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """KERNEL_GATEWAY: where kernels run, if not here. Times in seconds; see docs/settings.md.

    `url`: of a Jupyter Server or Kernel Gateway, empty for kernels of this machine. `token`: what it knows us
    by. `kernel`: the name of its kernel specification. `connect_timeout`: until it must have answered at all.
    `answer_timeout`: until it must have answered a call.
    """

    url: str = ""
    token: str = ""
    kernel: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,128}$")] = "python3"
    connect_timeout: Annotated[float, Meta(ge=0.1, le=60)] = 1.5
    answer_timeout: Annotated[float, Meta(ge=0.1, le=300)] = 10.0

    def problems(self) -> Iterator[str]:
        """What cannot be right. Never names a value that may be a secret."""
        if self.url and not _is_address(self.url):
            yield (
                "KERNEL_GATEWAY_URL is no address of a Jupyter Server: expected http://host:8888 or "
                "https://host/path, without a user, a password, a query or a fragment"
            )
        if self.token and re.fullmatch(r"[!-~]+", self.token) is None:
            yield "KERNEL_GATEWAY_TOKEN holds a blank, a line break or another character that no token has"


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        sound = parts.port is None or parts.port > 0
    except ValueError:
        return False
    bare = not (parts.username or parts.password or "@" in parts.netloc or "?" in text or "#" in text)
    plain = re.fullmatch(r"[!-~]+", text) is not None
    return sound and bare and plain and parts.scheme in ("http", "https") and bool(parts.hostname)
